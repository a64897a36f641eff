"""Tables and models, as the Python client has them. A model's name may have a version behind an @."""

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from luthier.cli.remote import Remote, Row, Rows, given, path_of
from luthier.cli.texts import content_hash, write_texts
from luthier.errors import InvalidInput
from luthier.platform.weights.adapter_files import SETTINGS, WEIGHTS, check_files

Paths = list[Path]
Version = int | str
"""A number, or an alias."""

FILE_ENDINGS = (".csv", ".jsonl", ".ndjson", ".parquet", ".txt")
MAX_PATH = 4096


class Tables(Remote):
    def create(self, name: str, file: str | Path, replace: bool = False) -> Row:
        """Uploads a file as a table: CSV, JSONL, Parquet, plain text as one row, or a folder of .txt files."""
        path = Path(file)
        if path.is_dir():
            return self._create_from_folder(name, path, replace)
        if not path.is_file():
            raise InvalidInput(f"No file {file}.")
        params = {"name": name, "filename": path.name, "replace": replace}
        with path.open("rb") as body:
            return self._client.call("POST", path_of("tables"), params=params, content=body)

    def list(self) -> Rows:
        return self._client.pages(path_of("tables"), "tables")

    def drop(self, name: str) -> Row:
        return self._client.call("DELETE", path_of("tables", name))

    def as_query(self, data: str) -> str:
        """A SELECT as it stands; the path of a file or folder becomes a table named by its content, and a SELECT."""
        is_folder = os.path.isdir(data)
        path = Path(data)
        if not is_folder and (not data.lower().endswith(FILE_ENDINGS) or any(char in data for char in "\n;")):
            if len(data) < MAX_PATH and "\n" not in data and path.is_file():
                raise InvalidInput(f"{data} is none of {', '.join(FILE_ENDINGS)}.")
            return data
        if not is_folder and not path.is_file():
            raise InvalidInput(f"No file {data}. Training data is a SELECT, or the path of a file or folder.")
        name = f"FILE_{content_hash(path)[:16].upper()}"
        if not any(table["name"].endswith(f".{name}") for table in self.list()):
            self.create(name, path)
        return f"SELECT * FROM {name}"

    def _create_from_folder(self, name: str, folder: Path, replace: bool) -> Row:
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "texts.parquet"
            write_texts(folder, file)
            return self.create(name, file, replace)


class Models(Remote):
    def list(self) -> Rows:
        """All of them, by name."""
        return self._client.pages(path_of("models"), "models")

    def get(self, name: str) -> Row:
        return self._client.call("GET", path_of("models", name))

    def import_(
        self,
        name: str,
        folder: str | Path,
        base_model: str | None = None,
        task_type: str | None = None,
        *,
        new_version: bool = False,
        promote: bool = False,
    ) -> Row:
        """Makes a model of a LoRA adapter that was trained elsewhere: adapter_config.json, adapter_model.safetensors.

        Without `base_model` the adapter's settings must name one of the catalog. With `new_version` a model of that
        name that is there gets its next version, which is the default at once with `promote`.
        """
        files = _adapter_files(Path(folder))
        params = given(name=name, base_model=base_model, task_type=task_type, new_version=new_version, promote=promote)
        with ExitStack() as opened:
            parts = [("files", (file.name, opened.enter_context(file.open("rb")))) for file in files]
            return self._client.call("POST", path_of("models"), params=params, files=parts)

    def drop(self, name: str) -> Row:
        """Forgets the model; with a version in the name, that version alone."""
        return self._client.call("DELETE", path_of("models", name))

    def artifacts(self, name: str) -> Rows:
        return self._client.pages(path_of("models", name, "artifacts"), "artifacts")

    def export(
        self,
        name: str,
        folder: str | Path,
        merged: bool = False,
        force: bool = False,
        on_bytes: Callable[[int, int], None] | None = None,
    ) -> Paths:
        """Downloads the adapter with its results, manifest and card into a folder, which appears whole or not at all.

        `merged`: the base model's whole weights with the adapter in them, as Hugging Face has them. `force`: into a
        folder that has other files. `on_bytes` is told of the bytes that are there, and of all.
        """
        from luthier.cli.export import export

        return export(self._client, name, Path(folder), merged, force, on_bytes)

    def replicate(self, name: str, region: str) -> Row:
        """Brings the model in another region up to date, or makes it there; what is there already is not copied."""
        return self._client.call("POST", path_of("models", name, "replicate"), json={"region": region})

    def versions(self, name: str) -> Rows:
        """All versions, oldest first, with their aliases, shares of the requests, and losses."""
        return self._client.pages(path_of("models", name, "versions"), "versions")

    def history(self, name: str) -> Rows:
        """Who changed what the name means, and when; oldest first."""
        return self._client.pages(path_of("models", name, "history"), "history")

    def promote(self, name: str, version: Version, warm: bool = True) -> Row:
        """Makes a version the default, which answers requests that name the model alone. A canary ends.

        Unless told otherwise the engines load it first.
        """
        body = {"version": str(version), "warm": warm}
        return self._client.call("POST", path_of("models", name, "promote"), json=body)

    def rollback(self, name: str, leaving: int | None = None, warm: bool = True) -> Row:
        """Makes the default before this one the default again; with `leaving`, only if that is the default still."""
        return self._client.call("POST", path_of("models", name, "rollback"), json={"leaving": leaving, "warm": warm})

    def canary(self, name: str, version: Version, share: float, warm: bool = True) -> Row:
        """Gives a version a share, in percent, of the requests that name the model alone."""
        body = {"version": str(version), "share": share, "warm": warm}
        return self._client.call("PUT", path_of("models", name, "canary"), json=body)

    def end_canary(self, name: str) -> Row:
        return self._client.call("DELETE", path_of("models", name, "canary"))

    def alias(self, name: str, alias: str, version: Version) -> Row:
        """NAME@ALIAS means the version from now on."""
        return self._client.call("PUT", path_of("models", name, "aliases", alias), json={"version": str(version)})

    def drop_alias(self, name: str, alias: str) -> Row:
        return self._client.call("DELETE", path_of("models", name, "aliases", alias))

    def warm(self, name: str) -> Row:
        """Has the engines load a version before anybody asks for it."""
        return self._client.call("POST", path_of("models", name, "warm"))

    def collect(self, dry_run: bool = False) -> Rows:
        """Removes the files of what was dropped a while ago, or tells which they are."""
        answer = self._client.call("POST", path_of("collect"), params={"dry_run": dry_run})
        collected: Rows = answer["collected"]
        return collected


def _adapter_files(folder: Path) -> Paths:
    """The two, the small one first."""
    if not folder.is_dir():
        raise InvalidInput(f"No folder {folder}.")
    check_files({file.name for file in folder.iterdir() if file.is_file()})
    return [folder / SETTINGS, folder / WEIGHTS]

"""Tables and models, as the Python client has them."""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.cli.texts import content_hash, write_texts
from luthier.errors import InvalidInput
from luthier.platform.adapter_files import SETTINGS, WEIGHTS, check_files

if TYPE_CHECKING:
    from luthier.cli.client import Client

Rows = list[dict[str, Any]]
Paths = list[Path]

FILE_ENDINGS = (".csv", ".jsonl", ".ndjson", ".parquet", ".txt")
MAX_PATH = 4096


class Tables:
    def __init__(self, client: "Client") -> None:
        self._client = client

    def create(self, name: str, file: str | Path, replace: bool = False) -> dict[str, Any]:
        """Uploads a file as a table: CSV, JSONL, Parquet, plain text as one row, or a folder of .txt files."""
        path = Path(file)
        if path.is_dir():
            return self._create_from_folder(name, path, replace)
        if not path.is_file():
            raise InvalidInput(f"No file {file}.")
        params: dict[str, Any] = {"name": name, "filename": path.name, "replace": replace}
        with path.open("rb") as body:
            table: dict[str, Any] = self._client.call("POST", "/luthier/v1/tables", params=params, content=body)
        return table

    def list(self) -> Rows:
        tables: Rows = self._client.call("GET", "/luthier/v1/tables")["tables"]
        return tables

    def drop(self, name: str) -> dict[str, Any]:
        table: dict[str, Any] = self._client.call("DELETE", f"/luthier/v1/tables/{quoted(name)}")
        return table

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

    def _create_from_folder(self, name: str, folder: Path, replace: bool) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "texts.parquet"
            write_texts(folder, file)
            return self.create(name, file, replace)


class Models:
    def __init__(self, client: "Client") -> None:
        self._client = client

    def list(self) -> Rows:
        models: Rows = self._client.call("GET", "/luthier/v1/models")["models"]
        return models

    def get(self, name: str) -> dict[str, Any]:
        model: dict[str, Any] = self._client.call("GET", f"/luthier/v1/models/{quoted(name)}")
        return model

    def import_(
        self, name: str, folder: str | Path, base_model: str | None = None, task_type: str | None = None
    ) -> dict[str, Any]:
        """Makes a model of a LoRA adapter that was trained elsewhere: adapter_config.json, adapter_model.safetensors.

        Without `base_model` the adapter's settings must name one of the catalog.
        """
        files = _adapter_files(Path(folder))
        given = {"name": name, "base_model": base_model, "task_type": task_type}
        params = {key: value for key, value in given.items() if value is not None}
        with ExitStack() as opened:
            parts = [("files", (file.name, opened.enter_context(file.open("rb")))) for file in files]
            model: dict[str, Any] = self._client.call("POST", "/luthier/v1/models", params=params, files=parts)
        return model

    def drop(self, name: str) -> dict[str, Any]:
        model: dict[str, Any] = self._client.call("DELETE", f"/luthier/v1/models/{quoted(name)}")
        return model

    def artifacts(self, name: str) -> Rows:
        path = f"/luthier/v1/models/{quoted(name)}/artifacts"
        artifacts: Rows = self._client.call("GET", path)["artifacts"]
        return artifacts

    def export(self, name: str, folder: str | Path) -> Paths:
        """Downloads the adapter with its results and manifest into a folder."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        files = [target / artifact["name"] for artifact in self.artifacts(name)]
        for file in files:
            self._client.download(f"/luthier/v1/models/{quoted(name)}/artifacts/{quoted(file.name)}", file)
        return files


def _adapter_files(folder: Path) -> list[Path]:
    """The two, the small one first."""
    if not folder.is_dir():
        raise InvalidInput(f"No folder {folder}.")
    check_files({file.name for file in folder.iterdir() if file.is_file()})
    return [folder / SETTINGS, folder / WEIGHTS]


def quoted(name: str) -> str:
    """Fit for a path."""
    from urllib.parse import quote

    return quote(name, safe="")

"""Files and batches, as the Python client has them: OpenAI's objects, as dictionaries."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import InvalidInput
from luthier.platform.batches import BatchStatus, Endpoint

if TYPE_CHECKING:
    from luthier.cli.client import Client

Rows = list[dict[str, Any]]
Paths = list[Path]

CHAT: Endpoint = "/v1/chat/completions"
POLL_SECONDS = 1.0
PAGE = 100


class Files:
    def __init__(self, client: "Client") -> None:
        self._client = client

    def create(self, file: str | Path, purpose: str = "batch") -> dict[str, Any]:
        """Uploads a file of JSON lines; `purpose` is batch or fine-tune."""
        path = Path(file)
        if not path.is_file():
            raise InvalidInput(f"No file {file}.")
        with path.open("rb") as body:
            form = {"files": {"file": (path.name, body)}, "data": {"purpose": purpose}}
            made: dict[str, Any] = self._client.call("POST", "/v1/files", **form)
        return made

    def list(self) -> Rows:
        """Newest first."""
        return list(pages(self._client, "/v1/files"))

    def get(self, file_id: str) -> dict[str, Any]:
        file: dict[str, Any] = self._client.call("GET", f"/v1/files/{file_id}")
        return file

    def download(self, file_id: str, to: str | Path) -> Path:
        self._client.download(f"/v1/files/{file_id}/content", Path(to))
        return Path(to)

    def delete(self, file_id: str) -> dict[str, Any]:
        deleted: dict[str, Any] = self._client.call("DELETE", f"/v1/files/{file_id}")
        return deleted


class Batches:
    def __init__(self, client: "Client") -> None:
        self._client = client

    def create(
        self, file: str | Path, endpoint: Endpoint = CHAT, metadata: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Of a file of requests, by its path, or by its id if it was uploaded before."""
        is_id = isinstance(file, str) and file.startswith("file-") and not Path(file).exists()
        file_id = file if is_id else self._client.files.create(file)["id"]
        body: dict[str, Any] = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}
        if metadata:
            body["metadata"] = dict(metadata)
        batch: dict[str, Any] = self._client.call("POST", "/v1/batches", json=body)
        return batch

    def list(self) -> Rows:
        """Newest first."""
        return list(pages(self._client, "/v1/batches"))

    def get(self, batch_id: str) -> dict[str, Any]:
        batch: dict[str, Any] = self._client.call("GET", f"/v1/batches/{batch_id}")
        return batch

    def cancel(self, batch_id: str) -> dict[str, Any]:
        batch: dict[str, Any] = self._client.call("POST", f"/v1/batches/{batch_id}/cancel")
        return batch

    def wait(self, batch_id: str) -> dict[str, Any]:
        """The batch, once it has come to its end, whichever that is."""
        while not BatchStatus((batch := self.get(batch_id))["status"]).is_final:
            time.sleep(POLL_SECONDS)
        return batch

    def results(self, batch_id: str, folder: str | Path = ".") -> Paths:
        """Downloads its output, and what failed, into a folder; what there is of them."""
        batch, target = self.get(batch_id), Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        files = [self._client.files.get(batch[key]) for key in ("output_file_id", "error_file_id") if batch[key]]
        return [self._client.files.download(file["id"], target / file["filename"]) for file in files]


def pages(client: "Client", path: str) -> Iterator[dict[str, Any]]:
    """All objects of a list."""
    after: dict[str, str] = {}
    while True:
        page = client.call("GET", path, params={"limit": PAGE, **after})
        yield from page["data"]
        if not page["has_more"]:
            return
        after = {"after": page["last_id"]}

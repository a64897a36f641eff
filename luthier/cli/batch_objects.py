"""Files and batches, as the Python client has them: OpenAI's objects, as dictionaries."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.cli.remote import Remote, Row, Rows
from luthier.errors import InvalidInput
from luthier.platform.batches import BatchStatus, Endpoint

if TYPE_CHECKING:
    from luthier.cli.client import Client

Paths = list[Path]

CHAT: Endpoint = "/v1/chat/completions"
POLL_SECONDS = 1.0
PAGE = 100


class Files(Remote):
    def create(self, file: str | Path, purpose: str = "batch") -> Row:
        """Uploads a file of JSON lines; `purpose` is batch or fine-tune."""
        path = Path(file)
        if not path.is_file():
            raise InvalidInput(f"No file {file}.")
        with path.open("rb") as body:
            form = {"files": {"file": (path.name, body)}, "data": {"purpose": purpose}}
            return self._client.call("POST", "/v1/files", **form)

    def list(self) -> Rows:
        """Newest first."""
        return list(pages(self._client, "/v1/files"))

    def get(self, file_id: str) -> Row:
        return self._client.call("GET", f"/v1/files/{file_id}")

    def download(self, file_id: str, to: str | Path) -> Path:
        self._client.download(f"/v1/files/{file_id}/content", Path(to))
        return Path(to)

    def delete(self, file_id: str) -> Row:
        return self._client.call("DELETE", f"/v1/files/{file_id}")


class Batches(Remote):
    def create(self, file: str | Path, endpoint: Endpoint = CHAT, metadata: Mapping[str, str] | None = None) -> Row:
        """Of a file of requests, by its path, or by its id if it was uploaded before."""
        is_id = isinstance(file, str) and file.startswith("file-") and not Path(file).exists()
        file_id = file if is_id else self._client.files.create(file)["id"]
        body: Row = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}
        if metadata:
            body["metadata"] = dict(metadata)
        return self._client.call("POST", "/v1/batches", json=body)

    def list(self) -> Rows:
        """Newest first."""
        return list(pages(self._client, "/v1/batches"))

    def get(self, batch_id: str) -> Row:
        return self._client.call("GET", f"/v1/batches/{batch_id}")

    def cancel(self, batch_id: str) -> Row:
        return self._client.call("POST", f"/v1/batches/{batch_id}/cancel")

    def wait(self, batch_id: str) -> Row:
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


def pages(client: "Client", path: str) -> Iterator[Row]:
    """All objects of a list."""
    after: dict[str, str] = {}
    while True:
        page = client.call("GET", path, params={"limit": PAGE, **after})
        yield from page["data"]
        if not page["has_more"]:
            return
        after = {"after": page["last_id"]}

"""Weights from the hub, by its own client against a small hub of ours: what comes, and what is said if nothing does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from luthier.errors import NotAllowed, NotFound, Unavailable
from luthier.platform.base_models import BaseModel, base_model_dir
from luthier.platform.settings import Settings
from luthier.train.base_weights import fetch

SHA = "a" * 40
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"tokens",
    "chat_template.jinja": b"{{ messages }}",
    "consolidated.safetensors": b"the same weights",
    "original/params.json": b"once more",
    "onnx/model.onnx": b"and again",
    "README.md": b"card",
}
WANTED = {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}


class Hub(BaseHTTPRequestHandler):
    """Has one repository, a/open; a/gated wants its licence accepted; a/broken is out of order."""

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.split("?")[0]
        if path == "/api/models/a/open/revision/main":
            siblings = [{"rfilename": name} for name in FILES]
            self.send(200, json.dumps({"id": "a/open", "sha": SHA, "siblings": siblings}).encode())
        elif path.startswith("/api/models/a/open/tree/"):
            tree = [{"type": "file", "path": name, "size": len(body), "oid": SHA} for name, body in FILES.items()]
            self.send(200, json.dumps(tree).encode())
        elif path.startswith(f"/a/open/resolve/{SHA}/"):
            name = path.removeprefix(f"/a/open/resolve/{SHA}/")
            self.send(200, FILES[name], {"X-Repo-Commit": SHA, "ETag": f'"{name}"'})
        elif "/a/gated/" in path:
            self.send(403, b"", {"X-Error-Code": "GatedRepo"})
        elif "/a/broken/" in path:
            self.send(418, b"", {"X-Error-Message": "out of order"})
        else:
            self.send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The client of the hub asks ours."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield
    server.shutdown()
    server.server_close()
    thread.join()


def base_of(hf: str) -> BaseModel:
    row = {"name": "b", "hf": hf, "licence": "none", "description": "", "price_class": "small"}
    return BaseModel.model_validate({**row, "context_window": 512, "rows_per_epoch": 1})


def test_weights_come_from_the_hub_once_and_in_one_format(hub: None, settings: Settings) -> None:
    base = base_of("a/open")
    folder = fetch(settings, base)
    assert folder == base_model_dir(settings, base)
    found = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    assert found == {name: FILES[name] for name in WANTED}
    (folder / "mark").touch()
    assert (fetch(settings, base) / "mark").is_file()


@pytest.mark.parametrize(
    ("hf", "error", "words"),
    [
        ("a/gated", NotAllowed, "accept the licence of a/gated on the Hugging Face hub, then set HF_TOKEN"),
        ("a/nothing", NotFound, "has no a/nothing at main"),
        ("a/broken", Unavailable, "cannot be reached (.*418"),
    ],
)
def test_what_the_hub_does_not_give(hub: None, settings: Settings, hf: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words.replace("(", r"\(")) as caught:
        fetch(settings, base_of(hf))
    assert str(caught.value).startswith("Base model b: ")
    assert "\n" not in str(caught.value)
    left: list[Path] = [file for file in settings.cache.rglob("*") if file.suffix != ".lock" and file.is_file()]
    assert not left

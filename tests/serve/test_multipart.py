"""Files of a multipart body, however it is cut into pieces."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.errors import InvalidInput
from luthier.serve.doors.multipart import receive_files

KIND = "multipart/form-data; boundary=xyz"


def part(name: str, content: bytes) -> bytes:
    head = (
        f'--xyz\r\nContent-Type: text/plain\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    )
    return head.encode() + content + b"\r\n"


def receive(body: bytes, folder: Path, step: int = 7, kind: str = KIND, fields: tuple[str, ...] = ()) -> dict[str, str]:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), step):
            yield body[start : start + step]

    return asyncio.run(receive_files(kind, pieces(), folder, check, fields))


def check(name: str) -> None:
    if name == "bad.bin":
        raise InvalidInput("not that")


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=200) | st.sampled_from([b"--xyz", b"\r\n--xy", b"\r\n--xyz--"[:-1], b"\r\n\r\n"]),
    step=st.integers(1, 300),
)
def test_every_cut_gives_the_same_files(tmp_path: Path, content: bytes, step: int) -> None:
    if b"\r\n--xyz" in content:
        return
    for file in tmp_path.iterdir():
        file.unlink()
    receive(part("deep/../a.json", content) + part("b", b"") + b"--xyz--\r\n", tmp_path, step)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a.json": content, "b": b""}


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"{}", "application/json", "as multipart/form-data"),
        (b"", "", "as multipart/form-data"),
        (b"", "multipart/form-data", "as multipart/form-data"),
        (b"", KIND, "ends before"),
        (b"nonsense", KIND, "not valid multipart"),
        (part("a", b"1"), KIND, "ends before"),
        (part("a", b"1") + part("a", b"2") + b"--xyz--\r\n", KIND, "a is sent twice"),
        (part("", b"1") + b"--xyz--\r\n", KIND, "is no file"),
        (part("..", b"1") + b"--xyz--\r\n", KIND, "is no file"),
        (b'--xyz\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--xyz--\r\n', KIND, "is no file"),
        (part("bad.bin", b"1"), KIND, "not that"),
    ],
)
def test_bodies_that_are_refused(tmp_path: Path, body: bytes, kind: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        receive(body, tmp_path, kind=kind)


@pytest.mark.parametrize("step", [1, 7, 300])
def test_fields_beside_the_files(tmp_path: Path, step: int) -> None:
    field = b'--xyz\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    body = field + part("a", b"1") + b"--xyz--\r\n"
    assert receive(body, tmp_path, step, fields=("purpose",)) == {"purpose": "batch"}
    assert [file.name for file in tmp_path.iterdir()] == ["a"]

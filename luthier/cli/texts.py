"""Files that become tables: named by their content, and a folder of text files as one table, a row a file."""

import hashlib
from pathlib import Path

from luthier.errors import InvalidInput


def content_hash(path: Path) -> str:
    """Of a file, or of the names and contents of a folder's texts."""
    digest = hashlib.sha256()
    for file in _text_files(path) if path.is_dir() else [path]:
        digest.update(b"" if file == path else f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as content:
            hashlib.file_digest(content, lambda: digest)
    return digest.hexdigest()


def write_texts(folder: Path, to: Path) -> None:
    """A Parquet file with the columns file and text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from luthier.platform.sql.sql_files import read_text

    schema = pa.schema([("file", pa.string()), ("text", pa.string())])
    with pq.ParquetWriter(to, schema, compression="zstd") as writer:
        for file in _text_files(folder):
            row = {"file": [str(file.relative_to(folder))], "text": [read_text(file, str(file))]}
            writer.write_table(pa.table(row, schema))


def _text_files(folder: Path) -> list[Path]:
    """All .txt files below a folder, by name."""
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() == ".txt" and file.is_file())
    if not found:
        raise InvalidInput(f"The folder {folder} has no .txt file.")
    return found

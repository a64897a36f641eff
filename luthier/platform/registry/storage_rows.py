"""Rows of storage spans: from when until when an account keeps the files of its versions. No verbs."""

from pathlib import Path

import sqlalchemy as sa

from luthier.platform.storage import num_bytes
from luthier.platform.store import Store

Numbers = sa.Select[tuple[int]]
Digests = sa.Select[tuple[str]]
"""Of versions, as queries."""


class StorageRows:
    """Versions of an account with the same files have one span: from the first of them to the end of the last."""

    def __init__(self, store: Store) -> None:
        self._store, self.spans = store, store.table("storage_spans")
        self._models, self._versions = store.table("models"), store.table("versions")

    def begin(self, tx: sa.Connection, account: str, sha256: str, path: str, now: int) -> None:
        """A version has these files; another one may have them already."""
        size = num_bytes(Path(path)) if Path(path).is_dir() else None
        row = {"account": account, "sha256": sha256, "path": path, "since": now, "num_bytes": size}
        self._store.insert_missing(tx, "storage_spans", [row])

    def end(self, tx: sa.Connection, account: str, gone: Numbers, digests: Digests, now: int) -> None:
        """These versions, with these files, are about to go; others may have the same still."""
        versions, spans = self._versions.c, self.spans.c
        joined = sa.join(self._versions, self._models, versions.model_id == self._models.c.id)
        others = sa.select(versions.number).select_from(joined)
        others = others.where(self._models.c.account == account, versions.sha256 == spans.sha256)
        is_last = ~others.where(versions.number.not_in(gone)).exists()
        is_open = (spans.account == account, spans.until.is_(None), spans.sha256.in_(digests))
        ended = sa.update(self.spans).where(*is_open, is_last).values(until=now)
        rows = tx.execute(ended.returning(spans.id, spans.path, spans.num_bytes)).all()
        unknown = [(id, path) for id, path, known in rows if known is None and not is_away(path)]
        sizes = [{"one": id, "size": num_bytes(Path(path))} for id, path in unknown]
        if sizes:  # begun before they were measured
            measured = sa.update(self.spans).where(spans.id == sa.bindparam("one"))
            tx.execute(measured.values(num_bytes=sa.bindparam("size")), sizes)

    def measure(self, tx: sa.Connection, sha256: str, num_bytes: int) -> None:
        """The files are about to be removed: of spans that ended while storage was away the size is not known yet."""
        spans = self.spans.c
        is_it = (spans.sha256 == sha256, spans.until.is_not(None), spans.num_bytes.is_(None))
        tx.execute(sa.update(self.spans).where(*is_it).values(num_bytes=num_bytes))


def is_away(path: str) -> bool:
    """Storage, or its network: what it cannot tell is told later."""
    return not Path(path).parent.is_dir()

"""Rows of storage spans: from when until when an account keeps the files of its versions. No verbs."""

from pathlib import Path

import sqlalchemy as sa

from luthier.platform.storage import num_bytes
from luthier.platform.store import Store


class StorageRows:
    """Versions of an account with the same files have one span: from the first of them to the end of the last."""

    def __init__(self, store: Store) -> None:
        self._store, self.spans = store, store.table("storage_spans")
        self._models, self._versions = store.table("models"), store.table("versions")

    def begin(self, tx: sa.Connection, account: str, sha256: str, path: str, now: int) -> None:
        """A version has these files; another one may have them already."""
        row = {"account": account, "sha256": sha256, "path": path, "since": now}
        self._store.insert_missing(tx, "storage_spans", [row])

    def end(self, tx: sa.Connection, account: str, sha256: str, now: int) -> None:
        """A version that had these files is gone; another one may have them still."""
        versions, spans = self._versions.c, self.spans.c
        joined = sa.join(self._versions, self._models, versions.model_id == self._models.c.id)
        others = sa.select(versions.number).select_from(joined)
        if tx.execute(others.where(self._models.c.account == account, versions.sha256 == sha256).limit(1)).first():
            return
        is_it = sa.and_(spans.account == account, spans.sha256 == sha256, spans.until.is_(None))
        for path in tx.execute(sa.select(spans.path).where(is_it)).scalars().all():
            ended = {"until": now, "num_bytes": num_bytes(Path(path))}
            tx.execute(sa.update(self.spans).where(is_it).values(**ended))

"""Replication of a model to another region: files first, each checked, then all rows in one transaction.

Whatever ends it before that leaves folders that nothing names, which the region collects; the same again goes on.
"""

from collections.abc import Iterable
from pathlib import Path

from luthier.errors import InvalidInput, NotFound, Unavailable
from luthier.platform.access import Caller
from luthier.platform.base_models import Catalog
from luthier.platform.jobs import now_ms
from luthier.platform.models import ModelVersion
from luthier.platform.names import QualifiedName
from luthier.platform.registry.registry import Registry
from luthier.platform.registry.replication import ReplicaRows
from luthier.platform.replication import Replicated, Source
from luthier.platform.settings import Region, Settings
from luthier.platform.storage import Storage, num_bytes
from luthier.platform.store import Store
from luthier.platform.weights.artifacts import copy_published


class Replication:
    def __init__(self, settings: Settings, catalog: Catalog, registry: Registry) -> None:
        self._settings, self._catalog, self._replicas = settings, catalog, registry.replicas

    def replicate(self, caller: Caller, name: QualifiedName, to: str) -> Replicated:
        """Brings the model in another region up to date, or makes it there. Again: only what is new is copied."""
        region = self._region(to)
        source = self._replicas.source(caller, name)
        bases = {each.base_model: self._catalog.get(each.base_model) for each in source.versions}
        store = Store(region.database_url, migrate=False)
        try:
            rows = ReplicaRows(store, to)
            rows.check(caller, source, bases)
            copied = _copy(source.versions, Storage(region.storage))
            adapters = Storage(region.storage_there or region.storage).adapters
            paths = {each.sha256: str(adapters / Path(each.path).name) for each in source.versions}
            new, dropped = rows.write(caller, source, paths, now_ms())
        finally:
            store.engine.dispose()
        return _told(source, to, new, dropped, copied)

    def _region(self, name: str) -> Region:
        if name == self._settings.region:
            raise InvalidInput(f"Region {name} is this one: the model is here.")
        if name not in self._settings.regions:
            there = ", ".join(sorted(self._settings.regions)) or "none"
            raise NotFound(f"No region {name}. The setting `regions` names: {there}.")
        return self._settings.regions[name]


def _copy(versions: Iterable[ModelVersion], to: Storage) -> int:
    """How many bytes were not there yet. A folder that two versions share is one."""
    folders = dict.fromkeys(Path(each.path) for each in versions)
    try:
        to.adapters.mkdir(parents=True, exist_ok=True)
        return sum(num_bytes(each) for each in folders if copy_published(each, to.adapters))
    except OSError as error:
        raise Unavailable(f"The other region's storage does not take the files: {error.strerror}.") from error


def _told(source: Source, region: str, new: list[int], dropped: list[int], copied: int) -> Replicated:
    return Replicated(
        model=source.display,
        region=region,
        versions=[each.version for each in source.versions],
        new=new,
        dropped=dropped,
        copied_bytes=copied,
        default_version=source.default_version,
    )

"""Adapters that were trained elsewhere become models: base model -> checks -> folder named by content -> registry."""

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from luthier.errors import InvalidInput, NotFetched
from luthier.platform.access import Caller
from luthier.platform.base_models import BaseModel, Catalog, base_model_dir, check_can_serve, check_task
from luthier.platform.frozen import Frozen
from luthier.platform.jobs import now_ms
from luthier.platform.models import ImportedModel, Model
from luthier.platform.names import QualifiedName
from luthier.platform.options import Method
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.storage import Storage
from luthier.platform.tasks import TaskType
from luthier.platform.weights.adapter_checks import check_adapter
from luthier.platform.weights.adapter_files import check_files, fault, read_settings
from luthier.platform.weights.artifacts import content_of, place
from luthier.platform.weights.base_shapes import linear_modules
from luthier.platform.weights.lora import Modules

NAMED = "base_model_name_or_path"
"""The base model in an adapter's settings: a name, or a path on the machine where it was trained."""


class Origin(Frozen):
    """What its owner says of an adapter."""

    base_model: str | None = None
    """When not given, the one that the adapter's settings name."""
    task_type: TaskType | None = None
    """How the model is asked; when not given, as the base model's row says first."""
    new_version: bool = False
    """Of the model of that name, if it is there; otherwise that is a conflict."""
    promote: bool = False
    """The new version is the default at once."""


class Imports:
    def __init__(self, settings: Settings, catalog: Catalog, registry: Registry) -> None:
        self._settings, self._catalog, self._models = settings, catalog, registry.models
        self._storage = Storage(settings.storage)

    def precheck(self, caller: Caller, name: QualifiedName, origin: Origin) -> None:
        """Raises for what is wrong whatever the files are."""
        if origin.promote and not origin.new_version:
            raise InvalidInput("A model's first version is its default: promote is for new_version.")
        self._models.precheck_import(caller, name, origin.new_version)
        if origin.base_model is not None:
            self._check_base(self._catalog.get(origin.base_model), origin)

    def import_model(self, caller: Caller, name: QualifiedName, origin: Origin, folder: Path) -> Model:
        """A model, or a version, of the adapter in a folder, which moves away from there; or raises and keeps nothing.

        The same adapter under the same name again is the first answer, and mends files that were damaged since.
        """
        check_files({file.name for file in folder.iterdir()})
        base = self._base_of(origin, folder)
        linear = self._check_base(base, origin)
        adapter = check_adapter(folder, base, linear)
        content = content_of(folder, base_model=f"{base.name}@{base.revision}")
        made = ImportedModel(
            base_model=base.name,
            path=str(self._storage.adapters / content.sha256),
            sha256=content.sha256,
            rank=adapter.rank,
            task_type=_task(base, origin),
            created_on=now_ms(),
        )
        self._models.find_import(caller, name, made, origin.new_version)
        place(folder, content, _manifest(base), self._storage.adapters)
        return self._models.import_model(caller, name, made, origin.new_version, origin.promote)

    def _check_base(self, base: BaseModel, origin: Origin) -> Modules:
        """Its linear modules; raises when it takes no adapter that is asked so."""
        check_can_serve(base, datetime.now(UTC).date())
        if Method.LORA not in base.methods:
            raise InvalidInput(f"Base model {base.name} takes no adapters. Choose another.")
        check_task(base, _task(base, origin))
        if linear := linear_modules(base_model_dir(self._settings, base)):
            return linear
        raise NotFetched(
            f"Base model {base.name} has no safetensors on this server, which the adapter must be compared with: "
            f"`luthier base-models fetch {base.name}` fetches them."
        )

    def _base_of(self, origin: Origin, folder: Path) -> BaseModel:
        """The one that is given, unless the settings name another; else the one that they name."""
        named = read_settings(folder).get(NAMED)
        found = self._catalog.find(named) if isinstance(named, str) else None
        if origin.base_model is None:
            if found is None:
                raise fault(NAMED, named, "no base model is called that here. Give base_model.")
            return found
        given = self._catalog.get(origin.base_model)
        if found and found.hf.lower() != given.hf.lower():
            raise fault(NAMED, named, f"that is {found.name}, not {given.name}. Name the one that it was trained on.")
        return given


def _task(base: BaseModel, origin: Origin) -> TaskType:
    return origin.task_type or base.tasks[0]


def _manifest(base: BaseModel) -> dict[str, object]:
    """Nothing of the model or its owner: who imports the same adapter shares the folder."""
    return {"imported": True, "base_model": base.origin, "versions": {"luthier": version("luthier")}}

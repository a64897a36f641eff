"""What the end of a base model means for what stands on it, and for new jobs. Pure."""

from collections.abc import Iterable
from datetime import date

from luthier.errors import BaseModelRetired
from luthier.platform.base_models import BaseModel, Catalog, is_retired, retirement_warning
from luthier.platform.models import ModelVersion
from luthier.platform.options import Method
from luthier.platform.tasks import TaskType


def warning_of(catalog: Catalog, version: ModelVersion, today: date) -> str | None:
    """What is to be told of a tuned model whose base model is retired, or will be."""
    base = catalog.find(version.base_model)
    return end_of(catalog, version, today) or (retirement_warning(base, today) if base else None)


def check_stands(catalog: Catalog, version: ModelVersion, today: date) -> None:
    """Raises BaseModelRetired, with what to do, when what the tuned model stands on is retired."""
    if words := end_of(catalog, version, today):
        raise BaseModelRetired(words)


def end_of(catalog: Catalog, version: ModelVersion, today: date) -> str | None:
    """Why a tuned model answers no more, and what to do; None while it does."""
    base = catalog.find(version.base_model)
    if base is not None and not is_retired(base, today):
        return None
    if base is None or base.retired is None:
        when, other = "is in the catalog no more", "NEW"
    else:
        when, other = f"was retired after {base.retired.after}", base.retired.replacement
    cure = f"`luthier models retune {version.model} --base-model {other}` trains it again, from the same data."
    if version.origin:
        cure = f"Account {version.owner}, whose model it is, may train it again."
    return f"Model {version.model} answers no more: its base model {version.base_model} {when}. {cure}"


def left_to_tune(bases: Iterable[BaseModel], today: date, task: TaskType, method: Method) -> list[str]:
    """Names of those that a job of this kind may begin with."""
    left = (base for base in bases if not is_retired(base, today))
    return [base.name for base in left if task in base.tasks and method in base.methods]

"""A job, and the model whose next version it makes: by its end that may be another role's."""

import pytest

from luthier.errors import Conflict, NotAllowed
from luthier.platform.access import Caller
from luthier.platform.models import ImportedModel
from luthier.platform.names import parse_name
from luthier.platform.options import FinetuneOptions
from luthier.platform.registry.registry import Registry
from luthier.platform.securables import Granted, ObjectKind, Privilege, Securable
from luthier.platform.tasks import TaskType
from tests.factories import ADMIN, make_finished, make_job

pytestmark = pytest.mark.stores

TUNED = parse_name("LUTHIER.PUBLIC.TUNED", "", "")
MODEL = Securable.named(ObjectKind.MODEL, TUNED)
SCHEMA = MODEL.in_schema
ANALYST, OTHER = (Caller(account="main", user=role.lower(), role=role) for role in ("ANALYST", "OTHER"))
NEXT = FinetuneOptions(new_version=True, promote=True)
IMPORTED = ImportedModel(
    base_model="tiny", path="a", sha256="aa", rank=8, task_type=TaskType.CHAT_COMPLETION, created_on=5
)


@pytest.fixture(autouse=True)
def roles(registry: Registry) -> None:
    """Two that may make models there."""
    for caller in (ANALYST, OTHER):
        registry.roles.create(ADMIN, caller.role)
        for privilege, on in (
            (Privilege.USAGE, MODEL.in_database),
            (Privilege.USAGE, SCHEMA),
            (Privilege.CREATE_MODEL, SCHEMA),
        ):
            registry.grants.grant(ADMIN, Granted((privilege,), on), caller.role)


def begin(registry: Registry, job_id: str, caller: Caller = ANALYST) -> None:
    registry.jobs.submit(make_job(job_id, owner=caller.user, role=caller.role, options=NEXT))
    registry.jobs.tick()


def finish(registry: Registry, job_id: str) -> None:
    registry.jobs.finish(job_id, make_finished())


def test_no_version_is_added_to_another_roles_model(registry: Registry) -> None:
    begin(registry, "ft_1")
    finish(registry, "ft_1")
    begin(registry, "ft_2")
    registry.grants.grant(ADMIN, Granted((Privilege.OWNERSHIP,), MODEL), OTHER.role)
    for _ in range(2):
        with pytest.raises(NotAllowed, match="has no version of job ft_2: role ANALYST may not change it any more"):
            finish(registry, "ft_2")
    assert registry.models.get(OTHER, TUNED).versions == 1
    registry.roles.grant(ADMIN, OTHER.role, Securable(ObjectKind.ROLE, name=ANALYST.role))
    finish(registry, "ft_2")
    assert registry.models.get(OTHER, TUNED).default_version == 2


def test_a_name_that_a_job_makes_is_not_taken_from_its_role(registry: Registry) -> None:
    """Its owner would be handed the job's weights."""
    begin(registry, "ft_1")
    with pytest.raises(Conflict, match="is there already"):
        registry.models.import_model(OTHER, TUNED, IMPORTED, new_version=True)
    with pytest.raises(Conflict, match="is there already"):
        begin(registry, "ft_2", OTHER)
    begin(registry, "ft_3")
    for job in ("ft_1", "ft_3"):
        finish(registry, job)
        registry.jobs.tick()
    assert [each.job_id for each in registry.versions.show(ANALYST, TUNED)] == ["ft_1", "ft_3"]

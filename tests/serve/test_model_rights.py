"""What doors remember of rights: nothing is asked twice in a moment, and what is taken away ends in the time stated."""

import asyncio

import pytest

from luthier.errors import ModelNotFound, NotAllowed
from luthier.platform.access import Caller, hash_key
from luthier.platform.base_models import load_catalog
from luthier.platform.keys import NewKey
from luthier.platform.registry.registry import Registry
from luthier.platform.securables import CORTEX_USER, PUBLIC, Granted, ObjectKind, Privilege, Securable
from luthier.platform.settings import Settings
from luthier.serve import model_rights, resolver
from luthier.serve.doors import deps
from luthier.serve.doors.deps import KeyCheck
from luthier.serve.known import Epoch
from luthier.serve.model_rights import ModelRights
from luthier.serve.resolver import Resolver
from tests.factories import ADMIN, make_finished, make_job
from tests.fakes import Clock

ANN = Caller(account=ADMIN.account, user="ANN", role="ANALYST")
CORTEX = Granted((Privilege.USAGE,), CORTEX_USER)
USER = Securable(ObjectKind.USER, name=ANN.user)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def epoch(analyst: Registry, clock: Clock) -> Epoch:
    return Epoch(analyst.versions.epoch, clock)


@pytest.fixture
def analyst(registry: Registry) -> Registry:
    registry.users.create(ADMIN, ANN.user)
    registry.roles.create(ADMIN, ANN.role)
    registry.roles.grant(ADMIN, ANN.role, USER)
    registry.keys.create(ADMIN, NewKey(id="key_1", hash=hash_key("ann"), prefix="lt_", user=ANN.user, role=ANN.role))
    return registry


def test_a_thousand_completions_are_one_question(
    analyst: Registry, epoch: Epoch, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, asked = analyst.accounts.check_asks, []
    monkeypatch.setattr(analyst.accounts, "check_asks", lambda *about: asked.append(about) or check(*about))
    rights = ModelRights(analyst.accounts, epoch)

    async def complete() -> None:
        await asyncio.gather(*(rights.check(ANN, "tiny") for _ in range(1_000)))

    asyncio.run(complete())
    asyncio.run(complete())
    assert asked == [(ANN, "tiny")]


def test_cortex_user_ends_in_time_and_begins_at_once(analyst: Registry, clock: Clock, epoch: Epoch) -> None:
    rights = ModelRights(analyst.accounts, epoch)
    asyncio.run(rights.check(ANN, "tiny"))
    analyst.grants.revoke(ADMIN, CORTEX, PUBLIC)
    clock.now += model_rights.FRESH_SECONDS * 1.01
    for _ in range(2):
        with pytest.raises(NotAllowed, match=r"GRANT DATABASE ROLE SNOWFLAKE\.CORTEX_USER TO ROLE ANALYST"):
            asyncio.run(rights.check(ANN, "tiny"))
    analyst.grants.grant(ADMIN, CORTEX, ANN.role)
    asyncio.run(rights.check(ANN, "tiny"))


def test_a_tuned_model_ends_in_time_and_begins_at_once(
    analyst: Registry, clock: Clock, epoch: Epoch, settings: Settings
) -> None:
    analyst.jobs.submit(make_job())
    analyst.jobs.tick()
    analyst.jobs.finish("ft_1", make_finished())
    model = Securable(ObjectKind.MODEL, "LUTHIER", "PUBLIC", "TUNED")
    usage = [Granted((Privilege.USAGE,), on) for on in (model.in_database, model.in_schema, model)]
    names = Resolver(settings, load_catalog(settings), analyst.versions, epoch)
    with pytest.raises(ModelNotFound, match="Unknown model 'tuned'"):
        asyncio.run(names.resolve(ANN, "tuned"))
    for each in usage:
        analyst.grants.grant(ADMIN, each, ANN.role)
    assert asyncio.run(names.resolve(ANN, "tuned")).version == 1
    analyst.grants.revoke(ADMIN, usage[-1], ANN.role)
    clock.now += resolver.FRESH_SECONDS * 1.01
    with pytest.raises(ModelNotFound, match="Unknown model 'tuned'"):
        asyncio.run(names.resolve(ANN, "tuned"))
    assert asyncio.run(names.resolve(ADMIN, "tuned")).version == 1


def test_a_role_that_is_taken_ends_in_time(analyst: Registry, clock: Clock, epoch: Epoch) -> None:
    keys = KeyCheck(analyst, epoch)

    async def role_of(asked: str | None = None) -> str:
        return (await keys.session("Bearer ann", asked)).caller.role

    assert asyncio.run(role_of()) == asyncio.run(role_of("analyst")) == ANN.role
    assert asyncio.run(role_of("public")) == PUBLIC
    analyst.roles.revoke(ADMIN, ANN.role, USER)
    clock.now += deps.FRESH_SECONDS * 1.01
    for role in (None, "analyst"):
        with pytest.raises(NotAllowed, match="does not have the role ANALYST"):
            asyncio.run(role_of(role))

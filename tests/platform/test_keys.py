"""Keys: the rule of their scope, and the verbs: who may make which, how they end, what is stored."""

from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import Conflict, NotAllowed, NotAuthenticated, NotFound
from luthier.platform.access import ADMIN_ROLE, Caller, hash_key, new_key
from luthier.platform.keys import (
    Endpoint,
    NewKey,
    Scope,
    Session,
    endpoint_of,
    is_change,
    new_key_id,
)
from luthier.platform.registry.registry import Registry
from luthier.platform.securables import ObjectKind, Securable
from luthier.platform.settings import Settings
from luthier.platform.store import Store
from tests.factories import ADMIN, KEY
from tests.fakes import Clock, Launcher


@pytest.fixture
def now() -> Clock:
    return Clock(1_000_000)


@pytest.fixture
def timed(registry: Registry, settings: Settings, launcher: Launcher, now: Clock) -> Registry:
    """A registry whose clock the test turns, on the same store."""
    return Registry(settings, launcher, clock=now)


def draw(**given: Any) -> tuple[str, NewKey]:
    secret = new_key()
    return secret, NewKey(id=new_key_id(), hash=hash_key(secret), prefix=secret[:7], **given)


def with_user(store_settings: Settings, user: str, role: str) -> None:
    """As the verbs on users would leave it: he holds the role."""
    store = Store(store_settings.store_url)
    with store.transaction() as tx:
        for name, value in (("users", user), ("roles", role)):
            store.insert_missing(tx, name, [{"account": "main", "name": value, "created_on": 1}])
        if "role_grants" in store.tables.tables:
            grant = {"account": "main", "role": role, "granted_to": "USER", "grantee": user}
            tx.execute(sa.insert(store.table("role_grants")).values(**grant, granted_by="ACCOUNTADMIN", created_on=1))
        else:
            held = {"id": new_key_id(), "hash": f"role-of-{user}", "prefix": "", "created_on": 1, "revoked_on": 1}
            tx.execute(sa.insert(store.table("keys")).values(**held, account="main", user=user, role=role))


def opened(registry: Registry, secret: str) -> Session:
    return registry.keys.authenticate(hash_key(secret))


def test_a_key_is_its_secret_and_only_its_hash_is_kept(timed: Registry, settings: Settings) -> None:
    secret, new = draw(name="ci", scope=Scope(endpoints=(Endpoint.COMPLETIONS,), models=("tiny",), read_only=True))
    made = timed.keys.create(ADMIN, new)
    assert (made.id, made.name, made.user, made.role, made.created_by) == (new.id, "ci", "admin", ADMIN_ROLE, "admin")
    session = opened(timed, secret)
    assert session.caller == Caller(**ADMIN.identity, key=new.id)
    assert session.scope == new.scope
    with Store(settings.store_url).reading() as tx:
        stored = tx.execute(sa.text(f"SELECT * FROM keys WHERE id = '{new.id}'")).mappings().one()
    assert secret not in " ".join(map(str, stored.values()))
    assert stored["hash"] == hash_key(secret)


def test_a_hash_opens_what_it_is_the_whole_of(timed: Registry) -> None:
    """However much of it two have in common."""
    start = hash_key("any")[:60]
    for end in ("0000", "8888", "ffff"):
        timed.keys.create(ADMIN, NewKey(id=f"key_{end}", hash=start + end, prefix="lt_"))
    for end in ("ffff", "0000", "8888"):
        assert timed.keys.authenticate(start + end).caller.key == f"key_{end}"
    for unknown in (start + "0001", start + "fffe", start, start[:8], "", hash_key("another")):
        with pytest.raises(NotAuthenticated, match="is not known here"):
            timed.keys.authenticate(unknown)


def test_the_verb_called_twice_makes_one_key(timed: Registry) -> None:
    _, new = draw()
    assert timed.keys.create(ADMIN, new) == timed.keys.create(ADMIN, new)
    assert len(timed.keys.show(ADMIN)) == 2
    with pytest.raises(Conflict):
        timed.keys.create(ADMIN, new.model_copy(update={"hash": "other"}))


def test_expired_and_revoked_say_which(timed: Registry, now: Clock) -> None:
    secret, new = draw(expires_on=now.now + 1_000)
    timed.keys.create(ADMIN, new)
    now.now += 999
    assert opened(timed, secret).expires_on == new.expires_on
    now.now += 1
    with pytest.raises(NotAuthenticated, match=f"{new.id} expired on 1970-01-01 00:16:41") as told:
        opened(timed, secret)
    assert told.value.caller == Caller(**ADMIN.identity, key=new.id)
    secret, new = draw()
    timed.keys.create(ADMIN, new)
    revoked = timed.keys.revoke(ADMIN, new.id)
    now.now += 5_000
    assert timed.keys.revoke(ADMIN, new.id) == revoked
    with pytest.raises(NotAuthenticated, match=f"{new.id} was revoked on"):
        opened(timed, secret)


def test_rotation_leaves_the_old_one_for_the_grace(timed: Registry, now: Clock) -> None:
    secret, new = draw(name="ci", scope=Scope(read_only=True), expires_on=now.now + 10_000_000)
    old = timed.keys.create(ADMIN, new)
    other, next_new = draw()
    made = timed.keys.rotate(ADMIN, old.id, next_new, grace_s=60)
    assert timed.keys.rotate(ADMIN, old.id, next_new, grace_s=60) == made
    assert (made.name, made.scope, made.expires_on) == ("ci", old.scope, old.expires_on)
    now.now += 59_999
    assert opened(timed, secret).caller.key == old.id
    now.now += 1
    with pytest.raises(NotAuthenticated, match=f"key {made.id} took its place"):
        opened(timed, secret)
    assert opened(timed, other).caller.key == made.id
    with pytest.raises(Conflict, match="works no more"):
        timed.keys.rotate(ADMIN, old.id, draw()[1], grace_s=60)


def test_a_grace_never_makes_a_key_live_longer(timed: Registry, now: Clock) -> None:
    _, new = draw(expires_on=now.now + 1_000)
    timed.keys.create(ADMIN, new)
    timed.keys.rotate(ADMIN, new.id, draw()[1], grace_s=3600)
    (old,) = [key for key in timed.keys.show(ADMIN) if key.id == new.id]
    assert old.expires_on == new.expires_on


def test_a_key_makes_no_wider_key(timed: Registry, now: Clock) -> None:
    scope = Scope(endpoints=(Endpoint.ADMIN, Endpoint.SQL), models=("tiny",))
    secret, new = draw(scope=scope, expires_on=now.now + 1_000)
    timed.keys.create(ADMIN, new)
    caller = opened(timed, secret).caller
    for wider in (Scope(), Scope(endpoints=scope.endpoints), Scope(endpoints=(Endpoint.USAGE,), models=("tiny",))):
        with pytest.raises(NotAllowed, match="It makes no key with more"):
            timed.keys.create(caller, draw(scope=wider)[1])
    with pytest.raises(NotAllowed, match="lives longer"):
        timed.keys.create(caller, draw(scope=scope, expires_on=now.now + 1_001)[1])
    narrower = Scope(endpoints=(Endpoint.SQL,), models=("tiny",), read_only=True)
    assert timed.keys.create(caller, draw(scope=narrower)[1]).expires_on == new.expires_on
    (first,) = [key for key in timed.keys.show(ADMIN) if key.name == "first"]
    with pytest.raises(NotAllowed, match="It makes no key with more"):  # by the way of rotation neither
        timed.keys.rotate(caller, first.id, draw()[1], grace_s=0)


def test_others_make_keys_for_themselves_alone(timed: Registry, settings: Settings) -> None:
    with_user(settings, "ann", "ANALYST")
    ann = Caller(account="main", user="ann", role="ANALYST")
    made = timed.keys.create(ann, draw()[1])
    assert (made.user, made.role) == ("ann", "ANALYST")
    for_admin = draw(user="admin")[1]
    with pytest.raises(NotAllowed, match="Only ACCOUNTADMIN makes keys for others"):
        timed.keys.create(ann, for_admin)
    with pytest.raises(NotAllowed, match="is not within ANALYST"):
        timed.keys.create(ann, draw(role=ADMIN_ROLE)[1])
    (first,) = [key for key in timed.keys.show(ADMIN) if key.user == "admin"]
    for verb in (timed.keys.revoke, lambda who, key: timed.keys.rotate(who, key, draw()[1], 0)):
        with pytest.raises(NotFound, match="No key"):
            verb(ann, first.id)
    assert {key.user for key in timed.keys.show(ann)} == {"ann"}


def test_the_admin_makes_keys_for_users_of_his_account(timed: Registry, settings: Settings) -> None:
    with_user(settings, "ann", "ANALYST")
    secret, new = draw(user="ann")
    assert timed.keys.create(ADMIN, new).role == "ANALYST"
    assert opened(timed, secret).caller == Caller(account="main", user="ann", role="ANALYST", key=new.id)
    with pytest.raises(NotAllowed, match="User ann does not have the role ACCOUNTADMIN"):
        timed.keys.create(ADMIN, draw(user="ann", role=ADMIN_ROLE)[1])
    with pytest.raises(NotFound, match="No user 'bob'"):
        timed.keys.create(ADMIN, draw(user="bob")[1])


def test_a_role_to_act_in(timed: Registry, settings: Settings) -> None:
    with_user(settings, "ann", "ANALYST")
    _, new = draw(user="ann")
    timed.keys.create(ADMIN, new)
    assert timed.keys.authenticate(new.hash, "analyst").caller.role == "ANALYST"
    with pytest.raises(NotAllowed, match="role ANALYST, does not have the role ACCOUNTADMIN"):
        timed.keys.authenticate(new.hash, "AccountAdmin")
    with_user(settings, "admin", "ANALYST")
    assert timed.keys.authenticate(hash_key(KEY), "analyst").caller.role == "ANALYST"
    lesser, narrow = draw(role="ANALYST")
    timed.keys.create(ADMIN, narrow)
    with pytest.raises(NotAllowed, match="does not have the role ACCOUNTADMIN"):  # though its user has it
        timed.keys.authenticate(hash_key(lesser), "ACCOUNTADMIN")


def test_another_account_reaches_no_key(timed: Registry) -> None:
    timed.access.add_admin_key("other", hash_key("lt_other"), "lt_oth")
    other = opened(timed, "lt_other").caller
    mine = opened(timed, KEY).caller.key
    assert mine not in {key.id for key in timed.keys.show(other)}
    with pytest.raises(NotFound):
        timed.keys.revoke(other, str(mine))
    assert opened(timed, KEY)


def test_last_use_only_goes_forward(timed: Registry) -> None:
    key = str(opened(timed, KEY).caller.key)
    for time, kept in ((5, 5), (3, 5), (9, 9)):
        timed.keys.used({key: time, "key_gone": time})
        assert timed.keys.show(ADMIN)[0].last_used_on == kept


PATHS = {
    "/v1/chat/completions": Endpoint.COMPLETIONS,
    "/v1/completions": Endpoint.COMPLETIONS,
    "/api/v2/cortex/inference:complete": Endpoint.COMPLETIONS,
    "/api/v2/cortex/v1/chat/completions": Endpoint.COMPLETIONS,
    "/api/v2/cortex/models": Endpoint.MODELS,
    "/serving-endpoints/chat/completions": Endpoint.COMPLETIONS,
    "/serving-endpoints/a.b.c/invocations": Endpoint.COMPLETIONS,
    "/api/2.0/serving-endpoints/a.b.c": Endpoint.MODELS,
    "/v1/models": Endpoint.MODELS,
    "/v1/models/A.B.C": Endpoint.MODELS,
    "/v1/batches/batch_1/cancel": Endpoint.BATCHES,
    "/luthier/v1/jobs/ft_1": Endpoint.FINETUNING,
    "/luthier/v1/sql": Endpoint.SQL,
    "/luthier/v1/usage/credits": Endpoint.USAGE,
    "/luthier/v1/keys": Endpoint.ADMIN,
    "/luthier/v1/audit": Endpoint.ADMIN,
    "/luthier/v1/users": Endpoint.ADMIN,
    "/luthier/v1/databases/d": Endpoint.ADMIN,
    "/luthier/v1/schemas/s": Endpoint.ADMIN,
    "/luthier/v1/shares": Endpoint.ADMIN,
    "/luthier/v1/webhooks": Endpoint.ADMIN,
    "/luthier/v1/limits": Endpoint.ADMIN,
    "/luthier/v1/modelsx": Endpoint.ADMIN,
    "/luthier/v1/whoami": None,
    "/": Endpoint.ADMIN,
}


@pytest.mark.parametrize(("path", "endpoint"), PATHS.items())
def test_each_path_has_its_endpoint(path: str, endpoint: Endpoint | None) -> None:
    assert endpoint_of(path) is endpoint


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"])
def test_a_completion_and_what_is_read_change_nothing(method: str) -> None:
    assert is_change(method, Endpoint.MODELS) == (method not in ("GET", "HEAD"))
    assert not is_change(method, Endpoint.COMPLETIONS)


SCOPES = st.builds(
    Scope,
    endpoints=st.none() | st.lists(st.sampled_from(list(Endpoint)), min_size=1, unique=True).map(tuple),
    models=st.none() | st.lists(st.sampled_from("abc"), min_size=1, unique=True).map(tuple),
    read_only=st.booleans(),
)


def may(scope: Scope, endpoint: Endpoint, changes: bool, model: str) -> bool:
    session = Session(caller=ADMIN, scope=scope)
    try:
        session.check(endpoint, changes)
        session.check_model(model)
    except NotAllowed:
        return False
    return True


@settings(max_examples=300, print_blob=True)
@given(SCOPES, SCOPES, st.sampled_from(list(Endpoint)), st.booleans(), st.sampled_from("abcd"))
def test_what_a_scope_covers_it_allows_too(
    wide: Scope, narrow: Scope, endpoint: Endpoint, changes: bool, model: str
) -> None:
    assert wide.covers(wide)
    assert Scope().covers(narrow)
    if wide.covers(narrow) and may(narrow, endpoint, changes, model):
        assert may(wide, endpoint, changes, model)


def test_without_a_role_a_session_is_in_the_users_default_one(registry: Registry) -> None:
    ann = Securable(ObjectKind.USER, name="ann")
    for role in ("R", "S"):
        registry.roles.create(ADMIN, role)
    registry.users.create(ADMIN, "ann", default_role="S")
    for number, (lost, role) in enumerate((("", "PUBLIC"), ("", "R"), ("", "S"), ("S", "R"), ("R", "PUBLIC"))):
        if lost:
            registry.roles.revoke(ADMIN, lost, ann)
        elif role != "PUBLIC":
            registry.roles.grant(ADMIN, role, ann)
        assert registry.keys.session_of("main", "ann", []).caller.role == role
        new = NewKey(id=f"key_{number}", hash=f"h{number}", prefix="lt_", user="ann")
        assert registry.keys.create(ADMIN, new).role == role


def test_a_key_of_a_lesser_role_revokes_none_of_a_greater(timed: Registry, settings: Settings) -> None:
    with_user(settings, "admin", "ANALYST")
    (secret, lesser), (_, other) = draw(role="ANALYST"), draw(role="ANALYST")
    for new in (lesser, other):
        timed.keys.create(ADMIN, new)
    caller = opened(timed, secret).caller
    assert opened(timed, KEY).caller.role == ADMIN_ROLE
    with pytest.raises(NotAllowed, match="opens more than key"):
        timed.keys.revoke(caller, str(opened(timed, KEY).caller.key))
    assert opened(timed, KEY)
    timed.keys.revoke(caller, other.id)
    timed.keys.revoke(caller, lesser.id)

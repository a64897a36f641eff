"""How versions are named, which one answers, and the registry's verbs on them."""

from collections import Counter
from collections.abc import Callable

import pytest

from luthier.errors import Conflict, InvalidInput, NotFound
from luthier.platform.access import Caller
from luthier.platform.credits import Want
from luthier.platform.models import ImportedModel, Model, ModelVersion, Proof, ProofState, Serving
from luthier.platform.names import parse_name
from luthier.platform.options import FinetuneOptions
from luthier.platform.registry.registry import Registry
from luthier.platform.registry.versions import LATELY_MS
from luthier.platform.securables import Granted, ObjectKind, Privilege, Securable
from luthier.platform.settings import Settings
from luthier.platform.tasks import TaskType
from luthier.platform.versions import Wanted, parse_alias, parse_model, parse_version, pick
from tests.factories import ADMIN, add_admin, make_finished, make_job, make_record
from tests.fakes import Clock, Launcher

pytestmark = pytest.mark.stores

TUNED = parse_name("LUTHIER.PUBLIC.TUNED", "", "")
STRANGER = Caller(account="other", user="u", role="r")
NEXT = FinetuneOptions(new_version=True)

Make = Callable[..., Model]


@pytest.fixture
def make(registry: Registry) -> Make:
    """Makes versions 1, 2, ... of TUNED, each by a job."""

    def run(number: int, options: FinetuneOptions = NEXT, start_path: str | None = None) -> Model:
        job_id = f"ft_{number}"
        registry.jobs.submit(make_job(job_id, options=options, start_path=start_path))
        registry.jobs.tick()
        registry.jobs.finish(job_id, make_finished(f"folder{number}", sha256=f"{number:02}" * 32))
        return registry.models.get(ADMIN, TUNED, number)

    return run


@pytest.fixture
def three(make: Make) -> None:
    for number in (1, 2, 3):
        make(number)


def default(registry: Registry, wanted: Wanted = None) -> int:
    return registry.versions.serving(ADMIN, TUNED, wanted).default.version


@pytest.mark.parametrize(
    ("written", "name", "version"),
    [
        ("m", "M", None),
        ("m@3", "M", 3),
        ("m@V3", "M", 3),
        ("m@v03", "M", 3),
        ("s.m@prod", "M", "PROD"),
        ('m@"prod"', "M", "prod"),
        ('"a@b"', "a@b", None),
        ('"a@b"@2', "a@b", 2),
        ('"a""@"@last', 'a"@', "LAST"),
        ('m@"a@b"', "M", "a@b"),
    ],
)
def test_names_with_versions(written: str, name: str, version: Wanted) -> None:
    parsed = parse_model(written, "D", "S")
    assert (parsed.name.name, parsed.version) == (name, version)


@pytest.mark.parametrize("written", ["m@", "@3", "m@a@b", 'm@"a', "m@a-b", "m@3.5", '"m@3'])
def test_names_that_are_none(written: str) -> None:
    with pytest.raises(InvalidInput):
        parse_model(written, "D", "S")


@pytest.mark.parametrize("alias", ["default", "First", "LAST", "v1", '"V12"', '"7"'])
def test_aliases_that_mean_something_already(alias: str) -> None:
    with pytest.raises(InvalidInput, match="is taken"):
        parse_alias(alias)


def test_aliases_are_identifiers() -> None:
    assert (parse_alias("prod"), parse_alias('"prod"'), parse_alias("v1b")) == ("PROD", "prod", "V1B")
    assert parse_version("0") == 0


def version(number: int, base_model: str = "a") -> ModelVersion:
    made = {"path": "p", "sha256": "s", "rank": 8, "owner": "o", "created_on": 1, "job_id": None}
    return ModelVersion(number=number, model="m", version=number, base_model=base_model, **made)


def test_a_canary_has_its_share_and_all_draw_the_same() -> None:
    serving = Serving(default=version(1), canary=version(2), share=20.0)
    ids = [f"req_{number}" for number in range(5000)]
    drawn = Counter(pick(serving, request_id).version for request_id in ids)
    assert drawn[2] == pytest.approx(1000, abs=100)
    assert all(pick(serving, each) == pick(serving, each, "a") for each in ids[:50])
    assert pick(serving, "").version == 1


def test_a_request_that_reached_an_engine_is_answered_there() -> None:
    moved = Serving(default=version(2, "b"), lately=(version(1, "a"),))
    assert (pick(moved, "r").version, pick(moved, "r", "a").version) == (2, 1)
    assert pick(moved, "r", "c").version == 2
    across = Serving(default=version(1, "a"), canary=version(2, "b"), share=50.0)
    assert {pick(across, f"r{number}", "b").version for number in range(20)} == {2}


def test_a_second_version_is_asked_for(registry: Registry, make: Make) -> None:
    make(1)
    with pytest.raises(Conflict, match="--new-version"):
        registry.jobs.submit(make_job("ft_2"))
    second = make(2)
    assert (second.version, second.job_id, second.default_version, second.versions) == (2, "ft_2", 1, 2)
    (listed,) = registry.models.show(ADMIN)
    assert (listed.version, listed.versions, listed.aliases) == (1, 2, {})
    assert [each.validation_loss for each in registry.versions.show(ADMIN, TUNED)] == [0.75, 0.75]


def test_a_job_may_promote_what_it_makes(registry: Registry, make: Make) -> None:
    make(1)
    make(2, FinetuneOptions(new_version=True, promote=True))
    assert default(registry) == 2
    assert registry.versions.rollback(ADMIN, TUNED, 2).default_version == 1


def test_a_version_tells_which_it_began_with(make: Make) -> None:
    make(1)
    asked = FinetuneOptions(new_version=True, continue_from="tuned")
    assert make(2, asked, "folder1").parent == "LUTHIER.PUBLIC.TUNED@1"
    assert make(3, asked, "dropped").parent == "tuned"


def test_a_name_that_was_taken_while_a_job_ran_gets_its_next_version(registry: Registry, make: Make) -> None:
    registry.jobs.submit(make_job("ft_9"))
    registry.jobs.tick()
    registry.models.import_model(ADMIN, TUNED, imported("aa"), new_version=True)
    registry.jobs.finish("ft_9", make_finished())
    assert [(each.version, each.job_id) for each in registry.versions.show(ADMIN, TUNED)] == [(1, None), (2, "ft_9")]
    assert default(registry) == 1


def imported(sha256: str, base_model: str = "tiny") -> ImportedModel:
    kind = TaskType.CHAT_COMPLETION
    return ImportedModel(base_model=base_model, path="a", sha256=sha256, rank=8, task_type=kind, created_on=5)


def test_an_import_makes_versions_once_each(registry: Registry) -> None:
    first = registry.models.import_model(ADMIN, TUNED, imported("aa"))
    second = registry.models.import_model(ADMIN, TUNED, imported("bb"), new_version=True)
    assert (first.version, second.version) == (1, 2)
    assert registry.models.import_model(ADMIN, TUNED, imported("bb"), new_version=True) == second
    promoted = registry.models.import_model(ADMIN, TUNED, imported("bb"), new_version=True, promote=True)
    assert (promoted.version, promoted.default_version, promoted.versions) == (2, 2, 2)
    with pytest.raises(Conflict, match="is there already"):
        registry.models.import_model(ADMIN, TUNED, imported("cc"))


def test_promote_and_rollback_go_through_the_defaults(registry: Registry, three: None) -> None:
    for wanted in (2, "LAST"):
        registry.versions.promote(ADMIN, TUNED, wanted)
        registry.versions.promote(ADMIN, TUNED, wanted)
    assert registry.versions.serving(ADMIN, TUNED).before.version == 2
    seen = [registry.versions.rollback(ADMIN, TUNED, leaving).default_version for leaving in (3, 3, 2)]
    assert seen == [2, 2, 1]
    with pytest.raises(Conflict, match="no earlier default than version 1"):
        registry.versions.rollback(ADMIN, TUNED, 1)
    verbs = [(each.verb, each.version) for each in registry.versions.history(ADMIN, TUNED)][3:]
    assert verbs == [("PROMOTE", 2), ("PROMOTE", 3), ("ROLLBACK", 2), ("ROLLBACK", 1)]


def test_a_rollback_passes_versions_that_are_gone(registry: Registry, three: None) -> None:
    registry.versions.promote(ADMIN, TUNED, 2)
    registry.versions.promote(ADMIN, TUNED, 3)
    registry.models.drop(ADMIN, TUNED, 2)
    assert registry.versions.rollback(ADMIN, TUNED, 3).default_version == 1


def test_what_a_name_meant_until_now_is_told_for_a_while(settings: Settings, launcher: Launcher) -> None:
    clock = Clock()
    registry = Registry(settings, launcher, clock=lambda: int(clock.now))
    add_admin(registry)
    for sha256 in ("aa", "bb", "cc"):
        registry.models.import_model(ADMIN, TUNED, imported(sha256), new_version=True)

    def lately() -> list[int]:
        return [each.version for each in registry.versions.serving(ADMIN, TUNED).lately]

    assert lately() == []
    registry.versions.set_canary(ADMIN, TUNED, 3, 5.0)
    registry.versions.promote(ADMIN, TUNED, 2)
    assert lately() == [3, 1]
    clock.now += LATELY_MS + 1
    assert lately() == []
    registry.versions.rollback(ADMIN, TUNED, 2)
    assert lately() == [2]


def test_a_canary_ends_with_a_promotion(registry: Registry, three: None) -> None:
    model = registry.versions.set_canary(ADMIN, TUNED, 3, 5.0)
    assert (model.canary_version, model.canary_share) == (3, 5.0)
    registry.versions.set_canary(ADMIN, TUNED, 3, 5.0)
    serving = registry.versions.serving(ADMIN, TUNED)
    assert (serving.default.version, serving.canary.version, serving.share) == (1, 3, 5.0)
    assert registry.versions.serving(ADMIN, TUNED, 1).canary is None
    assert [each.share for each in registry.versions.show(ADMIN, TUNED)] == [95.0, 0.0, 5.0]
    promoted = registry.versions.promote(ADMIN, TUNED, 3)
    assert (promoted.default_version, promoted.canary_version) == (3, None)
    registry.versions.set_canary(ADMIN, TUNED, 1, 0.5)
    assert registry.versions.end_canary(ADMIN, TUNED).canary_version is None
    assert registry.versions.end_canary(ADMIN, TUNED).default_version == 3
    verbs = [each.verb for each in registry.versions.history(ADMIN, TUNED)][3:]
    assert verbs == ["SET_CANARY", "PROMOTE", "SET_CANARY", "END_CANARY"]


@pytest.mark.parametrize(("wanted", "share"), [(1, 5.0), (2, 0.0), (2, 100.0), (2, -1.0), (2, float("nan"))])
def test_canaries_that_are_none(registry: Registry, three: None, wanted: int, share: float) -> None:
    with pytest.raises(InvalidInput):
        registry.versions.set_canary(ADMIN, TUNED, wanted, share)


def test_a_canary_stands_where_the_default_does(registry: Registry, make: Make) -> None:
    make(1)
    registry.models.import_model(ADMIN, TUNED, imported("aa", "other"), new_version=True)
    with pytest.raises(InvalidInput, match="stands on other, the default on tiny"):
        registry.versions.set_canary(ADMIN, TUNED, 2, 5.0)
    assert registry.versions.promote(ADMIN, TUNED, 2).base_model == "other"


def test_aliases(registry: Registry, three: None) -> None:
    for _ in range(2):
        registry.versions.set_alias(ADMIN, TUNED, "PROD", 2)
    assert registry.models.get(ADMIN, TUNED, "PROD").version == 2
    assert registry.versions.set_alias(ADMIN, TUNED, "PROD", "LAST").aliases == {"PROD": 3}
    assert [default(registry, each) for each in ("PROD", "FIRST", "LAST", "DEFAULT")] == [3, 1, 3, 1]
    for _ in range(2):
        assert registry.versions.drop_alias(ADMIN, TUNED, "PROD").aliases == {}
    with pytest.raises(NotFound, match=r"has no version PROD\. It has 1, 2, 3\."):
        registry.versions.serving(ADMIN, TUNED, "PROD")
    verbs = [(each.verb, each.version, each.detail) for each in registry.versions.history(ADMIN, TUNED)][3:]
    assert verbs == [("SET_ALIAS", 2, "PROD"), ("SET_ALIAS", 3, "PROD"), ("DROP_ALIAS", None, "PROD")]


def test_dropping_a_version(registry: Registry, three: None) -> None:
    registry.versions.set_alias(ADMIN, TUNED, "PROD", 2)
    for used, words in ((1, "answers requests"), (2, "alias PROD")):
        with pytest.raises(Conflict, match=words):
            registry.models.drop(ADMIN, TUNED, used)
    assert registry.models.drop(ADMIN, TUNED, 3).version == 3
    with pytest.raises(NotFound):
        registry.models.get(ADMIN, TUNED, 3)
    again = registry.models.import_model(ADMIN, TUNED, imported("dd"), new_version=True)
    assert again.version == 4  # a number never means other weights


def test_history_outlives_the_model(registry: Registry, three: None) -> None:
    registry.models.drop(ADMIN, TUNED)
    last = registry.versions.history(ADMIN, TUNED)[-1]
    assert (last.verb, last.user, last.time) == ("DROP", ADMIN.user, 5_000)
    assert registry.versions.history(STRANGER, TUNED) == []


def test_strangers_change_nothing(registry: Registry, three: None) -> None:
    verbs = registry.versions
    for ask in (
        lambda: verbs.show(STRANGER, TUNED),
        lambda: verbs.promote(STRANGER, TUNED, 2),
        lambda: verbs.rollback(STRANGER, TUNED, 1),
        lambda: verbs.set_alias(STRANGER, TUNED, "PROD", 2),
        lambda: verbs.drop_alias(STRANGER, TUNED, "PROD"),
        lambda: verbs.set_canary(STRANGER, TUNED, 2, 5.0),
        lambda: verbs.end_canary(STRANGER, TUNED),
    ):
        with pytest.raises(NotFound):
            ask()


def test_the_epoch_tells_of_names_and_rights_alone(registry: Registry, make: Make) -> None:
    """What was written all the time would have every name asked again all the time."""

    def changes(verb: Callable[[], object]) -> bool:
        before = registry.versions.epoch()
        verb()
        return registry.versions.epoch() != before

    make(1)
    make(2)
    usage = Granted((Privilege.USAGE,), Securable(ObjectKind.MODEL, *TUNED.parts))
    verb: Callable[[], object]
    for verb in (
        lambda: registry.versions.promote(ADMIN, TUNED, 2),
        lambda: registry.versions.set_canary(ADMIN, TUNED, 1, 5.0),
        lambda: registry.versions.set_alias(ADMIN, TUNED, "PROD", 1),
        lambda: registry.roles.create(ADMIN, "ANALYST"),
        lambda: registry.grants.grant(ADMIN, usage, "ANALYST"),
        lambda: registry.grants.revoke(ADMIN, usage, "ANALYST"),
        lambda: make(3),
        lambda: registry.models.drop(ADMIN, TUNED),
    ):
        assert changes(verb)
    for verb in (
        lambda: registry.jobs.submit(make_job("ft_9", "LUTHIER.PUBLIC.OTHER")),
        registry.jobs.tick,
        lambda: registry.ledger.append([make_record()]),
        lambda: registry.proofs.report(1, Proof(state=ProofState.PROVED)),
        lambda: registry.credits.top_up(ADMIN, ADMIN.account, 1_000, "once"),
        lambda: registry.credits.renew(
            "replica", [ADMIN], [Want(id="l", account="main", turn=1, total_ucr=10, need_ucr=1)]
        ),
    ):
        assert not changes(verb)

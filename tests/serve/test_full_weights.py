"""Which engine answers for a model with weights of its own, when it is loaded, and what makes room for it."""

import asyncio
import gc
import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from luthier.errors import AdapterRefused, NotServed, Overloaded, Unavailable
from luthier.platform.jobs import now_ms
from luthier.platform.options import Method
from luthier.serve import full_weights, patience
from luthier.serve.adapters.loading import RETRY_SECONDS
from luthier.serve.full_weights import AWAKE_SECONDS, FullWeights, State, application_name
from tests.factories import make_settings
from tests.serve.full_models import World


@pytest.fixture
def world(home: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(full_weights, "ANSWER_SECONDS", 0.05)
    world = World(make_settings(home, tiny_model, max_full_models=2, full_model_wait_s=0.05))
    yield world
    world.close()


def test_each_kind_of_model_has_its_engine(world: World) -> None:
    full = world.model("whole")
    world.model("tuned", Method.LORA)
    for is_streamed in (False, True):
        assert world.ask("whole", is_streamed) == full
        assert world.ask("tuned", is_streamed) == "LUTHIER.PUBLIC.tuned: the fox"
        assert world.ask("tiny", is_streamed) == "base: the fox"
    assert world.apps.starts == [full]


def test_the_engine_is_told_the_version_that_chose_it(world: World) -> None:
    full = world.model("whole")
    world.ask("whole")
    (ask,) = world.apps.engines[full].asks
    assert ask.resolved
    assert ask.resolved.weights
    assert application_name(ask.resolved.weights) == full


def test_its_base_model_need_not_be_served(world: World, home: Path, tiny_model: Path) -> None:
    full = world.model("whole")
    world.services = replace(
        world.services, settings=world.services.settings.model_copy(update={"serve_base_models": ()})
    )
    assert world.ask("whole") == full
    with pytest.raises(NotServed, match="not served here"):
        world.ask("tiny")


def test_a_request_waits_a_while_and_the_loading_goes_on(world: World) -> None:
    full = world.model("whole")
    world.apps.loading.add(full)
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"whole is being loaded\. Try again"):
            world.ask("whole")
    assert world.apps.now[full].num_replicas == 1
    world.apps.loading.clear()
    assert world.ask("whole") == full
    assert world.apps.starts == [full]


def num_places(world: World) -> int:
    """That one account can have."""
    engine = world.services.catalog.get("tiny").engine
    return max(engine.max_num_seqs, math.ceil((engine.max_num_seqs + engine.max_queued) / 2))


def test_no_more_wait_than_will_find_a_place(world: World) -> None:
    full = world.model("whole")
    world.apps.loading.add(full)
    errors = world.errors("whole", num_places(world) + 7)
    refused = [error for error in errors if isinstance(error, Overloaded)]
    assert len(refused) == 7
    assert {error.retry_after for error in refused} == {1}
    assert str(refused[0]).startswith(f"The model is being loaded: {num_places(world)} requests wait for it, ")
    world.apps.loading.clear()
    assert world.ask("whole") == full


def test_a_statement_comes_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    full = world.model("whole")
    world.apps.loading.add(full)

    async def pause(_seconds: float) -> None:
        world.apps.loading.clear()
        await asyncio.sleep(0.1)

    monkeypatch.setattr(patience, "asyncio", SimpleNamespace(sleep=pause))
    answers = world.ask_many_after("whole", num_places(world))
    assert answers == [full, full]


def test_one_that_idled_is_woken(world: World) -> None:
    full = world.model("whole")
    world.ask("whole")
    world.apps.now[full] = State(0)
    world.clock.now += 5
    assert world.ask("whole") == full
    assert (world.apps.now[full].num_replicas, world.apps.starts) == (1, [full, full])


def test_the_longest_idle_makes_room(world: World) -> None:
    old, older, new = (world.model(name) for name in ("old", "older", "new"))
    world.ask("old"), world.ask("older")
    world.apps.idle = {old: 100.0, older: 200.0}
    assert world.ask("new") == new
    assert set(world.apps.now) == {old, new}
    world.clock.now += 5
    world.apps.idle = {old: 100.0, new: 0.0}
    assert world.ask("older") == older
    assert set(world.apps.now) == {new, older}


def test_none_at_work_makes_room(world: World) -> None:
    names = [world.model(name) for name in ("one", "two", "three")]
    world.ask("one"), world.ask("two")
    world.apps.idle = {names[0]: 3.0}
    world.apps.loading.add(names[1])
    with pytest.raises(Unavailable, match="max_full_models = 2"):
        world.ask("three")
    assert set(world.apps.now) == set(names[:2])


def test_those_without_replicas_go_when_another_comes(world: World) -> None:
    first, second = world.model("first"), world.model("second")
    world.ask("first")
    world.apps.now[first] = State(0, age_s=100.0)
    world.ask("second")
    assert set(world.apps.now) == {second}


def test_one_that_cannot_be_loaded_says_why_and_is_tried_again(world: World) -> None:
    full = world.model("whole")
    world.ask("whole")
    world.clock.now += 5
    world.apps.now[full] = State(0, failure="No room on the GPU.")
    with pytest.raises(Unavailable, match=r"whole could not be loaded: No room on the GPU\."):
        world.ask("whole")
    assert world.ask("whole") == full
    assert world.apps.starts == [full, full]


def test_one_that_is_refused_is_ended_and_tried_again_after_a_while(world: World) -> None:
    full, other = world.model("whole"), world.model("other")
    world.apps.refused.add(full)
    for _ in range(2):
        with pytest.raises(AdapterRefused, match="not what was published"):
            world.ask("whole")
    assert world.apps.starts == [full]
    assert full not in world.apps.now
    assert world.ask("other") == other
    world.clock.now += RETRY_SECONDS
    world.apps.refused.clear()
    assert world.ask("whole") == full
    assert world.apps.starts == [full, other, full]


def test_what_another_doors_engine_refused_is_not_started_for_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = world.model("whole")
    world.refuse("whole", "its weights are others")
    for _ in range(2):
        with pytest.raises(AdapterRefused, match="its weights are others"):
            world.ask("whole")
    assert world.apps.starts == []
    monkeypatch.setattr(full_weights, "now_ms", lambda: now_ms() + int(RETRY_SECONDS * 1000))
    assert world.ask("whole") == full


def test_many_who_wait_for_one_that_is_refused_end_it_once(world: World) -> None:
    full = world.model("whole")
    world.apps.refused.add(full)
    assert [type(error) for error in world.errors("whole", 3)] == [AdapterRefused] * 3
    assert world.apps.starts == [full]
    assert world.apps.now == {}


def test_one_that_is_refused_makes_room(world: World) -> None:
    first, bad, third = (world.model(name) for name in ("first", "bad", "third"))
    world.ask("first"), world.ask("bad")
    world.apps.refused.add(bad)  # as another door finds it
    assert world.ask("third") == third
    assert set(world.apps.now) == {first, third}


def test_replicas_are_told(world: World) -> None:
    full = world.model("whole")
    world.ask("whole")
    assert asyncio.run(world.services.full_models()) == {full: 1}


def test_one_that_is_just_being_started_stays(world: World) -> None:
    first, second = world.model("first"), world.model("second")
    world.apps.now[first] = State(0, age_s=1.0)
    world.ask("second")
    assert set(world.apps.now) == {first, second}


def test_many_asks_of_one_name_find_each_its_engine(world: World) -> None:
    full = world.model("whole")
    world.model("tuned", Method.LORA)
    assert world.ask_many(["whole", "whole"]) == [full, full]
    assert world.ask_many(["tuned", "tuned"]) == ["LUTHIER.PUBLIC.tuned: the fox"] * 2
    assert world.ask_many(["tuned", "whole", "tuned"]) == [
        "LUTHIER.PUBLIC.tuned: the fox",
        full,
        "LUTHIER.PUBLIC.tuned: the fox",
    ]


def test_storage_that_hangs_for_one_model_holds_up_no_other(world: World) -> None:
    first, second = world.model("first"), world.model("second")
    world.apps.hanging[first] = threading.Event()
    try:
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"first cannot be loaded: storage does not answer\. Try again"):
                world.ask("first")
            assert world.ask("second") == second
        assert world.apps.sized == [first, second]
    finally:
        world.apps.hanging[first].set()
    assert world.ask("first") == first
    assert world.apps.starts == [second, first]


def test_storage_that_fails_when_all_have_left_is_no_fault_of_the_loop(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = world.model("first"), world.model("second")
    world.apps.hanging[first] = threading.Event()
    with pytest.raises(Unavailable, match="storage does not answer"):
        world.ask("first")
    full = cast(FullWeights, world.services.completions)
    world.apps.lost.add(first)
    world.apps.hanging[first].set()
    while full._memories:
        assert world.ask("second") == second
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_what_has_ended_is_forgotten(world: World) -> None:
    first, second = world.model("first"), world.model("second")
    assert world.ask("first") == first
    world.apps.end(first)
    world.clock.now += AWAKE_SECONDS
    assert world.ask("second") == second
    full = cast(FullWeights, world.services.completions)
    assert {*full._engines, *full._doors, *full._awake} == {second}

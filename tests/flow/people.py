"""Others than the admin, each with a key of his own."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from luthier.platform.access import hash_key, new_key
from luthier.platform.keys import NewKey, new_key_id
from luthier.platform.registry.registry import Registry
from luthier.platform.securables import PUBLIC, SYSTEM_ROLES, ObjectKind, Securable
from tests.factories import ADMIN

Join = Callable[..., TestClient]


@pytest.fixture
def join(api: TestClient, app: FastAPI, registry: Registry) -> Join:
    """A client of a new user with a role, which is made if need be; of another account as its admin."""

    def run(role: str, user: str = "ANN", account: str = ADMIN.account) -> TestClient:
        key = new_key()
        if account != ADMIN.account:
            registry.access.add_admin_key(account, hash_key(key), key[:6])
        else:
            registry.users.create(ADMIN, user)
            if role not in SYSTEM_ROLES:
                registry.roles.create(ADMIN, role)
            if role != PUBLIC:
                registry.roles.grant(ADMIN, role, Securable(ObjectKind.USER, name=user))
            new = NewKey(id=new_key_id(), hash=hash_key(key), prefix=key[:6], user=user, role=role)
            registry.keys.create(ADMIN, new)
        client = TestClient(app, headers={"Authorization": f"Bearer {key}"})
        client.portal = api.portal  # the app runs in one event loop
        return client

    return run


def rows(api: TestClient, statement: str) -> list[dict[str, Any]]:
    """What a statement answers, a row a dictionary."""
    response = api.post("/luthier/v1/sql", json={"statement": statement})
    assert response.status_code == 200, response.text
    answer = response.json()
    return [dict(zip(answer["columns"], row, strict=True)) for row in answer["rows"]]


def run_all(api: TestClient, *statements: str) -> None:
    for statement in statements:
        rows(api, statement)


def key_of(client: TestClient) -> str:
    """The public id of the key that it sends."""
    key: str = client.get("/luthier/v1/whoami").json()["key"]
    return key

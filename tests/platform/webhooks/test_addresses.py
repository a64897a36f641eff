"""Notices go only where they may."""

import socket
from typing import Any
from unittest import mock

import pytest

from luthier.errors import InvalidInput
from luthier.platform.addresses import Addresses
from luthier.platform.registry.registry import Registry
from tests.factories import ADMIN
from tests.platform.webhooks.outbox import LOCAL, add, deliver
from tests.receiver import Receiver

pytestmark = pytest.mark.stores


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
        *("255.255.255.255", "::1", "fe80::1", "fd00::1", "ff02::1", "::ffff:169.254.169.254", "::ffff:127.0.0.1"),
        *("64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::"),
    ],
)
def test_what_no_webhook_may_reach(address: str) -> None:
    found = [(socket.AF_INET6 if ":" in address else socket.AF_INET, 0, 0, "", (address, 443))]
    public = [(socket.AF_INET, 0, 0, "", ("93.184.215.14", 443))]
    for answer in (found, [*public, *found]):
        with mock.patch.object(socket, "getaddrinfo", return_value=answer), pytest.raises(InvalidInput, match="public"):
            Addresses().check("https://hooks.example.com/")


def test_what_a_webhook_may_reach() -> None:
    public = [(socket.AF_INET, 0, 0, "", ("93.184.215.14", 443))]
    with mock.patch.object(socket, "getaddrinfo", return_value=public):
        assert Addresses().check("https://hooks.example.com/") == ["93.184.215.14"]
        with pytest.raises(InvalidInput, match="needs https"):
            Addresses().check("http://hooks.example.com/")
    assert LOCAL.check("http://127.0.0.1:8000/a") == ["127.0.0.1"]
    for url in ("ftp://a", "https://", "nothing", "https://u:p@a/", "https://a/#b", "https://a:x/"):
        with pytest.raises(InvalidInput, match="url: "):
            LOCAL.check(url)


def test_the_connection_goes_to_the_address_that_was_checked(registry: Registry, receiver: Receiver) -> None:
    add(registry, f"http://hooks.invalid:{receiver.server_port}/")
    registry.webhooks.test(ADMIN, "wh_1", "n1")
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", receiver.server_port))]
    real = socket.getaddrinfo

    def resolved(host: Any, *args: Any, **given: Any) -> Any:
        return answers if host == "hooks.invalid" else real(host, *args, **given)

    with mock.patch.object(socket, "getaddrinfo", side_effect=resolved) as asked:
        deliver(registry)
    assert [call.args[0] for call in asked.call_args_list].count("hooks.invalid") == 1
    ((headers, _),) = receiver.got
    assert headers["host"] == f"hooks.invalid:{receiver.server_port}"


def test_a_refused_address_is_not_asked(registry: Registry, receiver: Receiver) -> None:
    add(registry, receiver.url)
    registry.webhooks.test(ADMIN, "wh_1", "n1")
    deliver(registry, Addresses())
    (notice,) = registry.webhooks.notices(ADMIN)
    assert "webhook_networks" in notice.deliveries[0].told
    assert receiver.got == []

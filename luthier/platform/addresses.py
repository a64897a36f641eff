"""Which addresses a webhook may reach: a tenant's URL must not become a way into the platform's own network.

A name is resolved once, its addresses are checked, and the connection goes to one of those: what the name means a
moment later changes nothing.
"""

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from luthier.errors import InvalidInput

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
EMBEDDING = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))
"""IPv6 addresses that stand for an IPv4 one."""


class Addresses:
    """Which may be reached: public ones by https, and those of networks that the settings name, by http too."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]

    def check(self, url: str) -> list[str]:
        """Those of the URL's host; blocks. InvalidInput when one must not be reached, OSError when there is none."""
        parts = urlsplit(url)
        host = _checked(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        for address in addresses:
            self._check(host, parts.scheme, _plain(address))
        return addresses

    def _check(self, host: str, scheme: str, address: Address) -> None:
        if any(address in network for network in self._networks):
            return
        if not address.is_global or address.is_multicast or any(address in network for network in EMBEDDING):
            raise InvalidInput(
                f"A webhook may not reach {host} ({address}): it is no public address. Who runs the platform allows "
                f"networks by the setting webhook_networks."
            )
        if scheme != "https":
            raise InvalidInput(f"A webhook to a public address needs https://, and {host} is asked by {scheme}://.")


def _checked(url: str) -> str:
    """Its host. InvalidInput when it is no URL of a web server."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidInput(f"url: {error}.") from error
    if parts.scheme not in ("https", "http") or not host or parts.username is not None or parts.fragment:
        raise InvalidInput("url: write https://HOST[:PORT]/PATH, without a user, password or fragment.")
    return host


def _plain(address: str) -> Address:
    """Without a zone, and of an IPv4 address in IPv6's form that itself."""
    found = ipaddress.ip_address(address.partition("%")[0])
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found

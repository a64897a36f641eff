"""Ids of requests: HAProxy's, which names each before it sends it, or drawn where none stands in front.

HAProxy may send a request again when a replica dies. Under one id the ledger bills both answers once.
"""

import hmac
import json
import re
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

HEADER = b"luthier-request-id"
"""What HAProxy puts there, in the place of a client's own: the secret, epoch milliseconds, a UUID."""
_TOLD = re.compile(r"(\S+) (\d{13}) ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


def front_file(home: Path) -> Path:
    """What `luthier up` tells its HAProxy."""
    return home / "haproxy" / "front.json"


def front_secret(home: Path) -> str:
    """Of HAProxy and the replicas: who could choose an id would get two answers for one bill. Empty without HAProxy."""
    file = front_file(home)
    return str(json.loads(file.read_text()).get("secret", "")) if file.exists() else ""


def new_request_id() -> str:
    return _written(time.time_ns() // 1_000_000, uuid.uuid4().hex)


def request_id(headers: Iterable[tuple[bytes, bytes]], secret: str) -> str:
    """The one that HAProxy tells, where it shows the secret; without a secret a new one."""
    told = next((value for name, value in headers if name == HEADER), b"") if secret else b""
    parts = _TOLD.fullmatch(told.decode("latin-1"))
    if parts and hmac.compare_digest(parts[1].encode("latin-1"), secret.encode()):
        return _written(int(parts[2]), parts[3].replace("-", ""))
    return new_request_id()


def _written(time_ms: int, unique: str) -> str:
    """Begins with the time: in the ledger's index what comes together lies together, however long it is."""
    return f"req_{time_ms:012x}{unique[:20]}"

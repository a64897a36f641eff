"""What `luthier up` looks at before it starts anything: that its ports are free, and that the Ray to join answers."""

import socket

from luthier.cli.ray_head import is_listening
from luthier.errors import ClusterError
from luthier.platform.settings import Settings


def check_ports(settings: Settings, address: str | None) -> None:
    ports = {"port": settings.port}
    if address is None:
        ports |= {"ray_port": settings.ray_port, "dashboard_port": settings.dashboard_port}
    else:
        _check_reachable(address)
    for name, port in ports.items():
        if is_listening(port):
            raise ClusterError(
                f"Port {port} ({name}) is taken by another program. Free it, or set LUTHIER_{name.upper()} to another."
            )


def _check_reachable(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"--address {address}: write HOST:PORT of Ray's GCS, such as 10.0.0.5:6379.")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ClusterError(f"No Ray answers at {address} ({error}). Is it started?") from error

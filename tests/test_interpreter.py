import gc
import sys
from collections.abc import Iterator
from weakref import ref

import pytest

from device_agent.interpreter import collect, prefer_latency


class Knot:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def held() -> Iterator[None]:
    interval_s = sys.getswitchinterval()
    prefer_latency()
    yield
    gc.unfreeze()
    gc.enable()
    sys.setswitchinterval(interval_s)


def test_cycles_are_collected_between_answers(held: None) -> None:
    lost = ref(Knot())
    many = [[] for _ in range(2000)]  # type: ignore[var-annotated]
    collect(idle=False)
    assert lost() is not None, "too few to hold up what waits"
    collect(idle=True)
    assert lost() is None and many


def test_so_are_they_when_requests_never_cease(held: None) -> None:
    lost = ref(Knot())
    many = [[] for _ in range(200_000)]  # type: ignore[var-annotated]
    collect(idle=False)
    assert lost() is None and many


def test_nothing_is_done_where_collections_are_automatic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "collect", lambda: pytest.fail("collected"))
    many = [[] for _ in range(2000)]  # type: ignore[var-annotated]
    collect(idle=True)
    assert many

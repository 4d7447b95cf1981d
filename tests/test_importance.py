"""The comparison of orders of importance, on a tiny store: every order is judged, and what was measured is reused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import importance
from tests.texts import write_texts


def test_every_order_is_compared(
    golden_store: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    texts = [write_texts(tmp_path / f"{name}.tsv", 16, seed) for seed, name in enumerate(("train", "unseen", "dev"))]
    arguments = ["importance", str(golden_store("bert-sequence")), "--out", str(tmp_path / "out"), "--top", "1", "3"]
    for name, path in zip(("train", "unseen", "dev"), texts, strict=True):
        arguments += [f"--{name}", str(path)]
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.setattr(importance, "start_process", lambda: None)
    importance.main()
    first = (tmp_path / "out" / "importance.csv").read_text()
    table = capsys.readouterr().out
    assert "| exact |" in table
    assert "rank correlation of exact and estimate" in table
    importance.main()
    assert "lowered:" not in capsys.readouterr().out  # kept from the first time
    assert (tmp_path / "out" / "importance.csv").read_text() == first
    orders = {line.rsplit(",", 3)[0] for line in first.splitlines()[1:]}
    assert len(orders) == 8

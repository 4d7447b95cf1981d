"""Runs `sti` inside the test process."""

import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from host.cli import main


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int | str | None
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document


@dataclass(frozen=True)
class Sti:
    """Calls the entry point with arguments, as the installed script would."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: object) -> Finished:
        self.monkeypatch.setattr(sys, "argv", ["sti", *map(str, arguments)])
        self.monkeypatch.setenv("COLUMNS", "200")
        self.capsys.readouterr()
        code: int | str | None = 0
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code or 0
        captured = self.capsys.readouterr()
        return Finished(code, captured.out, captured.err)

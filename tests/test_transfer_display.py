"""Progress of transfers."""

import pytest

from host.transfer_display import transfer_bars


def test_each_device_has_a_bar_that_follows_its_stages(capsys: pytest.CaptureFixture[str]) -> None:
    with transfer_bars() as bar_of:
        first, second = bar_of("adb:a"), bar_of("adb:b")
        first("compare", 0, 0)
        first("send", 5, 10)
        second("send", 10, 10)
        first("send", 10, 10)
    captured = capsys.readouterr()
    assert captured.out == ""

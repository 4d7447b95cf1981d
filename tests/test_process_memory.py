import mmap
import sys
from pathlib import Path

import pytest

from device_agent.process_memory import (
    ProcessMemory,
    anonymous_share,
    default_budget_bytes,
    process_memory,
    restart_peak,
)

MIB = 1 << 20
STATUS = """Name:\tpython3
State:\tR (running)
VmPeak:\t  900 kB
VmHWM:\t  700 kB
VmRSS:\t  500 kB
RssAnon:\t  300 kB
RssFile:\t  150 kB
RssShmem:\t   50 kB
Threads:\t4
"""

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /proc")


def test_fields_are_picked_by_name(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(STATUS)
    assert process_memory(tmp_path / "status") == ProcessMemory(500 * 1024, 700 * 1024, 350 * 1024)


def test_what_the_kernel_does_not_say_is_zero(tmp_path: Path) -> None:
    assert process_memory(tmp_path / "missing") == ProcessMemory(0, 0, 0)
    (tmp_path / "status").write_text("Name:\tkthread\nThreads:\t1\n")
    assert process_memory(tmp_path / "status") == ProcessMemory(0, 0, 0)


def test_shares_are_summed(tmp_path: Path) -> None:
    rollup = tmp_path / "smaps_rollup"
    rollup.write_text(
        "5581-7ffd ---p 00000000 00:00 0  [rollup]\nRss:  900 kB\nPss:  400 kB\nPss_Anon:  20 kB\nPss_Shmem:  3 kB\n"
    )
    assert anonymous_share(rollup) == 23 * 1024
    with pytest.raises(OSError, match="missing"):
        anonymous_share(tmp_path / "missing")


def test_the_default_budget_is_a_quarter_of_what_is_available(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  8000 kB\nMemFree:  100 kB\nMemAvailable:  4000 kB\n")
    assert default_budget_bytes(tmp_path / "meminfo") == 1000 * 1024
    (tmp_path / "meminfo").write_text("MemTotal:  8000 kB\n")
    assert default_budget_bytes(tmp_path / "meminfo") == default_budget_bytes(tmp_path / "missing") == 1 << 30


def test_a_peak_that_cannot_be_restarted_is_left(tmp_path: Path) -> None:
    restart_peak(tmp_path / "missing" / "clear_refs")
    (tmp_path / "clear_refs").touch()
    restart_peak(tmp_path / "clear_refs")
    assert (tmp_path / "clear_refs").read_text() == "5"


@on_linux
def test_pages_that_are_written_show_and_pages_that_are_freed_do_not() -> None:
    before, share_before = process_memory(), anonymous_share()
    pages = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.write(b"\x01" * len(pages))
    within, share_within = process_memory(), anonymous_share()
    pages.close()
    after = process_memory()
    # the string written is freed at once, by a mapping of its own
    assert 60 * MIB < within.anonymous_bytes - before.anonymous_bytes < 72 * MIB
    assert 60 * MIB < share_within - share_before < 72 * MIB
    assert abs(after.anonymous_bytes - before.anonymous_bytes) < 8 * MIB
    assert after.peak_resident_bytes >= within.resident_bytes > after.resident_bytes

"""What is compared, how results are kept and related, and a real cell where the kernel lets us measure one."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.random_model import EncoderShape, write_random_bert
from device_agent.exact_trial import Trial
from device_agent.plan import Schedule
from host.exact import run
from host.exact.cells import BASELINES, PIPESWITCH_FP32, PIPESWITCH_INT8, Cell, Flash, Subject, Way, cells, ways
from host.exact.cgroup import Cgroup
from host.exact.measure import Measured, measure
from host.exact.results import compare, read_results, write_results
from host.exact.run import RESULTS_FILE, TABLE_FILE, run_cells
from shard_store.errors import DeviceError, FormatError, PlanError
from tests.cli_runs import Sti
from tests.packaging import package_quietly
from tests.stores import write_store

SUBJECT = Subject("tiny", Path("tiny.store"), 16)
PLANNED = Way("PIPELOAD, planned", "pipelined", 8, cap_bytes=20 << 20)


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def measured(cell: Cell, total_ms: float = 100.0, peak_bytes: int = 1000) -> Measured:
    way = cell.way
    return Measured(
        cell.key, cell.subject.name, cell.subject.sequence, cell.flash.name, cell.flash.bytes_per_s, way.name,
        way.schedule, way.bits, way.cap_bytes, way.agents or 1, 2, 4, 0, 0, total_ms, total_ms, 1.0, 2.0, 3.0, 4.0, 5,
        peak_bytes, 900, 1000, None, 50_000_000, 0,
    )  # fmt: skip


def test_every_way_on_every_flash() -> None:
    its_ways = tuple(ways([10 << 20, 20 << 20], [1, 2]))
    assert its_ways[: len(BASELINES)] == BASELINES
    assert [(way.cap_bytes, way.agents) for way in its_ways[len(BASELINES) :]] == [
        (None, 1), (None, 2), (10 << 20, None), (20 << 20, None),
    ]  # fmt: skip
    found = cells([(SUBJECT, its_ways)], (Flash(), Flash(200_000_000)))
    assert len(found) == 2 * len(its_ways) == len({cell.key for cell in found})


def test_results_stand_beside_both_baselines_of_the_same_flash() -> None:
    slow, quick = Flash(500_000_000), Flash()
    results = [
        measured(Cell(SUBJECT, slow, PIPESWITCH_FP32), 900, 10_000),
        measured(Cell(SUBJECT, slow, PIPESWITCH_INT8), 300, 4000),
        measured(Cell(SUBJECT, slow, PLANNED), 150, 1000), measured(Cell(SUBJECT, quick, PLANNED), 90, 1000),
    ]  # fmt: skip
    *_, planned, alone = compare(results)
    assert (planned.faster_than_fp32, planned.memory_saved_fp32) == (6.0, 0.9)
    assert (planned.faster_than_int8, planned.memory_saved_int8) == (2.0, 0.75)
    assert planned.of_bound == 1.5  # 50 MB at 500 MB/s are 100 ms
    assert (alone.faster_than_fp32, alone.memory_saved_int8, alone.of_bound) == (None, None, None)


def test_a_run_that_was_stopped_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def measure_until(limit: int) -> Callable[[Cell, int], Measured]:
        def fake(cell: Cell, _requests: int) -> Measured:
            if len(asked) == limit:
                raise DeviceError("stopped")
            asked.append(cell.key)
            return measured(cell)

        return fake

    wanted = cells([(SUBJECT, tuple(ways([10 << 20], [1])))], (Flash(), Flash(200_000_000)))
    monkeypatch.setattr(run, "measure", measure_until(5))
    with pytest.raises(DeviceError):
        run_cells(wanted, tmp_path, 3, quiet)
    monkeypatch.setattr(run, "measure", measure_until(1000))
    comparisons = run_cells(wanted, tmp_path, 3, quiet)
    assert asked == [cell.key for cell in wanted] == [comparison.measured.key for comparison in comparisons]
    run_cells(wanted, tmp_path, 3, quiet)
    assert len(asked) == len(wanted)
    run_cells(wanted, tmp_path, 3, quiet, fresh=True)
    assert len(asked) == 2 * len(wanted)
    assert list(tmp_path.glob("*.png"))
    with (tmp_path / TABLE_FILE).open(encoding="utf-8") as file:
        assert [row["key"] for row in csv.DictReader(file)] == [cell.key for cell in wanted]
    document = json.loads((tmp_path / RESULTS_FILE).read_text())
    assert document["configuration"]["requests"] == 3
    assert document["environment"]["packages"]["numpy"]


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    result = measured(Cell(SUBJECT, Flash(), PLANNED))
    write_results(tmp_path / "r.json", [result], {})
    assert read_results(tmp_path / "r.json") == {result.key: result}
    assert read_results(tmp_path / "none.json") == {}


@pytest.mark.parametrize("content", ["{", "[]", '{"results": [{"key": 1}]}', '{"results": [{}]}'])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(FormatError, match="not results of this version"):
        read_results(tmp_path / "r.json")


@pytest.mark.parametrize("line", ["", "{}", '{"schedule": "later"}', '{"schedule": "pipelined", "speed": 1}', "[]"])
def test_a_trial_is_checked(line: str) -> None:
    with pytest.raises(PlanError, match=r"^trial: "):
        Trial.parse(line)


def test_a_trial_comes_from_a_line_of_json() -> None:
    line = '{"store": "s", "bits": 8, "sequence": 16, "schedule": "free_last"}'
    assert Trial.parse(line) == Trial("s", 8, 16, Schedule.FREE_LAST)


@pytest.fixture
def kernel() -> None:
    """Skips where there are no control groups."""
    try:
        Cgroup().close()
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("kernel")
def test_a_real_cell(tmp_path: Path) -> None:
    write_random_bert(tmp_path / "model", EncoderShape(3, 64, 2, 128, 64, 64))
    package_quietly(tmp_path / "model", tmp_path / "store", sequences=(16,), bitwidths=(8, 32), slices=2)
    subject = Subject("tiny", tmp_path / "store", 16)
    for way in (PIPESWITCH_FP32, PLANNED):
        result = measure(Cell(subject, Flash(500_000_000), way), 2)
        assert (result.layers, result.kills, result.schedule) == (3, 0, way.schedule)
        assert result.peak_bytes > 0
        assert result.total_ms > 0
    with pytest.raises(DeviceError, match="ended with -9, 1 kills"):
        measure(Cell(subject, Flash(), replace(PLANNED, cap_bytes=1000)), 2)
    with pytest.raises(DeviceError, match="it said: error: "):
        measure(Cell(replace(subject, store=tmp_path / "model"), Flash(), PLANNED), 2)


def test_without_control_groups_the_reason_is_told(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no such control group"):
        Cgroup(tmp_path)


@pytest.mark.usefixtures("kernel")
def test_a_file_that_is_on_no_disk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("host.exact.cgroup.disk_of", lambda _path: None)
    with Cgroup() as group, pytest.raises(DeviceError, match="not on a disk"):
        group.throttle_reads(Path("x"), 1)


def test_a_store_is_compared_from_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sti: Sti) -> None:
    monkeypatch.setattr(run, "measure", lambda cell, _requests: measured(cell))
    write_store(tmp_path / "store", (8, 32))
    write_store(tmp_path / "lossy", (2, 8))
    arguments = ("--exact", "--quick", "--flash-mb-s", "200,500", "--out", tmp_path / "out")
    done = sti("bench", tmp_path / "store", *arguments, "--json")
    assert done.code == 0, done.err
    found = done.json["cells"]
    assert {cell["measured"]["flash"] for cell in found} == {"500 MB/s", "unthrottled"}
    assert {cell["measured"]["way"] for cell in found} >= {PIPESWITCH_FP32.name, PIPESWITCH_INT8.name, PLANNED.name}
    assert "flash bound" in sti("bench", tmp_path / "store", *arguments).out
    refused = sti("bench", tmp_path / "lossy", *arguments)
    assert (refused.code, "has no 32-bit shards" in refused.err) == (1, True)
    assert sti("bench", tmp_path / "store", "--out", tmp_path / "out").code == 2

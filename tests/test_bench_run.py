"""`sti bench` from end to end on a tiny store: real agents, a software throttle, results, resuming, bad input."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from host.bench.records import CellRecord, Records
from host.bench.results import Row
from shard_store.profile_writer import write_profile
from shard_store.reader import Store
from tests.bench_profiles import made_up_profile
from tests.cli_runs import Sti

CHECKOUT = Path(__file__).parents[1]
METHODS = ["Load&Exec", "StdPL-8", "StdPL-2", "STI", "PreloadModel-32"]


@pytest.fixture(scope="module")
def store(golden_store: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "store"
    shutil.copytree(golden_store("bert-sequence"), path)
    with Store.open(path) as opened:
        profile = made_up_profile(opened.manifest)
    write_profile(path, profile)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "data.tsv"
    path.write_text("sentence\tlabel\nthe cat sat\t0\na dull film\t1\nthe mat\t2\n")
    return path


@pytest.fixture
def sti(sti: Sti, monkeypatch: pytest.MonkeyPatch) -> Sti:
    monkeypatch.chdir(CHECKOUT)  # where agents find their package even if that is not installed
    return sti


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench") / "out"


ARGUMENTS = ("--targets", "5,90", "--flash-mb-s", "30", "--quick")


def test_bench_measures_every_cell_and_writes_all_results(sti: Sti, store: Path, data: Path, out: Path) -> None:
    finished = sti("bench", store, "--data", data, "--out", out, *ARGUMENTS, "--json")
    assert (finished.code, finished.err.strip().splitlines()[-1:]) != (1, [])
    rows = finished.json["rows"]
    assert len(rows) == 2 * 9
    assert {(row["target_ms"], row["method"]) for row in rows} >= {(5.0, name) for name in METHODS}
    assert all(0 <= row["accuracy"] <= 100 and row["cold_p50_ms"] > 0 for row in rows)
    assert {(row["method"] == "STI", row["runs"]) for row in rows} == {(True, 5), (False, 10)}
    assert all(row["cold_p95_ms"] >= row["cold_p50_ms"] and row["warm_p50_ms"] > 0 for row in rows)
    with (out / "bench.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["method"] for row in table] == [row["method"] for row in rows]
    assert list(table[0]) == list(Row.__dataclass_fields__)
    document = json.loads((out / "bench.json").read_text())
    assert document["options"]["targets_ms"] == [5.0, 90.0]
    assert document["environment"]["packages"]["numpy"]
    assert document["verdict"]["all_methods"]["promised_runs"] > 0
    for name in ("accuracy-over-target.png", "accuracy-over-memory.png", "latency-over-target.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_ample_time_runs_the_whole_model(out: Path) -> None:
    rows = {row["method"]: row for row in json.loads((out / "bench.json").read_text())["rows"] if row["target_ms"] > 5}
    assert {(rows[name]["layers"], rows[name]["slices"]) for name in ("Load&Exec", "PreloadModel-32")} == {(2, 4)}
    assert rows["PreloadModel-32"]["resident_layers"] == 2
    assert rows["StdPL-8"]["resident_layers"] == 0
    assert rows["PreloadModel-32"]["accuracy"] == rows["Load&Exec"]["accuracy"] == rows["StdPL-32"]["accuracy"]
    assert rows["STI"]["predicted_peak_mib"] >= rows["STI"]["model_peak_mib"]


def test_a_bench_that_stopped_goes_on_where_it_was(sti: Sti, store: Path, data: Path, out: Path) -> None:
    cold = out / "records" / "cold" / "flash-30-cpu-100"
    before = {path.name: path.stat().st_mtime_ns for path in cold.iterdir()}
    (cold / "5-StdPL-8.json").unlink()
    assert sti("bench", store, "--data", data, "--out", out, *ARGUMENTS).code == 0
    after = {path.name: path.stat().st_mtime_ns for path in cold.iterdir()}
    assert [name for name in before if after[name] != before[name]] == ["5-StdPL-8.json"]


def test_the_table_ends_with_what_it_adds_up_to(sti: Sti, store: Path, data: Path, out: Path) -> None:
    shown = sti("bench", store, "--data", data, "--out", out, *ARGUMENTS).out
    assert "PreloadModel-6" in shown
    assert "predictions of STI: median error" in shown
    assert f"written to {out}" in shown


@pytest.mark.parametrize("arguments", [["--targets", "5"], ["--targets", "5,90", "--flash-mb-s", "60", "--quick"]])
def test_a_folder_of_another_bench_is_refused(
    sti: Sti, store: Path, data: Path, out: Path, arguments: list[str]
) -> None:
    finished = sti("bench", store, "--data", data, "--out", out, *arguments)
    assert (finished.code, finished.out) == (1, "")
    assert "choose another --out" in finished.err.strip().splitlines()[-1]


def test_bad_input_is_one_line(
    sti: Sti, store: Path, golden_store: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    classes, odd = tmp_path / "classes.tsv", tmp_path / "odd.tsv"
    classes.write_text("the cat\t7\n")
    odd.write_text("the cat\n")
    for arguments, words in (
        ((store, "--data", tmp_path / "none.tsv"), "cannot be read"),
        ((store, "--data", classes), "label 7"),
        ((store, "--data", odd), "columns"),
        ((tmp_path / "none", "--data", data), "none"),
        ((golden_store("bert-sequence"), "--data", data), "sti profile"),
        ((store, "--data", data, "--targets", "0"), "above 0"),
    ):
        finished = sti("bench", *arguments, "--out", tmp_path / "out")
        assert (arguments, finished.code, finished.out) == (arguments, 1, "")
        lines = finished.err.strip().splitlines()
        assert lines[-1].startswith("error: ")
        assert words in lines[-1]
    assert sti("bench", store, "--data", data, "--out", tmp_path / "out", "--flash-mb-s", "x").code == 2


def test_a_damaged_record_is_named(out: Path) -> None:
    records = Records(out / "records")
    records.folder.joinpath("odd.json").write_text("{}")
    with pytest.raises(Exception, match=r"odd\.json: not a record"):
        records.known("odd", CellRecord)

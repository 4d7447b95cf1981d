"""`sti`: what it prints, where, and how it ends. With a real model: test_end_to_end."""

import subprocess
import sys
from pathlib import Path

import pytest

import host.package
from host.package import PackageOptions, PackageReport, Progress
from shard_store.errors import CheckpointError
from shard_store.head import HeadKind
from shard_store.manifest import Manifest
from tests.cli_runs import Sti
from tests.fake_model import FakeModel, with_head
from tests.http_server import serving_loaded
from tests.stores import write_store

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores") / "small"


@pytest.fixture(scope="module")
def manifest(store: Path) -> Manifest:
    return write_store(store, bitwidths=(2, 8))


def test_the_command_starts_without_tensorflow() -> None:
    code = "import sys, host.cli; sys.exit(any(name.split('.')[0] == 'tensorflow' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=False).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["inspect"],
        ["infer"],
        ["infer", "a", "--pair"],
        ["infer", "a", "--bits", "x"],
        ["package", "m"],
        ["package", "m", "--out", "s", "--bits", "2;4"],
        ["package", "m", "--out", "s", "--slices", "0"],
        ["push", "s", "--device", "moon"],
    ],
)
def test_wrong_usage_exits_with_2(sti: Sti, arguments: list[str]) -> None:
    finished = sti(*arguments)
    assert (finished.code, finished.out) == (2, "")
    assert "Error" in finished.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "none"],
        ["push", "none"],
        ["infer", "a"],
        ["infer", "a", "--url", "http://127.0.0.1:9"],
        ["agent", "start"],
    ],
)
def test_what_the_user_can_mend_exits_with_1_and_one_line(sti: Sti, arguments: list[str]) -> None:
    finished = sti(*arguments)
    assert (finished.code, finished.out) == (1, "")
    lines = [line for line in finished.err.splitlines() if line.strip()]
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in finished.err


def test_package_passes_on_its_options_and_prints_the_report(
    sti: Sti, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Path, PackageOptions]] = []

    def package(source: str, out: Path, options: PackageOptions, progress: Progress) -> PackageReport:
        asked.append((source, out, options))
        progress("encode", 1, 2)
        return PackageReport(out, "m", "bert", 2, 4, options.bitwidths, options.sequences, 3, 4_500_000)

    monkeypatch.setattr(host.package, "package", package)
    options = ("--bits", "2,8", "--slices", 4, "--seq", "16", "--calibrate", "t")
    finished = sti("package", "model", "--out", tmp_path, *options)
    assert asked == [("model", tmp_path, PackageOptions((2, 8), 4, (16,), Path("t")))]
    assert finished.code == 0
    assert "4.50 MB" in finished.out
    assert sti("package", "model", "--out", tmp_path, *options, "--json").json["bitwidths"] == [2, 8]
    assert sti("package", "model", "--out", tmp_path).code == 0
    assert asked[-1][2] == PackageOptions()


def test_package_errors_are_one_line(sti: Sti, monkeypatch: pytest.MonkeyPatch) -> None:
    def package(source: str, out: Path, options: PackageOptions, progress: Progress) -> PackageReport:
        raise CheckpointError(f"{source}: no config.json")

    monkeypatch.setattr(host.package, "package", package)
    finished = sti("package", "model", "--out", "s")
    assert (finished.code, finished.err.splitlines()[-1]) == (1, "error: model: no config.json")


def test_inspect_shows_what_the_store_holds(sti: Sti, store: Path, manifest: Manifest) -> None:
    shown = sti("inspect", store, "--verify")
    assert shown.code == 0
    assert "tests/small (bert)" in shown.out
    assert all(name in shown.out for name in manifest.files)
    assert "verified" in shown.err
    assert "verified" not in shown.out
    document = sti("inspect", store, "--json").json
    assert document["total_bytes"] == sum(file.nbytes for file in manifest.files.values())
    assert document["geometry"]["activation"] == "gelu"


def test_inspect_finds_damage(sti: Sti, tmp_path: Path) -> None:
    write_store(tmp_path / "store", bitwidths=(2,))
    data = bytearray((tmp_path / "store" / "shards-2.bin").read_bytes())
    data[10] ^= 1
    (tmp_path / "store" / "shards-2.bin").write_bytes(data)
    assert sti("inspect", tmp_path / "store").code == 0
    finished = sti("inspect", tmp_path / "store", "--verify")
    assert (finished.code, finished.out) == (1, "")
    assert "error: " in finished.err


def test_push_reports_what_was_sent(sti: Sti, store: Path, manifest: Manifest, tmp_path: Path) -> None:
    first = sti("push", store, "--json").json
    assert len(first["sent"]) == len(manifest.files) + 1
    assert (tmp_path / "home" / "stores" / "small" / "manifest.json").exists()
    again = sti("push", store)
    assert "0.00 kB" in again.out
    assert sti("push", store, "--root", tmp_path / "other", "--name", "n").code == 0
    assert (tmp_path / "other" / "stores" / "n" / "manifest.json").exists()


def test_infer_asks_the_url_and_prints_answer_and_run(sti: Sti, manifest: Manifest) -> None:
    model = FakeModel(with_head(manifest, HeadKind.EMBEDDING))
    with serving_loaded(model) as http:
        shown = sti("infer", "one", "two words", "--url", http.base_url, "--bits", 2, "--slices", 3, "--truncate")
        document = sti("infer", "one", "--url", http.base_url, "--json").json
        refused = sti("infer", "a", "b", "--pair", "--url", http.base_url)
    assert shown.code == 0
    assert "two words: [0.1000, " in shown.out
    assert "execute ms" in shown.out
    assert (model.calls[0].plan.bitwidths, model.calls[0].plan.slices, model.calls[0].truncate) == ((2,), 3, True)
    assert len(document["data"][0]["embedding"]) == 24
    assert (refused.code, refused.err.strip()) == (1, "error: this model embeds single texts; leave --pair out")


def test_infer_prints_labels_of_pairs_and_of_tokens(sti: Sti, manifest: Manifest) -> None:
    labels = ("bad", "good", "[/red]")
    with serving_loaded(FakeModel(with_head(manifest, HeadKind.SEQUENCE_CLASSIFICATION, labels))) as http:
        pairs = sti("infer", "a", "b c", "--pair", "--url", http.base_url)
    with serving_loaded(FakeModel(with_head(manifest, HeadKind.TOKEN_CLASSIFICATION, labels))) as http:
        tokens = sti("infer", "[bold] b", "--url", http.base_url)
    assert pairs.out.startswith("a | b c: [/red] (0.6652)")
    assert tokens.out.splitlines()[0] == "[bold] b:"
    assert tokens.out.splitlines()[1].startswith("  [bold]: ")


def test_status_without_an_agent_fails(sti: Sti) -> None:
    finished = sti("agent", "status")
    assert (finished.code, finished.out) == (1, "no agent is running\n")
    assert sti("agent", "stop").out == "no agent was running\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["push"], "give one of STORE, --list, --gc and --remove"),
        (["push", "s", "--gc"], "give one of STORE, --list, --gc and --remove"),
        (["push", "s", "--device", "local", "--all"], "give --device or --all"),
        (["push", "s", "--device", "adb:"], "names no device; use local, usb, adb:SERIAL or"),
        (["forward", "--device", "local"], "the local device is this machine"),
    ],
)
def test_devices_are_named_in_one_way_only(sti: Sti, arguments: list[str], message: str) -> None:
    done = sti(*arguments)
    assert done.code == 2
    assert message in " ".join(done.err.replace("│", " ").split())


def test_stores_of_the_local_device_are_listed_and_removed(sti: Sti, store: Path) -> None:
    name = sti("push", store, "--json").json["name"]
    assert [found["name"] for found in sti("push", "--list", "--json").json["stores"]] == [name]
    assert sti("push", "--gc", "--json").json == {"removed": [], "freed_bytes": 0}
    assert sti("push", "--remove", name).code == 0
    assert sti("push", "--list", "--json").json == {"stores": []}

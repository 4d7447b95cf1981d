"""The binding to LiteRT, with real layers on the CPU."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

from device_agent.layer_model import LayerModel
from device_agent.litert import ALIGNMENT, HostTensor, Runtime
from shard_store.errors import ExecutorError
from shard_store.geometry import Activation, Geometry
from shard_store.template import TemplateKind
from tests.layers import filled_model, layer_payloads, random_hidden, random_layer, run_once, template_of
from tests.reference import Floats, first_slices, run_layer

GEOMETRY = Geometry(1, 64, 4, 96, 4, Activation.GELU, 1e-12)
SEQUENCE, PADDING = 16, 5


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with Runtime() as runtime:
        yield runtime


def expected(slices: int) -> Floats:
    hidden = random_hidden(template_of(GEOMETRY, slices, TemplateKind.FLOAT32, SEQUENCE), GEOMETRY)
    mask = np.ones((1, SEQUENCE), np.int64)
    mask[:, SEQUENCE - PADDING :] = 0
    return run_layer(first_slices(random_layer(GEOMETRY), GEOMETRY, slices), GEOMETRY, hidden, mask)


@pytest.mark.parametrize("slices", [1, 3, 4])
@pytest.mark.parametrize(("bits", "tolerance"), [(32, 1e-6), (8, 0.02)])
def test_a_compiled_layer_computes_the_layer(slices: int, bits: int, tolerance: float, runtime: Runtime) -> None:
    template = template_of(GEOMETRY, slices, TemplateKind.FLOAT32 if bits == 32 else TemplateKind.INT8, SEQUENCE)
    payloads = layer_payloads(random_layer(GEOMETRY), GEOMETRY, bits)
    with (
        closing(filled_model(template, GEOMETRY, payloads)) as model,
        closing(model.compile(runtime)) as compiled,
    ):
        assert compiled.fully_delegated()
        found = run_once(runtime, compiled, template, GEOMETRY, PADDING)
        again = run_once(runtime, compiled, template, GEOMETRY, PADDING)
    reference = expected(slices)
    assert np.linalg.norm(found - reference) <= tolerance * np.linalg.norm(reference)
    if bits == 32:
        np.testing.assert_allclose(found, reference, atol=1e-5)
    assert found.tobytes() == again.tobytes()


def test_layers_with_different_weights_live_side_by_side(runtime: Runtime) -> None:
    template = template_of(GEOMETRY, 4, TemplateKind.FLOAT32, SEQUENCE)
    models = [
        filled_model(template, GEOMETRY, layer_payloads(random_layer(GEOMETRY, seed), GEOMETRY, 32)) for seed in (0, 1)
    ]
    compiled = [model.compile(runtime) for model in models]
    first, second = (run_once(runtime, one, template, GEOMETRY, PADDING) for one in compiled)
    compiled[1].close()
    assert run_once(runtime, compiled[0], template, GEOMETRY, PADDING).tobytes() == first.tobytes()
    assert np.abs(first - second).max() > 0.1
    compiled[0].close()
    for model in models:
        model.close()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "zeros": lambda data: bytes(len(data)),
    "noise": lambda data: np.random.default_rng(0).bytes(len(data)),
    "cut": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "no identifier": lambda data: data[:4] + b"XXXX" + data[8:],
    "root far away": lambda data: b"\xff\xff\xff\x7f" + data[4:],
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", TemplateKind)
def test_a_damaged_flatbuffer_is_an_error(damage: str, kind: TemplateKind, runtime: Runtime) -> None:
    template = template_of(GEOMETRY, 4, kind, SEQUENCE)
    broken = replace(template, flatbuffer=DAMAGE[damage](template.flatbuffer))
    with (
        closing(LayerModel(broken, GEOMETRY)) as model,
        pytest.raises(ExecutorError, match=r"^LiteRT: LiteRtCreate\w+ failed with .* \(status \d+\)$"),
    ):
        model.compile(runtime)


def test_tensors_are_aligned_and_shared_with_the_array(runtime: Runtime) -> None:
    for shape in ((1, 3, 7), (1, 1, 1, 5), (1,)):
        with closing(HostTensor(runtime, shape)) as tensor:
            assert tensor.array.shape == shape
            assert tensor.array.ctypes.data % ALIGNMENT == 0
            assert not tensor.array.any()


def test_a_refused_call_names_the_function_and_the_status(runtime: Runtime) -> None:
    template = template_of(GEOMETRY, 4, TemplateKind.FLOAT32, SEQUENCE)
    payloads = layer_payloads(random_layer(GEOMETRY), GEOMETRY, 32)
    with (
        closing(filled_model(template, GEOMETRY, payloads)) as model,
        closing(model.compile(runtime)) as compiled,
        closing(HostTensor(runtime, (1, 2, 3))) as wrong,
        pytest.raises(ExecutorError, match="LiteRtRunCompiledModel failed with"),
    ):
        compiled.run((wrong,), (wrong,))


def test_closing_twice_is_harmless() -> None:
    runtime = Runtime(threads=2)
    template = template_of(GEOMETRY, 4, TemplateKind.INT8, SEQUENCE)
    model = filled_model(template, GEOMETRY, layer_payloads(random_layer(GEOMETRY), GEOMETRY, 8))
    compiled, tensor = model.compile(runtime), HostTensor(runtime, (1, 2))
    for _ in range(2):
        compiled.close()
        tensor.close()
        model.close()
        runtime.close()


def test_a_missing_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ExecutorError, match="no TFLite runtime found: pip install ai-edge-litert"):
        Runtime()


def test_a_runtime_without_the_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = ModuleSpec("ai_edge_litert", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: spec)
    with pytest.raises(ExecutorError, match=r"cannot use the TFLite runtime libLiteRt\.\w+: .*; pip install") as caught:
        Runtime()
    assert "\n" not in str(caught.value)

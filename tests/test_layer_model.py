"""Filling a layer's model from shards, and what becomes of its memory."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from device_agent.layer_model import SHARED_SCALES, LayerModel
from device_agent.litert import Runtime
from shard_store.codec import ShardView
from shard_store.decoder import Decoder
from shard_store.geometry import LATTICE_BITWIDTHS, Activation, Cut, Geometry
from shard_store.template import TemplateKind
from tests.layers import LayerPayloads, filled_model, layer_payloads, random_layer, run_once, template_of

GEOMETRY = Geometry(1, 64, 4, 96, 4, Activation.GELU, 1e-12)
SEQUENCE = 16


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with Runtime() as runtime:
        yield runtime


def payloads_at(bits: int) -> LayerPayloads:
    return layer_payloads(random_layer(GEOMETRY), GEOMETRY, bits)


def kind_of(bits: int) -> TemplateKind:
    return TemplateKind.FLOAT32 if bits == 32 else TemplateKind.INT8


def dequantised(model: LayerModel, bits: int) -> list[npt.NDArray[np.float64]]:
    scales = [model.floats(f"{matrix.name}.scale") if bits < 32 else 1.0 for matrix in GEOMETRY.slice_matrices]
    return [
        matrix.astype(np.float64) * np.reshape(scale, (-1, 1))
        for matrix, scale in zip(model.matrices, scales, strict=True)
    ]


@pytest.mark.parametrize("slices", [1, 3, 4])
@pytest.mark.parametrize("bits", [2, 3, 8, 32])
def test_slices_join_into_the_layer_s_matrices(bits: int, slices: int) -> None:
    weights = random_layer(GEOMETRY)
    worst = {2: 0.25, 3: 0.06, 8: 1e-3, 32: 0.0}[bits]  # share of the matrix's energy
    with closing(
        filled_model(template_of(GEOMETRY, slices, kind_of(bits), SEQUENCE), GEOMETRY, payloads_at(bits))
    ) as model:
        for matrix, found in zip(GEOMETRY.slice_matrices, dequantised(model, bits), strict=True):
            whole = getattr(weights, matrix.name)
            rows = matrix.rows * (slices if matrix.cut is Cut.ROWS else 1)
            part = whole.weight[:rows, : matrix.columns * (slices if matrix.cut is Cut.COLUMNS else 1)]
            assert found.shape == part.shape
            assert ((found - part) ** 2).sum() <= worst * (part**2).sum()
            np.testing.assert_array_equal(model.floats(f"{matrix.name}.bias"), whole.bias[:rows])


def test_mixed_bits_share_a_matrix() -> None:
    """Each slice is decoded on its own: the order of slices and their neighbours' bits do not matter."""
    bits = (8, 2, 5, 3)
    template = template_of(GEOMETRY, 4, TemplateKind.INT8, SEQUENCE)
    pure = {width: payloads_at(width) for width in LATTICE_BITWIDTHS}

    def fill(order: Sequence[int]) -> bytes:
        with closing(LayerModel(template, GEOMETRY)) as model:
            model.fill_layer(pure[8].tensors)
            for index in order:
                shard = ShardView(memoryview(pure[bits[index]].shards[index]), GEOMETRY, bits[index])
                model.fill_slice(index, shard, Decoder(GEOMETRY))
            return b"".join(matrix.tobytes() for matrix in model.matrices)

    assert fill((0, 1, 2, 3)) == fill((2, 0, 3, 1))


@pytest.mark.parametrize("kind", TemplateKind)
def test_what_belongs_to_the_layer_goes_to_its_slots(kind: TemplateKind) -> None:
    payloads = payloads_at(8 if kind is TemplateKind.INT8 else 32)
    with closing(filled_model(template_of(GEOMETRY, 2, kind, SEQUENCE), GEOMETRY, payloads)) as model:
        for name in (*GEOMETRY.layer_tensors, *(SHARED_SCALES if kind is TemplateKind.INT8 else ())):
            np.testing.assert_array_equal(model.floats(name), payloads.tensors[name])


@pytest.mark.parametrize("bits", [8, 32])
def test_weights_that_were_dropped_are_not_missed(bits: int, runtime: Runtime) -> None:
    template = template_of(GEOMETRY, 4, kind_of(bits), SEQUENCE)
    with closing(filled_model(template, GEOMETRY, payloads_at(bits))) as model, closing(model.compile(runtime)) as one:
        assert not any(matrix.any() for matrix in model.matrices), "given back to the system"
        before = run_once(runtime, one, template, GEOMETRY)
        for matrix in model.matrices:
            matrix[:] = 77
        assert run_once(runtime, one, template, GEOMETRY).tobytes() == before.tobytes()


def test_a_model_that_is_not_delegated_keeps_its_weights(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device_agent.litert.CompiledModel.fully_delegated", lambda _self: False)
    template = template_of(GEOMETRY, 4, TemplateKind.INT8, SEQUENCE)
    with closing(filled_model(template, GEOMETRY, payloads_at(8))) as model, closing(model.compile(runtime)):
        assert all(matrix.any() for matrix in model.matrices)


class BrokenDecoder(Decoder):
    """Runs out of memory with views of the model in its hands."""

    def decode(self, view: ShardView, destinations: Sequence[npt.NDArray[Any]]) -> None:
        raise MemoryError("no memory for decoding")


def test_closing_after_a_failed_decoding_does_not_hide_the_failure() -> None:
    shard = ShardView(memoryview(payloads_at(8).shards[0]), GEOMETRY, 8)
    with (
        pytest.raises(MemoryError, match="no memory for decoding"),
        closing(LayerModel(template_of(GEOMETRY, 4, TemplateKind.INT8, SEQUENCE), GEOMETRY)) as model,
    ):
        model.fill_slice(0, shard, BrokenDecoder(GEOMETRY))

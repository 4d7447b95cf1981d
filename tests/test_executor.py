"""The constant executor and the activations that travel through layers."""

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from device_agent.executor import Activations, ConstantExecutor, LayerHandle
from device_agent.litert import Runtime
from host.transformer import MASKED
from shard_store.geometry import Activation, Geometry
from shard_store.template import TemplateKind
from tests.layers import filled_model, layer_payloads, random_layer, template_of
from tests.reference import Floats, run_layer

GEOMETRY = Geometry(2, 64, 4, 96, 4, Activation.RELU, 1e-12)
SEQUENCE = 8


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with Runtime() as runtime:
        yield runtime


@pytest.fixture
def executor(runtime: Runtime) -> Iterator[ConstantExecutor]:
    executor = ConstantExecutor(runtime)
    yield executor
    executor.close()


def ready(executor: ConstantExecutor, seed: int) -> LayerHandle:
    template = template_of(GEOMETRY, GEOMETRY.slices, TemplateKind.FLOAT32, SEQUENCE)
    payloads = layer_payloads(random_layer(GEOMETRY, seed), GEOMETRY, 32)
    return executor.prepare(filled_model(template, GEOMETRY, payloads))


def text(runtime: Runtime, seed: int, tokens: int) -> tuple[Activations, Floats]:
    """Activations of a text with padding behind it, and the hidden states that they start from."""
    activations = Activations(runtime, SEQUENCE, GEOMETRY.hidden)
    activations.hidden[:] = np.random.default_rng(seed).standard_normal((SEQUENCE, GEOMETRY.hidden))
    activations.mask.array[..., tokens:] = MASKED
    return activations, activations.hidden.copy()


def test_layers_follow_each_other_over_a_batch(executor: ConstantExecutor, runtime: Runtime) -> None:
    lengths = (8, 3, 5)
    batch = [text(runtime, seed, tokens) for seed, tokens in enumerate(lengths)]
    for seed in (0, 1):
        handle = ready(executor, seed)
        executor.run(handle, [activations for activations, _start in batch])
        executor.release(handle)
    for (activations, hidden), tokens in zip(batch, lengths, strict=True):
        expected, mask = hidden[None], (np.arange(SEQUENCE) < tokens)[None].astype(np.int64)
        for seed in (0, 1):
            expected = run_layer(random_layer(GEOMETRY, seed), GEOMETRY, expected, mask)
        np.testing.assert_allclose(activations.hidden[:tokens], expected[0, :tokens], atol=1e-5)
        activations.close()


def test_padding_does_not_change_the_tokens(executor: ConstantExecutor, runtime: Runtime) -> None:
    handle = ready(executor, 0)
    first, _ = text(runtime, 0, 5)
    second, _ = text(runtime, 0, 5)
    second.hidden[5:] = 1e3
    executor.run(handle, [first, second])
    np.testing.assert_allclose(first.hidden[:5], second.hidden[:5], atol=1e-5)
    executor.release(handle)
    first.close()
    second.close()


def test_advancing_swaps_input_and_output(runtime: Runtime) -> None:
    with closing(Activations(runtime, SEQUENCE, GEOMETRY.hidden)) as activations:
        activations.following.array[:] = 3.0
        assert not activations.hidden.any()
        activations.advance()
        assert (activations.hidden == 3.0).all()
        activations.advance()
        assert not activations.hidden.any()


def test_an_empty_frame_is_as_large_as_its_template(executor: ConstantExecutor) -> None:
    template = template_of(GEOMETRY, 2, TemplateKind.INT8, SEQUENCE)
    for passing in (False, True):
        first, second = (executor.frame(template, GEOMETRY, passing=passing) for _ in range(2))
        assert first is not second, "nothing is set aside"
        first.close()
        second.close()

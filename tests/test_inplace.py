"""Layers written in place must compute, bit for bit, what layers compiled one by one compute."""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.random_model import EncoderShape, sentence, write_random_bert
from device_agent import inplace, layout_probe
from device_agent.engine import Engine
from device_agent.engine_options import EngineOptions
from device_agent.inplace import ExecutorChoice
from device_agent.inplace_frame import InPlaceFrame
from device_agent.litert import CompiledModel, Runtime
from device_agent.packed_file import PackedTemplate
from device_agent.packed_layout import Bytes, Float32s, Int8s, MatrixLayout, learn_layout
from device_agent.plan import LayerPlan, Plan, Residency
from shard_store.errors import ChecksumError
from shard_store.geometry import LATTICE_BITWIDTHS, Geometry
from shard_store.store_files import SHARD_FILES
from shard_store.template import Template
from tests.packaging import package_quietly

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no files in memory")

CONSTANT = EngineOptions(executor=ExecutorChoice.CONSTANT)
SHAPES = {
    "heads of 32, 3 slices of 2 heads": (EncoderShape(3, 192, 6, 384, 64, 64), 3),
    "heads of 64, 5 slices": (EncoderShape(2, 320, 5, 640, 64, 64), 5),
    "heads of 32, 16 slices": (EncoderShape(2, 512, 16, 1024, 64, 64), 16),
}


def package_random(shape: EncoderShape, slices: int, folder: Path, sequences: tuple[int, ...] = (16,)) -> Path:
    write_random_bert(folder / "model", shape)
    return package_quietly(folder / "model", folder / "store", sequences=sequences, slices=slices)


@pytest.fixture(scope="module", params=SHAPES, ids=lambda name: name.replace(" ", "-"))
def any_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_random(*SHAPES[request.param], tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_random(EncoderShape(3, 64, 2, 128, 64, 64), 2, tmp_path_factory.mktemp("small"), (16, 32))


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[InPlaceFrame]]:
    """The in-place frames that exist; all must be gone in the end."""
    alive: list[InPlaceFrame] = []

    class Watched(InPlaceFrame):
        def __init__(self, runtime: Runtime, template: Template, geometry: Geometry, packed: PackedTemplate) -> None:
            super().__init__(runtime, template, geometry, packed)
            alive.append(self)

        def close(self) -> None:
            super().close()
            if self in alive:
                alive.remove(self)

    monkeypatch.setattr(inplace, "InPlaceFrame", Watched)
    yield alive
    assert not alive


def streamed(plan: Plan, in_flight: int = 2, agents: int = 1) -> Plan:
    plan = plan.with_residency([Residency.STREAMED] * len(plan.layers))
    return replace(plan, layers_in_flight=in_flight, loading_agents=agents)


def outputs(engine: Engine, plan: Plan, words: int = 12) -> bytes:
    return engine.answer([sentence(words)], plan).outputs[0].tobytes()


def test_every_bitwidth_and_mixture_equals_the_constant_executor(any_store: Path) -> None:
    generator = np.random.default_rng(1)
    with Engine(any_store) as engine, Engine(any_store, CONSTANT) as ordinary:
        geometry = engine.manifest.geometry
        plans = [engine.uniform_plan(bits) for bits in LATTICE_BITWIDTHS]
        for _ in range(6):
            width = int(generator.integers(1, geometry.slices + 1))
            rows = generator.choice(LATTICE_BITWIDTHS, (geometry.layers, width)).tolist()
            plans.append(Plan(tuple(LayerPlan(index, tuple(row)) for index, row in enumerate(rows))))
        for plan in plans:
            for agents, in_flight in ((1, 1), (1, 2), (2, 3)):
                moving = streamed(plan, in_flight, agents)
                answer = engine.answer([sentence(12)], moving)
                assert answer.report.executor == "in-place"
                assert answer.outputs[0].tobytes() == outputs(ordinary, moving), plan


def test_frames_are_used_again_and_again(store: Path, frames: list[InPlaceFrame]) -> None:
    with Engine(store) as engine, Engine(store, CONSTANT) as ordinary:
        plans = [streamed(engine.uniform_plan(bits)) for bits in (8, 2, 5)]
        expected = [outputs(ordinary, plan) for plan in plans]
        outputs(engine, plans[0])
        (first, *_) = frames
        for number in (0, 1, 2, 2, 0, 1) * 3:
            assert outputs(engine, plans[number]) == expected[number]
            assert frames[0] is first
            assert len(frames) <= 2


def test_frames_go_when_a_pass_has_no_use_for_them(store: Path, frames: list[InPlaceFrame]) -> None:
    with Engine(store) as engine:
        outputs(engine, streamed(engine.uniform_plan(8), in_flight=3))
        assert 1 <= len(frames) <= 3
        outputs(engine, streamed(engine.uniform_plan(8), in_flight=1))
        assert len(frames) == 1
        (before,) = frames
        outputs(engine, streamed(engine.uniform_plan(8), in_flight=1), words=28)  # another sequence length
        assert len(frames) == 1
        assert before not in frames
        outputs(engine, streamed(engine.uniform_plan(32)))
        assert not frames
        outputs(engine, streamed(engine.uniform_plan(8)))
        assert frames
        outputs(engine, engine.uniform_plan(8))  # all layers stay, compiled on their own
        assert not frames


def test_a_damaged_shard_leaves_the_next_answer_alone(tmp_path: Path, frames: list[InPlaceFrame]) -> None:
    path = package_random(EncoderShape(3, 64, 2, 128, 64, 64), 2, tmp_path)
    with Engine(path) as engine:
        good, bad = (streamed(engine.uniform_plan(bits)) for bits in (8, 4))
        expected = outputs(engine, good)
        span = engine.manifest.shards[4][2][1]
        with (path / SHARD_FILES[4]).open("r+b") as file:
            file.seek(span.offset + span.nbytes // 2)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
        with pytest.raises(ChecksumError):
            outputs(engine, bad)
        assert outputs(engine, good) == expected


def assert_falls_back(store: Path, caplog: pytest.LogCaptureFixture, reason: str) -> None:
    caplog.set_level(logging.WARNING)
    with Engine(store) as engine, Engine(store, CONSTANT) as ordinary:
        plan = streamed(engine.uniform_plan(8))
        for _ in range(2):
            answer = engine.answer([sentence(12)], plan)
            assert answer.report.executor == "constant"
            assert answer.outputs[0].tobytes() == outputs(ordinary, plan)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1  # learned to have failed, not tried again
    assert messages[0].startswith("layers are compiled one by one: ")
    assert reason in messages[0]


WRONG: dict[str, Callable[[MatrixLayout], MatrixLayout]] = {
    "sums": lambda layout: replace(layout, sum_factor=-layout.sum_factor),
    "sum offset": lambda layout: replace(layout, sum_offset=layout.sum_offset + 1),
    "flip": lambda layout: replace(layout, flip=not layout.flip),
    "scales and biases": lambda layout: replace(layout, scales=layout.biases, biases=layout.scales),
    "place": lambda layout: replace(layout, weights=layout.weights + 1),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_layout_is_found_out(
    wrong: str, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def learn_wrongly(file: Bytes, weights: Int8s, scales: Float32s, biases: Float32s) -> MatrixLayout:
        return WRONG[wrong](learn_layout(file, weights, scales, biases))

    monkeypatch.setattr(layout_probe, "learn_layout", learn_wrongly)
    assert_falls_back(store, caplog, "packed layout: weights written in place differ from packed ones")


def test_a_runtime_that_reads_a_copy_is_found_out(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The file is as it should be, but what is computed does not follow from it."""
    fill_in_place = layout_probe._fill_in_place

    def compute_otherwise(frame: InPlaceFrame, geometry: Geometry, seed: int) -> None:
        fill_in_place(frame, geometry, seed)
        frame.constants.floats("ffn_norm.gamma")[:] *= 2

    monkeypatch.setattr(layout_probe, "_fill_in_place", compute_otherwise)
    assert_falls_back(store, caplog, "a layer written in place computes something else")


def test_a_runtime_without_a_weight_cache(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def ignore(self: Runtime, address: int, nbytes: int, weight_cache: str | None = None) -> CompiledModel:
        return CompiledModel(self, address, nbytes, self.options)

    monkeypatch.setattr(Runtime, "compile", ignore)
    assert_falls_back(store, caplog, "the runtime writes no packed weights to a file")


def test_a_system_without_files_in_memory(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert_falls_back(store, caplog, "files in memory are not supported")

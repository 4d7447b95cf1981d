"""Loading agents over a real store, with an executor that notes what it is given."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from device_agent import loading
from device_agent.executor import ConstantExecutor, LayerHandle
from device_agent.layer_model import SHARED_SCALES, LayerFrame, LayerModel
from device_agent.litert import Runtime
from device_agent.loading import LayerSource, LoadingAgent
from device_agent.plan import LayerPlan, Residency
from shard_store.errors import ChecksumError, ExecutorError, PlanError
from shard_store.file_access import PAGE_BYTES
from shard_store.geometry import Geometry, ShardKey
from shard_store.reader import ShardReader, Store
from shard_store.template import Template

StoreOf = Callable[[str], Path]


@dataclass(slots=True)
class NotingExecutor:
    """Prepares nothing; keeps the filled models open for inspection."""

    passing: list[bool] = field(default_factory=list)
    frames: list[LayerModel] = field(default_factory=list)
    refuse: bool = False

    def frame(self, template: Template, geometry: Geometry, *, passing: bool) -> LayerFrame:
        self.passing.append(passing)
        self.frames.append(LayerModel(template, geometry))
        return self.frames[-1]

    def prepare(self, frame: LayerFrame) -> LayerHandle:
        if self.refuse:
            raise ExecutorError("refused")
        return cast(LayerHandle, frame)


@dataclass(frozen=True, slots=True)
class Rig:
    """A source over a golden store, and its executor."""

    source: LayerSource
    executor: NotingExecutor

    def matrices(self, layer: LayerPlan, preload: bool = False) -> bytes:
        loaded = LoadingAgent(self.source).load(layer, 16, 1234, self.source.preload(layer) if preload else None)
        assert loaded.nbytes == 1234
        model = cast(LayerModel, loaded.handle)
        content = model.floats("query.bias").tobytes() + b"".join(matrix.tobytes() for matrix in model.matrices)
        model.close()
        return content


@pytest.fixture
def rig(golden_store: StoreOf) -> Iterator[Rig]:
    executor = NotingExecutor()
    with Store.open(golden_store("bert-sequence")) as store, ShardReader(store, direct=False) as reader:
        yield Rig(LayerSource(store, reader, cast(ConstantExecutor, executor)), executor)


LAYER = LayerPlan(1, (2, 8, 8, 4), Residency.STREAMED)


def test_reads_join_neighbours_up_to_their_limit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rig.source.reads(LAYER) == (LAYER.shards(),)
    limit = rig.source.reader.buffer_bytes(LAYER.shards()) - 1
    monkeypatch.setattr(loading, "READ_BYTES", limit)
    rig.source.reads.cache_clear()
    groups = rig.source.reads(LAYER)
    assert len(groups) > 1
    assert [key for group in groups for key in group] == list(LAYER.shards())
    assert all(rig.source.reader.buffer_bytes(group) <= limit for group in groups)
    monkeypatch.setattr(loading, "READ_BYTES", 1)
    rig.source.reads.cache_clear()
    assert rig.source.reads(LAYER) == tuple((key,) for key in LAYER.shards())


@pytest.mark.parametrize("layer", [LAYER, LayerPlan(0, (32,) * 4), LayerPlan(0, (3,))])
def test_any_way_of_reading_fills_the_same_layer(rig: Rig, layer: LayerPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = rig.matrices(layer)
    assert rig.matrices(layer, preload=True) == at_once
    monkeypatch.setattr(loading, "READ_BYTES", PAGE_BYTES)
    rig.source.reads.cache_clear()
    assert rig.matrices(layer) == at_once
    assert np.frombuffer(at_once, np.uint8).any()


def test_one_agent_loads_layer_after_layer(rig: Rig) -> None:
    agent = LoadingAgent(rig.source)
    for layer in (LAYER, LayerPlan(0, (32,) * 4), LAYER):
        cast(LayerModel, agent.load(layer, 16, 0).handle).close()


def test_preloaded_layers_are_not_read(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    preloaded = rig.source.preload(LAYER)
    assert preloaded.nbytes == rig.source.reader.buffer_bytes(LAYER.shards())
    monkeypatch.setattr(ShardReader, "read", lambda *_arguments: pytest.fail("read again"))
    loaded = LoadingAgent(rig.source).load(LAYER, 16, 0, preloaded)
    assert loaded.read_ms == 0.0
    assert loaded.prepare_ms > 0.0


def test_the_executor_hears_whether_a_layer_stays(rig: Rig) -> None:
    for residency in Residency:
        rig.matrices(LayerPlan(0, (8,), residency))
    assert rig.executor.passing == [residency is not Residency.RESIDENT for residency in Residency]


def test_an_agent_holds_what_was_predicted(rig: Rig) -> None:
    manifest = rig.source.store.manifest
    largest = max(
        rig.source.reader.buffer_bytes([ShardKey(layer, index, bits)])
        for bits in manifest.bitwidths for layer in range(manifest.geometry.layers)
        for index in range(manifest.geometry.slices)
    )  # fmt: skip
    assert max(rig.source.agent_bytes.values()) >= largest


@pytest.mark.parametrize("fault", ["read", "prepare"])
def test_a_failed_load_closes_its_frame(rig: Rig, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[LayerModel] = []
    close = LayerModel.close

    def note(model: LayerModel) -> None:
        closed.append(model)
        close(model)

    def damaged(*_arguments: object) -> None:
        raise ChecksumError("damaged")

    monkeypatch.setattr(LayerModel, "close", note)
    if fault == "read":
        monkeypatch.setattr(ShardReader, "read", damaged)
    rig.executor.refuse = fault == "prepare"
    with pytest.raises(ChecksumError if fault == "read" else ExecutorError):
        LoadingAgent(rig.source).load(LAYER, 16, 0)
    assert closed == rig.executor.frames
    assert len(closed) == 1


def test_a_sequence_without_a_template_is_a_plan_error(rig: Rig) -> None:
    with pytest.raises(PlanError, match="the store has no int8 template of 4 slices, sequence 17"):
        LoadingAgent(rig.source).load(LAYER, 17, 0)
    assert not rig.executor.frames


def test_layer_tensors_are_those_of_the_layer(rig: Rig) -> None:
    tensors = rig.source.layer_tensors(1)
    assert tensors["output.bias"] is rig.source.resident_tensors["layer.1.output.bias"]
    assert sorted(tensors) == sorted({*rig.source.geometry.layer_tensors, *SHARED_SCALES})


def test_real_layers_load_into_a_real_executor(golden_store: StoreOf) -> None:
    with (
        Runtime() as runtime,
        Store.open(golden_store("bert-sequence")) as store,
        ShardReader(store, direct=False) as reader,
    ):
        executor = ConstantExecutor(runtime)
        loaded = LoadingAgent(LayerSource(store, reader, executor)).load(LAYER, 16, 99)
        assert loaded.handle.compiled.fully_delegated()
        assert loaded.read_ms > 0.0
        executor.release(loaded.handle)

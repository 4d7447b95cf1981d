import math
from dataclasses import replace

import pytest

from device_agent.costs import DeviceCosts, PrepareCost, ReadCost, kind_of
from shard_store.errors import CostsError
from shard_store.template import TemplateKind
from tests.costs import small_costs


def test_a_read_takes_its_latency_and_its_bytes() -> None:
    assert ReadCost(0.5, 1000.0).ms(4000) == 4.5
    assert ReadCost(0.5, 1000.0).ms(4000, reads=3) == 5.5


def test_a_layer_is_prepared_once_and_each_shard_at_its_bitwidth() -> None:
    costs = small_costs()
    assert costs.prepare_ms((2, 8, 8)) == pytest.approx(1.0 + 0.2 + 2 * 0.1)
    assert costs.prepare_ms((32, 32)) == pytest.approx(2.0 + 2 * 0.9)


def test_execution_takes_longer_beside_loading() -> None:
    costs = small_costs()
    alone = costs.execute_ms(TemplateKind.INT8, 3, 16, loading=False)
    assert costs.execute_ms(TemplateKind.INT8, 3, 16, loading=True) == pytest.approx(1.5 * alone)


def test_what_was_not_measured_is_told() -> None:
    costs = small_costs()
    with pytest.raises(CostsError, match="5 bits were not measured; calibrate again"):
        costs.prepare_ms((5, 8))
    for slices, sequence in ((0, 16), (5, 16), (1, 17)):
        with pytest.raises(CostsError, match=f"int8 layers of {slices} slices, sequence {sequence}, were not measured"):
            costs.execute_ms(TemplateKind.INT8, slices, sequence, loading=False)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_impossible_costs_are_refused(value: float) -> None:
    good = small_costs()
    for bad in (
        {"pass_ms": value},
        {"read": ReadCost(value, 1.0)},
        {"read": ReadCost(0.0, value)},
        {"loading_factor": value},
        {"crowding_factor": value},
        {"prepare": {TemplateKind.INT8: PrepareCost(0.0, {8: value})}},
        {"execute": {TemplateKind.INT8: {16: (1.0, value)}}},
    ):
        with pytest.raises(CostsError, match="device costs: "):
            changed: DeviceCosts = replace(good, **bad)
            assert changed is None


def test_exact_shards_make_float_layers() -> None:
    assert kind_of((2, 8)) is TemplateKind.INT8
    assert kind_of((32,)) is TemplateKind.FLOAT32

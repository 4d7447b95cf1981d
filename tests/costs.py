"""Device costs that nobody measured."""

from device_agent.costs import DeviceCosts, PrepareCost, ReadCost
from shard_store.template import TemplateKind


def small_costs() -> DeviceCosts:
    return DeviceCosts(
        device="x", model="0123456789abcdef", read=ReadCost(0.25, 1000.0),
        prepare={
            TemplateKind.INT8: PrepareCost(1.0, {2: 0.2, 8: 0.1}), TemplateKind.FLOAT32: PrepareCost(2.0, {32: 0.9}),
        },
        execute={
            TemplateKind.INT8: {16: (1.0, 2.0, 3.0, 4.0), 32: (2.0, 3.0, 4.0, 5.0)},
            TemplateKind.FLOAT32: {16: (4.0, 5.0, 6.0, 7.0), 32: (5.0, 6.0, 7.0, 8.0)},
        },
        loading_factor=1.5, pass_ms=0.75,
    )  # fmt: skip

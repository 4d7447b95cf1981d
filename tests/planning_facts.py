"""Random stores and devices for the planner: small for the tests, large for its benchmark."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.costs import DeviceCosts, PrepareCost, ReadCost
from device_agent.memory import LayerFootprint
from device_agent.planning.facts import Facts
from shard_store.geometry import EXACT_BITWIDTH, Activation, Geometry
from shard_store.profile import Grid, Profile, ProfileMethod, first_layers
from shard_store.template import TemplateKind


@dataclass(frozen=True, slots=True)
class Device:
    """What varies between devices, per 1,000 weights of a shard where it says so."""

    bytes_per_ms: float = 84_000.0
    latency_ms: float = 0.1
    layer_ms: float = 1.0
    execute_ms: float = 2.0  # a full layer at int8
    loading_factor: float = 1.3
    pass_ms: float = 1.0
    crowding_factor: float = 1.0


def random_facts(
    seed: int, layers: int, slices: int, bitwidths: tuple[int, ...], weights: int = 590_000,
    device: Device | None = None, read_bytes: int = 2 << 20, sequence: int = 64,
) -> Facts:  # fmt: skip
    """Losses that fall with bits, depth and width, by about as much as measured ones, with noise."""
    device = device or Device()
    random = np.random.default_rng(seed)
    grid = np.add.outer(np.arange(layers, 0, -1) - 1, 1.5 * (np.arange(slices, 0, -1) - 1))
    submodel = (grid / (layers + 1.5 * slices)) ** 2 * random.uniform(0.3, 1.2) * random.uniform(0.9, 1.1, grid.shape)
    importance = random.lognormal(0.0, 1.0, (layers, slices)) * random.uniform(0.2, 2.0) / (layers * slices)
    losses = {
        b: importance * (4.0 ** (2 - b) if b < max(bitwidths) else 0.0) * random.uniform(0.8, 1.2, importance.shape)
        for b in bitwidths
    }
    kinds = {_kind(b) for b in bitwidths}
    widths = range(1, slices + 1)
    costs = DeviceCosts(
        device="test", model="test",
        read=ReadCost(device.latency_ms, device.bytes_per_ms),
        prepare={
            kind: PrepareCost(
                device.layer_ms, {b: _decode_ms(b) * weights / 7e6 for b in bitwidths if _kind(b) is kind},
            )
            for kind in kinds
        },
        execute={
            kind: {sequence: tuple(_slower(kind) * device.execute_ms * (0.1 + 0.9 * m / slices) for m in widths)}
            for kind in kinds
        },
        loading_factor=device.loading_factor,
        pass_ms=device.pass_ms,
        crowding_factor=device.crowding_factor,
    )  # fmt: skip
    size = {kind: 4 if kind is TemplateKind.FLOAT32 else 1 for kind in kinds}
    return Facts(
        geometry=Geometry(layers, 8 * slices, slices, 8 * slices, slices, Activation.GELU, 1e-12),
        profile=Profile(
            metric="accuracy", samples=1, data_sha256="0" * 64, method=ProfileMethod.EXACT,
            metrics=_grid(grid), submodel_loss=_grid(submodel),
            shard_loss={b: _grid(values) for b, values in losses.items()}, layer_choices=first_layers(layers),
        ),
        costs=costs,
        shard_bytes={
            b: tuple(tuple(map(int, row)) for row in weights * b / 8 * random.uniform(1.0, 1.05, importance.shape))
            for b in bitwidths
        },
        read_bytes=read_bytes,
        layer_memory={
            (kind, m, sequence): LayerFootprint(size[kind] * weights * m + 300_000, size[kind] * weights * m)
            for kind in kinds for m in widths
        },
        fixed_bytes=1_000_000, text_bytes={sequence: 400_000},
        agent_bytes={(kind, m): 3_000_000 for kind in kinds for m in widths},
    )  # fmt: skip


def _grid(values: npt.NDArray[np.float64]) -> Grid:
    return tuple(tuple(map(float, row)) for row in values)


def _kind(bitwidth: int) -> TemplateKind:
    return TemplateKind.FLOAT32 if bitwidth == EXACT_BITWIDTH else TemplateKind.INT8


def _decode_ms(bitwidth: int) -> float:
    """Of a BERT-base layer, as measured."""
    return {2: 1.6, 3: 2.3, 4: 2.6, 5: 3.6, 6: 3.6, 8: 0.3, EXACT_BITWIDTH: 6.0}[bitwidth]


def _slower(kind: TemplateKind) -> float:
    return 5.0 if kind is TemplateKind.FLOAT32 else 1.0

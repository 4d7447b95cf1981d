"""The importance profile of a store: what each choice of layers, slices and bitwidths costs in quality."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from shard_store.errors import FormatError
from shard_store.geometry import Geometry

PROFILE_VERSION = 1
Grid = tuple[tuple[float, ...], ...]


class ProfileMethod(str, Enum):
    """How the losses of the shards were found."""

    EXACT = "exact"  # every shard at every bitwidth, run
    ESTIMATE = "estimate"  # from gradients


@dataclass(frozen=True, slots=True)
class Profile:
    """Losses are Kullback-Leibler divergences in nats, means over `samples` texts, against the whole model at its best.

    They add up: a run of the first n layers and m slices loses about submodel_loss[n-1][m-1] plus the shard_loss of
    every shard in it at its bitwidth. metrics is the task metric of those submodels, for people; nothing plans by it.
    """

    metric: str  # "accuracy", or "cosine" for embeddings
    samples: int
    data_sha256: str  # of the texts
    method: ProfileMethod
    metrics: Grid  # [n-1][m-1]
    submodel_loss: Grid  # [n-1][m-1], at the best bitwidth
    shard_loss: Mapping[int, Grid]  # by bitwidth: [layer][slice]
    layer_choices: tuple[tuple[int, ...], ...]  # [n-1]: which layers make a run of n

    def check(self, geometry: Geometry, bitwidths: Sequence[int]) -> None:
        """Raise FormatError unless it speaks of this geometry and just these bitwidths."""
        _check_grid("metrics", self.metrics, geometry, lowest=-1.0)
        _check_grid("submodel_loss", self.submodel_loss, geometry)
        if set(self.shard_loss) != set(bitwidths):
            raise FormatError(f"profile: bitwidths are {sorted(self.shard_loss)}, the store has {sorted(bitwidths)}")
        for bitwidth, grid in self.shard_loss.items():
            _check_grid(f"shard_loss at {bitwidth} bits", grid, geometry)
        if len(self.layer_choices) != geometry.layers:
            raise FormatError(f"profile: layer_choices must have {geometry.layers} entries")
        for depth, layers in enumerate(self.layer_choices, 1):
            in_range = all(0 <= layer < geometry.layers for layer in layers)
            if len(layers) != depth or list(layers) != sorted(set(layers)) or not in_range:
                raise FormatError(f"profile: layer choice {list(layers)[:8]} of depth {depth} is impossible")


def first_layers(layers: int) -> tuple[tuple[int, ...], ...]:
    """The layer choices of a model whose submodels are its first layers."""
    return tuple(tuple(range(depth)) for depth in range(1, layers + 1))


def _check_grid(name: str, grid: Grid, geometry: Geometry, lowest: float = 0.0) -> None:
    if len(grid) != geometry.layers or any(len(row) != geometry.slices for row in grid):
        raise FormatError(f"profile: {name} must be {geometry.layers} rows of {geometry.slices} numbers")
    if not all(math.isfinite(value) and value >= lowest for row in grid for value in row):
        raise FormatError(f"profile: {name} must hold finite numbers of at least {lowest:g}")

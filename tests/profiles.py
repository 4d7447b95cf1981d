"""Made-up importance profiles for stores of tests: later layers matter more, more bits lose less."""

import shutil
from pathlib import Path

from shard_store.geometry import EXACT_BITWIDTH
from shard_store.manifest import Manifest
from shard_store.profile import Profile, ProfileMethod, first_layers
from shard_store.profile_writer import write_profile
from shard_store.reader import Store


def made_up_profile(manifest: Manifest) -> Profile:
    layers, slices = manifest.geometry.layers, manifest.geometry.slices

    def submodel(depth: int, width: int) -> float:
        return round(0.5 * (1 - depth / layers) + 0.3 * (1 - width / slices), 6)

    def shard(layer: int, part: int, bitwidth: int) -> float:
        if bitwidth == EXACT_BITWIDTH:
            return 0.0
        return round((1 + layer + 0.1 * part) * 0.01 * 4.0 ** (2 - bitwidth), 9)

    grid = [[submodel(depth, width) for width in range(1, slices + 1)] for depth in range(1, layers + 1)]
    losses = {
        bitwidth: tuple(tuple(shard(layer, part, bitwidth) for part in range(slices)) for layer in range(layers))
        for bitwidth in manifest.bitwidths
    }
    return Profile(
        metric="accuracy", samples=64, data_sha256="0" * 64, method=ProfileMethod.EXACT,
        metrics=tuple(tuple(1 - loss for loss in row) for row in grid), submodel_loss=tuple(map(tuple, grid)),
        shard_loss=losses, layer_choices=first_layers(layers),
    )  # fmt: skip


def profiled_copy(store: Path, out: Path) -> Path:
    """A copy of a store, with a profile."""
    shutil.copytree(store, out)
    with Store.open(out) as opened:
        profile = made_up_profile(opened.manifest)
    write_profile(out, profile)
    return out

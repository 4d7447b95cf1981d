"""A made-up profile: more layers, slices and bits lose less."""

from shard_store.geometry import EXACT_BITWIDTH
from shard_store.manifest import Manifest
from shard_store.profile import Profile, ProfileMethod, first_layers


def made_up_profile(manifest: Manifest) -> Profile:
    depths, widths = range(manifest.geometry.layers), range(manifest.geometry.slices)
    missing = tuple(tuple(0.1 * (len(depths) - n + len(widths) - m - 2) for m in widths) for n in depths)
    return Profile(
        metric="accuracy", samples=1, data_sha256="0" * 64, method=ProfileMethod.EXACT,
        metrics=tuple(tuple(1 - loss for loss in row) for row in missing), submodel_loss=missing,
        shard_loss={
            bits: tuple(tuple(0.0 if bits == EXACT_BITWIDTH else 4.0**-bits for _ in widths) for _ in depths)
            for bits in manifest.bitwidths
        },
        layer_choices=first_layers(len(depths)),
    )  # fmt: skip

"""A random store of some megabytes, in files of several sizes."""

from dataclasses import replace
from pathlib import Path

from shard_store.writer import StoreWriter
from tests.stores import fill_store, small_description, small_geometry


def write_big_store(path: Path, seed: int) -> Path:
    """17 MB: shards of 2, 8 and 32 bits."""
    geometry = small_geometry(layers=1, head_width=64, heads=8, slices=8, ffn_width=256)
    description = replace(small_description(geometry=geometry), model="tests/big")
    with StoreWriter(path, description, (2, 8, 32)) as writer:
        fill_store(writer, description, (2, 8, 32), seed)
        writer.finish()
    return path

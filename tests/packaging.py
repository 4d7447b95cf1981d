"""Packaging real checkpoints for tests."""

from pathlib import Path

from host.package import PackageOptions, package
from shard_store.geometry import BITWIDTHS


def package_quietly(
    model: Path, out: Path, *, sequences: tuple[int, ...], bitwidths: tuple[int, ...] = BITWIDTHS,
    slices: int | None = None, calibrate: Path | None = None,
) -> Path:  # fmt: skip
    """Package without progress; return the store."""
    options = PackageOptions(bitwidths, slices, sequences, calibrate)
    return package(str(model), out, options, lambda _stage, _done, _total: None).store

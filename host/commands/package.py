"""`sti package`."""

from pathlib import Path
from typing import Annotated

import typer

from host import display
from host.commands.options import JsonOption, numbers
from shard_store.geometry import BITWIDTHS
from shard_store.manifest import DEFAULT_SEQUENCES


def package_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model directory, or a name on the Hugging Face hub.")],
    *,
    out: Annotated[Path, typer.Option(metavar="STORE", help="Folder to write.")],
    bits: Annotated[str, typer.Option(help="Bitwidths to store.")] = ",".join(map(str, BITWIDTHS)),
    slices: Annotated[
        int | None, typer.Option(min=1, help="Slices per layer (default: one per attention head).")
    ] = None,
    seq: Annotated[str, typer.Option(help="Sequence lengths to make templates for.")] = ",".join(
        map(str, DEFAULT_SEQUENCES)
    ),
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="TEXTS", help="Unlabelled texts, one a line, that make low bitwidths more accurate."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model (default: the last part of its directory or hub name).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Cut a model into shards at several bitwidths and write them as a store."""
    bitwidths, sequences = numbers(bits), numbers(seq)
    from host.package import PackageOptions, package  # noqa: PLC0415 - it imports TensorFlow, which takes seconds

    with display.progress_bar() as progress:
        report = package(model, out, PackageOptions(bitwidths, slices, sequences, calibrate, name), progress)
    (display.print_json if as_json else display.print_fields)(report)

"""`sti adapt`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from host import display
from host.adapt.options import AdaptOptions, Precision
from host.commands.options import JsonOption, numbers
from shard_store.head import Pooling

if TYPE_CHECKING:
    from host.adapt.adapt import AdaptReport


def adapt_command(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="Model directory, or a name on the Hugging Face hub.")
    ],
    *,
    train: Annotated[Path, typer.Option(metavar="TSV", help="Texts to train on, each with a tab and its label.")],
    dev: Annotated[Path, typer.Option(metavar="TSV", help="Texts to measure accuracy on; never trained on.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory to write.")],
    steps: Annotated[int, typer.Option(help="Training steps.")] = 1200,
    batch: Annotated[int, typer.Option(help="Texts in a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Learning rate at its peak.")] = 1e-4,
    pooling: Annotated[
        Pooling | None,
        typer.Option(help="What the classifier sees of the tokens (default: as the checkpoint; mean for a new head)."),
    ] = None,
    slices: Annotated[
        int | None, typer.Option(min=1, help="Slices per layer (default: one per attention head).")
    ] = None,
    layer_choice: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYERS", help="Layers of one depth, such as 0,2,5 (default: the first); repeatable."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Longer texts are cut off.")] = 128,
    precision: Annotated[
        Precision, typer.Option(help="Type in which matrices are multiplied (auto: bfloat16 where the CPU has it).")
    ] = Precision.AUTO,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a classifier so that its first n layers and first m slices work, for every n and m. A rerun continues."""
    choices = tuple(numbers(choice) for choice in layer_choice or ())
    from host.adapt.adapt import DataFiles, adapt  # noqa: PLC0415 - it imports TensorFlow, which takes seconds

    options = AdaptOptions(
        steps, batch, learning_rate, pooling, slices, seed, max_tokens, precision, choices
    )  # fmt: skip
    with display.progress_bar() as progress:
        report = adapt(checkpoint, DataFiles(train, dev), out, options, progress)
    (display.print_json if as_json else _print_report)(report)


def _print_report(report: "AdaptReport") -> None:
    table = Table("layers", *map(str, range(1, report.slices + 1)), title="slices", box=None)
    for depth in range(1, report.layers + 1):
        row = (one.accuracy for one in report.submodels if one.layers == depth)
        table.add_row(str(depth), *(f"{100 * accuracy:.1f}" for accuracy in row))
    display.out().print(
        f"{report.out}: {report.steps} steps in {report.precision.value}, {report.seconds:.0f} s; "
        f"dev accuracy in per cent (teacher: {100 * report.teacher_accuracy:.1f})",
        soft_wrap=True,
    )
    display.out().print(table, soft_wrap=True)

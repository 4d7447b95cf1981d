"""`sti plan`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from device_agent.plan import plan_to_json
from host.commands.options import JsonOption, StoreArgument
from host.plan_preview import preview_plan
from host.plan_table import print_preview

MIB = 1 << 20


def plan_command(
    store: StoreArgument,
    *,
    device_costs: Annotated[
        Path, typer.Option(metavar="FILE", help="What the device costs: made there by `sti-agent calibrate`.")
    ],
    memory_mb: Annotated[float, typer.Option(min=0.001, help="Memory budget, in MiB.")],
    target_ms: Annotated[float | None, typer.Option(min=0.001, help="Time in which to answer (default: any).")] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of the text, of a decoder with its answer (default: the longest)."),
    ] = None,
    first: Annotated[
        bool, typer.Option("--first", help="Plan the first run after a start, when nothing is in memory yet.")
    ] = False,
    picture: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the pipeline.")] = None,
    trace: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a trace for ui.perfetto.dev.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the plan, as `--plan` takes it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what an agent would run for a target and a budget, without running it."""
    preview = preview_plan(
        store, device_costs, target_ms=target_ms, budget_bytes=int(memory_mb * MIB), tokens=tokens, first=first
    )
    if picture or trace:
        from host.plan_picture import draw_plan, write_trace  # noqa: PLC0415 - matplotlib takes a second

        if picture:
            draw_plan(preview, picture)
        if trace:
            write_trace(preview, trace)
    if out:
        out.write_text(plan_to_json(preview.choice.plan) + "\n", "utf-8")
    if as_json:
        typer.echo(json.dumps(preview.document(), indent=2))
    else:
        print_preview(preview)

"""`sti profile`."""

from pathlib import Path
from typing import Annotated

import typer

from host import display
from host.commands.options import JsonOption, StoreArgument
from shard_store.errors import DataError
from shard_store.profile import ProfileMethod


def profile_command(
    store: StoreArgument,
    *,
    data: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Training examples, never what is reported: text or image file, tab, label; for a decoder plain text.",
        ),
    ],
    limit: Annotated[int, typer.Option(min=8, help="Texts or images to measure on.")] = 512,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes (default: one for each processor).")] = None,
    method: Annotated[
        ProfileMethod, typer.Option(help="Run every shard at every bitwidth, or estimate that from gradients.")
    ] = ProfileMethod.EXACT,
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Measure on a Dask cluster whose workers see STORE under the same path."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from where a stopped profile was.")] = False,
    heat_map: Annotated[Path | None, typer.Option(metavar="PNG", help="Picture of the profile to write.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how much each shard matters to quality, and write that into the store."""
    from host.profile.profiler import ProfileOptions, profile_store, report_of  # noqa: PLC0415 - it is slow to import

    if heat_map and heat_map.suffix.lower() != ".png":
        raise DataError(f"{heat_map}: a heat map is a .png file; name it so")
    options = ProfileOptions(limit, jobs, method, dask, resume)
    with display.progress_bar() as progress:
        profile = profile_store(store, data, options, progress)
    if heat_map:
        from host.profile.heat_map import draw_heat_map  # noqa: PLC0415 - it imports matplotlib

        draw_heat_map(profile, heat_map)
    (display.print_json if as_json else display.print_fields)(report_of(profile, store, heat_map))

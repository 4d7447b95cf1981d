"""`sti bench`."""

from pathlib import Path
from typing import Annotated

import typer

from host import display
from host.agent_device import LOCAL
from host.bench.options import BenchOptions
from host.bench.run import bench
from host.bench.settings import CPU_PERCENT, FLASH_MB_S, TARGETS
from host.bench.show import print_result
from host.commands.options import JsonOption, StoreArgument, TargetOption
from host.exact.bench import ExactResult, bench_store
from host.exact.show import print_comparison

_FLASH = ",".join(f"{speed:g}" for speed in FLASH_MB_S)
_CPU = ",".join(f"{percent:g}" for percent in CPU_PERCENT)


def bench_command(
    store: StoreArgument,
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for results; a bench that stopped goes on there.")],
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Texts with labels: text, a tab, a number. Not with --exact.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="The whole model instead: PIPELOAD, PipeSwitch and load-all. Needs root.")
    ] = False,
    targets: Annotated[
        str | None,
        typer.Option(metavar="MS,...", help=f"Latency targets (default: {TARGETS} for each setting, by its costs)."),
    ] = None,
    flash_mb_s: Annotated[
        str, typer.Option("--flash-mb-s", metavar="MB,...", help="Speeds of the emulated flash.")
    ] = _FLASH,
    cpu_percent: Annotated[
        str, typer.Option("--cpu-percent", metavar="%,...", help="Speeds of the emulated processor, of this one's.")
    ] = _CPU,
    memory_mb: Annotated[
        float | None,
        typer.Option(metavar="MIB", help="Memory of STI (default: a tenth of the model's, if a layer streams in it)."),
    ] = None,
    device: TargetOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer targets, requests and texts.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure accuracy, latency and memory of STI and of its paper's baselines on emulated flash and processors."""
    if device not in {None, LOCAL}:
        raise typer.BadParameter("benchmarks run on this machine only; on a device, run `sti-agent` there and ask it")
    if exact:
        with display.progress_bar() as progress:
            comparisons = bench_store(store, out, _numbers(flash_mb_s), progress, quick=quick)
        if as_json:
            display.print_json(ExactResult(tuple(comparisons)))
        else:
            print_comparison(display.out(), comparisons)
        return
    if data is None:
        raise typer.BadParameter("--data is needed: texts with labels to measure the accuracy with")
    options = BenchOptions(
        targets_ms=_numbers(targets) if targets else None,
        flash_mb_s=_numbers(flash_mb_s),
        cpu_percent=_numbers(cpu_percent),
        memory_bytes=None if memory_mb is None else int(memory_mb * display.MIB),
    )
    with display.progress_bar() as progress:
        result = bench(store, data, out, options.quick() if quick else options, progress)
    if as_json:
        display.print_json(result)
    else:
        print_result(result, out)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 84,200,500") from None

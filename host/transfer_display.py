"""Progress of transfers to one or more devices, on standard error: how much, how fast, how long still."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from host.push import Progress as Report


@contextmanager
def transfer_bars() -> Iterator[Callable[[str], Report]]:
    """Gives a bar to each device that asks for one by its name."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def bar_of(device: str) -> Report:
            task = bars.add_task(device, total=None)
            last = ""

            def report(stage: str, done: int, total: int) -> None:
                nonlocal last
                if stage != last:  # the rate is that of the stage
                    bars.reset(task, description=f"{device} {stage}", total=total or None)
                    last = stage
                bars.update(task, completed=done, total=total or None)

            return report

        yield bar_of

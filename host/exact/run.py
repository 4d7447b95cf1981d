"""Runs cells one after another, keeps every result at once, and leaves a table, a CSV and plots."""

from collections.abc import Callable, Sequence
from pathlib import Path

from host.exact.cells import Cell
from host.exact.measure import Measured, measure
from host.exact.plots import draw_plots
from host.exact.results import Comparison, compare, read_results, write_csv, write_results

Report = Callable[[str, int, int], None]  # what, done, total
RESULTS_FILE, TABLE_FILE = "pipeload.json", "pipeload.csv"


def run_cells(
    cells: Sequence[Cell], folder: Path, requests: int, report: Report, *, fresh: bool = False
) -> list[Comparison]:
    """Measure what the folder does not have yet; compare all. Raises DeviceError for a cell that fails.

    Whatever was measured before a failure or an interrupt is kept, and not measured again unless `fresh`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULTS_FILE
    known = {} if fresh else read_results(path)
    configuration: dict[str, object] = {"requests": requests, "cells": len(cells)}
    for number, cell in enumerate(cells):
        report(cell.key, number, len(cells))
        if cell.key not in known:
            known[cell.key] = measure(cell, requests)
            write_results(path, known.values(), configuration)
    report("done", len(cells), len(cells))
    results: list[Measured] = [known[cell.key] for cell in cells]
    comparisons = compare(results)
    write_csv(folder / TABLE_FILE, comparisons)
    draw_plots(folder, comparisons)
    return comparisons

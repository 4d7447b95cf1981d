"""Tables and progress bars of the command line. Results go to standard output, progress to standard error."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from host.client import Classification, Classifications, Embeddings, Run
from host.store_summary import StoreSummary
from host.text_generation import GeneratedText, TextRun

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Report = Callable[[str, int, int], None]  # stage, done, total
MB = 1e6  # as files are counted
MIB = 1 << 20  # as --memory-mb counts memory
_NUMBERS_SHOWN = 4


def out() -> Console:
    """Standard output as it is now."""
    return Console(highlight=False, markup=False)


def print_json(value: "DataclassInstance") -> None:
    """A dataclass as one JSON object."""
    print(json.dumps(dataclasses.asdict(value), indent=2, default=_plain))


def _plain(value: object) -> str:
    assert isinstance(value, (Path, Enum)), type(value)
    return str(value.value) if isinstance(value, Enum) else str(value)


@contextmanager
def progress_bar() -> Iterator[Report]:
    """A bar on standard error that shows the stage last reported."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def report(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=max(total, 1))

        yield report


def print_fields(value: "DataclassInstance") -> None:
    """A flat dataclass, one field per line."""
    table = _plain_table()
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        if field.name.endswith("_bytes") and content is not None:
            table.add_row(field.name.replace("_bytes", " size").replace("_", " "), _size(content))
        elif content is not None:
            table.add_row(field.name.replace("_", " "), _text(content))
    out().print(table)


def _plain_table() -> Table:
    return Table(box=None, show_header=False, pad_edge=False)


def _size(nbytes: int) -> str:
    return f"{nbytes / MB:.2f} MB" if nbytes >= MB else f"{nbytes / 1e3:.2f} kB"


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def print_summary(summary: StoreSummary) -> None:
    """What `sti inspect` shows."""
    facts = _plain_table()
    for name, text in _facts(summary):
        facts.add_row(name, text)
    out().print(facts)
    shards = Table("bits", "shards", "size", "largest layer")
    for width in summary.bitwidths:
        shards.add_row(str(width.bits), str(width.shards), _size(width.nbytes), _size(width.largest_layer_bytes))
    out().print(shards)
    files = Table("file", "size", "SHA-256")
    for file in summary.files:
        files.add_row(file.name, _size(file.nbytes), file.sha256[:16])
    files.add_row("total", _size(summary.total_bytes), "")
    out().print(files)


def _facts(summary: StoreSummary) -> Iterator[tuple[str, str]]:
    sizes = summary.geometry
    yield "model", f"{summary.model} ({summary.family})"
    yield "head", f"{summary.head} {', '.join(summary.labels)}".strip()
    yield "body", f"{sizes.layers} layers x {sizes.slices} slices"
    yield "sizes", f"hidden {sizes.hidden}, {sizes.heads} heads, FFN {sizes.ffn}"
    yield "tokens", f"at most {summary.max_tokens}, sequence lengths {_text(summary.sequences)}"
    yield "resident", f"{summary.resident_tensors} tensors, {_size(summary.resident_bytes)}"
    for table in summary.tables:
        yield f"table {table.name}", f"{table.rows} x {table.columns}, {_size(table.nbytes)} on flash"
    for kind in summary.templates:
        lengths = f"slices {_text(kind.slices)}, sequence lengths {_text(kind.sequences)}"
        yield f"templates {kind.kind}", f"{lengths}, {_size(kind.nbytes)}"


def print_answer(answer: Embeddings | Classifications, inputs: list[str]) -> None:
    """One line per input (per token for token classification), then what ran."""
    lines = _embedding_lines(answer, inputs) if isinstance(answer, Embeddings) else _label_lines(answer, inputs)
    for line in lines:
        out().print(line, soft_wrap=True)
    print_run(answer.sti)


def _embedding_lines(answer: Embeddings, inputs: list[str]) -> Iterator[str]:
    for text, item in zip(inputs, answer.data, strict=True):
        start = ", ".join(f"{number:.4f}" for number in item.embedding[:_NUMBERS_SHOWN])
        yield f"{text}: [{start}, ...] ({len(item.embedding)} numbers)"


def _label_lines(answer: Classifications, inputs: list[str]) -> Iterator[str]:
    for text, item in zip(inputs, answer.data, strict=True):
        if isinstance(item, Classification):
            yield f"{text}: {item.label} ({item.score:.4f})"
        else:
            yield f"{text}:"
            yield from (f"  {token.token}: {token.label} ({token.score:.4f})" for token in item.tokens)


def print_piece(piece: str) -> None:
    """A piece of a text, at once."""
    print(piece, end="", flush=True)


def end_text(text: GeneratedText) -> None:
    """The end of a text whose pieces were printed, then what ran for it."""
    print()
    run, tokens = text.sti, text.usage.completion_tokens
    columns = ("layers", "slices", "bits", "tokens", "ended by", "first ms", "tokens/s", "model peak MiB", "budget MiB")
    table = Table(*columns)
    table.add_row(
        str(run.layers), str(run.slices), _text(run.bits), str(tokens), text.finish_reason,
        f"{run.first_token_ms:.1f}", f"{1000 * tokens / run.answer_ms:.1f}",
        f"{run.model_peak_bytes / MIB:.1f}", f"{run.budget_bytes / MIB:.1f}",
    )  # fmt: skip
    out().print(table)
    if run.target_ms is not None:
        print_outcome(run)


def print_run(run: Run) -> None:
    """The run of an answer."""
    sizes = Table("layers", "slices", "bits", "resident layers", "tokens", "model peak MiB", "budget MiB")
    sizes.add_row(
        str(run.layers), str(run.slices), _text(run.bits), str(run.resident_layers),
        str(run.tokens), f"{run.model_peak_bytes / MIB:.1f}", f"{run.budget_bytes / MIB:.1f}",
    )  # fmt: skip
    times = Table("read ms", "prepare ms", "execute ms", "wait ms", "total ms")
    times.add_row(*(f"{ms:.1f}" for ms in (run.read_ms, run.prepare_ms, run.execute_ms, run.wait_ms, run.total_ms)))
    out().print(sizes)
    out().print(times)
    if run.target_ms is not None:
        print_outcome(run)


def print_outcome(run: Run | TextRun) -> None:
    """How a run with a target turned out."""
    table = Table("target ms", "predicted ms", "measured ms", "", "predicted loss", "predicted peak MiB")
    times = (run.target_ms or 0.0, run.predicted_ms or 0.0, run.measured_ms or 0.0)
    table.add_row(
        *(f"{ms:.1f}" for ms in times), "met" if run.met else "missed", f"{run.predicted_loss or 0.0:.4f}",
        f"{(run.predicted_peak_bytes or 0) / MIB:.1f}",
    )  # fmt: skip
    out().print(table)
    if run.reason:
        out().print(run.reason, soft_wrap=True)

"""Labelled texts for training, profiling and benches: a tab-separated file, one example a line."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from shard_store.errors import DataError

Text: TypeAlias = str | tuple[str, str]

_COLUMNS = (2, 3)  # text, label; or text, second text, label


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """Examples in file order. A label is the index of a class."""

    texts: tuple[Text, ...]  # a pair of texts where the file has three columns
    labels: tuple[int, ...]


def read_labelled(path: Path, limit: int | None = None) -> LabelledTexts:
    """Read `text<TAB>label` or `text<TAB>text<TAB>label` lines; a header line is skipped, as are empty ones.

    Only the first `limit` examples are read, where that is given. The file is UTF-8.

    Raises:
        DataError: unreadable, empty, or a line (which is named) without the same columns or a whole number as label.
    """
    examples = tuple(islice(_examples(path), limit))
    if not examples:
        raise DataError(f"{path}: no labelled texts; expected lines of text, a tab and a label")
    return LabelledTexts(tuple(text for text, _ in examples), tuple(label for _, label in examples))


def _examples(path: Path) -> Iterator[tuple[Text, int]]:
    columns = None
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if columns is None:
            columns = len(cells)
            if _is_header(cells):
                continue
        yield _example(cells, columns, f"{path} line {number}")


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            yield from file
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start} of its block)") from error


def _is_header(cells: list[str]) -> bool:
    return len(cells) in _COLUMNS and cells[-1].lower() in ("label", "labels", "class", "target")


def _example(cells: list[str], columns: int, place: str) -> tuple[Text, int]:
    if len(cells) != columns or columns not in _COLUMNS:
        expected = columns if columns in _COLUMNS else "2 or 3"
        raise DataError(f"{place}: expected {expected} columns between tabs (text and label), found {len(cells)}")
    *texts, label = cells
    if not all(texts):
        raise DataError(f"{place}: the text is empty; give a text or leave the line out")
    if not (label.isascii() and label.isdigit()):
        raise DataError(f"{place}: the label is {label!r}, must be a whole number from 0 on")
    return (texts[0] if len(texts) == 1 else (texts[0], texts[1])), int(label)

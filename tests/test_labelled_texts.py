"""Labelled text files."""

from pathlib import Path

import pytest

from host.labelled_texts import LabelledTexts, read_labelled
from shard_store.errors import DataError


def write(folder: Path, content: bytes | str) -> Path:
    path = folder / "data.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    ["sentence\tlabel\na film .\t1\nno\t0\n", "a film .\t1\nno\t0", "\ufeffa film . \t1\r\n\r\nno\t0\r\n"],
    ids=["header", "no header", "byte order mark and CRLF"],
)
def test_texts_and_labels(tmp_path: Path, content: str) -> None:
    assert read_labelled(write(tmp_path, content)) == LabelledTexts(("a film .", "no"), (1, 0))


def test_pairs(tmp_path: Path) -> None:
    path = write(tmp_path, "sentence1\tsentence2\tlabel\na\tb\t2\nc\td\t0\n")
    assert read_labelled(path) == LabelledTexts((("a", "b"), ("c", "d")), (2, 0))


def test_limit_leaves_the_rest_unread(tmp_path: Path) -> None:
    path = write(tmp_path, "a\t1\nb\t0\nbroken\n")
    assert read_labelled(path, limit=2).texts == ("a", "b")


def test_unicode_line_separators_do_not_end_a_line(tmp_path: Path) -> None:
    assert read_labelled(write(tmp_path, "a\u2028b\x85c\t1\n")).texts == ("a\u2028b\x85c",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no labelled texts"),
        ("sentence\tlabel\n", "no labelled texts"),
        ("a film\n", "line 1: expected 2 or 3 columns between tabs .*, found 1"),
        ("a\t1\nb\tc\t1\n", "line 2: expected 2 columns .*, found 3"),
        ("a\tpositive\n", "line 1: the label is 'positive', must be a whole number"),
        ("a\t1\nb\t-1\n", "line 2: the label is '-1'"),
        ("a\t0.5\n", "line 1: the label is '0.5'"),
        ("a\t1\n\t1\n", "line 2: the text is empty"),
        (b"\xff\xfe\t1\n", "not UTF-8"),
    ],
)
def test_mistakes_name_the_file_and_the_line(tmp_path: Path, content: bytes | str, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        read_labelled(path)
    assert str(caught.value).startswith(str(path))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_labelled(tmp_path / "none.tsv")


def test_sst2(shared: Path) -> None:
    dev = read_labelled(shared / "data" / "sst2" / "dev.tsv")
    assert len(dev.texts) == 872
    assert sum(dev.labels) == 444

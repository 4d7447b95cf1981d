import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard_store.errors import FormatError
from shard_store.template import MAX_FLATBUFFER_BYTES, Slot, Template, TemplateKind, pack_template, parse_template
from tests.stores import small_geometry, small_template

GEOMETRY = small_geometry()
TEMPLATE = small_template(GEOMETRY, TemplateKind.INT8, 3, 32)
RECORD = pack_template(TEMPLATE)


@pytest.mark.parametrize("kind", TemplateKind)
def test_template_comes_back(kind: TemplateKind) -> None:
    template = small_template(GEOMETRY, kind, 2, 64)
    assert parse_template(pack_template(template)) == template
    template.check_slots(GEOMETRY)


def test_slots_of_another_geometry_are_refused() -> None:
    with pytest.raises(FormatError, match=r"slot .* has .* bytes, this model needs"):
        TEMPLATE.check_slots(small_geometry(ffn_width=48))
    fewer = {name: slot for name, slot in TEMPLATE.slots.items() if name != "query.scale"}
    with pytest.raises(FormatError, match=r"slot query\.scale has 0 bytes"):
        replace(TEMPLATE, slots=fewer).check_slots(GEOMETRY)


def test_impossible_slots_are_refused() -> None:
    def refused(match: str, **slots: Slot) -> None:
        with pytest.raises(FormatError, match=match):
            replace(TEMPLATE, slots=slots)

    refused("behind the end", a=Slot(TEMPLATE.model_bytes - 4, 8))
    refused("overlaps", a=Slot(0, 8), b=Slot(4, 8))
    refused("multiple of 4", a=Slot(2, 4))
    refused("offset -4", a=Slot(-4, 8))
    refused("0 bytes", a=Slot(0, 0))
    refused("number of slots is 0")
    refused("1 to 32 printable", **{"a" * 33: Slot(0, 4)})
    with pytest.raises(FormatError, match="model_bytes is 8"):
        replace(TEMPLATE, model_bytes=8)
    with pytest.raises(FormatError, match="flatbuffer is 0"):
        replace(TEMPLATE, flatbuffer=b"")


def test_compression_bombs_are_refused() -> None:
    packed = zlib.compress(TEMPLATE.flatbuffer, 9)
    bomb = RECORD.replace(packed, zlib.compress(bytes(MAX_FLATBUFFER_BYTES), 9))
    with pytest.raises(FormatError, match="exactly 1024 bytes"):
        parse_template(bomb)


@pytest.mark.parametrize(
    ("record", "match"),
    [
        (RECORD[:31], "cannot hold a header"),
        (b"X" + RECORD[1:], "header says"),
        (RECORD[:4] + b"\2" + RECORD[5:], "header says"),
        (RECORD[:100], "beyond record"),
        (RECORD[:-1], "exactly 1024"),
        (RECORD + b"\0", "exactly 1024"),
        (RECORD[:-20] + bytes(20), "cannot be decompressed|exactly 1024"),
        (RECORD[:32] + RECORD[80:128] + RECORD[80:], "same name"),
    ],
)
def test_broken_records_are_refused(record: bytes, match: str) -> None:
    with pytest.raises(FormatError, match=match):
        parse_template(record)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(RECORD) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_fuzzed_records_raise_only_format_errors(changes: list[tuple[int, int]]) -> None:
    record = bytearray(RECORD)
    for place, value in changes:
        record[place] = value
    try:
        template: Template = parse_template(bytes(record))
    except FormatError:
        return
    assert all(0 <= slot.offset <= template.model_bytes - slot.nbytes for slot in template.slots.values())

"""TFLite layer templates: models whose weights are filled in later (docs/format.md, "templates.bin")."""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from shard_store.errors import FormatError
from shard_store.geometry import MAX_SLICES, Cut, Geometry
from shard_store.span import check_apart

MAX_SEQUENCE = 1 << 16
MAX_FLATBUFFER_BYTES = 16 << 20
MAX_MODEL_BYTES = 1 << 31
MAX_SLOTS = 256

# magic, kind, number of slots, slices, sequence, bytes of the flatbuffer, bytes of the model
_HEADER = struct.Struct("<4sHHIIQQ")
_SLOT = struct.Struct("<32sQQ")  # name padded with zero bytes, offset, bytes
_MAGIC = b"TMPL"


class TemplateKind(str, Enum):
    """The weights that a template takes."""

    INT8 = "int8"  # shards of 2 to 8 bits
    FLOAT32 = "float32"  # shards of 32 bits


_KINDS = (TemplateKind.INT8, TemplateKind.FLOAT32)


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a tensor is filled in: a range of bytes of the model."""

    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Template:
    """A layer of `slices` slices at a fixed sequence length.

    model_bytes: size of the whole model, which begins with the flatbuffer; slots: by name, such as "query.weight".
    """

    kind: TemplateKind
    slices: int
    sequence: int
    flatbuffer: bytes
    model_bytes: int
    slots: Mapping[str, Slot]

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("slices", self.slices, 1, MAX_SLICES),
            ("sequence", self.sequence, 1, MAX_SEQUENCE),
            ("flatbuffer", len(self.flatbuffer), 1, MAX_FLATBUFFER_BYTES),
            ("model_bytes", self.model_bytes, len(self.flatbuffer), MAX_MODEL_BYTES),
            ("number of slots", len(self.slots), 1, MAX_SLOTS),
        ):
            if not low <= value <= high:
                raise FormatError(f"template: {name} is {value}, must be {low} to {high}")
        for slot_name, slot in self.slots.items():
            if not 1 <= len(slot_name) <= 32 or not slot_name.isascii() or not slot_name.isprintable():
                raise FormatError(f"template: slot name {slot_name[:40]!r} must be 1 to 32 printable ASCII characters")
            if slot.offset < 0 or slot.nbytes < 1:
                raise FormatError(f"template: slot {slot_name} has offset {slot.offset} and {slot.nbytes} bytes")
        ranges = ((slot.offset, slot.nbytes, f"template: slot {name}") for name, slot in self.slots.items())
        check_apart(ranges, self.model_bytes, alignment=4)

    def check_slots(self, geometry: Geometry) -> None:
        """Raises FormatError unless the slots are exactly those that a layer of this geometry fills in."""
        expected = slot_bytes(geometry, self.kind, self.slices)
        for name in sorted(expected.keys() | self.slots.keys()):
            found = self.slots[name].nbytes if name in self.slots else 0
            if found != expected.get(name, 0):
                raise FormatError(f"template: slot {name} has {found} bytes, this model needs {expected.get(name, 0)}")


def slot_bytes(geometry: Geometry, kind: TemplateKind, slices: int) -> dict[str, int]:
    """Bytes of every slot of a layer of `slices` slices, by name."""
    sizes = dict.fromkeys(geometry.norm_tensors, 4 * geometry.hidden)
    item_bytes = 1 if kind is TemplateKind.INT8 else 4
    for matrix in geometry.slice_matrices:
        rows = matrix.rows * (slices if matrix.cut is Cut.ROWS else 1)
        sizes[f"{matrix.name}.weight"] = matrix.size * slices * item_bytes
        sizes[f"{matrix.name}.bias"] = 4 * rows
        if kind is TemplateKind.INT8:
            sizes[f"{matrix.name}.scale"] = 4 * rows
    return sizes


def pack_template(template: Template) -> bytes:
    """The record of a template."""
    header = _HEADER.pack(
        _MAGIC, _KINDS.index(template.kind), len(template.slots), template.slices, template.sequence,
        len(template.flatbuffer), template.model_bytes,
    )  # fmt: skip
    slots = (_SLOT.pack(name.encode("ascii"), slot.offset, slot.nbytes) for name, slot in template.slots.items())
    return b"".join((header, *slots, zlib.compress(template.flatbuffer, 9)))


def parse_template(record: bytes) -> Template:
    """The template of a record. Raises FormatError; never unpacks more than the limits allow."""
    if len(record) < _HEADER.size:
        raise FormatError(f"template: {len(record)} bytes cannot hold a header of {_HEADER.size}")
    magic, kind, slot_count, slices, sequence, flatbuffer_bytes, model_bytes = _HEADER.unpack_from(record)
    if magic != _MAGIC or kind >= len(_KINDS):
        raise FormatError(f"template: header says {magic!r}, kind {kind}")
    flatbuffer_start = _HEADER.size + slot_count * _SLOT.size
    if slot_count > MAX_SLOTS or flatbuffer_start > len(record) or flatbuffer_bytes > MAX_FLATBUFFER_BYTES:
        raise FormatError(
            f"template: {slot_count} slots, flatbuffer of {flatbuffer_bytes} bytes: beyond record or limits"
        )
    slots: dict[str, Slot] = {}
    for name, offset, nbytes in _SLOT.iter_unpack(record[_HEADER.size : flatbuffer_start]):
        slots[name.rstrip(b"\0").decode("latin-1")] = Slot(offset, nbytes)
    if len(slots) != slot_count:
        raise FormatError("template: two slots have the same name")
    flatbuffer = _unpack(record[flatbuffer_start:], flatbuffer_bytes)
    return Template(_KINDS[kind], slices, sequence, flatbuffer, model_bytes, slots)


def _unpack(compressed: bytes, nbytes: int) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        # One byte more than promised is asked for, so that a longer stream shows without being unpacked.
        data = decompressor.decompress(compressed, nbytes + 1)
    except zlib.error as error:
        raise FormatError(f"template: flatbuffer cannot be decompressed ({error})") from None
    if len(data) != nbytes or not decompressor.eof or decompressor.unused_data:
        raise FormatError(f"template: flatbuffer is not a zlib stream of exactly {nbytes} bytes")
    return data

"""Device costs as a file: JSON, strictly typed, written aside and renamed (docs/costs.md)."""

import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from device_agent.costs import DeviceCosts, PrepareCost, ReadCost
from shard_store.errors import CostsError, FormatError
from shard_store.geometry import BITWIDTHS, MAX_SLICES
from shard_store.json_fields import JsonFields, parse_json
from shard_store.template import MAX_SEQUENCE, TemplateKind

COSTS_VERSION = 2
MAX_COSTS_BYTES = 16 << 20
_MAX_NAME = 400
T = TypeVar("T")


def costs_to_json(costs: DeviceCosts) -> str:
    """The costs as a document."""
    return json.dumps({"version": COSTS_VERSION, **asdict(costs)}, indent=1)


def write_costs(path: Path, costs: DeviceCosts) -> None:
    """Write a costs file; a failure leaves the old one. Raises CostsError."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("x", encoding="utf-8") as file:
            file.write(costs_to_json(costs))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise CostsError(f"device costs {path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def read_costs(path: Path) -> DeviceCosts:
    """Read a costs file. Raises CostsError with one line that says what is wrong."""
    try:
        if path.stat().st_size > MAX_COSTS_BYTES:
            raise CostsError(f"device costs {path}: larger than {MAX_COSTS_BYTES} bytes")
        raw = path.read_bytes()
    except OSError as error:
        raise CostsError(f"device costs {path}: cannot be read: {error.strerror or error}") from error
    try:
        fields = JsonFields(parse_json(raw, f"device costs {path}"), f"device costs {path}")
        costs = _parse(fields)
        fields.finish()
    except FormatError as error:
        raise CostsError(f"{error}; measure with `sti-agent calibrate`") from error
    return costs


def _parse(fields: JsonFields) -> DeviceCosts:
    version = fields.integer("version", 1, 1 << 20)
    if version != COSTS_VERSION:
        raise FormatError(f"{fields.where}: version is {version}, this program reads {COSTS_VERSION}")
    return DeviceCosts(
        device=fields.text("device", ".+", _MAX_NAME),
        model=fields.text("model", "[0-9a-f]+"),
        read=fields.object("read", lambda read: ReadCost(read.number("latency_ms"), read.number("bytes_per_ms"))),
        prepare=fields.object("prepare", lambda kinds: _by_kind(kinds, _prepare)),
        execute=fields.object("execute", lambda kinds: _by_kind(kinds, _execute)),
        loading_factor=fields.number("loading_factor"),
        pass_ms=fields.number("pass_ms"),
        crowding_factor=fields.number("crowding_factor"),
    )


def _by_kind(fields: JsonFields, parse: Callable[[JsonFields], T]) -> dict[TemplateKind, T]:
    return {kind: fields.object(kind.value, parse) for kind in TemplateKind if fields.has(kind.value)}


def _prepare(fields: JsonFields) -> PrepareCost:
    shard_ms = fields.object(
        "shard_ms", lambda rows: {bits: rows.number(str(bits)) for bits in BITWIDTHS if rows.has(str(bits))}
    )
    return PrepareCost(fields.number("layer_ms"), shard_ms)


def _execute(fields: JsonFields) -> dict[int, tuple[float, ...]]:
    names = [name for name in fields.names() if name.isdecimal() and 1 <= int(name) <= MAX_SEQUENCE]
    return {int(name): _row(fields.array(name, MAX_SLICES), f"{fields.where}.{name}") for name in names}


def _row(values: list[object], where: str) -> tuple[float, ...]:
    times = [float(value) for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(times) < len(values):
        raise FormatError(f"{where}: must hold numbers")
    return tuple(times)

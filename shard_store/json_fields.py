"""Strict reading of one JSON object: every field typed and bounded, unknown fields refused."""

import json
import math
import re
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from shard_store.errors import FormatError

E = TypeVar("E", bound=Enum)
T = TypeVar("T")


def parse_json(raw: bytes, where: str) -> object:
    """The value of a JSON text. Raises FormatError for anything that is not plain UTF-8 JSON."""
    try:
        value: object = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not valid JSON ({str(error).splitlines()[0][:100]})") from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


class JsonFields:
    """Takes the fields of one object out of it, one by one; `finish` refuses what is left."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{where}: must be an object")
        self._left: dict[str, object] = dict(value)
        self.where = where

    def take(self, name: str) -> object:
        """The raw value of a field that must be there."""
        if name not in self._left:
            raise FormatError(f"{self.where}: field {name!r} is missing")
        return self._left.pop(name)

    def has(self, name: str) -> bool:
        """Whether a field that may be left out is there."""
        return name in self._left

    def names(self) -> list[str]:
        """The fields that nobody has taken yet."""
        return list(self._left)

    def integer(self, name: str, low: int, high: int) -> int:
        """An integer from low to high."""
        return integer(self.take(name), f"{self.where}.{name}", low, high)

    def number(self, name: str) -> float:
        """A finite number."""
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise FormatError(f"{self.where}.{name}: must be a finite number")
        return float(value)

    def numbers(self, name: str, limit: int) -> tuple[float, ...]:
        """At most `limit` finite numbers."""
        where = f"{self.where}.{name}"
        return tuple(JsonFields({"": value}, where).number("") for value in self.array(name, limit))

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        """An integer from low to high, or null."""
        value = self.take(name)
        return None if value is None else integer(value, f"{self.where}.{name}", low, high)

    def boolean(self, name: str) -> bool:
        """True or false."""
        value = self.take(name)
        if not isinstance(value, bool):
            raise FormatError(f"{self.where}.{name}: must be true or false")
        return value

    def text(self, name: str, pattern: str, limit: int = 256) -> str:
        """A string that matches the pattern as a whole."""
        return text(self.take(name), f"{self.where}.{name}", pattern, limit)

    def choice(self, name: str, kind: type[E]) -> E:
        """A member of an enumeration, by its value."""
        value = self.take(name)
        for member in kind:
            if isinstance(value, str) and member.value == value:
                return member
        known = ", ".join(str(member.value) for member in kind)
        raise FormatError(f"{self.where}.{name}: is {str(value)[:100]!r}, must be one of {known}")

    def array(self, name: str, limit: int) -> list[object]:
        """An array of at most `limit` values."""
        return array(self.take(name), f"{self.where}.{name}", limit)

    def objects(self, name: str, limit: int, parse: Callable[["JsonFields"], T]) -> tuple[T, ...]:
        """An array of objects, each parsed and then checked for unknown fields."""
        where = f"{self.where}.{name}"
        return tuple(_parsed(value, f"{where}[{index}]", parse) for index, value in enumerate(self.array(name, limit)))

    def mapping(self, name: str, limit: int, parse: Callable[["JsonFields"], T]) -> dict[str, T]:
        """An object of objects."""
        where = f"{self.where}.{name}"
        value = self.take(name)
        if not isinstance(value, dict) or len(value) > limit:
            raise FormatError(f"{where}: must be an object of at most {limit} fields")
        return {key: _parsed(item, f"{where}[{key[:100]!r}]", parse) for key, item in value.items()}

    def object(self, name: str, parse: Callable[["JsonFields"], T]) -> T:
        """An object, parsed and then checked for unknown fields."""
        return _parsed(self.take(name), f"{self.where}.{name}", parse)

    def finish(self) -> None:
        """Refuses fields that nobody took."""
        if self._left:
            raise FormatError(f"{self.where}: unknown field {min(self._left)[:100]!r}")


def _parsed(value: object, where: str, parse: Callable[[JsonFields], T]) -> T:
    fields = JsonFields(value, where)
    result = parse(fields)
    fields.finish()
    return result


def integer(value: object, where: str, low: int, high: int) -> int:
    """Checks an integer (not a boolean) from low to high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FormatError(f"{where}: must be an integer from {low} to {high}")
    return value


def text(value: object, where: str, pattern: str, limit: int = 256) -> str:
    """Checks a string of at most `limit` characters that matches the pattern as a whole and prints."""
    if not isinstance(value, str) or len(value) > limit or not re.fullmatch(pattern, value):
        raise FormatError(f"{where}: must be a string of at most {limit} characters like {pattern}")
    if not value.isprintable():
        raise FormatError(f"{where}: must be printable text")
    return value


def array(value: object, where: str, limit: int) -> list[object]:
    """Checks an array of at most `limit` values."""
    if not isinstance(value, list) or len(value) > limit:
        raise FormatError(f"{where}: must be an array of at most {limit} values")
    return value

"""What the agent needs of a device's Python. The same as the extra `agent` in pyproject.toml; a test compares."""

import re
from collections.abc import Iterable, Mapping

MIN_PYTHON = (3, 10)
REQUIREMENTS = (
    "ai-edge-litert>=2.3,<2.4",
    "fastapi>=0.162,<1",
    "jinja2>=3.1,<4",
    "numpy>=2.2,<3",
    "pillow>=12,<14",
    "pydantic>=2.14,<3",
    "tokenizers>=0.23,<1",
    "uvicorn>=0.54,<1",
)
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)>=(?P<low>[0-9.]+),<(?P<high>[0-9.]+)")


def names(requirements: Iterable[str] = REQUIREMENTS) -> tuple[str, ...]:
    """The distributions that are asked for."""
    return tuple(_parts(requirement)[0] for requirement in requirements)


def unmet(versions: Mapping[str, str | None], requirements: Iterable[str] = REQUIREMENTS) -> tuple[str, ...]:
    """The requirements that the installed versions (None or no entry: not installed) do not meet."""
    return tuple(requirement for requirement in requirements if not _met(requirement, versions))


def _met(requirement: str, versions: Mapping[str, str | None]) -> bool:
    name, low, high = _parts(requirement)
    version = versions.get(name)
    return version is not None and _numbers(low) <= _numbers(version) < _numbers(high)


def _parts(requirement: str) -> tuple[str, str, str]:
    match = _REQUIREMENT.fullmatch(requirement)
    assert match, requirement
    return match["name"], match["low"], match["high"]


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 3, 0) for "2.3.0rc1": what comes after the leading numbers does not matter for ranges such as ours."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in match[0].split(".")) if match else ()

"""What the agent needs of a Python."""

import re
from pathlib import Path

import pytest

from device_agent.requirements import MIN_PYTHON, REQUIREMENTS, names, unmet

PYPROJECT = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")


def test_they_are_those_of_the_extra() -> None:
    extra = PYPROJECT.partition("\nagent = [")[2].partition("]")[0]
    own = PYPROJECT.partition("\ndependencies = [")[2].partition("]")[0]
    assert sorted(re.findall(r'"(.*?)"', extra + own)) == sorted(REQUIREMENTS)
    assert f'requires-python = ">={MIN_PYTHON[0]}.{MIN_PYTHON[1]}"' in PYPROJECT


def test_their_names() -> None:
    assert names(("a-b>=1,<2", "c.d>=0.1,<1")) == ("a-b", "c.d")


@pytest.mark.parametrize("version", ["2.3.0", "2.3", "2.3.9rc1", "2.3.10+local"])
def test_a_version_within_the_range_is_met(version: str) -> None:
    assert unmet({"thing": version}, ("thing>=2.3,<2.4",)) == ()


@pytest.mark.parametrize("version", ["2.2.9", "2.4.0", "2.4", "3", "unknown", None])
def test_any_other_is_not(version: str | None) -> None:
    assert unmet({"thing": version}, ("thing>=2.3,<2.4",)) == ("thing>=2.3,<2.4",)


def test_what_is_not_installed_is_not_met() -> None:
    assert unmet({}) == REQUIREMENTS

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.costs_file import costs_to_json, read_costs, write_costs
from shard_store.errors import CostsError
from tests.costs import small_costs


def test_costs_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "costs.json"
    write_costs(path, small_costs())
    assert read_costs(path) == small_costs()
    assert [file.name for file in path.parent.iterdir()] == ["costs.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "costs.json").mkdir()
    with pytest.raises(CostsError, match="cannot be written"):
        write_costs(tmp_path / "costs.json", small_costs())
    assert [file.name for file in tmp_path.iterdir()] == ["costs.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(version=1), "version is 1, this program reads 2"),
        (lambda c: c.update(more=1), "unknown field 'more'"),
        (lambda c: c.pop("read"), "field 'read' is missing"),
        (lambda c: c["read"].update(latency_ms=-1), "every time must be a finite number"),
        (lambda c: c["read"].update(bytes_per_ms=0), "bytes_per_ms is 0.0, must be above 0"),
        (lambda c: c["prepare"].update(int4={}), "unknown field 'int4'"),
        (lambda c: c["prepare"]["int8"]["shard_ms"].update({"7": 1}), "unknown field '7'"),
        (lambda c: c["execute"]["int8"].update({"x": [1]}), "unknown field 'x'"),
        (lambda c: c["execute"]["int8"].update({"16": [True]}), "must hold numbers"),
        (lambda c: c.update(loading_factor=0.5), "loading_factor is 0.5, must be 1 to 100"),
        (lambda c: c.update(crowding_factor=17), "crowding_factor is 17.0, must be 1 to 16"),
    ],
)
def test_bad_costs_are_one_line(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    document = json.loads(costs_to_json(small_costs()))
    change(document)
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(document))
    with pytest.raises(CostsError, match=message) as caught:
        read_costs(path)
    assert "\n" not in str(caught.value)


def test_no_file_and_too_large_a_file(tmp_path: Path) -> None:
    with pytest.raises(CostsError, match="cannot be read: No such file"):
        read_costs(tmp_path / "none")
    with (tmp_path / "large").open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(CostsError, match="larger than"):
        read_costs(tmp_path / "large")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_rubbish_is_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("rubbish") / "costs.json"
    path.write_bytes(raw)
    with pytest.raises(CostsError):
        read_costs(path)

"""The disk of a file, with and without partitions."""

import os
from pathlib import Path

from host.disk import disk_of


def test_a_limit_is_of_the_whole_disk(tmp_path: Path) -> None:
    number = tmp_path.stat().st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    devices = tmp_path / "dev" / "block"
    devices.mkdir(parents=True)
    assert disk_of(tmp_path, devices) is None
    (devices / "sda" / "sda1").mkdir(parents=True)
    (devices / "sda" / "dev").write_text("8:0\n")
    (devices / name).symlink_to("sda/sda1")
    assert disk_of(tmp_path, devices) == name
    (devices / "sda" / "sda1" / "partition").write_text("1")
    assert disk_of(tmp_path, devices) == "8:0"

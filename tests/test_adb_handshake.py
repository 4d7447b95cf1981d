"""How devices let us in, or do not."""

from pathlib import Path

import pytest

from host.adb import handshake
from host.adb.connection import connect
from host.adb.keys import load_signer
from shard_store.errors import DeviceError
from tests.fake_adbd import FakeAdbd, Manner


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STI_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(handshake, "CONSENT_SECONDS", 0.3)
    monkeypatch.setattr(handshake, "ANSWER_SECONDS", 0.5)
    return tmp_path / "home"


def test_a_key_is_made_once_for_the_user_alone(home: Path) -> None:
    first = load_signer().GetPublicKey()
    assert load_signer().GetPublicKey() == first
    assert (home / "adbkey").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in home.iterdir()) == ["adbkey", "adbkey.pub"]


def test_a_key_that_cannot_be_read_is_told(home: Path) -> None:
    load_signer()
    (home / "adbkey").write_text("no key")
    with pytest.raises(DeviceError, match=r"adbkey cannot be used .*; remove it and adbkey.pub$"):
        load_signer()


def test_a_device_that_knows_our_key_lets_us_in(home: Path) -> None:
    load_signer()
    with FakeAdbd(Manner.ASK_KNOWN, home / "adbkey") as adbd:
        connect(adbd.spec).close()
        assert adbd.verified


def test_a_new_key_is_shown_and_may_be_accepted(home: Path) -> None:
    with FakeAdbd(Manner.ASK_ACCEPT) as adbd:
        connect(adbd.spec).close()
        assert adbd.shown == (home / "adbkey.pub").read_bytes() + b"\0"


def test_a_wrong_key_is_unauthorised(home: Path, tmp_path: Path) -> None:
    load_signer(tmp_path / "other")
    with (
        FakeAdbd(Manner.ASK_IGNORE, tmp_path / "other" / "adbkey") as adbd,
        pytest.raises(DeviceError, match=r"^adb:.* is unauthorised: unlock its screen, accept this computer's key"),
    ):
        connect(adbd.spec)
    assert adbd.shown


@pytest.mark.parametrize("manner", [Manner.SILENT, Manner.OTHER])
def test_a_device_that_does_not_answer_is_offline(home: Path, manner: Manner) -> None:
    with (
        FakeAdbd(manner) as adbd,
        pytest.raises(DeviceError, match=r"^adb:.* is offline: it does not answer .*check the"),
    ):
        connect(adbd.spec)


def test_wireless_debugging_is_left_to_adb(home: Path) -> None:
    with FakeAdbd(Manner.TLS) as adbd, pytest.raises(DeviceError, match=r"wants wireless debugging; run `adb pair`"):
        connect(adbd.spec)

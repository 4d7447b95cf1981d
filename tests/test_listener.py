"""The listening socket."""

import socket

import pytest

from device_agent.listener import listen, url_of
from shard_store.errors import DeviceError


def test_connections_send_without_delay() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_url_names_the_port_that_was_taken() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_an_ipv6_url_has_brackets() -> None:
    try:
        listener = listen("::1", 0)
    except DeviceError:
        pytest.skip("no IPv6 loopback here")
    with listener:
        assert url_of(listener).startswith("http://[::1]:")


def test_an_address_in_use_is_told_in_one_line() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(DeviceError, match=f"^cannot listen on '127.0.0.1', port {port}: .*another$"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["256.1.1.1.1", "a" * 70, ""])
def test_an_address_that_is_none_is_refused(host: str) -> None:
    if host:
        with pytest.raises(DeviceError, match=r"^cannot listen on "):
            listen(host, 0)
    else:
        with listen(host, 0) as listener:
            assert url_of(listener).startswith("http://0.0.0.0:")

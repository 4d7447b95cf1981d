"""The socket that the agent listens on."""

import socket

from shard_store.errors import DeviceError


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address; port 0 takes any free one. Raises DeviceError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not an address"
        raise DeviceError(f"cannot listen on {host!r}, port {port}: {reason}; choose another") from error
    # Connections inherit this. asyncio would set it only on sockets whose protocol number is given, and without it the
    # body of an answer waits 40 ms for the client to acknowledge the header.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(listener: socket.socket) -> str:
    """Where clients on this machine find it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

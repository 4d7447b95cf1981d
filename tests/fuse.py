"""A file system behind a daemon, as Android's /sdcard is: an empty folder that takes nothing.

python -m tests.fuse FOLDER, as root   (protocol: linux/fuse.h, version 7.31)
"""

import ctypes
import os
import stat
import struct
import sys

_HEADER = struct.Struct("<IIQQIIII")  # length, operation, number, node, uid, gid, pid, padding
_GETATTR, _STATFS, _INIT = 3, 17, 26
_NOT_IMPLEMENTED = -38
_SPACE_BLOCKS = 1 << 20


def serve(folder: str) -> None:
    """Mount, say so on standard output, and answer until it is unmounted."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40777,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"fuse", folder.encode(), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "cannot mount", folder)
    sys.stdout.write("mounted\n")
    sys.stdout.flush()
    while True:
        try:
            request = os.read(device, 1 << 20)
        except OSError:  # unmounted
            return
        _, operation, number, *_ = _HEADER.unpack_from(request)
        body = _answer(operation)
        error = _NOT_IMPLEMENTED if body is None else 0
        answer = struct.pack("<IiQ", 16 + len(body or b""), error, number) + (body or b"")
        os.write(device, answer)


def _answer(operation: int) -> bytes | None:
    if operation == _INIT:
        return struct.pack("<IIIIHHII", 7, 31, 0, 0, 0, 0, 4096, 1).ljust(64, b"\0")
    if operation == _GETATTR:
        return struct.pack("<QII6Q10I", 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, stat.S_IFDIR | 0o777, 2, 0, 0, 0, 4096, 0)
    if operation == _STATFS:
        return struct.pack("<5Q4I", *[_SPACE_BLOCKS] * 5, 4096, 255, 4096, 0).ljust(80, b"\0")
    return None


if __name__ == "__main__":
    serve(sys.argv[1])

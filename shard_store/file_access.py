"""Reading parts of files: complete or not at all, direct where the file system allows it."""

import errno
import mmap
import os
import stat
from pathlib import Path

from shard_store.errors import DeviceError, FormatError

PAGE_BYTES = 4096
_DIRECT_REFUSED = (errno.EINVAL, errno.EOPNOTSUPP)


def aligned_buffer(nbytes: int) -> memoryview:
    """Anonymous memory that starts on a page boundary, rounded up to whole pages: fit for direct reads."""
    length = max(1, -(-nbytes // PAGE_BYTES)) * PAGE_BYTES
    return memoryview(mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def file_bytes(path: Path) -> int:
    """Size of a regular file. Raises FormatError if it is missing or anything else."""
    try:
        status = path.stat()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}); copy the store again") from None
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(f"{path}: is not a regular file")
    return status.st_size


class RandomFile:
    """A file opened for reads at given offsets. Thread-safe.

    direct: True for reads past the page cache (DeviceError where the file system refuses), False for buffered reads,
    None for direct reads where possible. A direct read needs offset, size and buffer in whole pages.
    """

    def __init__(self, path: Path, direct: bool | None = False) -> None:
        self._path = path
        self._required = direct is True
        self._buffered_descriptor = self._open(os.O_RDONLY)
        self._direct_descriptor = -1
        self.direct = False
        if direct is not False:
            if hasattr(os, "O_DIRECT"):
                self._direct_descriptor = self._open(os.O_RDONLY | os.O_DIRECT)
            self.direct = self._direct_descriptor >= 0
            if not self.direct:
                self._give_up_direct()

    def _open(self, flags: int) -> int:
        """A descriptor, or -1 where the file system refuses the flags."""
        try:
            return os.open(self._path, flags)
        except OSError as error:
            if error.errno in _DIRECT_REFUSED:
                return -1
            raise DeviceError(f"{self._path}: cannot be opened ({error.strerror})") from None

    def _give_up_direct(self) -> None:
        if self._required:
            self.close()
            raise DeviceError(f"{self._path}: this file system refuses direct reads; read buffered")
        self.direct = False  # the descriptor stays open until close(): other threads may be reading from it

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fills the buffer. Raises FormatError if the file ends before, DeviceError if reading fails."""
        done = 0
        while done < buffer.nbytes:
            count = self._read(buffer[done:], offset + done)
            if count == 0:
                raise FormatError(
                    f"{self._path}: ends at {offset + done} bytes, expected {offset + buffer.nbytes}; "
                    "copy the store again"
                )
            done += count

    def _read(self, buffer: memoryview, offset: int) -> int:
        try:
            # What is left of a read that came up short may start inside a page.
            if self.direct and offset % PAGE_BYTES == 0:
                try:
                    return os.preadv(self._direct_descriptor, [buffer], offset)
                except OSError as error:
                    if error.errno not in _DIRECT_REFUSED:
                        raise
                    self._give_up_direct()
            return os.preadv(self._buffered_descriptor, [buffer], offset)
        except OSError as error:
            raise DeviceError(f"{self._path}: reading at {offset} failed ({error.strerror})") from None

    def drop_page_cache(self) -> None:
        """Asks the kernel to forget the file's pages, where there is such a call."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._buffered_descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Closes the file; it must not be read afterwards."""
        for descriptor in (self._buffered_descriptor, self._direct_descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._buffered_descriptor = self._direct_descriptor = -1

"""A file of packed weights in memory, as XNNPACK's weight cache reads it."""

import mmap
import os
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from device_agent.packed_layout import Bytes, MatrixLayout
from shard_store.errors import ExecutorError

_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class PackedTemplate:
    """A packed layer without its weights: the file's pages that are not all zero, and where each matrix goes."""

    nbytes: int
    pages: tuple[tuple[int, bytes], ...]
    layouts: tuple[MatrixLayout, ...]


class PackedFile:
    """An anonymous file (memfd). The runtime maps it shared, so that what is written here is what it computes with."""

    def __init__(self) -> None:
        if not hasattr(os, "memfd_create"):
            raise ExecutorError("files in memory are not supported by this system")
        try:
            self._descriptor = os.memfd_create("packed-layer")
        except OSError as error:
            raise ExecutorError(f"no file in memory: {error}") from error
        self._map: mmap.mmap | None = None

    @classmethod
    def blank(cls, packed: PackedTemplate) -> "PackedFile":
        """A file for a layer whose weights are yet to be written."""
        file = cls()
        try:
            os.ftruncate(file._descriptor, packed.nbytes)
            for offset, page in packed.pages:
                os.pwrite(file._descriptor, page, offset)
        except OSError as error:
            file.close()
            raise ExecutorError(f"no file in memory: {error}") from error
        return file

    @property
    def path(self) -> str:
        """Where the runtime can open it, as long as it is not closed here."""
        return f"/proc/self/fd/{self._descriptor}"

    @property
    def nbytes(self) -> int:
        """Size."""
        return os.fstat(self._descriptor).st_size

    def view(self) -> Bytes:
        """All bytes, writable."""
        if self._map is None:
            if not self.nbytes:
                raise ExecutorError("the runtime writes no packed weights to a file")
            self._map = mmap.mmap(self._descriptor, self.nbytes)
        return np.frombuffer(self._map, np.uint8)

    def digest(self) -> bytes:
        """Of all bytes."""
        return sha256(self.view().data).digest()

    def blank_template(self, layouts: tuple[MatrixLayout, ...]) -> PackedTemplate:
        """This file as a template, if its weights have been cleared."""
        file = self.view()
        starts = range(0, file.size, _PAGE_BYTES)
        pages = ((start, file[start : start + _PAGE_BYTES]) for start in starts)
        return PackedTemplate(file.size, tuple((start, page.tobytes()) for start, page in pages if page.any()), layouts)

    def close(self) -> None:
        """Let the file go; the memory is freed when the runtime has unmapped it too. Views must not be used again."""
        self._map = None  # unmapped when the last view is gone
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

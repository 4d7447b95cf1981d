"""LiteRT through its C API.

The Python wrappers hold the GIL while they compile and run; ctypes gives it up. A pipeline that packs one layer while
another computes therefore has to call `libLiteRt.so` directly. Signatures: `litert/c/*.h` of google-ai-edge/LiteRT 2.x.
"""

import ctypes
import ctypes.util
import importlib.util
import platform
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from shard_store.errors import ExecutorError

ALIGNMENT = 64  # LITERT_HOST_MEMORY_BUFFER_ALIGNMENT
_CPU = 1
_OPTION_MIN_LOG_SEVERITY = 25
_OPTION_AUTO_REGISTER = 24
_ANY_INT = 2
_LOG_ERRORS = 3
_FLOAT32 = 1
_MAX_RANK = 8
_M_MMAP_THRESHOLD = -3  # malloc.h
_MMAP_BYTES = 64 << 10
_CPU_OPTIONS_ID = b"xnnpack"
_STATUS = {
    1: "an invalid argument",
    2: "memory exhausted",
    3: "a runtime failure",
    5: "an unsupported feature",
    501: "an invalid flatbuffer",
    502: "dynamic loading",
    504: "compilation",
}  # litert/c/litert_common.h; the wheels do not export LiteRtGetStatusString


class _Any(ctypes.Structure):
    _fields_ = (("type", c_int), ("value", c_int64))


class _EnvOption(ctypes.Structure):
    _fields_ = (("tag", c_int), ("value", _Any))


class _Layout(ctypes.Structure):
    _fields_ = (
        ("rank", c_uint32, 7),
        ("has_strides", c_uint32, 1),
        ("dimensions", c_int32 * _MAX_RANK),
        ("strides", c_uint32 * _MAX_RANK),
    )


class _RankedTensorType(ctypes.Structure):
    _fields_ = (("element_type", c_int), ("layout", _Layout))


_SIGNATURES: dict[str, tuple[type | None, tuple[object, ...]]] = {
    "LiteRtCreateEnvironment": (c_int, (c_int, POINTER(_EnvOption), POINTER(c_void_p))),
    "LiteRtDestroyEnvironment": (None, (c_void_p,)),
    "LiteRtCreateOptions": (c_int, (POINTER(c_void_p),)),
    "LiteRtDestroyOptions": (None, (c_void_p,)),
    "LiteRtSetOptionsHardwareAccelerators": (c_int, (c_void_p, c_int)),
    "LiteRtCreateOpaqueOptions": (c_int, (c_char_p, c_void_p, c_void_p, POINTER(c_void_p))),
    "LiteRtAddOpaqueOptions": (c_int, (c_void_p, c_void_p)),
    "LiteRtCreateModelFromBuffer": (c_int, (c_void_p, c_void_p, c_size_t, POINTER(c_void_p))),
    "LiteRtDestroyModel": (None, (c_void_p,)),
    "LiteRtCreateCompiledModel": (c_int, (c_void_p, c_void_p, c_void_p, POINTER(c_void_p))),
    "LiteRtDestroyCompiledModel": (None, (c_void_p,)),
    "LiteRtCompiledModelIsFullyAccelerated": (c_int, (c_void_p, POINTER(ctypes.c_bool))),
    "LiteRtCreateTensorBufferFromHostMemory": (
        c_int, (POINTER(_RankedTensorType), c_void_p, c_size_t, c_void_p, POINTER(c_void_p)),
    ),
    "LiteRtDestroyTensorBuffer": (None, (c_void_p,)),
    "LiteRtRunCompiledModel": (
        c_int, (c_void_p, c_size_t, c_size_t, POINTER(c_void_p), c_size_t, POINTER(c_void_p)),
    ),
}  # fmt: skip


class HostTensor:
    """A float32 array in memory that LiteRT may read and write, aligned as it demands."""

    def __init__(self, runtime: "Runtime", shape: tuple[int, ...]) -> None:
        self._runtime = runtime
        nbytes = 4 * int(np.prod(shape))
        self._storage = np.zeros(nbytes + ALIGNMENT, np.uint8)
        start = -self._storage.ctypes.data % ALIGNMENT
        self.array: npt.NDArray[np.float32] = self._storage[start : start + nbytes].view(np.float32).reshape(shape)
        layout = _Layout(rank=len(shape), dimensions=(c_int32 * _MAX_RANK)(*shape))
        self.handle = runtime.create(
            "LiteRtCreateTensorBufferFromHostMemory",
            byref(_RankedTensorType(_FLOAT32, layout)), c_void_p(self.array.ctypes.data), nbytes, None,
        )  # fmt: skip

    def close(self) -> None:
        """Release LiteRT's view; the array stays valid."""
        if self.handle:
            self._runtime.library.LiteRtDestroyTensorBuffer(self.handle)
            self.handle = c_void_p()


class CompiledModel:
    """A compiled graph. The model bytes that it was made from must outlive it (bar those the runtime has packed)."""

    def __init__(self, runtime: "Runtime", address: int, nbytes: int, options: c_void_p) -> None:
        self._runtime = runtime
        self._compiled = c_void_p()
        self._model = runtime.create(
            "LiteRtCreateModelFromBuffer", runtime.environment, c_void_p(address), c_size_t(nbytes)
        )
        try:
            self._compiled = runtime.create("LiteRtCreateCompiledModel", runtime.environment, self._model, options)
        except ExecutorError:
            self.close()
            raise

    def fully_delegated(self) -> bool:
        """Whether every operator runs in XNNPACK, so that no weight is read from the model's bytes any more."""
        answer = ctypes.c_bool()
        self._runtime.call("LiteRtCompiledModelIsFullyAccelerated", self._compiled, byref(answer))
        return answer.value

    def run(self, inputs: Sequence[HostTensor], outputs: Sequence[HostTensor], signature: int = 0) -> None:
        """Execute one of the model's graphs, by its number; the GIL is free meanwhile."""
        ins = (c_void_p * len(inputs))(*(tensor.handle for tensor in inputs))
        outs = (c_void_p * len(outputs))(*(tensor.handle for tensor in outputs))
        self._runtime.call("LiteRtRunCompiledModel", self._compiled, signature, len(inputs), ins, len(outputs), outs)

    def close(self) -> None:
        """Free the packed weights and the arena."""
        if self._compiled:
            self._runtime.library.LiteRtDestroyCompiledModel(self._compiled)
            self._compiled = c_void_p()
        if self._model:
            self._runtime.library.LiteRtDestroyModel(self._model)
            self._model = c_void_p()


class Runtime:
    """The library, one environment and the compile options."""

    def __init__(self, threads: int = 1) -> None:
        self.library = _load_library()
        _return_freed_memory()
        options = (_EnvOption * 2)(
            _EnvOption(_OPTION_MIN_LOG_SEVERITY, _Any(_ANY_INT, _LOG_ERRORS)),
            _EnvOption(_OPTION_AUTO_REGISTER, _Any(_ANY_INT, _CPU)),
        )
        self._threads = threads
        self.options = c_void_p()
        self.environment = self.create("LiteRtCreateEnvironment", len(options), options)
        self.options = self._cpu_options()

    def _cpu_options(self, more: str = "") -> c_void_p:
        options = self.create("LiteRtCreateOptions")
        self.call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
        # LiteRT frees the payload with the function given, so it has to come from the C heap.
        libc = ctypes.CDLL(None)
        libc.strdup.restype, libc.strdup.argtypes = c_void_p, (c_char_p,)
        payload = libc.strdup(f"num_threads = {self._threads}\n{more}".encode())
        free = ctypes.cast(libc.free, c_void_p)
        opaque = self.create("LiteRtCreateOpaqueOptions", _CPU_OPTIONS_ID, c_void_p(payload), free)
        self.call("LiteRtAddOpaqueOptions", options, opaque)
        return options

    def compile(self, address: int, nbytes: int, weight_cache: str | None = None) -> CompiledModel:
        """Compile the model at `address`: XNNPACK packs its weights into memory of its own.

        weight_cache: path of a file that takes the packed weights if it is empty, and replaces them otherwise; mapped
        shared as long as the compiled model lives.
        """
        if weight_cache is None:
            return CompiledModel(self, address, nbytes, self.options)
        options = self._cpu_options(f'weight_cache_file_path = "{weight_cache}"\n')
        try:
            return CompiledModel(self, address, nbytes, options)
        finally:
            self.library.LiteRtDestroyOptions(options)

    def call(self, name: str, *arguments: object) -> None:
        """Call a function that returns a status; raise ExecutorError unless it is Ok."""
        if status := getattr(self.library, name)(*arguments):
            raise ExecutorError(
                f"LiteRT: {name} failed with {_STATUS.get(status, 'an unknown error')} (status {status})"
            )

    def create(self, name: str, *arguments: object) -> c_void_p:
        """Call a function whose last parameter receives a new handle."""
        handle = c_void_p()
        self.call(name, *arguments, byref(handle))
        return handle

    def close(self) -> None:
        """Release options and environment."""
        if self.options:
            self.library.LiteRtDestroyOptions(self.options)
            self.options = c_void_p()
        if self.environment:
            self.library.LiteRtDestroyEnvironment(self.environment)
            self.environment = c_void_p()

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _return_freed_memory() -> None:
    """Have glibc give large blocks back when they are freed, instead of keeping ever larger ones for later.

    Its threshold otherwise grows with the blocks that are freed, and a streamed float32 layer leaves 30 MiB behind.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # neither macOS nor musl has it
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)


def _load_library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("ai_edge_litert")
    if spec is None or not spec.submodule_search_locations:
        raise ExecutorError("no TFLite runtime found: pip install ai-edge-litert")
    suffix = "dylib" if platform.system() == "Darwin" else "so"
    path = Path(next(iter(spec.submodule_search_locations))) / f"libLiteRt.{suffix}"
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise ExecutorError(
            f"cannot use the TFLite runtime {path.name}: {error}; pip install 'ai-edge-litert>=2.3'"
        ) from error
    return library

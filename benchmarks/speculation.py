"""A trained decoder with and without guesses at the next tokens, side by side; the texts must come out the same.

    python -m benchmarks.speculation CHECKPOINT FOLDER TEXT [--last 0.1] [--temperature 0.5] [--streamed --rate-mb 100]

Prompts are spread over the last part of TEXT: what the checkpoint was not trained on. FOLDER keeps the store.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

from device_agent.completion import GenerateOptions
from device_agent.engine import Engine
from device_agent.engine_options import EngineOptions
from device_agent.generator import Generated
from device_agent.plan import Plan, Residency
from device_agent.sampling import Sampling
from host.package import PackageOptions, package

PROMPTS, PROMPT_CHARACTERS, TOKENS, MOST_DRAFTS = 8, 240, 64, (0, 4, 8, 15)
MB = 1e6
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all rows have in common."""

    store: Path
    prompts: tuple[str, ...]
    temperature: float
    streamed: bool
    rate_bytes_per_s: float | None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--last", type=float, default=1.0, help="the part of the text, from its end, with the prompts")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--streamed", action="store_true", help="read every layer for every step")
    parser.add_argument("--rate-mb", type=float, default=None, help="speed of an emulated flash, in MB/s")
    arguments = parser.parse_args()
    store = arguments.folder / f"{arguments.checkpoint.name}-store"
    if not store.exists():
        options = PackageOptions(bitwidths=(8,), slices=1, sequences=(16,))
        package(str(arguments.checkpoint), store, options, lambda *_: None)
    rate = arguments.rate_mb * MB if arguments.rate_mb else None
    prompts = prompts_of(arguments.text.read_text(), arguments.last)
    measure(Conditions(store, prompts, arguments.temperature, arguments.streamed, rate))


def prompts_of(text: str, last: float) -> tuple[str, ...]:
    """The beginnings of equal pieces of the last part of a text."""
    part = text[len(text) - round(last * len(text)) :]
    piece = len(part) // PROMPTS
    return tuple(part[start : start + PROMPT_CHARACTERS] for start in range(0, PROMPTS * piece, piece))


def measure(conditions: Conditions) -> None:
    """A row for every limit of guesses. Raises SystemExit where guesses change a text."""
    print("guesses  ms/token  tokens/step  guessed  right")
    written = set()
    for most in MOST_DRAFTS:
        made, taken_ms = generate(conditions, most)
        written.add(tuple(text.ids for text in made))
        tokens, steps = sum(len(text.ids) for text in made), sum(text.steps for text in made)
        drafted, accepted = sum(text.drafted for text in made), sum(text.accepted for text in made)
        print(f"{most:7} {taken_ms / tokens:9.2f} {tokens / steps:12.2f} {drafted:8} {accepted:6}", flush=True)
    if len(written) != 1:
        raise SystemExit("guesses changed a text")


def generate(conditions: Conditions, most_drafts: int) -> tuple[list[Generated], float]:
    """All texts, one behind the other, and the milliseconds that they took."""
    options = GenerateOptions(TOKENS, Sampling(conditions.temperature, seed=1))
    engine_options = EngineOptions(
        budget_bytes=GIB, throttle_bytes_per_s=conditions.rate_bytes_per_s, most_drafts=most_drafts
    )  # fmt: skip
    with Engine(conditions.store, engine_options) as engine:
        plan = _plan(engine, streamed=conditions.streamed)
        engine.generate(conditions.prompts[0], options, plan)  # what stays is loaded now
        started = time.perf_counter()
        made = [engine.generate(prompt, options, plan) for prompt in conditions.prompts]
        return made, 1e3 * (time.perf_counter() - started)


def _plan(engine: Engine, *, streamed: bool) -> Plan:
    plan = engine.uniform_plan(8)
    return plan.with_residency([Residency.STREAMED] * len(plan.layers)) if streamed else plan


if __name__ == "__main__":
    main()

"""Decode speed of a GPT-2 geometry with random weights: resident, streamed, loaded ahead of the next token, and shared.

    python -m benchmarks.generation FOLDER [--tokens 24] [--rate-mb 200]

FOLDER keeps the checkpoint and its store between runs.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from device_agent.causal_activations import Segment
from device_agent.engine import Engine
from device_agent.engine_options import EngineOptions
from device_agent.plan import Plan
from host.package import PackageOptions, package

LAYERS, HIDDEN, HEADS, VOCABULARY, POSITIONS = 12, 768, 12, 50257, 1024
PROMPT_TOKENS = 16
MB = 1e6
MIB = 1 << 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rate-mb", type=float, default=None, help="speed of an emulated flash, in MB/s")
    arguments = parser.parse_args()
    store = arguments.folder / "store"
    if not store.exists():
        write_random_gpt2(arguments.folder / "model")
        options = PackageOptions(bitwidths=(8,), slices=1, sequences=(16,))
        package(str(arguments.folder / "model"), store, options, lambda *_: None)
    rate = arguments.rate_mb * MB if arguments.rate_mb else None
    print(f"{'':34} ms/token  tokens/s  model peak MiB")
    for name, budget_mib, texts, ahead in (
        ("all resident", 1024, 1, True),
        ("reloaded for every token", 48, 1, False),
        ("loaded ahead of the next token", 48, 1, True),
        ("the same, half of it resident", 96, 1, True),
        ("loaded ahead, 4 texts share", 56, 4, True),
        ("loaded ahead, 16 texts share", 96, 16, True),
    ):
        engine_options = EngineOptions(budget_bytes=budget_mib * MIB, throttle_bytes_per_s=rate)
        with Engine(store, engine_options) as engine:
            seconds = _seconds_per_step(engine, texts, arguments.tokens, ahead=ahead)
            peak = engine.ledger.peak_bytes / MIB
        print(f"{name:34} {1e3 * seconds / texts:8.1f}  {texts / seconds:8.1f}  {peak:14.1f}")


def _seconds_per_step(engine: Engine, texts: int, tokens: int, *, ahead: bool) -> float:
    plan, model = engine.uniform_plan(8), engine.texts.generator.model
    caches = [model.open_cache(plan, PROMPT_TOKENS + tokens) for _ in range(texts)]
    prompt = np.arange(2, 2 + PROMPT_TOKENS)
    model.advance(plan, [Segment(prompt, cache) for cache in caches], _never)
    step = partial(_step, engine, plan, [Segment(np.array([7]), cache) for cache in caches], ahead=ahead)
    step()  # what stays is loaded now
    taken = [_timed(step) for _ in range(tokens - 1)]
    for cache in caches:
        model.close_cache(cache)
    return float(np.median(taken))


def _step(engine: Engine, plan: Plan, segments: list[Segment], *, ahead: bool) -> None:
    engine.texts.generator.model.advance(plan, segments, _never)
    if not ahead:
        engine.texts.generator.model.rest()


def _timed(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _never() -> bool:
    return False


def write_random_gpt2(folder: Path) -> None:
    """Write a Hugging Face directory; words are w0, w1, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": HIDDEN, "n_layer": LAYERS,
        "n_head": HEADS, "n_positions": POSITIONS, "vocab_size": VOCABULARY, "eos_token_id": 0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (VOCABULARY, HIDDEN), "wpe.weight": (POSITIONS, HIDDEN)}
    norms = ["ln_f"]
    for layer in range(LAYERS):
        norms += [f"h.{layer}.ln_1", f"h.{layer}.ln_2"]
        for name, columns, rows in (
            ("attn.c_attn", HIDDEN, 3 * HIDDEN), ("attn.c_proj", HIDDEN, HIDDEN),
            ("mlp.c_fc", HIDDEN, 4 * HIDDEN), ("mlp.c_proj", 4 * HIDDEN, HIDDEN),
        ):  # fmt: skip
            shapes |= {f"h.{layer}.{name}.weight": (columns, rows), f"h.{layer}.{name}.bias": (rows,)}
    tensors = {
        name: (0.03 * random.standard_normal(shape, dtype=np.float32)).astype(np.float16)
        for name, shape in shapes.items()
    }
    tensors |= {f"{norm}.weight": np.ones(HIDDEN, np.float16) for norm in norms}
    tensors |= {f"{norm}.bias": np.zeros(HIDDEN, np.float16) for norm in norms}
    save_file(tensors, folder / "model.safetensors")
    tokenizer = Tokenizer(WordLevel({f"w{index}": index for index in range(VOCABULARY)}, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    main()

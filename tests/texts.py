"""Labelled texts made of words that the golden checkpoints know."""

from pathlib import Path

import numpy as np

WORDS = ("the", "cat", "sat", "on", "warm", "mat", "a", "dull", "film", ".")


def write_texts(path: Path, count: int, seed: int = 0) -> Path:
    """That many texts of two to twelve words, with labels 0 and 1."""
    rng = np.random.default_rng(seed)
    lines = [f"{' '.join(rng.choice(WORDS, rng.integers(2, 13)))}\t{rng.integers(0, 2)}" for _ in range(count)]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path

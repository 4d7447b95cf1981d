"""The exact one-dimensional k-means of the codebook."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host.codebook import Float64Array, fit_codebook, nearest_codes


def squared_distance(values: Float64Array, levels: Float64Array) -> float:
    return float((np.abs(values[:, None] - levels[None, :]).min(axis=1) ** 2).sum())


@given(st.lists(st.floats(-6.0, 6.0), min_size=1, max_size=12), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_no_other_integer_levels_are_closer(numbers: list[float], size: int) -> None:
    values = np.array(numbers)
    best = min(squared_distance(values, np.array(levels)) for levels in combinations(range(-7, 8), size))
    codebook = fit_codebook(values, size)
    assert squared_distance(values, codebook.astype(np.float64)) == pytest.approx(best, abs=1e-9)


@given(st.lists(st.floats(-1e6, 1e6), max_size=40), st.sampled_from([1, 4, 8, 16, 32, 64, 255]))
@settings(max_examples=60, deadline=None)
def test_levels_are_distinct_and_ascend(numbers: list[float], size: int) -> None:
    codebook = fit_codebook(np.array(numbers, np.float64), size).astype(int)
    assert codebook.shape == (size,)
    assert (np.diff(codebook) > 0).all()
    assert codebook[0] >= -127
    assert codebook[-1] <= 127


def test_nearest_codes_pick_the_nearest_level() -> None:
    codebook = np.array([-90, -3, 4, 120], np.int8)
    values = np.random.default_rng(0).uniform(-200, 200, (40, 9))
    chosen = codebook[nearest_codes(values, codebook)].astype(np.float64)
    nearest = np.abs(values[..., None] - codebook.astype(np.float64)).min(axis=-1)
    np.testing.assert_allclose(np.abs(values - chosen), nearest)

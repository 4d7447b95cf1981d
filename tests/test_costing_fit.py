from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.costing.fit import fill_widths, fit_line, fit_prepares, fit_reads

times = st.floats(0, 100)


@given(times, times, st.lists(st.integers(1, 1000), min_size=2, unique=True))
def test_a_line_is_found(base: float, slope: float, xs: Sequence[int]) -> None:
    found = fit_line([(x, base + slope * x) for x in xs])
    assert found == pytest.approx((base, slope), abs=1e-6 * (1 + base + slope * max(xs)))


@given(st.lists(st.tuples(st.floats(1, 1000), times), min_size=1))
def test_neither_base_nor_slope_is_ever_negative(points: list[tuple[float, float]]) -> None:
    base, slope = fit_line(points)
    assert base >= 0 and slope >= 0


def test_reads_are_latency_and_bandwidth() -> None:
    samples = [
        (reads, nbytes, reads * 0.5 + nbytes / 2000) for reads, nbytes in ((6, 60_000), (6, 600_000), (12, 9_000))
    ]
    cost = fit_reads(samples)
    assert (cost.latency_ms, cost.bytes_per_ms) == pytest.approx((0.5, 2000))


def test_reads_that_take_no_time_are_fast_and_not_endless() -> None:
    assert fit_reads([(1, 1000, 0.0)]).ms(1 << 30) < 2


def test_preparation_has_one_base_and_a_slope_for_each_bitwidth() -> None:
    cost = fit_prepares({bits: [(4, 2.0 + 4 * slope), (12, 2.0 + 12 * slope)] for bits, slope in ((2, 0.3), (8, 0.1))})
    assert cost.layer_ms == pytest.approx(2.0)
    assert cost.shard_ms == pytest.approx({2: 0.3, 8: 0.1})


def test_widths_between_are_filled_in() -> None:
    assert fill_widths({1: 1.0, 3: 5.0}, 4) == pytest.approx((1.0, 3.0, 5.0, 5.0))
    assert fill_widths({1: 2.0, 3: 1.0}, 3) == pytest.approx((2.0, 2.0, 2.0)), "more slices never take less"
    assert fill_widths({1: 2.0}, 1) == (2.0,)

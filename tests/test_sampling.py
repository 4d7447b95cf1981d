import numpy as np
import pytest

from device_agent.sampling import Sampler, Sampling
from shard_store.errors import RequestError

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))


def test_greedy_takes_the_likeliest() -> None:
    assert {Sampler(Sampling()).choose(LOGITS) for _ in range(5)} == {1}


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1.0), {1: 0.4, 3: 0.3, 2: 0.2, 0: 0.1}),
        (Sampling(1.0, top_k=2), {1: 4 / 7, 3: 3 / 7}),
        (Sampling(1.0, top_p=0.4), {1: 1.0}),
        (Sampling(1.0, top_p=0.41), {1: 4 / 7, 3: 3 / 7}),
        (Sampling(0.5), {1: 16 / 30, 3: 9 / 30, 2: 4 / 30, 0: 1 / 30}),
        (Sampling(1.0, top_k=3, top_p=0.5), {1: 4 / 7, 3: 3 / 7}),
    ],
)
def test_limits(sampling: Sampling, expected: dict[int, float]) -> None:
    tokens, chances = Sampler(sampling).chances(LOGITS)
    assert dict(zip(tokens.tolist(), chances.tolist(), strict=True)) == pytest.approx(expected, abs=1e-6)


def test_choices_follow_the_chances() -> None:
    sampler = Sampler(Sampling(1.0, seed=0))
    counts = np.bincount([sampler.choose(LOGITS) for _ in range(4000)], minlength=4)
    np.testing.assert_allclose(counts / 4000, np.exp(LOGITS), atol=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 2.1}, "temperature is 2.1, must be 0 to 2"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0, must be above 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Sampling(**options)  # type: ignore[arg-type]

import pytest

from shard_store.token_bucket import TokenBucket


def test_reads_share_one_device() -> None:
    now = 10.0
    sleeps: list[float] = []
    bucket = TokenBucket(100.0, clock=lambda: now, sleep=sleeps.append)
    bucket.spend(50)
    bucket.spend(100)  # queues behind the first
    now = 20.0
    bucket.spend(10)  # idle time is not saved up
    assert sleeps == pytest.approx([0.5, 1.5, 0.1])


def test_the_time_that_the_real_device_took_counts() -> None:
    now = 10.0
    sleeps: list[float] = []
    bucket = TokenBucket(100.0, clock=lambda: now, sleep=sleeps.append)
    asked = bucket.now()
    now = 10.2
    bucket.spend(50, asked)
    bucket.spend(50, asked)  # of another reader, at the same time
    now = 20.0
    bucket.spend(50, 19.0)  # slower than the device that is emulated
    assert sleeps == pytest.approx([0.3, 0.8])


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan")])
def test_impossible_speeds_are_refused(speed: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        TokenBucket(speed)

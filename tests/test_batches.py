from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from device_agent.batches import BATCH_TEXTS, batches, halvings


@given(st.lists(st.sampled_from([16, 32, 64]), min_size=1, max_size=80), st.integers(1, 20))
def test_every_text_is_in_one_batch_of_its_bucket(buckets: Sequence[int], most: int) -> None:
    made = list(batches(buckets, lambda _, texts: min(most, texts)))
    assert sorted(member for batch in made for member in batch.members) == list(range(len(buckets)))
    for batch in made:
        assert {buckets[member] for member in batch.members} == {batch.sequence}
        assert 1 <= len(batch.members) <= min(most, BATCH_TEXTS)
    left = [batch.texts_left for batch in made]
    assert left[0] == len(buckets) and left[-1] == len(made[-1].members)
    assert all(before - len(batch.members) == after for batch, before, after in zip(made, left, left[1:], strict=False))


def test_sizes_are_halved_down_to_one() -> None:
    assert list(halvings(16)) == [16, 8, 4, 2, 1]
    assert list(halvings(11)) == [11, 6, 3, 2, 1]
    assert list(halvings(1)) == [1]

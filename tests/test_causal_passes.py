"""Which bucket steps take that guess, and where they may."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.causal_passes import CausalPasses, Drafting
from device_agent.engine import Engine
from device_agent.pipeline import Pass
from device_agent.plan import Plan, Residency
from tests.decoders import GPT2, LAYERS, write_decoder
from tests.packaging import package_quietly

MOST = 7


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("passes")
    model = write_decoder(folder / "model", GPT2)
    return package_quietly(model, folder / "store", sequences=(4, 16), bitwidths=(8,), slices=1)


@pytest.fixture(scope="module")
def engine(store: Path) -> Iterator[Engine]:
    with Engine(store) as engine:
        yield engine


def within(engine: Engine, budget_bytes: int) -> CausalPasses:
    """The passes of a decoder that has so much memory."""
    known = engine.texts.generator.model.passes
    return CausalPasses(
        known.description, known.vocabulary, known.footprint_of, lambda: budget_bytes, known.held_bytes
    )  # fmt: skip


def stays(job: Pass) -> bool:
    return all(layer.residency is Residency.RESIDENT for layer in job.plan.layers)


def streamed(engine: Engine) -> Plan:
    return engine.uniform_plan().with_residency([Residency.STREAMED] * LAYERS)


def bytes_of(engine: Engine, sequence: int, *, whole: bool) -> int:
    """Memory of steps of a bucket, all of whose layers stay or none, with the logits of guesses."""
    passes, plan = engine.texts.generator.model.passes, engine.uniform_plan()
    plan = plan.with_residency([Residency.RESIDENT if whole else Residency.STREAMED] * LAYERS)
    return passes.footprint(plan, sequence, 4 * passes.vocabulary * MOST).peak_bytes(plan)


def test_texts_guess_in_the_rows_that_their_bucket_has_left(engine: Engine) -> None:
    passes, plan = engine.texts.generator.model.passes, engine.uniform_plan()
    found = {texts: passes.drafting(plan, texts, MOST) for texts in (1, 2, 3, 4, 5, 14, 16, 17)}
    assert {texts: drafting.most if drafting else 0 for texts, drafting in found.items()} == {
        1: 7, 2: 2, 3: 1, 4: 0, 5: 7, 14: 2, 16: 0, 17: 0,
    }  # fmt: skip
    assert all(drafting is None or drafting.sequence in {4, 16} for drafting in found.values())
    assert passes.drafting(plan, 1, 0) is None


def test_steps_without_a_guess_take_the_smallest_bucket_where_layers_of_both_stay(engine: Engine) -> None:
    passes, plan = engine.texts.generator.model.passes, engine.uniform_plan()
    drafting = passes.drafting(plan, 1, MOST)
    assert drafting == Drafting(16, 1, MOST, 4 * passes.vocabulary * MOST, streams=False)
    assert [passes.job(plan, tokens, drafting).sequence for tokens in (1, 2, 8)] == [1, 16, 16]
    assert all(stays(passes.job(plan, tokens, drafting)) for tokens in (1, 8))


def test_steps_that_read_layers_have_one_bucket(engine: Engine) -> None:
    passes, plan = engine.texts.generator.model.passes, streamed(engine)
    drafting = passes.drafting(plan, 1, MOST)
    assert drafting is not None
    assert drafting.streams
    assert [passes.job(plan, tokens, drafting).sequence for tokens in (1, 2, 8)] == [16, 16, 16]
    assert [passes.job(plan, tokens).sequence for tokens in (1, 2, 8)] == [1, 4, 16]


def test_a_text_whose_layers_all_stay_does_not_guess_where_that_would_drop_some(engine: Engine) -> None:
    roomy = bytes_of(engine, 16, whole=True)
    assert within(engine, roomy).drafting(engine.uniform_plan(), 1, MOST) is None
    assert stays(within(engine, roomy).job(engine.uniform_plan(), 1))
    shared = within(engine, roomy).drafting(engine.uniform_plan(), 9, MOST)
    assert shared is not None
    assert not shared.streams
    assert stays(within(engine, roomy).job(engine.uniform_plan(), 16, shared))


def test_a_text_some_of_whose_layers_stay_guesses(engine: Engine) -> None:
    passes = within(engine, bytes_of(engine, 1, whole=True) - 50_000)  # less than a layer
    assert not stays(passes.job(engine.uniform_plan(), 1))
    drafting = passes.drafting(engine.uniform_plan(), 1, MOST)
    assert drafting is not None
    assert (drafting.streams, drafting.bare_sequence) == (True, 16)


def test_where_there_is_no_room_for_logits_there_are_no_guesses(engine: Engine) -> None:
    plan = engine.uniform_plan().with_residency([Residency.STREAMED] * LAYERS)
    least = bytes_of(engine, 16, whole=False)
    assert within(engine, least).drafting(plan, 1, MOST) is not None
    assert within(engine, least // 2).drafting(plan, 1, MOST) is None

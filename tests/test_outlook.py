"""What margins and plans that run already do to choices."""

from dataclasses import replace

import pytest

from device_agent.lateness import LEAST_MARGIN, length_of
from device_agent.outlook import Outlook
from device_agent.planning.ask import Ask
from tests.planning_facts import random_facts

ASK = Ask(64, 1 << 30, target_ms=60.0, residency=False)
FACTS = random_facts(1, 4, 4, (2, 4, 8))
LENGTH = length_of(60.0)


def test_plans_leave_the_margin_where_they_can() -> None:
    assert Outlook(FACTS, {}).choose(ASK).predicted_ms <= 60.0 / LEAST_MARGIN
    wide = Outlook(FACTS, {LENGTH: 1.5})
    assert wide.choose(ASK).predicted_ms <= 40.0
    hasty_ms = 1.01 * wide.choose(replace(ASK, target_ms=0.1)).predicted_ms
    hasty = Outlook(FACTS, {length_of(hasty_ms): 1.5}).choose(replace(ASK, target_ms=hasty_ms))
    assert hasty.met, "where no plan leaves it, the target itself counts"


def test_other_margins_are_for_targets_of_that_length() -> None:
    assert Outlook(FACTS, {LENGTH + 1: 1.5}).choose(ASK) == Outlook(FACTS, {}).choose(ASK)


def test_a_plan_that_runs_is_kept_with_half_the_margin() -> None:
    outlook = Outlook(FACTS, {LENGTH: 1.2})
    old = Outlook(FACTS, {LENGTH: 1.1}).choose(ASK)
    assert old.predicted_ms > 50.0, "more than the margin allows"
    outlook.hold(ASK, old)
    assert outlook.choose(ASK).plan == old.plan
    late = Outlook(FACTS, {}).choose(ASK)
    assert late.predicted_ms > 60.0 / 1.1
    outlook = Outlook(FACTS, {LENGTH: 1.2})
    outlook.hold(ASK, late)
    assert outlook.choose(ASK).predicted_ms <= 50.0


def test_a_plan_that_another_beats_is_not_kept() -> None:
    outlook = Outlook(FACTS, {})
    worse = outlook.choose(replace(ASK, target_ms=30.0))
    assert worse.predicted_loss > 1.2 * outlook.choose(ASK).predicted_loss
    outlook.hold(ASK, worse)
    assert outlook.choose(ASK).plan != worse.plan


def test_costs_stay_when_margins_change() -> None:
    outlook = Outlook(FACTS, {})
    other = outlook.with_margins({LENGTH: 1.5})
    assert other.facts is outlook.facts
    assert other.choose(ASK).predicted_ms <= 40.0
    assert outlook.choose(ASK).predicted_ms == pytest.approx(Outlook(FACTS, {}).choose(ASK).predicted_ms)

"""Which plan a request gets."""

import pytest

from device_agent.plan import LayerPlan, Plan
from device_agent.plan_choice import PlanChoice
from shard_store.errors import PlanError

PLAN = Plan((LayerPlan(0, (2, 8)),))


class Recorder:
    """A planner that notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int | None, int | None, int | None]] = []

    def uniform_plan(self, bits: int | None = None, layers: int | None = None, slices: int | None = None) -> Plan:
        self.asked.append((bits, layers, slices))
        return PLAN


def test_a_plan_excludes_numbers() -> None:
    with pytest.raises(PlanError, match="either a plan or bits, layers and slices"):
        PlanChoice(layers=1, plan=PLAN)


@pytest.mark.parametrize(
    ("own", "default", "result"),
    [
        (PlanChoice(), PlanChoice(bits=4), PlanChoice(bits=4)),
        (PlanChoice(), PlanChoice(plan=PLAN), PlanChoice(plan=PLAN)),
        (PlanChoice(plan=PLAN), PlanChoice(bits=4), PlanChoice(plan=PLAN)),
        (PlanChoice(layers=2), PlanChoice(bits=4, layers=3), PlanChoice(bits=4, layers=2)),
        (PlanChoice(layers=2), PlanChoice(plan=PLAN), PlanChoice(layers=2)),
    ],
)
def test_what_is_left_open_comes_from_the_default(own: PlanChoice, default: PlanChoice, result: PlanChoice) -> None:
    assert own.over(default) == result


def test_numbers_go_to_the_planner_and_a_plan_does_not() -> None:
    planner = Recorder()
    assert PlanChoice(2, 3, 4).resolve(planner) == PLAN
    assert planner.asked == [(2, 3, 4)]
    assert PlanChoice(plan=PLAN).resolve(planner) is PLAN
    assert len(planner.asked) == 1

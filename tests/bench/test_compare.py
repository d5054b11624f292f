"""What two runs are said to differ in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.cases import PLANS, chosen
from bench.compare import Move, compare, regressions
from bench.result import FLOOR, Arm, Case, Figures, Run, load, save

HERE = {"cpu": "one", "cores": "2"}


def figures(rate: float, cpu: float = 50.0) -> Figures:
    return Figures(100, 1000, 1000 / rate, rate, 1e5 / rate, 2e5 / rate, 30.0, 0.03, {"engine": cpu})


def run_of(
    floor: Sequence[float], ours: Sequence[float], *, machine: dict[str, str] | None = None, cpu: Sequence[float] = ()
) -> Run:
    """A run with one case, the floor and one arm, from the steps/s of each round."""
    costs = cpu or [50.0] * len(ours)
    arms = [Arm("postgresql", [figures(rate, cost) for rate, cost in zip(ours, costs, strict=True)])]
    if floor:
        arms.insert(0, Arm(FLOOR, [figures(rate) for rate in floor]))
    return Run("2026-01-01T00:00:00+00:00", "bench", machine or HERE, {}, {}, [Case("floor-linear", 64, 10, arms)])


def move(moves: list[Move], arm: str, figure: str) -> Move:
    return next(one for one in moves if (one.arm, one.figure) == (arm, figure))


def test_a_slower_machine_is_no_regression() -> None:
    before = run_of([10_000, 10_100, 9_900], [5_000, 5_050, 4_950])
    after = run_of([5_000, 5_100, 4_900], [2_500, 2_550, 2_450], machine={"cpu": "other", "cores": "2"})
    moves = compare(before, after)
    assert not any(one.moved for one in moves)
    assert {one.figure for one in moves if one.arm == "postgresql"} == {"steps/s / floor", "p50 / floor"}
    assert not any(one.arm == FLOOR for one in moves)


def test_a_busier_machine_is_no_regression() -> None:
    before = run_of([10_000] * 3, [5_000] * 3, cpu=[50, 51, 52])
    after = run_of([5_000] * 3, [2_500] * 3, cpu=[70, 71, 72])
    assert regressions(compare(before, after)) == []


def test_a_lower_ratio_to_the_floor_is_a_regression() -> None:
    moves = compare(run_of([10_000] * 3, [5_000, 5_100, 4_900]), run_of([10_000] * 3, [4_000, 4_100, 3_900]))
    rate = move(moves, "postgresql", "steps/s / floor")
    assert rate.moved
    assert not rate.better
    assert rate.change == pytest.approx(-0.2)
    assert {one.figure for one in regressions(moves)} == {"steps/s / floor", "p50 / floor"}


def test_a_higher_ratio_is_better_and_a_lower_p50_too() -> None:
    moves = compare(run_of([10_000] * 3, [4_000] * 3), run_of([10_000] * 3, [5_000] * 3))
    assert move(moves, "postgresql", "steps/s / floor").better
    assert move(moves, "postgresql", "p50 / floor").better
    assert regressions(moves) == []


def test_rounds_that_overlap_are_noise() -> None:
    moves = compare(run_of([10_000] * 3, [4_000, 5_000, 6_000]), run_of([10_000] * 3, [3_000, 4_100, 4_200]))
    assert not move(moves, "postgresql", "steps/s / floor").moved


def test_a_small_difference_is_no_news_however_steady() -> None:
    before, after = run_of([10_000] * 3, [5_000] * 3), run_of([10_000] * 3, [4_900] * 3)
    assert not any(one.moved for one in compare(before, after))
    assert move(compare(before, after, least=0.01), "postgresql", "steps/s / floor").moved


def test_cpu_costs_are_told_on_the_same_kind_of_machine() -> None:
    before = run_of([10_000] * 3, [5_000] * 3, cpu=[50, 51, 52])
    after = run_of([10_000] * 3, [5_000] * 3, cpu=[70, 71, 72])
    cost = move(compare(before, after), "postgresql", "CPU engine")
    assert cost.moved
    assert not cost.better


def test_without_a_floor_absolute_figures_count_on_the_same_kind_of_machine_only() -> None:
    before, after = run_of([], [5_000] * 3), run_of([], [4_000] * 3)
    assert move(compare(before, after), "postgresql", "steps/s").moved
    after.machine = {"cpu": "other", "cores": "2"}
    assert compare(before, after) == []


def test_cases_are_compared_with_their_likes() -> None:
    before, after = run_of([10_000] * 3, [5_000] * 3), run_of([10_000] * 3, [1_000] * 3)
    after.cases[0].steps_per_flow = 3
    assert compare(before, after) == []


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    run = run_of([10_000] * 3, [5_000] * 3)
    save(run, tmp_path / "results" / "a.json")
    assert load(tmp_path / "results" / "a.json") == run


def test_the_command_tells_a_regression_by_its_exit_code(tmp_path: Path) -> None:
    good, bad, junk = (str(tmp_path / name) for name in ("good.json", "bad.json", "junk.json"))
    save(run_of([10_000] * 3, [5_000] * 3), Path(good))
    save(run_of([10_000] * 3, [1_000] * 3), Path(bad))
    Path(junk).write_text("{}")
    assert main(["compare", good, good]) == 0
    assert main(["compare", good, bad]) == 1
    assert main(["compare", bad, good]) == 0
    assert main(["compare", good, junk]) == 2


def test_cases_are_chosen_by_name_or_key() -> None:
    assert chosen([], quick=False) == [plan for plan in PLANS if plan.by_default]
    assert [plan.key for plan in chosen(["backlog"], quick=False)]
    assert [plan.key for plan in chosen(["floor-linear/64"], quick=False)] == ["floor-linear/64"]
    assert [plan.concurrency for plan in chosen(["floor-linear"], quick=True)] == [64, 256]
    assert all(plan.flows >= plan.concurrency for plan in chosen([], quick=True))
    with pytest.raises(ValueError, match="floor-linear"):
        chosen(["florr"], quick=False)

"""What two runs are said to differ in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.cases import PLANS, chosen
from bench.compare import Move, compare, regressions
from bench.result import FLOOR, Arm, Case, Figures, Run, load, save
from bench.targets import targets

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


def based(one: Sequence[float], other: Sequence[float], **measures: list[float]) -> Run:
    """A run of a case whose arms are measured against its first one."""
    arms = [Arm("16", [figures(rate) for rate in one]), Arm("1,000", [figures(rate) for rate in other])]
    for name, values in measures.items():
        for round_, value in zip(arms[1].rounds, values, strict=True):
            round_.measures[name] = value
    return Run("2026-01-01T00:00:00+00:00", "bench", HERE, {}, {}, [Case("fan-out", 1024, 18, arms, base="16")])


def test_arms_are_compared_as_ratios_to_the_arm_their_case_is_measured_against() -> None:
    moves = compare(based([1_000] * 3, [900] * 3), based([500] * 3, [250] * 3))
    assert move(moves, "1,000", "steps/s / 16").change == pytest.approx(-0.444, abs=0.001)
    assert {one.arm for one in regressions(moves)} == {"1,000"}
    assert move(moves, "16", "steps/s").moved
    assert not move(moves, "16", "steps/s").judged


def test_memory_is_judged_and_what_follows_the_load_is_told() -> None:
    before = based([1_000] * 3, [900] * 3, rss_mib=[100] * 3, us_per_branch=[100] * 3)
    after = based([1_000] * 3, [900] * 3, rss_mib=[150] * 3, us_per_branch=[150] * 3)
    moves = compare(before, after)
    assert move(moves, "1,000", "us_per_branch").moved
    assert [one.figure for one in regressions(moves)] == ["rss_mib"]


def test_a_case_says_where_it_stands_to_its_target() -> None:
    run = based([1_000] * 3, [900] * 3)
    for arm, cost in zip(run.cases[0].arms, (100.0, 160.0), strict=True):
        for one in arm.rounds:
            one.measures["us_per_branch"] = cost
    (target,) = targets(run.cases)
    assert target.value == pytest.approx(1.6)
    assert not target.met


def test_the_cost_of_a_field_is_what_it_adds_to_a_step() -> None:
    arms = [Arm(name, [figures(rate)] * 3) for name, rate in (("no text", 1000), ("unchanged", 800), ("changed", 500))]
    (target,) = targets([Case("payload", 16, 10, arms, base="no text", label="4KB")])
    assert target.value == pytest.approx(0.25)
    assert target.met


def test_other_engines_count_at_their_best_concurrency() -> None:
    def at(concurrency: int, theirs: float, ours: float) -> Case:
        arms = [Arm("dbos", [figures(theirs)] * 3), Arm("postgresql", [figures(ours)] * 3)]
        return Case("peers", concurrency, 3, arms, base="dbos", label=f"3x{concurrency}")

    idle, best = targets([at(1, 200, 400), at(64, 100, 1_000)])
    assert idle.value == pytest.approx(0.5)
    assert idle.met
    assert best.value == pytest.approx(5)
    assert not best.met


def test_sizes_are_for_the_cases_that_have_some() -> None:
    assert [plan.sizes for plan in chosen(["history"], quick=False, sizes=[10])] == [(10,)]
    assert [plan.key for plan in chosen(["payload"], quick=False, sizes=[2048, 100])] == ["payload/2KB", "payload/100B"]
    for names in (["floor-linear"], ["memory"], ["peers"]):
        with pytest.raises(ValueError):
            chosen(names, quick=False, sizes=[10])


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
    assert chosen(["all"], quick=False) == list(PLANS)
    assert [plan.key for plan in chosen(["floor-linear/64"], quick=False)] == ["floor-linear/64"]
    assert [plan.concurrency for plan in chosen(["floor-linear"], quick=True)] == [64, 256]
    assert all(plan.flows >= plan.concurrency for plan in chosen(["all"], quick=True) if not (plan.timed or plan.rate))
    with pytest.raises(ValueError, match="floor-linear"):
        chosen(["florr"], quick=False)

"""The model of what a load needs, on numbers that are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.__main__ import main
from bench.fitting import Line, fit_cost, fit_slope
from bench.result import Arm, Case, Figures, Run, load, save
from bench.sizing import COMMITS, SDK_WORKER, WORKER, Bounds, Model, fit, points_of
from bench.sizing_table import MEASURED_RUNS, PAGE, renewed, sections

COSTS = {
    "engine": Line(50, 300),
    "database": Line(20, 400),
    "nats": Line(8, 100),
    WORKER: Line(20, 100),
    SDK_WORKER: Line(40, 100),
}
TOLD = {"engine": 2.0, "database": 0.0, "nats": 0.5, WORKER: 0.0, SDK_WORKER: 0.0}
LOADS = ((1_000, 1.2), (5_000, 0.1), (12_000, 0.01))
"""Steps a second of a committer, and commits for a step."""


def arm(load: float, x: float, replicas: int = 1, *, sdk_worker: bool = False) -> Arm:
    """What `COSTS` and `TOLD` would have had measured, with a round that is off on each side."""
    named = {
        "workers" if part in (WORKER, SDK_WORKER) else part: part
        for part in COSTS
        if part != (WORKER if sdk_worker else SDK_WORKER)
    }
    cpu = {key: COSTS[part].at(x) + TOLD[part] * (replicas - 1) * x for key, part in named.items()}
    rounds = [
        Figures(
            100, 1_000, 1.0, load * replicas, 10.0, 20.0, 1 / x, x, {part: cost * off for part, cost in cpu.items()},
            measures={"wal_bytes_per_step": 1_000 + 100 * x},
        )
        for off in (0.5, 1.0, 3.0)
    ]  # fmt: skip
    return Arm(f"{load} {replicas} {sdk_worker}", rounds, replicas=replicas, sdk_worker=sdk_worker)


def run_of(*arms: Arm) -> Run:
    return Run("2026-01-01T00:00:00+00:00", "bench", {}, {}, {}, [Case("capacity", 64, 10, list(arms), base="")])


@pytest.fixture
def run() -> Run:
    alone = [arm(load, x, sdk_worker=sdk) for load, x in LOADS for sdk in (False, True)]
    run = run_of(*alone)
    light = [arm(400 / replicas, 1.1, replicas) for replicas in (1, 2, 4, 8)]
    light += [arm(400 / parts, 1.1) for parts in (2, 4, 8)]
    run.cases.append(Case("coordination", 64, 10, light, base="", label="light", offered=True))
    return run


@pytest.fixture
def model(run: Run) -> Model:
    return fit(points_of([run]))


def test_a_line_is_found_again() -> None:
    assert fit_cost([(x, 20 + 300 * x) for x in (0.01, 0.2, 1.2)]) == pytest.approx(Line(20, 300))
    assert fit_slope([(1, 2), (3, 6), (7, 14)]) == pytest.approx(2)


@pytest.mark.parametrize(
    ("points", "line"),
    [
        ([(0.5, 30.0)], Line(30, 0)),
        ([(0.1, 30.0), (1.0, 30.0)], Line(30, 0)),
        ([(0.1, 60.0), (1.0, 30.0)], Line(36, 0)),  # no cost falls with the commits
        ([(1.0, 10.0), (2.0, 40.0)], Line(0, 12)),  # nor is one negative without any
    ],
)
def test_costs_are_not_negative(points: list[tuple[float, float]], line: Line) -> None:
    assert fit_cost(points) == pytest.approx(line)
    assert fit_slope([(1, -2), (3, -6)]) == 0


def test_the_model_finds_what_the_points_were_made_of(model: Model) -> None:
    """The median round counts, so rounds that are off do not."""
    for part, line in COSTS.items():
        assert model.costs[part] == pytest.approx(line)
        assert model.told.get(part, 0.0) == pytest.approx(TOLD[part], abs=1e-9)
    assert model.wal == pytest.approx(Line(1_000, 100))
    assert model.capacity() == pytest.approx(1e6 / 53)


def test_the_model_fits_its_points(run: Run, model: Model) -> None:
    points = points_of([run])
    residuals = list(model.residuals(points))
    assert len(residuals) == len(points) * 4 + sum(point.offered for point in points)
    assert all(one.share == pytest.approx(0, abs=1e-9) for one in residuals if one.part != COMMITS)


def test_commits_follow_loads_that_came_by_the_clock(run: Run) -> None:
    """A saturated service has larger groups at the same load."""
    offered = [arm(rate, 0.9 * x) for rate, x in LOADS]
    run.cases.append(Case("offered", 64, 10, offered, base="", label="load", offered=True))
    model = fit(points_of([run]))
    assert model.commits_per_step(5_000) == pytest.approx(0.09)
    assert model.capacity() == pytest.approx(1e6 / 52.7)


def test_smaller_groups_are_not_taken_for_what_replicas_cost_each_other(run: Run) -> None:
    """Where steps share commits, several replicas share fewer of them than one."""
    busy = [arm(8_000 / replicas, 0.01 * replicas, replicas) for replicas in (1, 2, 4)]
    run.cases.append(Case("coordination", 64, 10, busy, base="", label="full"))
    assert fit(points_of([run])).told["engine"] == pytest.approx(2.0)


def test_a_replica_is_compared_with_one_that_has_its_load(run: Run) -> None:
    """A replica with less to do wakes up for less, and costs more a step: that is no cost of the others."""
    (case,) = (case for case in run.cases if case.label == "light")
    for one in case.arms:
        for figures in one.rounds:
            if figures.steps_per_s < 400 or one.replicas > 1:
                figures.cpu_us["engine"] += 20.0
    (alone,) = (one for one in case.arms if one.replicas == 1 and one.rounds[0].steps_per_s == 400)
    for figures in alone.rounds:
        figures.cpu_us["engine"] += 500.0
    assert fit(points_of([run])).told["engine"] == pytest.approx(2.0, abs=0.01)


def test_commits_are_read_between_points_and_never_beyond(model: Model) -> None:
    assert model.commits_per_step(1) == pytest.approx(1.2)
    assert model.commits_per_step(5_000) == pytest.approx(0.1)
    assert 0.01 < model.commits_per_step(8_000) < 0.1
    assert model.commits_per_step(1_000_000) == pytest.approx(0.01)


def test_a_replica_commits_to_each_shard_as_long_as_its_core_has_time(model: Model) -> None:
    assert model.commits_per_step(5_000, shards=2) == pytest.approx(0.2)
    # 200 µs for each step: 50 for itself, so 150 for commits of 300.
    assert model.commits_per_step(5_000, shards=8) == pytest.approx(0.5)
    assert model.commits_per_step(100_000, shards=8) == pytest.approx(8 * 0.01)


def test_commits_that_rise_with_the_load_are_noise() -> None:
    model = fit(
        points_of(
            [
                run_of(
                    *(
                        arm(load, x, sdk_worker=sdk)
                        for load, x in ((1_000, 0.1), (2_000, 0.4), (8_000, 0.01))
                        for sdk in (False, True)
                    )
                )
            ]
        )
    )
    assert [x for _, x in model.commits] == pytest.approx([0.2, 0.01])


def test_what_a_small_load_needs(model: Model) -> None:
    need = model.need(1_000, Bounds())
    assert (need.replicas, need.shards, need.bound) == (1, 1, "")
    assert need.database_cores == pytest.approx(1_000 * (20 + 400 * 1.2) / 1e6)
    assert need.commits_per_s == pytest.approx(1_200)
    assert (need.workers, need.sdk_workers) == (1, 1)


def test_replicas_are_the_fewest_that_stay_below_the_utilisation(model: Model) -> None:
    """A further replica costs every commit something, so the number grows faster than the load."""
    for rate in (30_000, 60_000, 100_000):
        need = model.need(rate, Bounds(log_mb_per_s=1_000, database_cores=1_000))

        def used(replicas: int, rate: int = rate) -> float:
            return rate / replicas * (50 + 0.01 * (300 + 2 * (replicas - 1))) / 1e6

        assert used(need.replicas) <= 0.6 < used(need.replicas - 1)


def test_the_log_calls_for_shards(model: Model) -> None:
    need = model.need(100_000, Bounds(log_mb_per_s=60, database_cores=1_000))
    assert (need.shards, need.bound) == (2, "log")
    assert need.log_mb_per_s / need.shards <= 60


def test_cores_of_the_database_call_for_shards(model: Model) -> None:
    """A replica commits to each shard, so shards make groups smaller, and a step dearer."""
    one = model.need(30_000, Bounds(log_mb_per_s=1_000, database_cores=1_000))
    need = model.need(30_000, Bounds(log_mb_per_s=1_000, database_cores=1))
    assert need.bound == "cores of PostgreSQL"
    assert need.shards > 1
    assert need.database_cores / need.shards <= 0.6
    assert need.database_cores > one.database_cores


def test_a_load_that_nothing_carries_is_refused() -> None:
    """Each further replica costs the others more than it carries."""
    telling = Model(dict(COSTS), Line(1_000, 0), [(1_000, 0.1)], {"engine": 10_000.0}, 0.1)
    with pytest.raises(ValueError, match="more than 1000 replicas carry"):
        telling.need(100_000, Bounds())


def test_too_few_points_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least three loads"):
        fit(points_of([run_of(arm(1_000, 1.0))]))
    with pytest.raises(ValueError, match="CPU time of the part SDK worker"):
        fit(points_of([run_of(*(arm(load, x) for load, x in LOADS))]))
    save(run_of(arm(1_000, 1.0)), tmp_path / "few.json")
    assert main(["sizing", str(tmp_path / "few.json")]) == 1
    assert "run the case capacity" in capsys.readouterr().err


def test_the_command_writes_the_page(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "a\n<!-- measured: begin --><!-- measured: end -->\nb\n<!-- extrapolated: begin -->old<!-- extrapolated: end -->\nc\n"
    )
    save(run, tmp_path / "run.json")
    command = ["sizing", str(tmp_path / "run.json"), "--steps-per-s", "20000", "--write", str(page)]
    assert main(command) == 0
    text = page.read_text()
    assert "| 20,000 |" in text
    assert "old" not in text
    assert text.endswith("<!-- extrapolated: end -->\nc\n")
    assert "modelled" in capsys.readouterr().out
    assert main(command) == 0
    assert page.read_text() == text


def test_a_page_without_the_place_is_refused() -> None:
    with pytest.raises(ValueError, match="measured: begin"):
        renewed("nothing here", {"measured": "x"})


@pytest.mark.parametrize("pin", ["engine", "engine=", "engine=x", "wheels=0", "engine=100000"])
def test_pins_that_cannot_be_are_refused(pin: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["floor-linear", "--pin", pin])
    assert ended.value.code == 2
    assert "--pin" in capsys.readouterr().err


def test_the_page_says_what_the_model_says_of_the_runs_that_are_kept() -> None:
    """`python -m bench sizing bench/measured/*.json --write` renews it."""
    runs = [load(path) for path in sorted(MEASURED_RUNS.glob("*.json"))]
    page = PAGE.read_text()
    assert renewed(page, sections(runs, Bounds())) == page

"""The table and the picture of all engines, from results made here and from the quoted ones."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from bench.__main__ import main
from bench.compare import compare
from bench.engines import MARK, NAMES, QUOTED, markdown, rows
from bench.picture import svg
from bench.result import Arm, Case, Figures, Run, load, save
from bench.showing import show

SVG = "{http://www.w3.org/2000/svg}"


def arm(name: str, rate: float, p50: float, **cpu: float) -> Arm:
    return Arm(name, [Figures(10, 100, 1.0, rate, p50, 2 * p50, cpu_us=cpu)])


def run(*cases: Case, started: str = "2026-11-30T20:00:00+00:00") -> Run:
    return Run(started, "bench peers", {"cpu": "one", "cores": "2", "system": "Linux"}, {}, {}, list(cases))


def case(at: int, *arms: Arm, steps: int = 10) -> Case:
    return Case("peers", at, steps, list(arms), base="postgresql", label=f"{steps}x{at}")


MEASURED = run(
    case(1, arm("postgresql", 760, 12.7, engine=440, nats=250), arm("dbos", 300, 32.8, engine=3000)),
    case(64, arm("postgresql", 8600, 71.5, engine=72, workers=27, nats=17), arm("dbos", 290, 2100, engine=2900)),
    case(1, arm("postgresql", 1, 1), steps=3),
    Case("floor-linear", 64, 10, [arm("sqlite", 9999, 1)]),
)
ELSEWHERE = run(
    case(1, arm("temporal-go", 29, 340.3, engine=15417), arm("dbos", 1, 1)),
    case(16, arm("temporal-go", 104, 1350.9, engine=7875, database=6000)),
)


def test_a_row_is_an_engine_at_its_best_and_alone() -> None:
    """Other cases and other numbers of steps are not mixed in, and what was measured is not quoted as well."""
    ours, dbos, temporal = rows([MEASURED], [ELSEWHERE], 10)
    assert (ours.name, ours.ours, ours.quoted) == (NAMES["postgresql"], True, False)
    assert (ours.steps_per_s, ours.at, ours.p50_ms) == (8600, 64, 12.7)
    assert ours.cpu_us == {"engine": 72, "workers": 27, "nats": 17}
    assert (dbos.steps_per_s, dbos.at, dbos.p50_ms, dbos.ours, dbos.quoted) == (300, 1, 32.8, False, False)
    assert (temporal.steps_per_s, temporal.at, temporal.p50_ms, temporal.quoted) == (104, 16, 340.3, True)
    assert temporal.cpu_sum == 13875
    assert temporal.label == f"{NAMES['temporal-go']} {MARK}"


def test_an_engine_that_never_ran_alone_has_no_such_figure() -> None:
    (ours,) = rows([run(case(256, arm("sqlite", 10, 20.0)))], [], 10)
    assert ours.p50_ms is None
    assert ours.cpu_us == {}
    assert markdown([ours]).splitlines()[-1] == "| **dwarf-nats, SQLite** | 10 | 256 |  |  |"
    ElementTree.fromstring(svg([ours], 10, "here"))


def test_a_later_run_of_a_case_replaces_an_earlier_one() -> None:
    """Otherwise the best of many runs would be shown, of ours more often than of theirs."""
    slower = run(case(64, arm("postgresql", 5000, 99, engine=100)))
    found = {row.name: row.steps_per_s for row in rows([MEASURED, slower], [], 10)}
    assert found == {NAMES["postgresql"]: 5000, NAMES["dbos"]: 300}


def test_the_table_has_the_cpu_of_each_process() -> None:
    table = markdown(rows([MEASURED], [ELSEWHERE], 10)).splitlines()
    assert table[0] == (
        "| engine | steps/s | at once | p50 alone, ms | CPU µs a step | engine | workers | database | nats |"
    )
    assert table[2] == "| **dwarf-nats, PostgreSQL** | 8,600 | 64 | 12.7 | 116 | 72 | 27 |  | 17 |"
    assert table[4] == "| Temporal, activities, Go † | 104 | 16 | 340.3 | 13,875 | 7,875 |  | 6,000 |  |"


def test_the_picture_places_each_figure_on_its_scale() -> None:
    """Ours is told from theirs, the quoted are hollow, and all is within the picture."""
    shown = rows([MEASURED], [ELSEWHERE], 10)
    drawn = ElementTree.fromstring(svg(shown, 10, "a <machine> & more"))
    dots = drawn.findall(f"{SVG}circle")
    assert [dot.get("class") for dot in dots] == ["ours", "theirs", "theirs quoted"] * 3
    rates, waits, costs = ([float(dot.get("cx", "")) for dot in dots[at : at + 3]] for at in (0, 3, 6))
    assert rates[0] > rates[1] > rates[2]
    assert waits[0] < waits[1] < waits[2]
    assert costs[0] < costs[1] < costs[2]
    assert max(costs) < float(drawn.get("width", ""))
    texts = [text.text for text in drawn.iter(f"{SVG}text")]
    assert {row.label for row in shown} <= set(texts)
    assert {"8,600", "12.7", "116", "13,875"} <= set(texts)
    assert any(text and "a <machine> & more" in text for text in texts)


def test_the_picture_is_readable_in_light_and_dark() -> None:
    """Every class that has a color in the light theme has another one in the dark, the paper among them."""
    style = ElementTree.fromstring(svg(rows([MEASURED], [], 10), 10, "here")).findtext(f"{SVG}style", "")
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for kind in (".paper", ".ink", ".faint", ".grid", ".ours", ".theirs", ".quoted"):
        of_light, of_dark = (part.partition(f"{kind} {{")[2].partition("}")[0] for part in (light, dark))
        assert of_light
        assert of_dark
        assert of_light != of_dark


def test_what_is_quoted_says_where_it_is_from() -> None:
    """Its machine, day, versions and method; ours of the same run is beside it, and all have a name in the table."""
    quoted = load(QUOTED)
    assert quoted.started == "2026-11-29"
    assert "medians of three rounds" in quoted.command
    assert {"temporal-server", "restate-server", "dagnats"} <= set(quoted.versions)
    shown = rows([], [quoted], 10)
    assert shown
    assert all(row.quoted and row.p50_ms and row.cpu_us for row in shown)
    assert [row.name for row in shown if row.ours] == ["dwarf-nats, PostgreSQL, beside the quoted"]
    assert {one.name for each in quoted.cases for one in each.arms} <= set(NAMES)


def test_table_and_picture_are_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, picture = tmp_path / "a.json", tmp_path / "images" / "peers.svg"
    save(MEASURED, file)
    assert main(["table", str(file), "--measured-only"]) == 0
    assert capsys.readouterr().out == markdown(rows([MEASURED], [], 10))
    assert main(["plot", "--peers", str(file), "--out", str(picture)]) == 0
    assert "one, 2 cores for everything, 2026-11-30" in picture.read_text()
    assert f"Temporal, activities, Go {MARK}" in picture.read_text()
    assert main(["table", str(file), "--steps", "7"]) == 1
    assert "run python -m bench peers" in capsys.readouterr().err


def test_a_run_shows_the_cpu_of_each_process_and_their_sum() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    show(run(case(64, arm("postgresql", 8600, 71.5, engine=72, workers=27, nats=17))), console)
    shown = next(line for line in console.export_text().splitlines() if "postgresql" in line).split()
    assert shown[-4:] == ["72", "27", "17", "116"]


def test_other_engines_are_not_compared() -> None:
    """A release is not held up by another engine's new version."""
    arms = [arm(name, 100, 10, engine=50) for name in (*NAMES, "dagnats-go")]
    told = compare(run(case(64, *arms)), run(case(64, *arms)))
    assert {move.arm for move in told} == {"postgresql", "sdk-worker", "pipelined", "sqlite", "postgresql-then"}

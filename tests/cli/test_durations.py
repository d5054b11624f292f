"""Durations on the command line, wherever a number of milliseconds is asked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwarf_nats.cli.durations import LONGEST_MS, parse_ms, show_ms
from tests.cli.conftest import Run
from tests.cli.test_usage import COMMANDS, KEY, NOBODY

pytestmark = pytest.mark.slow

DAY = 86_400_000


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("250ms", 250),
        ("30s", 30_000),
        ("1.5s", 1_500),
        ("1h30m", 5_400_000),
        ("30d", 30 * DAY),
        ("2w", 14 * DAY),
        ("1d2h3m4s5ms", DAY + 7_384_005),
        ("1H30M", 5_400_000),
        (" 5s ", 5_000),
        ("0s", 0),
        ("1500", 1_500),
        ("-1", -1),
    ],
)
def test_what_can_be_written(text: str, milliseconds: int) -> None:
    assert parse_ms(text) == milliseconds


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not a duration"),
        ("soon", "is not a duration"),
        ("30x", "is not a duration"),
        ("1h 30m", "is not a duration"),
        ("-1s", "is not a duration"),
        ("1e3", "is not a duration"),
        ("٣s", "is not a duration"),
        ("30m1h", "twice or out of order"),
        ("1s1s", "twice or out of order"),
        ("0.5ms", "is not a whole number of milliseconds"),
        ("1" * 400, "is too long"),
        ("1" * 400 + "d", "is too long"),
        ("300000y", "is not a duration"),
    ],
)
def test_what_cannot_and_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_ms(text)


@given(st.integers(0, LONGEST_MS))
def test_what_is_shown_can_be_typed(milliseconds: int) -> None:
    assert parse_ms(show_ms(milliseconds)) == milliseconds


def _durations() -> list[tuple[tuple[str, ...], Any]]:
    return [(path, p) for path, command in COMMANDS.items() for p in command.params if p.name.endswith("_ms")]


@pytest.mark.parametrize(("path", "param"), _durations(), ids=lambda one: getattr(one, "name", None) or " ".join(one))
def test_every_option_in_milliseconds_takes_a_duration_and_has_a_name_without_unit(
    path: tuple[str, ...], param: Any, run: Run
) -> None:
    short, exact = param.opts
    assert exact == f"{short}-ms"
    assert param.metavar == "DURATION"
    for option in (short, exact):
        result = run(*path, option, "soon")
        assert (result.exit_code, "is not a duration" in result.stderr) == (2, True)
    bare = run(*path, short, "30")
    assert bare.exit_code == 2
    assert "say the unit" in bare.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("flow", "list", "--older-than", "-5"), "is too short: at least 0ms"),
        (("flow", "list", "--older-than=-5"), "is too short: at least 0ms"),
        (("flow", "run", "g", "--time-budget", "0s"), "is too short: at least 1ms"),
        (("flow", "list", "--older-than=30"), "say the unit"),
    ],
)
def test_bounds_hold(arguments: tuple[str, ...], why: str, run: Run) -> None:
    result = run(*arguments, "--nats", NOBODY)
    assert result.exit_code == 2
    assert why in " ".join(result.stderr.split())


@pytest.mark.parametrize("given_as", ["option", "exact option", "variable", "file"])
def test_a_duration_may_stand_in_a_variable_and_in_the_file_of_settings(
    given_as: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["flow", "get", KEY, "--nats", NOBODY, "--json"]
    match given_as:
        case "option":
            arguments += ["--connect-timeout", "20ms"]
        case "exact option":
            arguments += ["--connect-timeout-ms", "20"]
        case "variable":
            monkeypatch.setenv("DWARF_CONNECT_TIMEOUT_MS", "20ms")
        case "file":
            (tmp_path / "dwarf.toml").write_text('connect-timeout-ms = "20ms"\n')
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert '"code":503' in result.stderr

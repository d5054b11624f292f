"""What the documents tell people to type is there, and the times they name are those of the code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import typer.main

from dwarf_nats.bus import roll_call
from dwarf_nats.bus.reconnects import GRACE_SECONDS
from dwarf_nats.cli import config
from dwarf_nats.cli.main import app
from dwarf_nats.engine.maintenance import duty, integrity, waiter_poll
from dwarf_nats.rules import breaker
from dwarf_nats.rules.leases import LEASE_GRACE_MS
from dwarf_nats.settings import ServerSettings
from dwarf_nats.wire.operations import OPERATIONS, SIGNAL
from tests.cli.test_usage import COMMANDS
from tests.operating.command_lines import OPERATING, ROOT

PAGES = sorted(
    [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs" / "how-to").glob("*.md"),
        *OPERATING.glob("*.md"),
    ]
)
_OURS = re.compile(r"(?:^|\$\(|do |\| )dwarf-nats (.*)")


def _blocks(page: Path) -> Iterator[str]:
    """The code blocks of a page."""
    yield from re.findall(r"^ *```[^\n]*\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def _typed(page: Path) -> Iterator[str]:
    """What is typed after `dwarf-nats`, in code blocks and in running text."""
    for block in _blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            for words in _OURS.findall(line.strip()):
                yield re.split(r" \| | > | && | # | \|$", words)[0].strip()
    yield from re.findall(r"`dwarf-nats ([^`]+)`", page.read_text(encoding="utf-8"))


def _ids(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if any(_typed(page))], ids=_ids)
def test_every_command_line_has_options_and_values_there_are(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in COMMANDS.values():
        for param in command.params:
            if getattr(param, "envvar", None):
                monkeypatch.delenv(param.envvar, raising=False)
    for line in _typed(page):
        if line.startswith(("-", "COMMAND")):
            continue  # of the program as a whole
        words = shlex.split(line.removesuffix(")"))
        size = 1 if (words[0],) in COMMANDS else 2
        command = COMMANDS[tuple(words[:size])]
        command.make_context(words[size - 1], words[size:])


@pytest.mark.parametrize("page", [page for page in PAGES if "nats req dwarf." in page.read_text()], ids=_ids)
def test_every_request_is_an_operation_with_a_request_it_takes(page: Path) -> None:
    operations = {f"dwarf.{one.name}": one for one in OPERATIONS}
    for subject, payload in re.findall(r"nats req (dwarf\.[a-z_.]+)(?: '([^']*)')?", page.read_text(), re.DOTALL):
        if subject == "dwarf.health":  # outside the service, and asked with nothing
            assert not payload.strip()
            continue
        operation = SIGNAL if subject.startswith("dwarf.signal.") else operations[subject]
        if payload and "…" not in payload and "JSON" not in payload:
            msgspec.json.decode(payload.encode(), type=operation.request)


def test_the_example_of_a_settings_file_is_one(tmp_path: Path) -> None:
    (example,) = [block for block in _blocks(ROOT / "docs" / "configuration.md") if "[serve]" in block]
    (tmp_path / "dwarf.toml").write_text(example)
    found = config.load(tmp_path / "dwarf.toml", typer.main.get_command(app))
    assert found["serve"]["workers"] == 2048
    assert found["flow"]["run"]["timeout_ms"] == 60_000


def test_the_times_of_the_runbook_are_those_of_the_code() -> None:
    text = (OPERATING / "runbook.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|", text, re.MULTILINE))
    settings = ServerSettings()
    silent, look = (
        settings.engine.replica_timeout_ms / 1000,
        3 * duty.HEARTBEAT_SHARE * settings.engine.replica_timeout_ms / 1000,
    )
    lease = (settings.engine.time_budget_ms + LEASE_GRACE_MS) // 1000
    silence = settings.roll_call_ms / 1000 + 2 * settings.roll_call_ms / 1000
    sweeps = 60 * duty.HEARTBEAT_SHARE * silent
    assert rows["steps of a killed or silent replica run elsewhere"] == f"{silent:g} to {silent + look:g} s"
    assert rows["a step whose answer never comes"] == f"fails with 408 after {settings.engine.time_budget_ms // 1000} s"
    assert rows["a step that no replica holds any more becomes pending again"].startswith(f"{lease} s after")
    assert rows["unwritten results are kept while their database is away"].startswith(f"{lease} s, then")
    assert rows["steps of a killed worker run elsewhere"].startswith(f"about {settings.roll_call_ms // 1000} s")
    assert rows["steps of a hung worker run elsewhere"] == f"about {roll_call.SILENCES * silence:g} s"
    first, longest = breaker.FIRST_PROBE_US / 1e6, breaker.LONGEST_PROBE_US / 1e6
    schedule = f"after {first:g} s, {2 * first:g} s, {4 * first:g} s, … at most {longest:g} s"
    assert rows["a task that could not serve is asked again"] == schedule
    assert f"for {GRACE_SECONDS:g} s, no breaker" in rows["a task has no responders right after NATS came back"]
    assert rows["a step whose sub-workflow is gone or has ended is repaired"] == f"within {sweeps / 60:g} minutes"
    orphaned = integrity.STALLED_AFTER_MS / 60_000
    counted = rows["a running flow without a live step is counted as orphaned"]
    assert counted == f"after {orphaned:g} to {orphaned + sweeps / 60:g} minutes"
    made_up = rows["work whose signal was lost is found"]
    assert f"new work within {duty.HEARTBEAT_SHARE * silent:g} s" in made_up
    assert f"a waiting caller within {2 * waiter_poll.WAITER_POLL_SECONDS:g} s" in made_up
    assert f"a cancellation within {look:g} s" in made_up

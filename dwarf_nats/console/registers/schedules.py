"""The schedules."""

from __future__ import annotations

from dwarf_nats.console.views.forms import Field

from .register import Action, Column, Entry, Filter, Register, Section

EXAMPLE = """\
name: nightly
workflow: report
cron: 0 2 * * *
timezone: Europe/Berlin
state:
  day: =scheduledAt
"""


def _state(entry: Entry) -> str:
    return "paused" if entry.get("paused") else "active"


def _next(entry: Entry) -> str | None:
    return next(iter(entry.get("next") or ()), None)


def _last(entry: Entry) -> str | None:
    run = next(iter(entry.get("last") or ()), None)
    return None if run is None else run["outcome"]


SCHEDULES = Register(
    noun="schedule",
    plural="schedules",
    title="Schedules",
    about="Flows that start at times.",
    columns=(
        Column("Workflow", "workflow", "code"),
        Column("When", "description"),
        Column("State", _state, "state"),
        Column("Last run", _last, "state"),
        Column("Next", _next, "time"),
    ),
    facts=(
        Column("Workflow", "workflow", "code"),
        Column("When", "description"),
        Column("Time zone", "timezone"),
        Column("If the last flow still lives", "overlap"),
        Column("State", _state, "state"),
        Column("Changed", "updatedAt", "time"),
    ),
    sections=(
        Section(
            "Last runs",
            "last",
            (
                Column("Due", "dueAt", "time"),
                Column("Fired", "firedAt", "time"),
                Column("Outcome", "outcome", "state"),
                Column("Flow", "flowId", "flow"),
                Column("Why", "message"),
            ),
        ),
        Section("Next due times", "next", kind="time"),
    ),
    actions=(
        Action(
            verb="trigger",
            label="Trigger now",
            text="One flow starts now, beside those of its due times.",
            done="Started.",
        ),
        Action(
            verb="backfill",
            label="Backfill",
            text="A flow starts for each due time of this range that has none, 1,000 at most.",
            done="Started.",
            fields=(
                Field("from", "From", "text", required=True, help="2026-01-31T00:00:00Z"),
                Field("to", "To", "text", required=True, help="2026-02-01T00:00:00Z"),
            ),
        ),
        Action(
            verb="pause",
            label="Pause",
            text="It starts no flows until it is resumed. Due times that pass meanwhile start none later.",
            done="Paused.",
            when=lambda entry: not entry.get("paused"),
        ),
        Action(
            verb="resume",
            label="Resume",
            text="It starts flows again, from the next due time on.",
            done="Resumed.",
            when=lambda entry: bool(entry.get("paused")),
        ),
    ),
    filters=(Filter("workflow", "Workflow"),),
    example=EXAMPLE,
    command="dwarf-nats schedule put nightly --workflow report --cron '0 2 * * *' --timezone Europe/Berlin",
    paged=True,
    links=lambda entry: (("The workflow", f"/workflow/{entry['workflow']}"),),
    delete_text="It starts no flow any more; flows that it started go on.",
)

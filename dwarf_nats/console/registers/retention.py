"""The retention rules."""

from __future__ import annotations

from .register import Action, Column, Entry, Register

EXAMPLE = """\
name: done
status: completed
olderThanMs: 2592000000
keepTagged:
  legal: hold
"""


def _of(entry: Entry) -> str:
    status = str(entry.get("status") or "ended")
    return f"{status} flows of {entry['workflow']}" if entry.get("workflow") else f"{status} flows"


def _age(entry: Entry) -> str:
    return f"{entry['olderThanMs'] / 86_400_000:g} days"


def _kept(entry: Entry) -> str:
    return ", ".join(f"{name}={value}" for name, value in (entry.get("keepTagged") or {}).items())


RETENTION = Register(
    noun="retention",
    plural="retention",
    items="rules",
    title="Retention",
    about="Ended flows are removed once they are old enough. Without a rule they stay.",
    columns=(
        Column("Removes", _of),
        Column("Older than", _age),
        Column("Keeps tagged", _kept, "code"),
        Column("Removed", "removed", "number"),
        Column("Last run", "lastRun", "time"),
        Column("Changed", "updatedAt", "time"),
    ),
    example=EXAMPLE,
    command="dwarf-nats retention put done --status completed --older-than 30d",
    actions=(
        Action(
            verb="preview",
            label="Preview",
            text="Count the flows that the rule would remove now. Nothing is removed.",
            reads=True,
        ),
    ),
    delete_text="Flows that it has not removed stay.",
)

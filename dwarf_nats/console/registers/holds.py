"""The holds."""

from __future__ import annotations

from .register import Column, Entry, Register

EXAMPLE = """\
task: billing.charge
reason: the bank is being moved
until: 2030-01-01T08:00:00Z
"""


def _of(entry: Entry) -> str:
    return f"task {entry['task']}" if entry.get("task") else f"workflow {entry.get('workflow', '')}"


HOLDS = Register(
    noun="hold",
    plural="holds",
    title="Holds",
    about="Tasks and workflows that somebody has stopped: their steps wait, what runs goes on.",
    identity=("task", "workflow"),
    columns=(
        Column("Of", _of, "code"),
        Column("Steps", "steps", "number"),
        Column("Since", "since", "time"),
        Column("Until", "until", "time"),
        Column("By", "actor"),
        Column("Reason", "reason"),
    ),
    example=EXAMPLE,
    command="dwarf-nats hold put --task billing.charge --reason 'the bank is being moved'",
    delete_text="The steps that it keeps go on.",
)

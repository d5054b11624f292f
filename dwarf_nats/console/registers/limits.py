"""The limits."""

from __future__ import annotations

from .register import Column, Entry, Register

EXAMPLE = """\
name: bank
task: billing.charge
by: tag:bank
concurrency: 4
perSecond: 20
"""


def _of(entry: Entry) -> str:
    return f"task {entry['task']}" if entry.get("task") else f"workflow {entry.get('workflow', '')}"


def _allowed(entry: Entry) -> str:
    parts = [f"{entry['concurrency']} at once"] if entry.get("concurrency") else []
    if entry.get("perSecond"):
        parts.append(f"{entry['perSecond']:g} a second")
    return ", ".join(parts)


LIMITS = Register(
    noun="limit",
    plural="limits",
    title="Limits",
    about="How many steps of a task, or flows of a workflow, run at once, and how many begin in a second.",
    columns=(
        Column("Of", _of, "code"),
        Column("Counted by", "by", "code"),
        Column("Allowed", _allowed),
        Column("Running", "running", "number"),
        Column("Waiting", "waiting", "number"),
        Column("Changed", "updatedAt", "time"),
    ),
    example=EXAMPLE,
    command="dwarf-nats limit put bank --task billing.charge --concurrency 4",
    delete_text="Steps that wait for it may begin at once.",
)

"""The audit trail: records that the service keeps, without names of their own (M3)."""

from __future__ import annotations

from .register import Column, Entry, Filter, Register


def _outcome(entry: Entry) -> str:
    error = entry.get("error")
    done = "unknown" if entry.get("outcome") == "unknown" else "done"
    return f"{error['code']}: {error['message']}" if error else done


def _why(entry: Entry) -> str:
    details = entry.get("details") or {}
    shown = [f"{name} {value}" for name, value in details.items() if value != entry.get("name")]
    return "; ".join(filter(None, (entry.get("reason", ""), ", ".join(shown))))


AUDIT = Register(
    noun="audit",
    plural="audit",
    items="records",
    title="Audit",
    about="Who changed what, and when: every operation that steers, carried out or refused.",
    columns=(
        Column("When", "at", "time"),
        Column("Operation", "operation", "code"),
        Column("Flow", "flowId", "flow"),
        Column("Name", "name", "code"),
        Column("By", "actor"),
        Column("Outcome", _outcome),
        Column("Why", _why),
    ),
    key="a",
    identity=(),
    filters=(
        Filter("flowId", "Flow"),
        Filter("actor", "By"),
        Filter("operation", "Operation"),
        Filter("newerThanMs", "Since", period=True),
    ),
    command="dwarf-nats audit list",
    icon="M8 1.8 13 4v4c0 3.2-2.2 5.4-5 6.3C5.2 13.4 3 11.2 3 8V4zM5.8 8l1.6 1.6L10.4 6.5",
    paged=True,
)

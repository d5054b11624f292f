"""How an explanation is shown to people (Q2)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dwarf_nats.cli.explain import duration, explanation_view
from dwarf_nats.cli.output import day_and_clock, flows_view
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.explanation import Because, Explanation, Reason, Wait, WaitsFor
from dwarf_nats.workflow.progress import Progress
from dwarf_nats.workflow.records import FlowSummary
from dwarf_nats.workflow.status import Status

FLOW, STEP = "1-42-a1B2c3D4e5F6g7H8", "1-43-h8G7f6E5d4C3b2A1"
AT = 1_700_000_000_000_000


def wait(reason: Reason, text: str = "Waits.", **more: object) -> Wait:
    fields = {"step_key": STEP, "step_id": 43, "task": "charge", "url": "charge", "since": AT, **more}
    return Wait(reason=reason, text=text, **fields)  # type: ignore[arg-type]


def view(*waits: Wait, prefix: str = "dwarf", **more: object) -> list[str]:
    fields = {"flow_key": FLOW, "status": Status.RUNNING, "text": "charge: Waits.", "waits": list(waits), **more}
    found = Explanation(**fields)  # type: ignore[arg-type]
    return [line.plain for line in explanation_view(found, prefix, AT + 7_500_000_000)]


def test_a_wait_shows_since_when_until_when_and_what_helps() -> None:
    lines = view(wait(Reason.INTERRUPT, payload_json=b'{"n":1}', until=AT + 1, remedy="dwarf-nats flow resume X"))
    assert lines == [
        "running  charge: Waits.",
        f"└─ charge  interrupt  since {day_and_clock(AT)} (2h 5m)  until {day_and_clock(AT + 1)}  {STEP}",
        "   Waits.",
        '   asks: {"n":1}',
        "   what helps: dwarf-nats flow resume X",
    ]


def test_sub_workflows_are_a_tree() -> None:
    inner = [wait(Reason.RUNNING, deadline=AT), wait(Reason.QUEUED, because=Because.RATE)]
    lines = view(wait(Reason.SUBGRAPH, waits=inner), wait(Reason.CREATED))
    heads = [line.split("  since")[0] for line in lines if "since" in line]
    assert heads == [
        "├─ charge  subgraph",
        "│  ├─ charge  running",
        "│  └─ charge  queued (rate)",
        "└─ charge  created",
    ]
    assert lines[3].endswith(f"deadline {day_and_clock(AT)}  {STEP}")
    assert lines[4] == "│  │  Waits."


def test_a_last_error_is_shown_unless_the_text_has_it() -> None:
    error = ErrorInfo("card declined", 402)
    assert "   last error: card declined (402)" in view(wait(Reason.QUEUED, error=error))
    assert not any(
        "last error" in line for line in view(wait(Reason.RETRY, "failed: card declined (402).", error=error))
    )


def test_the_remedy_names_another_deployment_and_that_of_an_ended_flow_is_shown() -> None:
    lines = view(
        prefix="acme", status=Status.FAILED, text="Failed at a: no (500).", remedy="dwarf-nats flow restart-from X"
    )
    assert lines == ["failed  Failed at a: no (500).", "what helps: dwarf-nats flow restart-from X --prefix acme"]


def test_the_progress_of_a_task_is_shown() -> None:
    """B7."""
    lines = view(wait(Reason.RUNNING, progress=Progress(at=AT, fraction=0.425, text="row 17")))
    assert lines[-1] == f"   progress: 42%  row 17  at {day_and_clock(AT)}"


def test_what_is_not_shown_is_counted() -> None:
    lines = view(wait(Reason.RETRY), truncated=True, counts={Reason.RETRY: 9_000, Reason.RUNNING: 7})
    assert lines[-1] == "… not all of it is shown: 9000 retry, 7 running"


def test_texts_from_outside_stay_in_their_line() -> None:
    lines = view(wait(Reason.RETRY, "failed: \x1b[2J\nno", task="a\nb"), text="x\ny")
    assert not any("\n" in line for line in lines)


def listed(waits_for: WaitsFor | None, **more: object) -> str:
    """The column `why` of a flow in a list."""
    fields = {"flow_key": FLOW, "thread_key": FLOW, "workflow": "order", "status": Status.RUNNING, **more}
    summary = FlowSummary(created_at=AT, updated_at=AT, priority=1, waits_for=waits_for, **fields)  # type: ignore[arg-type]
    table = flows_view([summary])
    (why,) = [column for column in table.columns if column.header == "why"]
    (cell,) = why.cells
    return str(cell)


def test_a_list_says_what_a_flow_waits_for_unless_it_is_at_work() -> None:
    held = WaitsFor(step_id=43, task="a", reason=Reason.NO_RESPONDERS, since=AT, text="Nobody serves a.")
    assert listed(held) == "no_responders: Nobody serves a."
    assert listed(replace(held, reason=Reason.RUNNING)) == ""
    assert listed(None, status=Status.CANCELLED, cancel_reason="mine") == "mine"


@pytest.mark.parametrize(
    ("micros", "shown"),
    [
        (0, "0s"),
        (-5, "0s"),
        (59_999_999, "59s"),
        (61_000_000, "1m 1s"),
        (3_600_000_000, "1h 0m"),
        (90_061_000_000, "1d 1h"),
        (200 * 86_400_000_000, "200d 0h"),
    ],
)
def test_spans_of_time(micros: int, shown: str) -> None:
    assert duration(micros) == shown

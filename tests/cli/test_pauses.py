"""How a history and a pause are shown to people."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

from dwarf_nats.cli.output import day_and_clock, outcome_view
from dwarf_nats.cli.pauses import advice_for, pauses_view
from dwarf_nats.cli.steps import history_view
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.records import Outcome, Pause, Step
from dwarf_nats.workflow.status import Status

FLOW = "1-42-a1B2c3D4e5F6g7H8"


def step(number: int, task: str, status: Status = Status.COMPLETED, *below: Step, at: int = 0, sub: str = "") -> Step:
    return Step(
        step_key=f"1-{number}-h8G7f6E5d4C3b2A1",
        step_id=number,
        depth=1,
        task=task,
        attempt=0,
        status=status,
        created_at=0,
        updated_at=at,
        sub_workflow=sub or None,
        sub_history=[*below],
    )


def text(*shown: RenderableType) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=200, highlight=False)
    for one in shown:
        console.print(one, soft_wrap=True)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def pause(number: int, task: str, payload: bytes | None, *, until: int | None = None) -> Pause:
    return Pause(
        step_key=f"1-{number}-h8G7f6E5d4C3b2A1",
        task=task,
        kind="breakpoint" if payload is None else "interrupt",
        since=1_700_000_000_000_000,
        until=until,
        payload_json=payload,
    )


def view(*pauses: Pause, prefix: str = "dwarf", truncated: bool = False) -> list[str]:
    outcome = Outcome(FLOW, "order", Status.INTERRUPTED, pauses=[*pauses], truncated=truncated)
    return text(*pauses_view(outcome, prefix))


def test_the_history_of_a_subgraph_is_indented_below_its_caller_and_named_there_o7() -> None:
    label = step(5, "label", Status.COMPLETED, step(7, "print"), sub="label-run")
    lines = text(
        *history_view([step(3, "charge"), step(4, "ship", Status.COMPLETED, label, sub="shipping"), step(9, "mail")])
    )
    assert [line.split("completed")[0].rstrip() for line in lines[1:]] == [
        "charge",
        "ship ▸ shipping",
        "  label ▸ label-run",
        "    print",
        "mail",
    ]


def test_a_pause_shows_its_payload_and_what_to_type_next_o11() -> None:
    one = pause(5, "approve", b'{"total":7}')
    lines = view(one)
    assert lines[1] == f'  approve  {one.step_key}  waits for {{"total":7}}  since {day_and_clock(one.since)}'
    assert lines[2:] == [
        f"answer:      dwarf-nats flow resume {FLOW} --data JSON",
        f'         or  nats req dwarf.flow.resume \'{{"flowKey":"{FLOW}","data":JSON}}\'',
    ]


def test_a_deadline_is_shown_p6() -> None:
    one = pause(5, "approve", b"1", until=1_700_000_100_000_000)
    assert view(one)[1].endswith(f"since {day_and_clock(one.since)} until {day_and_clock(1_700_000_100_000_000)}")


def test_an_interrupt_without_payload_is_no_breakpoint_p2() -> None:
    lines = view(pause(5, "approve", b"null"), pause(6, "charge", None), prefix="acme")
    assert "  waits for null  since" in lines[1]
    assert "  by a breakpoint  since" in lines[2]
    assert lines[3] == f"answer:      dwarf-nats flow resume {FLOW} --data JSON --prefix acme"
    assert lines[5] == f"let it run:  dwarf-nats flow resume-break {FLOW} --prefix acme"
    assert lines[6].endswith(f'nats req acme.flow.resume_break \'{{"flowKey":"{FLOW}"}}\'')
    assert lines[7].startswith("just one: ")


def test_what_the_outcome_left_out_is_said_p5() -> None:
    left_out = pause(5, "approve", b"1")
    left_out.payload_json = None
    lines = view(left_out, truncated=True)
    assert "  waits for an answer  since" in lines[1]
    assert "flow get --step STEP" in lines[2]


def test_a_flow_that_is_not_paused_needs_no_advice() -> None:
    running = Outcome(FLOW, "order", Status.RUNNING)
    assert pauses_view(running, "dwarf") == []
    assert advice_for(running, "dwarf") == []


def test_an_interrupted_outcome_shows_payload_state_and_what_to_type_o5() -> None:
    outcome = Outcome(FLOW, "order", Status.INTERRUPTED, b'{"a":1}', interrupt_json=b'{"total":7}')
    lines = text(*outcome_view(outcome), *advice_for(outcome, "dwarf"))
    assert lines[0] == f"order  interrupted  {FLOW}"
    assert lines[1:4] == ["waits for: {", '  "total": 7', "}"]
    assert lines[-2].startswith("answer: ")
    broken = Outcome(FLOW, "order", Status.INTERRUPTED)
    assert [line.split()[0] for line in text(*advice_for(broken, "dwarf"))] == ["let", "or"]


def test_an_error_stands_below_the_history_in_full() -> None:
    failed = step(5, "charge", Status.FAILED)
    failed.error, failed.attempt = ErrorInfo("no service answers for task orders.charge", 503), 2
    lines = text(*history_view([step(3, "price"), failed]))
    assert lines[2].split()[:3] == ["charge", "failed", "2"]
    assert lines[3] == "charge: no service answers for task orders.charge (503)"

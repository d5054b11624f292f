"""How a history and a pause are shown to people."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console, RenderableType

from dwarf_nats.cli.output import history_view, outcome_view
from dwarf_nats.cli.pauses import MAX_SHOWN_PAUSES, advice_for, paused, pauses_view
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.records import Outcome, Step
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


class Steps:
    """Answers as a client that looks at single steps. `payloads`: of those that an interrupt paused."""

    def __init__(self, steps: list[Step], payloads: dict[int, bytes]) -> None:
        self.steps = {one.step_key: one for one in steps}
        self.payloads = payloads
        self.asked = 0

    async def step(self, step_key: str) -> Step:
        self.asked += 1
        one = self.steps[step_key]
        one.interrupt_json = self.payloads.get(one.step_id)
        return one


def text(*shown: RenderableType) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=200, highlight=False)
    for one in shown:
        console.print(one, soft_wrap=True)
    return [line.rstrip() for line in out.getvalue().splitlines()]


async def view(steps: list[Step], client: Any, prefix: str = "dwarf") -> list[str]:
    return text(*await pauses_view(client, FLOW, steps, prefix))


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


def test_the_paused_steps_are_leaves_the_longest_paused_first_o11() -> None:
    leaf = step(7, "sign", Status.INTERRUPTED, at=5)
    caller = step(4, "ship", Status.INTERRUPTED, leaf, at=9, sub="shipping")
    other = step(5, "approve", Status.INTERRUPTED, at=3)
    assert paused([step(3, "price"), caller, other, step(6, "wrap", Status.PENDING)]) == [other, leaf]
    done = step(8, "mail", Status.INTERRUPTED, step(9, "print"), at=7, sub="mailing")
    assert paused([done]) == [done]


async def test_a_pause_shows_its_payload_and_what_to_type_next_o11() -> None:
    one = step(5, "approve", Status.INTERRUPTED)
    lines = await view([one], Steps([one], {5: b'{"total":7}'}))
    assert lines[1] == f'  approve  {one.step_key}  waits for {{"total":7}}'
    assert lines[2:] == [
        f"answer:      dwarf-nats flow resume {FLOW} --data JSON",
        f'         or  nats req dwarf.flow.resume \'{{"flowKey":"{FLOW}","data":JSON}}\'',
    ]


async def test_an_interrupt_without_payload_is_no_breakpoint_p2() -> None:
    one, other = step(5, "approve", Status.INTERRUPTED, at=1), step(6, "charge", Status.INTERRUPTED, at=2)
    lines = await view([other, one], Steps([one, other], {5: b"null"}), prefix="acme")
    assert lines[1].endswith("waits for null")
    assert lines[2].endswith("by a breakpoint")
    assert lines[3] == f"answer:      dwarf-nats flow resume {FLOW} --data JSON --prefix acme"
    assert lines[5] == f"let it run:  dwarf-nats flow resume-break {FLOW} --prefix acme"
    assert lines[6].endswith(f'nats req acme.flow.resume_break \'{{"flowKey":"{FLOW}"}}\'')


async def test_many_pauses_are_counted_not_asked_for() -> None:
    steps = [step(n, "approve", Status.INTERRUPTED) for n in range(1, MAX_SHOWN_PAUSES + 4)]
    client = Steps(steps, {})
    lines = await view(steps, client)
    assert client.asked == MAX_SHOWN_PAUSES
    assert "  … and 3 more" in lines


async def test_a_flow_that_is_not_paused_needs_no_advice() -> None:
    steps = [step(1, "a"), step(2, "b", Status.RUNNING)]
    assert await view(steps, Steps(steps, {})) == []
    assert advice_for(Outcome(FLOW, "order", Status.RUNNING), "dwarf") == []


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

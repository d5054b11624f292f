"""How the command line prints steps: histories with branches, attempts and handled errors, and one step by itself."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console, RenderableType

from dwarf_nats.cli.steps import history_view, step_view
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.progress import Progress
from dwarf_nats.workflow.records import Step
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.step_details import Branch, FailedAttempt, StepPause

KEY = "1-43-h8G7f6E5d4C3b2A1"
AT = 1_770_000_000_000_000


def printed(*shown: RenderableType) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=200, highlight=False)
    for one in shown:
        console.print(one, soft_wrap=True)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def step(**how: Any) -> Step:
    plain: dict[str, Any] = {"status": Status.COMPLETED, "attempt": 0, "started_at": AT}
    return Step(step_key=KEY, step_id=43, depth=1, task="work", created_at=AT, updated_at=AT, **(plain | how))


def test_q3_a_history_names_the_branch_and_the_error_that_was_handled() -> None:
    one = step(branch=Branch(index=1, count=5, of="split"), handled_error=ErrorInfo("card declined", 402))
    table, *told = printed(*history_view([one]))[1:]
    assert table.startswith("work 2/5")
    assert told == ["work 2/5: took its error edge: card declined (402)"]


def test_l3_a_history_lists_the_attempts_that_failed() -> None:
    failed = [
        FailedAttempt(attempt=at, started_at=AT, ended_at=AT + 1_500_000, error=ErrorInfo(f"no {at}", 503))
        for at in (0, 1)
    ]
    told = printed(*history_view([step(attempt=2, attempts=failed)]))[2:]
    assert [line.partition(" at ")[0] for line in told] == ["work: attempt 1 failed", "work: attempt 2 failed"]
    assert told[1].endswith("after 1.5 s: no 1 (503)")


def test_a_step_is_printed_with_all_that_is_known_of_it() -> None:
    one = step(
        status=Status.INTERRUPTED,
        pause=StepPause(kind="interrupt", since=AT, until=AT + 1, payload_json=b'"?"'),
        interrupt_json=b'"?"',
        progress=Progress(at=AT, fraction=0.4, text="page 40", data_json=b'{"page":40}'),
        state_json=b'{"n":1}',
        changes_json=b"{}",
        next_key=KEY,
        truncated=True,
    )
    text = "\n".join(printed(*step_view(one)))
    for part in ("40 %, page 40", "paused by its interrupt since", 'checkpoint: {\n  "page": 40\n}', f"after: {KEY}"):
        assert part in text
    assert "not all of it fits the bus" in text
    assert "before:" not in text


def test_text_from_outside_moves_no_cursor() -> None:
    told = printed(*history_view([step(handled_error=ErrorInfo("a\x1b[2Jb\nc", 500))]))
    assert told[-1] == "work: took its error edge: a\\x1b[2Jb\\nc (500)"

"""What an action will do to the steps of a flow, in words."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from dwarf_nats.console.views.text import count
from dwarf_nats.console.views.wire import Step
from dwarf_nats.render.dag import Dag

NAMED = 4
"""Nodes that are named; further ones are counted."""


def following(dag: Dag[Step], step_id: int) -> list[Step]:
    """The steps that came out of a step, however far."""
    after: dict[int, list[int]] = {}
    for one, sources in dag.sources.items():
        for source in sources:
            after.setdefault(source, []).append(one)
    found: dict[int, None] = {}
    pending = deque(after.get(step_id, ()))
    while pending:
        one = pending.popleft()
        if one not in found and one != step_id:
            found[one] = None
            pending.extend(after.get(one, ()))
    return [dag.by_id[one] for one in sorted(found)]


def restart_from(steps: Sequence[Step], step: Step) -> str:
    """What restarting from a step does: `charge runs again; ship and its child are removed; reserve stays.`"""
    dag = Dag(steps)
    gone = [one for one in following(dag, step.step_id) if one.step_id not in dag.compensations]
    without = {step.step_id, *dag.compensations, *(one.step_id for one in gone)}
    kept = [one for one in steps if one.step_id not in without]
    words = [f"{step.task} runs again" + (", and its child flow is removed" if step.sub_flow else "")]
    if gone:
        children = sum(one.sub_flow is not None for one in gone)
        child = f" with {count(children, 'child flow')}" if children else ""
        words.append(f"{_named(gone)}{child} {'is' if len(gone) == 1 else 'are'} removed")
    if kept:
        words.append(f"{_named(kept)} {'stays' if len(kept) == 1 else 'stay'}")
    return "; ".join(words) + "."


def fork(steps: Sequence[Step], step: Step) -> str:
    """What forking from a step does."""
    dag = Dag(steps)
    gone = {step.step_id, *dag.compensations, *(one.step_id for one in following(dag, step.step_id))}
    copied = len([one for one in steps if one.step_id not in gone])
    before = (
        f"A copy of this flow is made, with {count(copied, 'step')} before {step.task}" if copied else "A copy is made"
    )
    return f"{before}; {step.task} runs again in the copy. This flow stays as it is."


def restart(steps: Sequence[Step]) -> str:
    """What restarting a flow does."""
    done = count(len(steps), "step")
    return f"The flow begins again from its first step; its {done} are removed. What tasks did elsewhere stays done."


def cancel(steps: Sequence[Step], *, compensates: bool) -> str:
    """What cancelling a flow does."""
    alive = [one for one in steps if not one.over]
    words = [
        f"{_named(alive)} {'ends' if len(alive) == 1 else 'end'} as cancelled"
        if alive
        else "The flow ends as cancelled"
    ]
    if compensates:
        undone = [one for one in steps if one.status == "completed"]
        words.append(f"completed steps that can be undone are compensated, at most {len(undone)}")
    words.append("it can be restarted later")
    return "; ".join(words) + "."


def _named(steps: Iterable[Step]) -> str:
    """`reserve, charge and 3 more`; a node with many steps has their number."""
    counted = Counter(one.task for one in steps)
    names = [f"{name} ({number:,} times)" if number > 1 else name for name, number in counted.items()]
    if len(names) > NAMED:
        names = [*names[:NAMED], f"{len(names) - NAMED:,} more"]
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]

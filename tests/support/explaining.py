"""Explanations that tests wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from dwarf_nats.engine import Engine
from dwarf_nats.workflow.explanation import Explanation, Wait
from tests.support.engines import SOON


def leaves(waits: Sequence[Wait]) -> Iterator[Wait]:
    """The waits that have none below them."""
    for wait in waits:
        if wait.waits:
            yield from leaves(wait.waits)
        else:
            yield wait


async def explained(engine: Engine, key: str, *reasons: str, task: str = "") -> Explanation:
    """The explanation of a flow once its steps, or those of a task, wait for exactly these reasons, in any order."""
    found: Explanation | None = None
    try:
        async with asyncio.timeout(SOON):
            while True:
                found = await engine.explain(key)
                seen = [wait.reason.value for wait in leaves(found.waits) if task in ("", wait.task)]
                if sorted(seen) == sorted(reasons):
                    return found
                await asyncio.sleep(0)
    except TimeoutError:
        raise AssertionError(f"{reasons} were not to be seen: {found}") from None


async def only_wait(engine: Engine, key: str, reason: str) -> Wait:
    """The wait of a flow's only living step, once it has this reason."""
    found = await explained(engine, key, reason)
    (wait,) = leaves(found.waits)
    assert wait.text
    return wait

"""How many steps wait for a limit, and for how long the oldest does (K1, T1)."""

from __future__ import annotations

import pytest

from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.limit import Limit
from tests.support.engines import until_rows
from tests.support.telemetry import Held, until, watched


@pytest.mark.usefixtures("every_value")
async def test_waits_for_a_limit_are_shown_with_the_age_of_the_oldest_t1(dsn: str, proxy: TaskProxy) -> None:
    """Zero before and afterwards, so that an alert ends."""
    held = Held()
    proxy.handle_task("held", held)
    async with watched(dsn, proxy) as on:
        gauges = on.engine._lifecycle.gauges
        await on.engine.put_limit(Limit(name="narrow", task="held", concurrency=1))
        for _ in range(3):
            await on.engine.create_task("held", start=True)
        await until_rows(on.engine, [(2,)], "select count(*) from dwarf_steps where parked = 4")
        await gauges.read()
        assert on.heard.points("dwarf_limit_waiting") == {("narrow",): 2}
        (oldest,) = on.heard.points("dwarf_limit_oldest_wait_seconds").values()
        assert 0 <= oldest < 3600
        before = oldest
        await gauges.read()
        assert on.heard.points("dwarf_limit_oldest_wait_seconds")["narrow",] > before
        held.release.set()
        await until(lambda: on.heard.points("dwarf_flow_duration_seconds").get(("held",)) == 3, on.engine)
        await gauges.read()
        assert on.heard.points("dwarf_limit_waiting") == {("narrow",): 0}
        assert on.heard.points("dwarf_limit_oldest_wait_seconds") == {("narrow",): 0}

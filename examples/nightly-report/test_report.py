"""Tests of the nightly report: no server, and three nights in milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from tasks import SHOPS, worker

from dwarf_nats.sdk import Schedule, Status, TaskError
from dwarf_nats.testing import FlowEnv, flow_env

HERE = Path(__file__).parent
DAY = {"day": "2026-03-28"}


@pytest.fixture
def env(flow_env: FlowEnv) -> FlowEnv:
    """An environment with the graph and the tasks."""
    flow_env.graphs(HERE / "graphs")
    flow_env.use(worker)
    return flow_env


async def test_the_report_has_every_shop_in_the_order_of_the_list(env: FlowEnv) -> None:
    outcome = await env.run("nightly-report", DAY)
    assert outcome.status is Status.COMPLETED
    assert [one["shop"] for one in outcome.state["figures"]] == list(SHOPS)
    (message,) = env.published
    assert (message.subject, message.payload) == ("reports.nightly", {**DAY, "text": outcome.state["text"]})
    await env.assert_history(outcome, ["shops", *(f"read[{number}]" for number in range(5)), "write", "tell"])


async def test_a_shop_that_is_away_for_some_minutes_is_read_later(env: FlowEnv) -> None:
    env.fail("report.read", nth=(1, 2), error=TaskError("away", 504), when=lambda call: call.state["shop"] == "oulu")
    started = env.now
    outcome = await env.run("nightly-report", DAY)
    assert "missing" not in outcome.state
    assert (env.now - started).total_seconds() == 60 + 120


async def test_a_shop_that_stays_away_is_named_in_the_report(env: FlowEnv) -> None:
    env.fail(
        "report.read", nth=(1, 2, 3, 4), error=TaskError("away", 504), when=lambda call: call.state["shop"] == "oulu"
    )
    outcome = await env.run("nightly-report", DAY)
    assert outcome.state["missing"] == ["oulu"]
    assert outcome.state["text"].endswith("oulu did not answer")
    assert len(outcome.state["figures"]) == 4


async def test_the_schedule_makes_one_report_a_night_also_when_the_clock_changes() -> None:
    """In the night to 29 March 2026, the clocks in Helsinki go from three to four."""
    given = yaml.safe_load((HERE / "schedule.yaml").read_text())
    async with flow_env(start=datetime(2026, 3, 27, 12, tzinfo=UTC)) as env:
        env.graphs(HERE / "graphs")
        env.use(worker)
        schedule = Schedule(
            name=given["name"],
            workflow=given["workflow"],
            cron=given["cron"],
            timezone=given["timezone"],
            state=given["state"],
        )
        await env.engine.put_schedule(schedule)
        await env.skip(days=3)
        assert [message.payload["day"] for message in env.published] == [
            "2026-03-28T01:00:00Z",
            "2026-03-29T01:00:00Z",
            "2026-03-30T00:00:00Z",
        ]

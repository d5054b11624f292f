"""Numbers about workflows and tasks, from lists and from service discovery."""

from __future__ import annotations

from typing import Any

from dwarf_nats.console.pages.tasks import collect
from dwarf_nats.console.rates import by_task, by_workflow

CREATED = "2026-01-31T12:00:00.000000Z"


def flow(status: str, seconds: int = 0, **more: Any) -> dict[str, Any]:
    updated = f"2026-01-31T12:00:{seconds:02}.000000Z"
    return {
        "workflow": "order",
        "status": status,
        "createdAt": CREATED,
        "startedAt": CREATED,
        "updatedAt": updated,
        **more,
    }


def test_rates_of_a_workflow() -> None:
    flows = [flow("completed", seconds) for seconds in range(1, 21)] + [flow("failed", 50), flow("running")]
    rates = by_workflow([*flows, flow("cancelled", workflow="other")])
    order = rates["order"]
    assert (order.total, order.success) == (22, 20 / 21)
    assert (order.quantile(0.5), order.quantile(0.95)) == (11_000_000, 20_000_000)
    assert [status for status, _, _ in order.bar] == ["completed", "running", "failed"]
    assert abs(sum(width for _, _, width in order.bar) - 100) < 0.1
    assert (rates["other"].success, rates["other"].quantile(0.5)) == (None, None)


def test_what_waits_for_a_task() -> None:
    def waits(reason: str, since: str = CREATED) -> dict[str, Any]:
        return flow("running", waitsFor={"task": "charge", "reason": reason, "since": since})

    found = by_task(
        [waits("running"), waits("queued"), waits("no_responders", "2026-01-31T11:00:00Z"), flow("running")],
        {("order", "charge"): "billing.charge"},
    )
    assert set(found) == {"billing.charge"}
    assert (found["billing.charge"].running, found["billing.charge"].queued) == (1, 2)
    assert found["billing.charge"].oldest == "2026-01-31T11:00:00Z"


def test_tasks_of_services_and_what_replicas_hold_back() -> None:
    charge = {"name": "billing-charge", "subject": "task.billing.charge", "metadata": {"task": "billing.charge"}}
    info = [{"name": "billing", "id": one, "endpoints": [charge]} for one in ("a", "b")]
    counted = {"name": "billing-charge", "num_requests": 10, "num_errors": 1, "processing_time": 50_000_000}
    held = [{"task": "billing.charge", "ratePerSecond": 2.5}, {"task": "ship", "breaker": {"cause": "no_responders"}}]
    stats = [
        {"name": "billing", "id": "a", "endpoints": [{**counted, "last_error": "402:declined"}]},
        {"name": "billing", "id": "b", "endpoints": [{**counted, "last_error": ""}]},
        {
            "name": "dwarf",
            "id": "r",
            "metadata": {"prefix": "dwarf"},
            "endpoints": [{"name": "x", "data": {"tasks": held}}],
        },
        {
            "name": "dwarf",
            "id": "s",
            "metadata": {"prefix": "else"},
            "endpoints": [{"name": "x", "data": {"tasks": held}}],
        },
    ]
    found = collect(info, stats, "dwarf")
    task = found["billing.charge"]
    assert (len(task.servers), task.requests, task.errors, task.average) == (2, 20, 2, 5_000)
    assert (task.rates, task.breaker, task.last_error, task.unserved) == ([2.5], None, "402:declined", False)
    assert found["ship"].unserved

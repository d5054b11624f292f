"""The pages on Python: every block of them is run, with one service for all."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from dwarf_nats.sdk import Client, Status
from tests.operating.snippets import ROOT, Block, blocks
from tests.operating.test_snippets import SOON, running, script, worker

STATES = {
    "label.print": ({"address": {"street": "Mill Lane 3", "town": "York"}}, {"label": "Mill Lane 3, York"}),
    "parcel.send": ({"parcel": {"weight": 2.5}}, {"parcel": {"weight": 2.5, "tracking": "T2"}}),
    "customer.check": ({"customer": {"email": "a@b.c", "credit": 200}}, {"trusted": True}),
    "greet.customer": ({"email": "a@b.c"}, {"greeting": "Hello friend"}),
}


def _blocks(page: str, language: str = "python") -> list[Block]:
    return [one for one in blocks(ROOT / "docs" / page) if one.language == language]


@pytest.mark.slow
async def test_the_pages_on_workflows_types_and_the_synchronous_client(tmp_path: Path) -> None:
    orders, run_order, exported = _blocks("workflows-in-python.md")
    *tasks, client = _blocks("python-types.md")
    refused = _blocks("python-types.md", "text")
    synchronous, flask = _blocks("synchronous-client.md")
    (tmp_path / "orders.py").write_text(orders.text)
    (tmp_path / "types_tasks.py").write_text("\n".join(one.text for one in tasks))
    compile(flask.text, "shop.py", "exec")
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(running(tmp_path))
        for module in ("orders.py", "types_tasks.py"):
            await stack.enter_async_context(worker(url, str(tmp_path / module)))
        assert await script(url, tmp_path, run_order) == "o-7 paid 450\n"
        assert json.loads(await script(url, tmp_path, exported))["name"] == "order"
        assert await script(url, tmp_path, client) == "Invoice(total=36, due=datetime.date(2026, 12, 1))\n"
        assert await script(url, tmp_path, synchronous) == "completed o-8 paid 20\n1 cancelled\n"
        asking = await stack.enter_async_context(Client(url))
        for task, (state, changed) in STATES.items():
            key = await asking.create_task(task, state, start=True)
            outcome = await asking.await_(key, SOON)
            assert (outcome.status, outcome.state) == (Status.COMPLETED, {**state, **changed})
        wrong = {"lines": [{"sku": "a", "price": 1}, {"sku": "b", "price": "much"}], "day": "2026-12-01"}
        key = await asking.create_task("invoice.make", wrong, start=True)
        error = (await asking.await_(key, SOON)).error
        assert error is not None
        assert error.code == 400
        assert error.message in refused[0].text

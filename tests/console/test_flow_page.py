"""The page of a flow, over a real service: what it shows, what its forms do, and what changes while somebody looks."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from dwarf_nats.console.pages.flow import FlowView
from dwarf_nats.console.pages.flow_reading import read_flow
from dwarf_nats.console.pages.flow_values import TABS, Place
from dwarf_nats.console.settings import ConsoleSettings
from dwarf_nats.console.source import STEERING
from dwarf_nats.console.views.layout import Layouts
from dwarf_nats.sdk import Client
from tests.console import stage
from tests.support.browser import Browser, opened
from tests.support.caller import WAIT, Caller

JSON = {"Accept": "application/json"}
PART = {"X-Part": "drawer"}


def step_of(page: str, task: str) -> str:
    """The id of the step to which a node's link leads."""
    found = re.search(rf'<a href="\?step=([\d-]+)" data-drawer[^>]*aria-label="{task}: ', page)
    assert found is not None, page
    return found[1]


async def status_of(caller: Caller, browser: Browser, flow: str) -> str:
    key = browser.console.source.identities.flow_key(flow)
    status: str = (await caller.ok("flow.await", flowKey=key))["status"]
    return status


async def test_every_tab_of_every_kind_of_flow_is_there(browser: Browser, caller: Caller) -> None:
    flows = [await make(caller) for make in (stage.failed, stage.waiting, stage.rescued, stage.looped, stage.parent)]
    flows.append(await stage.stopped(caller, await stage.fanned(caller), "completed"))
    created = (await caller.ok("flow.create", graph=stage.ASK))["flowKey"]
    for flow in (*flows, stage.sealed(created)):
        for tab in TABS:
            page = await browser.page(f"/flow/{flow}" + ("" if tab == "graph" else f"/{tab}"))
            assert flow in page
            assert len(page) < 100_000
            assert not re.search(r"<script(?! src=)|style=|onclick", page), "no inline script or style"
        await browser.page(f"/flow/{flow}?to=right")


async def test_no_key_is_in_a_page_or_an_address(browser: Browser, caller: Caller) -> None:
    flow = await stage.parent(caller)
    page = await browser.page(f"/flow/{flow}")
    await browser.page(f"/flow/{flow}?step={step_of(page, 'pay')}")
    assert not re.search(r"\b\d+-\d+-[A-Za-z0-9]{16}\b", "\n".join(browser.seen))


async def test_a_failed_flow_says_why_and_offers_to_restart_at_the_step(browser: Browser, caller: Caller) -> None:
    flow = await stage.failed(caller)
    page = await browser.page(f"/flow/{flow}")
    assert "Failed at charge: card declined (402)" in page
    assert "charge runs again" in page
    assert re.search(r'class="node task failed"', page)
    assert "order.total &lt; 100.0" in page, "the whole condition, on hover"
    step = step_of(page, "charge")
    found = re.search(r'action="/act/flow\.restart_from[^"]*".*?name="stepKey" value="([\d-]+)"', page, re.DOTALL)
    assert found is not None
    assert found[1] == step
    await caller.serves("billing.charge", {"changes": {"paid": True}})
    reply = await browser.post("/act/flow.restart_from", headers=JSON, stepKey=step)
    assert reply.status_code == 200, reply.text


async def test_a_step_shows_its_changes_its_error_and_locks_what_is_sealed(browser: Browser, caller: Caller) -> None:
    flow = await stage.failed(caller)
    page = await browser.page(f"/flow/{flow}")
    drawer = (await browser.get(f"/flow/{flow}?step={step_of(page, 'reserve')}", headers=PART)).text
    assert "<html" not in drawer
    assert re.search(r'class="added".*?<code>lot</code>', drawer, re.DOTALL)
    assert "sealed" in drawer
    assert '"secret"' not in drawer.replace("&#34;", '"')
    failed = (await browser.get(f"/flow/{flow}?step={step_of(page, 'charge')}", headers=PART)).text
    assert "card declined" in failed
    assert "nats req" in failed


async def test_an_answer_is_checked_and_the_flow_goes_on(browser: Browser, caller: Caller) -> None:
    flow = await stage.waiting(caller)
    page = await browser.page(f"/flow/{flow}")
    assert "May order A-1 go out?" in page
    assert "Release the order" in page
    step = step_of(page, "approve")
    wrong = await browser.post(f"/flow/{flow}/answer/{step}", headers=JSON, **{"f.limit": "900"})
    assert wrong.status_code == 400
    assert "Limit: at most 500" in wrong.json()["error"]["message"]
    right = {"f.approved": "true", "f.limit": "7", "f.speed": '"express"', "f.note": "soon"}
    done = await browser.post(f"/flow/{flow}/answer/{step}", headers=JSON, **right)
    assert done.json()["done"] == "Answered: it goes on."
    assert await status_of(caller, browser, flow) == "completed"
    state = await browser.page(f"/flow/{flow}/state")
    assert "approve" in state
    late = await browser.post(f"/flow/{flow}/answer/{step}", headers=JSON, **right)
    assert late.status_code == 409


async def test_failed_attempts_and_tags_are_shown(browser: Browser, caller: Caller) -> None:
    """A step that failed twice has its attempts in the drawer, and a bar for each in the timeline."""
    replies = [{"error": {"message": "the bank is asleep", "code": 500}}] * 2 + [{"changes": {"paid": True}}]
    await caller.plays("flaky", lambda _: replies.pop(0))
    graph = {
        "name": "retrying",
        "entryPoint": "flaky",
        "tasks": [{"name": "flaky", "retry": {"maxAttempts": 3, "initialDelayMs": 0}}],
        "transitions": [{"from": "flaky", "to": "END"}],
    }
    made = await caller.ok("flow.create", graph=graph, start=True, options={"tags": {"customer": 4711, "vip": True}})
    flow = await stage.stopped(caller, made["flowKey"], "completed")
    page = await browser.page(f"/flow/{flow}")
    assert "×3" in page
    assert re.search(r"<dt>customer</dt><dd>4711</dd>", page)
    assert re.search(r"<dt>vip</dt><dd>true</dd>", page)
    drawer = (await browser.get(f"/flow/{flow}?step={step_of(page, 'flaky')}", headers=PART)).text
    assert drawer.count("the bank is asleep (500)") == 2
    timeline = await browser.page(f"/flow/{flow}/timeline")
    assert len(re.findall(r'class="bar failed" x=', timeline)) == 2


async def test_a_task_that_nobody_serves_is_named_with_what_would_help(browser: Browser, caller: Caller) -> None:
    """The reason and its remedy stand on top, and everything else the flow waits for below."""
    tasks = [{"name": "split", "set": {"a": 1}}, {"name": "one", "url": "none.one"}, {"name": "two", "url": "none.two"}]
    tasks.append({"name": "join", "fanIn": True, "set": {"b": 1}})
    pairs = [("split", "one"), ("split", "two"), ("one", "join"), ("two", "join"), ("join", "END")]
    graph = {"name": "alone", "entryPoint": "split", "tasks": tasks}
    graph["transitions"] = [{"from": source, "to": target} for source, target in pairs]
    key = await stage.made(caller, graph)
    async with asyncio.timeout(WAIT):
        while True:
            waits = (await caller.ok("flow.explain", flowKey=key))["waits"]
            if [one["reason"] for one in waits] == ["no_responders"] * 2:
                break
            await asyncio.sleep(0)
    page = await browser.page(f"/flow/{stage.sealed(key)}")
    assert "Nobody serves" in page
    assert "Who serves it?" in page
    assert "dwarf-nats tasks none." in page
    assert "Everything it waits for" in page


async def test_a_form_without_its_token_is_refused(browser: Browser, caller: Caller) -> None:
    flow = await stage.waiting(caller)
    step = step_of(await browser.page(f"/flow/{flow}"), "approve")
    refused = await browser.post(f"/flow/{flow}/answer/{step}", headers=JSON, csrf="wrong", **{"f.limit": "7"})
    assert refused.status_code == 403
    assert await status_of(caller, browser, flow) == "interrupted"


async def test_a_fork_takes_the_edited_state_and_leads_to_the_copy(browser: Browser, caller: Caller) -> None:
    flow = await stage.looped(caller)
    page = await browser.page(f"/flow/{flow}")
    step = step_of(page, "done")
    preview = (await browser.post(f"/flow/{flow}/preview/{step}", state='{"n": 9, "new": 1}')).text
    assert "What your edit changes" in preview
    assert "new" in preview
    as_request = (await browser.post(f"/flow/{flow}/preview/{step}", mode="fork", state='{"n": 9, "new": 1}')).text
    assert "flow.fork" in as_request
    assert f"KEY-OF-{step}" in as_request
    assert "not JSON" in (await browser.post(f"/flow/{flow}/preview/{step}", state="{")).text
    assert "must be a JSON object" in (await browser.post(f"/flow/{flow}/preview/{step}", state="[]")).text
    reply = await browser.post(f"/flow/{flow}/rerun/{step}", headers=JSON, mode="fork", state='{"n": 9, "new": 1}')
    copy = reply.json()["location"].removeprefix("/flow/")
    assert copy != flow
    assert await status_of(caller, browser, copy) == "completed"
    state = await browser.page(f"/flow/{copy}/state")
    assert re.search(r'<code>n</code> <span class="v number">9</span>', state)
    assert (await browser.post(f"/flow/{flow}/rerun/{step}", headers=JSON, mode="vanish")).status_code == 404


async def test_fifty_branches_are_one_node_with_a_grid_of_cells(browser: Browser, caller: Caller) -> None:
    flow = await stage.stopped(caller, await stage.fanned(caller), "completed")
    page = await browser.page(f"/flow/{flow}")
    assert "48 done · 2 handled of 50" in page
    node = re.search(r'<a href="\?node=(\d+)" data-drawer aria-label="work: ', page)
    assert node is not None
    drawer = (await browser.get(f"/flow/{flow}?node={node[1]}", headers=PART)).text
    assert len(re.findall(r'class="cell ', drawer)) == 50
    assert len(re.findall(r'class="cell failed"', drawer)) == 2
    assert "element 4 · handled · element sku-3 is broken" in drawer
    assert "There is no such node" in (await browser.get(f"/flow/{flow}?node=99", headers=PART)).text
    timeline = await browser.page(f"/flow/{flow}/timeline")
    assert "× 50" in timeline
    opened_ = re.search(r'href="(\?open=[\d-]+)"', timeline)
    assert opened_ is not None
    assert "work 50/50" in await browser.page(f"/flow/{flow}/timeline{opened_[1]}")
    steps = await browser.page(f"/flow/{flow}/steps?node_name=work")
    assert "50 of " in steps


async def test_a_child_is_opened_in_place_and_linked(browser: Browser, caller: Caller) -> None:
    flow = await stage.parent(caller)
    page = await browser.page(f"/flow/{flow}")
    drawer = (await browser.get(f"/flow/{flow}?step={step_of(page, 'pay')}", headers=PART)).text
    assert "Graph of payment" in drawer
    child = re.search(r'href="/flow/([\d-]+)"', drawer)
    assert child is not None
    own = await browser.page(f"/flow/{child[1]}")
    assert "Is 12 all right?" in own
    assert f'<dt>Called by</dt><dd><a href="/flow/{flow}">' in own
    assert "Called by" not in page


async def test_an_error_edge_is_drawn_as_taken_and_a_loop_with_its_round(browser: Browser, caller: Caller) -> None:
    page = await browser.page(f"/flow/{await stage.rescued(caller)}")
    assert re.search(r'class="edge error taken"', page)
    assert re.search(r'class="edge plain faint"', page)
    assert "handled" in page
    assert "↻4" in await browser.page(f"/flow/{await stage.looped(caller)}")


async def test_while_a_flow_runs_its_view_sends_texts_and_classes(browser: Browser, caller: Caller) -> None:
    flow = await stage.waiting(caller)
    page = await browser.page(f"/flow/{flow}")
    console = browser.console
    view = FlowView(console, console.source, Place(flow, "graph", {}), Layouts())
    before, stamp = await view.render(), await view.stamp()
    assert "interrupted" in before.classes["gn2"]
    assert all(f'id="{name}"' in page for name in (*before.html, *before.classes)), (
        "everything that may change has a place"
    )
    data = {"f.limit": "7"}
    await browser.post(f"/flow/{flow}/answer/{step_of(page, 'approve')}", headers=JSON, **data)
    assert await status_of(caller, browser, flow) == "completed"
    # A refused action, too, makes the console forget what it has read.
    assert (await browser.post("/act/flow.break_before", headers=JSON, flowKey=flow, task="approve")).status_code == 409
    assert await view.stamp() != stamp
    changed = (await view.render()).since(before)
    assert "completed" in changed.classes["gn2"]
    assert "gn1" not in changed.classes, "what stays is not sent"
    assert "Completed" in changed.html["flow-why"]


@pytest.mark.parametrize("tab", TABS)
async def test_the_view_of_each_tab_fills_places_of_its_page(browser: Browser, caller: Caller, tab: str) -> None:
    flow = await stage.waiting(caller)
    page = await browser.page(f"/flow/{flow}" + ("" if tab == "graph" else f"/{tab}"))
    console = browser.console
    update = await FlowView(console, console.source, Place(flow, tab, {}), Layouts()).render()
    assert update.html
    assert all(f'id="{name}"' in page for name in (*update.html, *update.classes))


async def test_without_payloads_no_state_is_shown(caller: Caller, client: Client) -> None:
    flow = await stage.failed(caller)
    async with opened(client, ConsoleSettings(payloads=False)) as browser:
        page = await browser.page(f"/flow/{flow}")
        await browser.page(f"/flow/{flow}/state")
        await browser.get(f"/flow/{flow}?step={step_of(page, 'reserve')}", headers=PART)
        seen = "\n".join(browser.seen)
    assert "--no-payloads" in seen
    assert "ada@example.org" not in seen


async def test_what_is_not_there_is_a_404_in_words(browser: Browser, caller: Caller) -> None:
    flow = await stage.looped(caller)
    for path in (f"/flow/{flow}/nothing", "/flow/1-999999", "/flow/nonsense", f"/flow/{flow}?step=1-999999"):
        assert (await browser.get(path)).status_code == 404


async def test_values_from_outside_are_only_text(browser: Browser, caller: Caller) -> None:
    evil: Any = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    graph = {**stage.ASK, "tasks": [{"name": evil, "ask": {"payload": evil}}], "entryPoint": evil}
    graph["transitions"] = [{"from": evil, "to": "END"}]
    flow = await stage.stopped(caller, await stage.made(caller, graph, a=evil), "interrupted")
    for tab in ("", "/timeline", "/steps", "/state", "/log"):
        page = await browser.page(f"/flow/{flow}{tab}")
        assert "<script>alert" not in page
        assert "<img" not in page
    drawer = await browser.page(f"/flow/{flow}?step={re.search(r'step=([0-9-]+)', page)[1]}")  # type: ignore[index]
    assert "<img" not in drawer


async def test_what_a_user_may_not_publish_is_not_offered(browser: Browser, caller: Caller) -> None:
    """A viewer sees everything, and finds neither button nor form."""
    flows = [await stage.failed(caller), await stage.waiting(caller)]
    browser.console.source.forbidden = frozenset(STEERING)
    for flow in flows:
        page = await browser.page(f"/flow/{flow}")
        assert "/act/" not in page
        assert "/answer/" not in page
        assert "You may look" in page
        drawer = (await browser.get(f"/flow/{flow}?step={step_of(page, '[a-z]+')}", headers=PART)).text
        assert "<form" not in drawer


async def test_a_form_that_a_live_change_brought_is_sent_with_the_token_of_the_page(
    browser: Browser, caller: Caller
) -> None:
    """One change is sent to all who look, so its forms have no token; the script adds that of the page."""
    flow = await stage.waiting(caller)
    step = step_of(await browser.page(f"/flow/{flow}"), "approve")
    console = browser.console
    live = (await FlowView(console, console.source, Place(flow, "graph", {}), Layouts()).render()).html["flow-why"]
    assert 'name="csrf" value=""' in live
    headers = {**JSON, "X-CSRF": browser.token}
    done = await browser.post(f"/flow/{flow}/answer/{step}", headers=headers, csrf="", **{"f.limit": "7"})
    assert done.status_code == 200, done.text


async def test_the_page_of_a_long_flow_is_small_and_paged(browser: Browser, caller: Caller) -> None:
    """Two thousand branches are one node, one row, and pages of a hundred steps."""
    work = {"name": "work", "set": {"x": "=item"}}
    graph = {**stage.FAN, "tasks": [work if one["name"] == "work" else one for one in stage.FAN["tasks"]]}
    flow = await stage.stopped(caller, await stage.made(caller, graph, items=list(range(2_000))), "completed")
    for tab in ("", "/timeline", "/steps", "/log"):
        assert len(await browser.page(f"/flow/{flow}{tab}")) < 100_000
    assert "2,000 done of 2,000" in await browser.page(f"/flow/{flow}")
    steps = await browser.page(f"/flow/{flow}/steps?page=20&node_name=work")
    assert "20 of 20" in steps
    assert "2,000 of 2,002 steps" in steps


async def test_the_history_of_an_ended_flow_is_read_again_only_if_it_changed(browser: Browser, caller: Caller) -> None:
    """It is kept by its fingerprint; a restart makes another one. Of a long one, pages are read ahead, and in order."""
    source = browser.console.source
    flow = await stage.failed(caller)
    first = await read_flow(source, flow)
    assert (await read_flow(source, flow)).steps is first.steps
    await source.act("flow.restart_from", {"stepKey": next(one.step for one in first.steps if one.error)})
    await caller.ok("flow.await", flowKey=await source.flow_key(flow))
    again = (await read_flow(source, flow)).steps
    (charged, before) = ([one for one in steps if one.task == "charge"] for steps in (again, first.steps))
    assert charged[0].updated_at > before[0].updated_at
    work = {"name": "work", "set": {"x": "=item"}}
    graph = {**stage.FAN, "tasks": [work if one["name"] == "work" else one for one in stage.FAN["tasks"]]}
    long = await stage.stopped(caller, await stage.made(caller, graph, items=list(range(2_500))), "completed")
    read = await read_flow(source, long)
    assert [one.step_id for one in read.steps] == sorted({one.step_id for one in read.steps})
    assert (len(read.steps), read.complete) == (2_502, True)
    assert [len(steps) for steps, complete in [await source.whole_history(long, 1_500)] if not complete] == [2_000]


async def test_a_workflow_is_drawn(browser: Browser, caller: Caller) -> None:
    await caller.ok("graph.put", **stage.ORDER)
    page = await browser.page("/workflow/order")
    assert "Graph of order" in page
    assert page.count('class="node task"') == 4
    assert "unreached" not in page


async def test_breakpoints_that_are_set_are_shown(browser: Browser, caller: Caller) -> None:
    """In the header, in the graph, and in the choice of the dialog (O12)."""
    key = await stage.made(caller, stage.ASK)
    await caller.ok("flow.break_before", flowKey=key, task="record")
    assert (await caller.ok("flow.snapshot", flowKey=key))["breakpoints"] == ["record"]
    page = await browser.page(f"/flow/{stage.sealed(key)}")
    assert "Breakpoint before" in page
    assert page.count('class="break"') == 1
    assert '<option value="record">record (set)</option>' in page
    await caller.ok("flow.break_before", flowKey=key, task="record", enabled=False)
    assert "breakpoints" not in await caller.ok("flow.snapshot", flowKey=key)


async def test_a_graph_that_is_too_large_to_draw_is_a_table(browser: Browser, caller: Caller) -> None:
    """Of the flow, with what was reached first; of the workflow, as it is."""
    names = [f"n{number}" for number in range(620)]
    graph = {
        "name": "large",
        "entryPoint": "n0",
        "tasks": [{"name": name, **({"ask": {}} if name == "n1" else {"set": {"x": 1}})} for name in names],
        "transitions": [{"from": a, "to": b} for a, b in zip(names, [*names[1:], "END"], strict=True)],
    }
    await caller.ok("graph.put", **graph)
    flow = await stage.stopped(caller, await stage.made(caller, graph), "interrupted")
    page = await browser.page(f"/flow/{flow}")
    assert "too large to draw" in page
    assert re.search(r'href="\?step=[0-9-]+">n1</a>', page)
    assert page.index(">n1<") < page.index("not reached")
    assert len(page) < 200_000
    workflow = await browser.page("/workflow/large")
    assert "too large to draw" in workflow
    assert ">n619<" not in workflow, "500 rows"

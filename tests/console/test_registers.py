"""The pages of registers: lists, entries, documents in a form, actions, and who is offered what."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dwarf_nats.console.console import nav
from dwarf_nats.console.documents import read_document, to_yaml
from dwarf_nats.console.pages import registers as pages
from dwarf_nats.console.pages.registers import RegisterView, entry_page, list_values, request_of
from dwarf_nats.console.registers import GRAPHS, REGISTERS
from dwarf_nats.console.registers.register import Action, Column, Filter, Register
from dwarf_nats.console.settings import ConsoleSettings
from dwarf_nats.console.source import Source
from dwarf_nats.console.views.forms import Field
from dwarf_nats.errors import BadRequest, NotFound
from dwarf_nats.sdk import Client
from dwarf_nats.wire.operations import OPERATION_NAMES
from tests.console import stage
from tests.support.browser import Browser, opened
from tests.support.caller import Caller

NEW = """\
name: nightly
entryPoint: sweep
tasks:
  - name: sweep
    ask: {payload: Is it swept?}
transitions:
  - {from: sweep, to: END}
"""
RUNS = Register(
    noun="flow",
    plural="runs",
    items="flows",
    title="Runs",
    about="Runs.",
    columns=(Column("Workflow", "workflow"), Column("Status", "status", "state"), Column("Tags", "tags", "tags")),
    identity=(),
    filters=(Filter("status", "Status", ("failed", "interrupted")), Filter("newerThanMs", "Changed", period=True)),
    paged=True,
)
"""A register with filters and pages, over operations that are there."""
HOLDS = Register(
    noun="hold",
    plural="holds",
    title="Holds",
    about="Holds.",
    columns=(),
    identity=("task", "workflow"),
    actions=(Action(verb="extend", label="Extend", text="Longer.", fields=(Field("until", "Until", "text", True),)),),
)
"""A register whose entries are named by one of two fields."""


async def test_a_document_is_put_read_changed_and_removed(browser: Browser, caller: Caller) -> None:
    """The whole life of a document, by forms alone."""
    assert "Nothing here yet" in await browser.page("/graphs")
    form = await browser.page("/graphs?new=1")
    assert 'action="/register/graphs/put"' in form
    put = await browser.post("/register/graphs/put", text=NEW, entry="")
    assert (put.status_code, put.headers["Location"]) == (303, "/graphs/nightly")
    assert (await caller.ok("graph.get", name="nightly"))["tasks"] == [
        {"name": "sweep", "ask": {"payload": "Is it swept?"}}
    ]
    page = await browser.page("/graphs/nightly")
    assert "Kept: nightly." in page
    assert "entryPoint: sweep" in page
    assert "nats req" in page
    assert 'href="/graphs/nightly"' in await browser.page("/graphs")
    edited = await browser.page("/graphs/nightly?edit=1")
    text = re.search(r"<textarea[^>]*>(.*?)</textarea>", edited, re.S)
    assert text
    assert read_document(text[1].replace("&#34;", '"')) == read_document(NEW), "what is put back is what was put"
    changed = NEW.replace("Is it swept?", "Is it clean?")
    assert (await browser.post("/register/graphs/put", text=changed, entry="nightly")).status_code == 303
    assert "Is it clean?" in await browser.page("/graphs/nightly")
    gone = await browser.post("/register/graphs/delete", entry="nightly")
    assert (gone.status_code, gone.headers["Location"]) == (303, "/graphs")
    assert (await browser.get("/graphs/nightly")).status_code == 404


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name: [", "YAML"),
        ('{"name": "a" "b"}', "JSON"),
        ("- a", "named fields"),
        (" ", "empty"),
        (NEW.replace("entryPoint", "entrypoint"), "entryPoint"),
    ],
)
async def test_a_refusal_stands_beside_the_text_as_it_was_sent(browser: Browser, text: str, word: str) -> None:
    """Of what cannot be read, and of what the service refuses (400)."""
    for entry in ("", "nightly"):
        if entry:
            await browser.post("/register/graphs/put", text=NEW, entry="")
        response = await browser.post("/register/graphs/put", text=text, entry=entry)
        assert response.status_code == 400
        assert re.search(rf'role="alert">[^<]*{word}', response.text), text
        assert text.splitlines()[0].replace('"', "&#34;") in response.text


async def test_a_text_is_checked_while_it_is_written(browser: Browser, caller: Caller) -> None:
    """Nothing is kept; the request is shown, or the reason why it would be refused."""
    good = (await browser.post("/register/graphs/check", text=NEW)).text
    assert "graph.put" in good
    assert "problem" not in good
    assert "nowhere" in (await browser.post("/register/graphs/check", text=NEW.replace("END", "nowhere"))).text
    assert not (await caller.ok("graph.list"))["graphs"]


async def test_a_reading_action_shows_its_reply(browser: Browser, caller: Caller) -> None:
    await caller.ok("graph.put", **stage.ASK)
    shown = await browser.post("/register/graphs/mermaid", entry="release")
    assert shown.status_code == 200
    assert re.search(r"<pre>(---|flowchart|graph|stateDiagram)", shown.text)
    assert (await browser.post("/register/graphs/nothing", entry="release")).status_code == 404
    assert (await browser.post("/register/nothing/delete", entry="release")).status_code == 404


async def test_who_may_not_change_is_offered_nothing(browser: Browser, caller: Caller) -> None:
    """A viewer reads documents, and finds neither form nor button; a forged form gets the words of NATS."""
    await caller.ok("graph.put", **stage.ASK)
    browser.console.source.forbidden = frozenset({"graph.put", "graph.delete"})
    for path in ("/graphs", "/graphs?new=1", "/graphs/release", "/graphs/release?edit=1", "/workflows"):
        page = await browser.page(path)
        assert "/register/graphs/put" not in page, path
        assert "do-delete" not in page, path
        assert "Register a graph" not in page, path
    assert "NATS does not let this user change it." in await browser.page("/graphs/release")


async def test_what_is_hidden_is_not_put_back(caller: Caller, client: Client) -> None:
    """A form without the payloads, or without a key, would remove them from the document."""
    key = await stage.made(caller, stage.ASK)
    secret = {**stage.ASK, "name": "keyed", "annotations": {"approve": f"like {key}"}}
    for graph in (stage.ASK, secret):
        await caller.ok("graph.put", **graph)
    async with opened(client, ConsoleSettings()) as browser:
        assert "edit=1" in await browser.page("/graphs/release")
        page = await browser.page("/graphs/keyed?edit=1")
        assert "holds the key of a flow" in page
        assert "/register/graphs/put" not in page
        assert all(key not in seen for seen in browser.seen)
        browser.console.source.payloads = False
        browser.console.source._shared.clear()
        page = await browser.page("/graphs/release?edit=1")
        assert "--no-payloads" in page
        assert "May order A-1 go out?" not in page
        assert "/register/graphs/put" not in page


async def test_a_list_has_filters_and_pages(browser: Browser, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters and cursors of an address go to the service; a choice that is none is a 400."""
    monkeypatch.setattr(pages, "PAGE_ENTRIES", 2)
    for _ in range(3):
        await stage.waiting(caller)
    source = browser.console.source
    first = await list_values(source, RUNS, {"status": "interrupted", "newerThanMs": "1h"})
    assert len(first["entries"]) == 2
    second = await list_values(source, RUNS, dict(re.findall(r"(\w+)=([^&]+)", first["more"])))
    assert (len(second["entries"]), second["more"]) == (1, "")
    rows = browser.console.html("register_rows.html", may=source.may, **first)
    assert "Waiting" in rows or "Interrupted" in rows
    with pytest.raises(BadRequest, match="Status: there is no nonsense"):
        await list_values(source, RUNS, {"status": "nonsense"})


async def test_the_live_view_fills_places_of_its_pages(browser: Browser, caller: Caller) -> None:
    await caller.ok("graph.put", **stage.ASK)
    console = browser.console
    for path, params in (("/graphs", {}), ("/graphs/release", {"entry": "release"})):
        page = await browser.page(path)
        view = RegisterView(console, console.source, {"register": "graphs", **params})
        assert await view.stamp() != await view.stamp()
        update = await view.render()
        assert update.html
        assert all(f'id="{name}"' in page for name in update.html)
    with pytest.raises(NotFound):
        RegisterView(console, console.source, {"register": "nothing"})


async def test_entries_are_named_by_one_of_several_fields(browser: Browser) -> None:
    entry = {"workflow": "order", "task": None}
    assert HOLDS.id_of(entry) == "workflow=order"
    assert HOLDS.fields_of("workflow=order") == {"workflow": "order"}
    for wrong in ("order", "name=order"):
        with pytest.raises(NotFound):
            HOLDS.fields_of(wrong)
    line = request_of("dwarf", HOLDS, HOLDS.actions[0], "workflow=order")
    assert line == """nats req dwarf.hold.extend '{"workflow":"order","until":"…"}'"""
    with pytest.raises(NotFound):
        await entry_page(browser.console.source, GRAPHS, "nothing")


def test_the_rail_has_what_is_there_and_permitted() -> None:
    """An entry for each register whose list can be asked for."""
    source = Source(Client("nats://127.0.0.1:1"))
    expected = {one.plural for one in REGISTERS if one.nav and one.operation("list") in OPERATION_NAMES}
    fixed = {"flows", "workflows", "tasks", "replicas"}
    assert {one for one, _, _ in nav(source)} == fixed | expected
    source.forbidden = frozenset(one.operation("list") for one in REGISTERS)
    assert {one for one, _, _ in nav(source)} == fixed == {one for one, _, _ in nav(None)}
    keys = [one.key for one in REGISTERS if one.key]
    assert len({*keys, "f", "w", "t", "r"}) == len(keys) + 4, "each page has a letter of its own"


VALUES: dict[str, Any] = {
    "texts": ["1e3", "0x1f", "yes", "null", "~", "", "2026-11-30", ".5", "a: b", "# no", "=n + 1", "two\nlines\n", "'"],
    "numbers": [1, -2, 0.5, 1e300],
    "others": [True, False, None, {}, [], {"é": {"deep": [1, {"a": "b"}]}}],
}


def test_what_is_written_as_yaml_is_read_as_it_was() -> None:
    same = VALUES["others"][5]
    document = {**VALUES, "twice": [same, same]}
    assert read_document(to_yaml(document)) == document
    assert "&id" not in to_yaml(document)
    assert read_document("{from: a, to: [1]}") == {"from": "a", "to": [1]}


async def test_the_audit_trail_is_a_page_and_the_one_of_a_flow_is_reached_from_it(
    browser: Browser, caller: Caller
) -> None:
    """M3. Newest first, with a filter for the flow; refusals too."""
    key = (await caller.ok("flow.create_task", task="work"))["flowKey"]
    other = (await caller.ok("flow.create_task", task="work"))["flowKey"]
    for flow in (key, other):
        await caller.ok("flow.cancel", {"Dwarf-Actor": "ada"}, flowKey=flow, reason="recalled")
    await caller.refused("flow.cancel", {"Dwarf-Actor": "eve"}, flowKey=key)
    flow_id = key[:-17]
    page = (await browser.get(f"/flow/{flow_id}")).text
    assert f'href="/audit?flowId={flow_id}"' in page
    page = (await browser.get(f"/audit?flowId={flow_id}")).text
    assert re.findall(r"\b(ada|eve)\b", page)[:1] == ["eve"]
    assert "409: " in page
    assert "recalled" in page
    assert set(re.findall(r'href="/flow/([\d-]+)"', page)) == {flow_id}
    assert key[-16:] not in page


async def test_a_schedule_is_put_triggered_paused_and_backfilled_by_its_page(browser: Browser, caller: Caller) -> None:
    """R3: its words, its next due times and what became of the last ones are on the page."""
    await caller.ok("graph.put", **stage.ASK)
    text = "name: nightly\nworkflow: release\ncron: 0 2 * 2 *\ntimezone: Europe/Berlin\n"
    put = await browser.post("/register/schedules/put", text=text, entry="")
    assert (put.status_code, put.headers["Location"]) == (303, "/schedules/nightly")
    rows = await browser.page("/schedules")
    assert "At 02:00 every day in February" in rows
    assert "Active" in rows
    assert (await browser.post("/register/schedules/trigger", entry="nightly")).status_code == 303
    page = await browser.page("/schedules/nightly")
    assert "started" in page
    assert page.count("<time") >= 10, "the next due times"
    assert 'href="/workflow/release"' in page
    assert "Pause" in page
    assert (await browser.post("/register/schedules/pause", entry="nightly")).status_code == 303
    assert (await caller.ok("schedule.get", name="nightly"))["paused"] is True
    paused = await browser.page("/schedules/nightly")
    assert "Resume" in paused
    assert (await browser.post("/register/schedules/resume", entry="nightly")).status_code == 303
    span = {"f.from": "2026-01-31T00:00:00Z", "f.to": "2026-02-03T00:00:00Z"}
    filled = await browser.post("/register/schedules/backfill", entry="nightly", **span)
    assert filled.status_code == 303, filled.text
    assert len((await caller.ok("flow.list", workflow="release"))["flows"]) == 3
    wrong = await browser.post("/register/schedules/put", text=text.replace("0 2", "99 2"), entry="")
    assert wrong.status_code == 400
    assert re.search(r'role="alert">[^<]*cron', wrong.text)
    assert (await browser.post("/register/schedules/delete", entry="nightly")).status_code == 303

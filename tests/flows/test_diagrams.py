"""Diagrams of what really ran: pauses, calls and second runs (O8, D1), on both databases."""

from __future__ import annotations

from dwarf_nats.sdk import TaskError
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.status import Status
from tests.render.diagrams import Diagram, read
from tests.support.flows import Bench, ask, bench, call, each, line


def trip() -> Graph:
    """plan → flight and hotel, each of which calls a flow → book → END."""
    graph = Graph("trip")
    graph.add_fan_out("plan", "flight", "hotel")
    graph.add_chain("flight", "book", END)
    graph.add_chain("hotel", "book")
    graph.set_fan_in("book")
    return graph


async def drawn(it: Bench, key: str) -> Diagram:
    return read(await it.engine.mermaid(key))


async def test_o8_a_call_that_waits_for_somebody_and_goes_on(dsn: str) -> None:
    """P1, P2: the pause shows in the frame of the called flow; after the resume both frames lead to the fan-in."""
    async with bench(dsn, trip(), line("fly", "search", "pay"), line("stay", "ask")) as it:
        it.idle("plan", "search", "pay", "book")
        it.tasks(flight=call("fly"), hotel=call("stay"), ask=ask())
        key = (await it.run("trip")).flow_key
        await it.until_steps(key, lambda steps: steps[1].status is Status.COMPLETED)
        diagram = await drawn(it, key)
        boxes = {title: box for box, title in diagram.titles.items()}
        assert set(boxes) == {"", "fly", "stay"}
        assert diagram.inside[boxes["fly"]] == diagram.inside[boxes["stay"]] == boxes[""]
        assert diagram.labels[diagram.node("hotel")] == ["hotel", "waiting"]
        assert diagram.looks[diagram.node("ask")] == "interrupted"
        assert [diagram.inside[node] for node in diagram.nodes("END")] == [boxes["fly"]]

        await it.engine.resume(key, "yes")
        await it.ended(key)
        diagram = await drawn(it, key)
        boxes = {title: box for box, title in diagram.titles.items()}
        into = {edge.source for edge in diagram.edges if edge.target == diagram.node("book")}
        assert into == {boxes["fly"], boxes["stay"]}
        assert diagram.pairs()[-1] == ("book", "END")
        assert set(diagram.looks.values()) == {"terminal", "completed", "cohort", "child"}


async def test_o8_the_flow_a_step_called_is_drawn_by_itself_too(dsn: str) -> None:
    async with bench(dsn, line("child", "c")) as it:
        it.tasks(a=call("child"), c=ask())
        key = (await it.run(line("parent", "a"))).flow_key
        tree = await it.engine.shards[1].store.flows.tree(int(key.split("-")[1]))
        (row,) = [one for one in tree.values() if one.surgraph_flow_id is not None]
        diagram = await drawn(it, f"1-{row.flow_id}-{row.token}")
        assert diagram.labels[diagram.node("START")] == ["START", "child"]
        assert diagram.pairs() == [("START", "c")]


async def test_o8_a_branch_that_failed_and_was_mended(dsn: str) -> None:
    """O13, F4: END at the failed branch; after its second run the fan-in has every branch again."""
    async with bench(dsn) as it:
        broken = {2}

        def work(flow: Flow) -> dict[str, list[int]]:
            if flow.get("item") in broken:
                raise TaskError("broken")
            return {"done": [flow.get("item")]}

        it.idle("split", "join")
        it.tasks(work=work)
        key = (await it.run(each(), {"items": [1, 2, 3]})).flow_key
        diagram = await drawn(it, key)
        assert diagram.pairs()[-1] == ("work 2/3", "END")
        assert diagram.labels[diagram.node("work 2/3")][2] == "broken"
        assert diagram.nodes("join") == []

        broken.clear()
        (failed,) = [step for step in await it.engine.history(key) if step.status is Status.FAILED]
        await it.engine.restart_from(failed.step_key)
        await it.ended(key)
        diagram = await drawn(it, key)
        assert sorted(pair for pair in diagram.pairs() if pair[1] == "join") == [
            (f"work {at}/3", "join") for at in (1, 2, 3)
        ]
        assert diagram.shapes[diagram.node("join")] == "funnel"


async def test_o8_a_fork_shares_the_past_in_its_diagram(dsn: str) -> None:
    """O14."""
    async with bench(dsn) as it:
        it.idle("a", "b", "c")
        key = (await it.run(line("l", "a", "b", "c"))).flow_key
        steps = await it.engine.history(key)
        forked = await it.engine.fork(steps[1].step_key)
        await it.ended(forked)
        line_drawn = [("START", "a"), ("a", "b"), ("b", "c"), ("c", "END")]
        assert (await drawn(it, forked)).pairs() == (await drawn(it, key)).pairs() == line_drawn

"""A stored graph whose condition this version refuses: flows under way run on, new ones are refused (G6, G9, G10)."""

from __future__ import annotations

import threading

import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.errors import BadRequest
from dwarf_nats.library import open_engine
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.status import Status
from tests.support.engines import SOON, shard_of

pytestmark = pytest.mark.slow


def _choice(condition: str = "n > 100") -> Graph:
    graph = Graph("choice")
    graph.add_transition_switch("add", "double", condition)
    graph.add_transition_switch("add", END, "true")
    graph.add_transition("double", END)
    return graph


async def _refused_from_now_on(engine: Engine, condition: str) -> None:
    """Change the stored graphs by hand, as another version might have left them."""
    fetch = shard_of(engine).store.database.fetch  # type: ignore[attr-defined]
    await fetch("update dwarf_graphs set body = replace(body, $1, $2)", "n > 100", condition)


@pytest.mark.parametrize(
    "condition", ["optional.of(n).hasValue()", "size(n, 1) == 1", "n.matches('(')", "n = 1", "n" + " + n" * 40 + " > 1"]
)
async def test_g10_a_flow_runs_on_with_a_condition_that_this_version_refuses(
    dsn: str, proxy: TaskProxy, condition: str
) -> None:
    settings = EngineSettings(drain_ms=0)
    async with open_engine(dsn, tasks=proxy, graphs=proxy, settings=settings) as old:
        await old.put_graph(_choice())
        flow = await old.create("choice", {"n": 1000})
        await _refused_from_now_on(old, condition)
    async with open_engine(dsn, tasks=proxy, graphs=proxy, settings=settings) as new:
        await new.start(flow)
        outcome = await new.await_(flow, SOON)
        assert outcome.status is Status.COMPLETED
        assert outcome.state == {"n": 1001}, "the branch was not taken"
        with pytest.raises(BadRequest, match=r"edge 'add' -> 'double' has the invalid condition.*put it again"):
            await new.create("choice", {"n": 1})
        await new.put_graph(_choice("n > 99"))
        assert (await new.run("choice", {"n": 1000}, timeout=SOON)).state == {"n": 2002}


async def test_g10_a_stored_graph_that_is_not_sound_is_refused_also_when_it_comes_inline(
    dsn: str, proxy: TaskProxy
) -> None:
    """The frozen graph of a flow under way is known to the replica, but was never checked."""
    settings = EngineSettings(drain_ms=0)
    async with open_engine(dsn, tasks=proxy, graphs=proxy, settings=settings) as engine:
        flow = await engine.create(_choice(), {"n": 1})
        unsound = Graph.from_json(_choice().to_json().replace(b"n > 100", b"n = 100"))
        await shard_of(engine).store.database.fetch(  # type: ignore[attr-defined]
            "update dwarf_graphs set digest = $1, body = $2", unsound.digest(), unsound.to_json().decode()
        )
        await shard_of(engine).store.database.fetch("update dwarf_flows set graph_digest = $1", unsound.digest())  # type: ignore[attr-defined]
        await engine.start(flow)
        assert (await engine.await_(flow, SOON)).status is Status.COMPLETED
        with pytest.raises(BadRequest, match="invalid condition"):
            await engine.create(unsound, {"n": 1})


async def test_g6_a_large_graph_is_checked_in_a_thread(
    dsn: str, proxy: TaskProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the replica serves others meanwhile."""
    threads: list[int] = []
    validate = Graph.validate

    def recorded(graph: Graph) -> None:
        threads.append(threading.get_ident())
        validate(graph)

    monkeypatch.setattr(Graph, "validate", recorded)
    large = Graph("large")
    for n in range(90):
        large.add_transition_switch("add", END, f"n == {n}" + " || n == 1" * 90)
    async with open_engine(dsn, tasks=proxy, graphs=proxy, settings=EngineSettings(drain_ms=0)) as engine:
        await engine.validate_graph(_choice())
        await engine.validate_graph(large)
        await engine.put_graph(large)
    here = threading.get_ident()
    assert [thread == here for thread in threads] == [True, False, False]

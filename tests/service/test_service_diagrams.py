"""Diagrams over NATS (D1, O8; wire section 1), of what the engine really recorded."""

from __future__ import annotations

from tests.render.diagrams import read
from tests.support.caller import Caller, line

FAN = {
    "name": "acme.media",
    "entryPoint": "probe",
    "tasks": [
        {"name": "probe"},
        {"name": "encode"},
        {"name": "check"},
        {"name": "subtitles"},
        {"name": "publish", "fanIn": True},
    ],
    "transitions": [
        {"from": "probe", "to": "encode", "forEach": "formats", "as": "format"},
        {"from": "encode", "to": "check"},
        {"from": "check", "to": "publish"},
        {"from": "probe", "to": "subtitles", "when": "captions"},
        {"from": "subtitles", "to": "publish"},
        {"from": "publish", "to": "END"},
    ],
    "annotations": {"publish": "goes live"},
}


async def test_o8_a_flow_with_branches_is_drawn_as_it_ran(either: Caller) -> None:
    for task in ("probe", "encode", "check", "subtitles", "publish"):
        await either.serves(task)
    ran = await either.ok("flow.run", graph=FAN, state={"formats": ["a", "b"], "captions": True})
    assert ran["status"] == "completed"
    drawn = (await either.ok("flow.mermaid", flowKey=ran["flowKey"]))["mermaid"]
    diagram = read(drawn)
    assert sorted(diagram.pairs()) == [
        ("START", "probe"),
        ("check", "publish"),
        ("check", "publish"),
        ("encode 1/3", "check"),
        ("encode 2/3", "check"),
        ("probe", "encode 1/3"),
        ("probe", "encode 2/3"),
        ("probe", "subtitles 3/3"),
        ("publish", "END"),
        ("subtitles 3/3", "publish"),
    ]
    assert set(diagram.looks.values()) == {"terminal", "completed", "cohort"}
    (box,) = diagram.titles
    assert sorted(diagram.labels[name][0] for name, around in diagram.inside.items() if around == box) == [
        "check", "check", "encode 1/3", "encode 2/3", "subtitles 3/3",
    ]  # fmt: skip
    assert diagram.labels[diagram.node("START")] == ["START", "acme.media"]
    assert all(edge.text.endswith("s") for edge in diagram.edges[:-1])
    assert (await either.ok("flow.mermaid", flowKey=ran["flowKey"]))["mermaid"] == drawn


async def test_o8_flows_are_drawn_whatever_their_status(caller: Caller) -> None:
    await caller.serves("reserve", {"error": {"message": 'no "stock"; sorry', "code": 409}})
    failed = (await caller.ok("flow.run", graph=line("acme.order", "reserve")))["flowKey"]
    diagram = read((await caller.ok("flow.mermaid", flowKey=failed))["mermaid"])
    assert diagram.labels[diagram.node("reserve")][2] == 'no "stock"; sorry'
    assert diagram.looks[diagram.node("END")] == "failed"
    created = (await caller.ok("flow.create_task", task="reserve"))["flowKey"]
    assert read((await caller.ok("flow.mermaid", flowKey=created))["mermaid"]).pairs() == [("START", "reserve")]
    await caller.ok("flow.cancel", flowKey=created)
    diagram = read((await caller.ok("flow.mermaid", flowKey=created))["mermaid"])
    assert diagram.labels[diagram.node("END")] == ["END", "cancelled"]


async def test_d1_a_registered_graph_is_drawn(caller: Caller) -> None:
    await caller.ok("graph.put", **FAN)
    diagram = read((await caller.ok("graph.mermaid", name="acme.media"))["mermaid"])
    assert diagram.edge("probe", "encode").text == "each format in formats"
    assert diagram.edge("probe", "subtitles").text == "if captions"
    assert diagram.labels[diagram.node("publish")] == ["publish", "goes live"]
    assert diagram.shapes[diagram.node("publish")] == "funnel"


async def test_diagrams_of_what_is_not_there_are_refused(caller: Caller) -> None:
    assert await caller.code("flow.mermaid", flowKey="1-1-a1B2c3D4e5F6g7H8") == 404
    assert await caller.code("flow.mermaid", flowKey="nonsense") == 400
    assert await caller.code("graph.mermaid", name="acme.absent") == 404
    assert await caller.code("graph.mermaid", name="a b") == 400

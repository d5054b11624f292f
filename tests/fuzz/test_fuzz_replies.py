"""Whatever a task service answers: its step ends or waits on purpose, and nobody else notices (X4; wire section 2)."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.msg import Msg

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.wire.headers import write_headers
from dwarf_nats.wire.tasks import decode_reply
from tests.fuzz.fuzz_rig import FuzzRig, opened
from tests.fuzz.random_requests import (
    HEADER_TEXTS,
    HOSTILE,
    OBJECTS,
    PLAIN,
    TEXTS,
    bent,
    examples,
    of_schema,
    packed,
    schema,
)

_numbers = itertools.count(1)
BATCH = 20
DELAYS = st.one_of(
    st.integers(0, 20), st.sampled_from([10**13, 10**13 + 1, 2**63 - 1, 2**63, -1]), st.floats(-1, 1e308)
)
HINTS: dict[str, st.SearchStrategy[Any]] = {
    "changes": st.one_of(OBJECTS, st.dictionaries(TEXTS, HOSTILE, max_size=3), st.just({"items": [1, 2, 3]}),
                         st.builds(lambda value: {"items": value}, HOSTILE), st.just({"n": 5}),
                         st.builds(lambda value: {"n": value}, HOSTILE)),
    "goto": st.one_of(st.sampled_from(["c", "a", "END", "b", "nowhere"]), TEXTS),
    "sleepMs": DELAYS,
    "initialDelayMs": DELAYS,
    "maxDelayMs": st.integers(0, 5),
    "giveUpAfterMs": DELAYS,
    "multiplier": st.one_of(st.floats(0, 3), st.sampled_from([1e308, 0.0, 5e-324])),
    "maxAttempts": st.one_of(st.integers(1, 4), st.sampled_from([2**31, 2**63, 0, -1])),
    "interrupt": PLAIN,
    "workflow": st.one_of(st.sampled_from(["sub", "sub", "none", "shallow"]), TEXTS),
    "input": OBJECTS,
    "error": st.one_of(
        st.text(max_size=5),
        st.fixed_dictionaries({}, optional={"message": TEXTS, "code": st.sampled_from([400, 404, 429, 500, 503, 529, 0, -1,
                                                                                     2**31, 2**70]), "more": PLAIN}),
    ),
}  # fmt: skip
SOUND = of_schema(schema("task_reply"), schema("task_reply"), HINTS)
HEADERS = st.dictionaries(
    st.sampled_from(["Nats-Service-Error-Code", "Nats-Service-Error", "Dwarf-Disposition", "Dwarf-Signal", "Dwarf-Worker",
                     "Status", "X"]),
    st.one_of(HEADER_TEXTS, st.sampled_from(["429", "503", "529", "402", "error", "breaker", "backpressure", "accepted"])),
    max_size=3,
)  # fmt: skip
REPLIES = st.tuples(bent(SOUND), st.one_of(st.none(), st.none(), HEADERS))


@pytest.mark.slow
@examples(500)
@given(REPLIES, st.binary(max_size=30))
def test_any_reply_can_be_read(reply: tuple[bytes, dict[str, str] | None], noise: bytes) -> None:
    """What is wrong with it becomes an error of the answer; nothing is raised."""
    body, headers = reply
    block = write_headers(tuple((headers or {}).items())) if headers else None
    for one in (block, b"NATS/1.0\r\n" + noise + b"\r\n\r\n", noise or None):
        answer = decode_reply("t", one, body)
        assert answer.error is None or isinstance(answer.error.stored(), str)


SHAPES: list[dict[str, Any]] = [
    {"tasks": ["a", "b"], "transitions": [("a", "b", {}), ("b", "END", {})]},
    {"tasks": ["a", "b", "h"], "transitions": [("a", "b", {}), ("b", "END", {}), ("a", "h", {"onError": True}),
                                               ("h", "END", {})]},
    {"tasks": ["a", "b", "c"], "transitions": [("a", "b", {}), ("b", "END", {}), ("a", "c", {"withGoto": True}),
                                               ("c", "END", {})]},
    {"tasks": ["a", "b", "j"], "fanIn": "j", "reducers": {"n": "add", "x": "append", "b": "merge", "a": "union"},
     "transitions": [("a", "b", {"forEach": "items", "as": "item"}), ("b", "j", {}), ("j", "END", {})]},
    {"tasks": ["s", "a", "b", "j"], "fanIn": "j", "reducers": {"n": "add", "a": "min"},
     "transitions": [("s", "a", {}), ("s", "b", {}), ("a", "j", {}), ("b", "j", {}), ("j", "END", {}),
                     ("j", "END", {"onError": True})]},
    {"tasks": ["a", "b"], "transitions": [("a", "a", {"switch": True, "when": "n > 1"}),
                                          ("a", "b", {"switch": True, "when": "true"}), ("b", "END", {})]},
]  # fmt: skip


def shape(number: int, at: int) -> dict[str, Any]:
    """A graph whose node `a` is a task of its own, so that no breaker holds up the others."""
    one = SHAPES[number]
    tasks = [
        {"name": name, "url": f"odd.t{at}" if name == "a" else "calm", "fanIn": name == one.get("fanIn")}
        for name in one["tasks"]
    ]
    edges = [{"from": source, "to": target, **more} for source, target, more in one["transitions"]]
    return {"name": "g", "tasks": tasks, "transitions": edges, "reducers": one.get("reducers", {})}


class Service:
    """Answers the first request for each odd task as the example says, everything else calmly."""

    def __init__(self, rig: FuzzRig) -> None:
        self.rig = rig
        self.replies: dict[str, tuple[bytes, dict[str, str] | None]] = {}

    async def start(self) -> None:
        async def answer(message: Msg) -> None:
            body, headers = self.replies.pop(message.subject.rsplit(".", 1)[1], (b"", None))
            await self.rig.client.publish(message.reply, body, headers=headers)

        await self.rig.client.subscribe(f"{self.rig.prefix}task.>", cb=answer)
        for name, tasks in (("sub", ["calm"]), ("shallow", ["odd.sub"])):
            await self.rig.caller.ok(
                "graph.put",
                name=name,
                tasks=[{"name": task} for task in tasks],
                transitions=[{"from": tasks[-1], "to": "END"}],
            )

    async def try_out(self, batch: list[tuple[int, tuple[bytes, dict[str, str] | None]]]) -> None:
        rig = self.rig
        self.replies = {f"t{at}": reply for at, (_, reply) in enumerate(batch)}
        keys = []
        for at, (number, _) in enumerate(batch):
            body = packed({"graph": shape(number, at), "state": {"n": 0}, "start": True})
            message = await rig.ask("flow.create", body)
            assert rig.checked("flow.create", message) == 0, message.data
            keys.append(json.loads(message.data)["flowKey"])
        bystander = await rig.caller.ok("flow.run", graph=shape(0, len(batch) + 1), timeoutMs=60_000)
        assert bystander["status"] == "completed"
        await rig.at_rest()
        for key, (_, reply) in zip(keys, batch, strict=True):
            message = await rig.ask("flow.snapshot", packed({"flowKey": key}))
            assert rig.checked("flow.snapshot", message) == 0, message.data
            status = json.loads(message.data)["status"]
            if status == "running":
                waiting = await rig.fetch(
                    "select 1 from dwarf_steps where flow_id = $1 and status = 'pending'", int(key.split("-")[1])
                )
                waiting += await rig.fetch(
                    "select 1 from dwarf_steps where flow_id = $1 and parked = 1", int(key.split("-")[1])
                )
                assert waiting, ("running without anything to wait for", reply)
            for operation in ("flow.history", "flow.mermaid"):
                assert rig.checked(operation, await rig.ask(operation, packed({"flowKey": key}))) == 0
        await rig.well()
        await rig.clear()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("sqlite_dsn", 25), ("pg_dsn", 5)])
def test_whatever_a_task_answers(
    request: pytest.FixtureRequest, nats_server: NatsServer, kind: str, count: int
) -> None:
    dsn: str = request.getfixturevalue(kind)
    with opened(nats_server.url, dsn, f"answers{next(_numbers)}", max_timeout_ms=60_000) as rig:
        service = Service(rig)
        rig.run(service.start())

        @examples(count)
        @given(st.lists(st.tuples(st.integers(0, len(SHAPES) - 1), REPLIES), min_size=BATCH, max_size=BATCH))
        def try_out(batch: list[tuple[int, tuple[bytes, dict[str, str] | None]]]) -> None:
            rig.run(service.try_out(batch))

        try_out()

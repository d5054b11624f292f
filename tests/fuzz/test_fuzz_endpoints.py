"""Every endpoint, asked well and badly: answers as the rules have them, and a replica as it was (semantics: refusals)."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.msg import Msg

from dwarf_nats.dev_servers import NatsServer
from tests.fuzz.fuzz_rig import FuzzRig, opened
from tests.fuzz.random_requests import HEADER_TEXTS, NAMES, OBJECTS, TEXTS, bent, examples, requests

pytestmark = pytest.mark.slow
_numbers = itertools.count(1)
BATCH = 30
FLOW, STEP, SECRET, OTHER = "FLOWKEY", "STEPKEY", "SECRETKEY", "WRONGTOKEN"
"""In place of keys that are known when the example runs."""
WORKFLOWS = st.sampled_from(
    ["known", "known", "single", "pausing", "none", "a.b", "a..b", "x" * 300, "1-1-" + "x" * 16]
)
GRAPHS = st.sampled_from(
    [
        {"name": "g", "tasks": [{"name": "a"}], "transitions": [{"from": "a", "to": "END"}]},
        {"name": "g", "tasks": [{"name": "a"}, {"name": "b", "url": "c.d"}], "entryPoint": "a", "reducers": {"n": "add"},
         "transitions": [{"from": "a", "to": "b", "when": "n > 1"}, {"from": "b", "to": "END"}]},
        {"name": "known", "tasks": [{"name": "a"}], "transitions": [{"from": "a", "to": "END"}]},
        {"name": "g", "tasks": []},
    ]
)  # fmt: skip
HINTS: dict[str, st.SearchStrategy[Any]] = {
    "flowKey": st.sampled_from(
        [FLOW] * 16 + [OTHER, STEP, "", "1-1", "0-1-" + "x" * 16, "1-99999999999999999999-" + "x" * 16]
    ),
    "threadKey": st.sampled_from([FLOW] * 12 + [OTHER, STEP]),
    "stepKey": st.sampled_from([STEP] * 12 + [OTHER, FLOW]),
    "workflow": WORKFLOWS,
    "task": st.sampled_from(["a", "b", "t.u", "pauses", "x"]),
    "name": st.sampled_from(["known", "none", "a.b", "single"]),
    "graph": GRAPHS,
    "state": OBJECTS,
    "notify": st.sampled_from(["me", "a.b", "a b"]),
    "idempotencyKey": st.one_of(st.sampled_from(["k1", "k2"]), TEXTS),
    "timeoutMs": st.integers(0, 20),
    "cursor": st.one_of(st.text(max_size=20), st.sampled_from(["e30", "W10=", "eyIxIjowfQ=="])),
}


def _without_nulls(request: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if value is not None}


SOUND = {name: GRAPHS if name in ("graph.put", "graph.validate") else requests(name, HINTS) for name in NAMES}
for _name in ("flow.create", "flow.run"):  # which take one of two, and mostly get one
    SOUND[_name] = st.one_of(
        SOUND[_name],
        st.builds(lambda one, name: {**one, "graph": None, "workflow": name}, SOUND[_name], WORKFLOWS).map(
            _without_nulls
        ),
        st.builds(lambda one, graph: {**one, "workflow": None, "graph": graph}, SOUND[_name], GRAPHS).map(
            _without_nulls
        ),
    )


@st.composite
def asked(draw: st.DrawFn) -> tuple[str, bytes, dict[str, str] | None, bool]:
    """Operation, body, headers, and whether it has a reply subject."""
    operation = draw(st.sampled_from(NAMES))
    body = draw(bent(SOUND[operation]))
    names = st.sampled_from(["Nats-Msg-Id", "nats-msg-id", "Status", "Nats-Service-Error-Code", "X", "traceparent"])
    headers = draw(st.one_of(st.none(), st.none(), st.dictionaries(names, HEADER_TEXTS, max_size=3)))
    return operation, body, headers or None, draw(st.integers(0, 9)) > 0


class Crowd:
    """Flows to be asked for, and one whose key nobody says."""

    def __init__(self, rig: FuzzRig) -> None:
        self.rig = rig
        self.keys: dict[str, list[str]] = {}
        self.secret = ""

    async def settle_in(self) -> None:
        async def answer(message: Msg) -> None:
            pauses = message.subject.endswith(".pauses") and b'"resumed"' not in message.data
            await message.respond(b'{"interrupt": {"q": 1}}' if pauses else b"")

        await self.rig.client.subscribe(f"{self.rig.prefix}task.>", cb=answer)
        await self.rig.client.flush()

    async def gather(self) -> None:
        ok = self.rig.caller.ok
        for name, tasks in (("known", ["a", "b"]), ("single", ["a"]), ("pausing", ["pauses"])):
            await ok(
                "graph.put",
                name=name,
                tasks=[{"name": task} for task in tasks],
                transitions=[{"from": a, "to": b} for a, b in zip(tasks, [*tasks[1:], "END"], strict=True)],
            )
        self.secret = (await ok("flow.create", workflow="known", options={"priority": 77}))["flowKey"]
        flows = [await self.stopped(name) for name in ("known", "single", "pausing")]
        created = await ok("flow.create", workflow="known")
        steps = [(await ok("flow.history", flowKey=flow["flowKey"]))["steps"][0]["stepKey"] for flow in flows]
        wrong = self.secret.rsplit("-", 1)[0] + "-" + "x" * 16
        self.keys = {FLOW: [created["flowKey"], *(flow["flowKey"] for flow in flows)], STEP: steps, OTHER: [wrong]}

    async def stopped(self, workflow: str) -> dict[str, Any]:
        """The outcome of a new flow. The replica cuts waits short, so one may not be enough on a machine under load."""
        ok = self.rig.caller.ok
        flow = await ok("flow.create", workflow=workflow, start=True)
        while True:
            outcome: dict[str, Any] = await ok("flow.poll", **flow)
            if outcome["status"] not in ("created", "running"):
                return outcome

    def filled(self, body: bytes, at: int) -> bytes:
        for word, keys in self.keys.items():
            body = body.replace(word.encode(), keys[at % len(keys)].encode())
        return body

    async def throw(self, batch: list[tuple[str, bytes, dict[str, str] | None, bool]]) -> None:
        await self.gather()
        thrown = []
        for at, (operation, body, headers, answered) in enumerate(batch):
            body = self.filled(body, at)
            if answered:
                thrown.append((operation, body, self.rig.ask(operation, body, headers)))
            else:
                await self.rig.client.publish(f"{self.rig.prefix}.{operation}", body, headers=headers)
        replies = await asyncio.gather(*(one for _, _, one in thrown))
        token = self.secret.rsplit("-", 1)[1].encode()
        for (operation, body, _), message in zip(thrown, replies, strict=True):
            code = self.rig.checked(operation, message)
            if operation != "flow.list":  # which shows all there are
                assert token not in message.data, (operation, body)
            if self.keys[OTHER][0].encode() in body and code == 0:
                assert operation in (
                    "flow.create",
                    "flow.run",
                    "flow.create_task",
                    "flow.list",
                    "flow.continue",
                    "graph.put",
                    "graph.validate",
                )
        await self.rig.at_rest()
        await self.rig.well()
        await self.rig.clear()


@pytest.mark.parametrize(("kind", "count"), [("sqlite_dsn", 40), ("pg_dsn", 6)])
def test_whatever_is_asked(request: pytest.FixtureRequest, nats_server: NatsServer, kind: str, count: int) -> None:
    dsn: str = request.getfixturevalue(kind)
    with opened(nats_server.url, dsn, f"fuzz{next(_numbers)}") as rig:
        crowd = Crowd(rig)
        rig.run(crowd.settle_in())

        @examples(count)
        @given(st.lists(asked(), min_size=BATCH, max_size=BATCH))
        def throw(batch: list[tuple[str, bytes, dict[str, str] | None, bool]]) -> None:
            rig.run(crowd.throw(batch))

        throw()

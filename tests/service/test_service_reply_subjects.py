"""The service answers nobody on its own subjects, where whoever asks perhaps may not publish (wire sections 1 and 4)."""

from __future__ import annotations

import json

import pytest

from tests.service.caller import Caller, take


@pytest.mark.parametrize("subject", ["{}.peer.trip_breaker", "{}task.charge", "{}graph.bill", "{}.flow.start"])
async def test_an_operation_is_no_way_to_speak_in_the_name_of_the_service(caller: Caller, subject: str) -> None:
    """The reply of `task.breaker`, say, would read as the signal that a breaker has tripped."""
    own = subject.format(caller.prefix)
    before = await caller.ok("flow.list")
    heard = await caller.hear(own)
    for operation, body in (("task.breaker", {"task": "charge"}), ("flow.create_task", {"task": "charge"})):
        await caller.client.publish(f"{caller.prefix}.{operation}", json.dumps(body).encode(), reply=own)
    await caller.client.publish("$SRV.INFO.dwarf", b"", reply=own)
    # Answered after what came before it, on the same connection of the replica.
    assert await caller.ok("flow.list") == before
    await caller.client.publish(own, b"mine")
    assert (await take(heard)).data == b"mine"

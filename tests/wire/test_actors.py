"""Who asks (M3): from headers that anybody may have written, to a short line of printable text."""

from __future__ import annotations

import asyncio
import getpass
import socket

import pytest

from dwarf_nats.actor import MAX_ACTOR_CHARS, acting, current_actor, printable_actor, system_actor
from dwarf_nats.wire.actors import actor_of


@pytest.mark.parametrize(
    ("headers", "actor"),
    [
        ({}, ""),
        ({"dwarf-actor": "ada@example.com"}, "ada@example.com"),
        ({"dwarf-actor": "Zo%C3%AB 100%25"}, "Zoë 100%"),
        ({"nats-request-info": '{"acc":"SHOP","user":"bob","rtt":12}'}, "bob@SHOP"),
        ({"nats-request-info": '{"acc":"SHOP","user":"UABC","name_tag":"bob"}'}, "bob@SHOP"),
        ({"nats-request-info": '{"acc":"SHOP","rtt":12}'}, "SHOP"),
        ({"dwarf-actor": "ada", "nats-request-info": '{"acc":"SHOP","user":"bob"}'}, "ada"),
        ({"dwarf-actor": "", "nats-request-info": '{"acc":"SHOP","user":"bob"}'}, "bob@SHOP"),
        ({"nats-request-info": "no json"}, ""),
        ({"nats-request-info": '{"user": 7}'}, ""),
        ({"nats-request-info": "[]"}, ""),
    ],
)
def test_the_header_counts_then_what_nats_tells_m3(headers: dict[str, str], actor: str) -> None:
    assert actor_of(headers) == actor


def test_an_actor_is_one_printable_line_of_bounded_length_m3() -> None:
    assert printable_actor(" ada\x1b[2J\r\nroot\u202e\x00x ") == "ada [2J root x"
    assert len(printable_actor("x" * 10_000)) == MAX_ACTOR_CHARS
    assert printable_actor("\n" * 10_000) == ""


async def test_requests_side_by_side_keep_their_actors_apart_m3() -> None:
    both = asyncio.Barrier(2)

    async def request(actor: str) -> str:
        with acting(actor):
            await both.wait()
            return current_actor()

    assert await asyncio.gather(request("ada"), request("")) == ["ada", ""]
    assert current_actor() == ""


def test_the_system_names_its_user_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    monkeypatch.setattr(socket, "gethostname", lambda: "build-7")
    assert system_actor() == "ada@build-7"

    def nobody() -> str:
        raise KeyError("no such uid")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert system_actor().startswith("uid ")

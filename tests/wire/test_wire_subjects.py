"""Where the service may be made to publish: reply subjects, private subjects, prefixes (wire sections 1, 2 and 7)."""

from __future__ import annotations

import pytest

from dwarf_nats.errors import BadRequest
from dwarf_nats.wire.subjects import Subjects, is_acknowledgement, replica_inbox

OURS = Subjects("acme.flows", "jobs", "plans")
INBOX = replica_inbox("_INBOX.aBc")
OWN = [
    "acme.flows.peer.trip_breaker",
    "acme.flows.flow.create",
    "acme.flows.stopped.shop",
    "jobs.charge",
    "plans.order",
    f"{INBOX}.x",
    f"{replica_inbox('_INBOX.replica.aBc')}.x",
    f"{replica_inbox('private-to-others.aBc')}.x",
]


@pytest.mark.parametrize("subject", OWN)
@pytest.mark.parametrize("wrap", ["{}", "_GR_.abcdef.ghijkl.{}"])
def test_nobody_is_answered_on_a_subject_of_the_service(subject: str, wrap: str) -> None:
    """Wire section 7; between clusters NATS puts a prefix of its own before a reply subject."""
    assert "own" in OURS.refuses_reply(wrap.format(subject).encode())


@pytest.mark.parametrize(
    "reply",
    [
        b"$JS.API.STREAM.PURGE.events",
        b"$SRV.PING",
        b"$KV.a.b",
        b"_INBOX.>",
        b"_INBOX.*",
        b"*.flows.peer.trip_breaker",
        b"a..b",
        b".a",
        b"a.",
        b"_INBOX.\xff\xfe",
        b"_INBOX." + b"x" * 2000,
    ],
)
def test_nobody_is_answered_where_nobody_can_wait_for_an_answer(reply: bytes) -> None:
    assert OURS.refuses_reply(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "_INBOX.aBc.1",
        "_INBOX.shop.aBc.1",
        "_R_.eulRUz.8jlNKO",
        "_GR_.abcdef.ghijkl._INBOX.aBc",
        "answers.here",
        "dwarf.answers",
        "acme.flowers",
        "jobsheet.x",
        "antwörten.x",
    ],
)
def test_everybody_else_is_answered(reply: str) -> None:
    """Callers of other accounts among them, whose reply subjects begin with `_R_`."""
    assert OURS.refuses_reply(reply.encode()) == ""


@pytest.mark.parametrize(
    "subject",
    [
        *OWN,
        "",
        "$JS.API.INFO",
        "a.>",
        "a.*",
        "a b",
        "a..b",
        ".a",
        "a.",
        "x" * 300,
        "a\r\nPUB x 0",
        "1-42-a1B2c3D4e5F6g7H8",
    ],
)
def test_no_worker_is_asked_on_such_a_subject(subject: str) -> None:
    """Wire section 7: a private subject is an ordinary name, no key, and none of the service's own."""
    assert not OURS.is_private(subject)


@pytest.mark.parametrize("subject", ["_INBOX.aBc", "_INBOX.billing.aBc", "workers.one", "dwarf.one"])
def test_a_worker_is_asked_on_an_ordinary_subject(subject: str) -> None:
    assert OURS.is_private(subject)


def test_a_message_of_a_stream_wants_no_answer() -> None:
    assert is_acknowledgement(b"$JS.ACK.events.c.1.2.3.4.5")
    assert not is_acknowledgement(b"_INBOX.x")


@pytest.mark.parametrize(
    "prefixes",
    [
        ("dwarf", "dwarf", "graph"),
        ("dwarf", "dwarf.task", "graph"),
        ("dwarf", "dwarf.stopped", "graph"),
        ("work.dwarf", "work", "graph"),
        ("dwarf", "task", "task.graph"),
    ],
)
def test_prefixes_that_lie_under_each_other_are_refused(prefixes: tuple[str, str, str]) -> None:
    """Else a notify target, a task or a workflow could be chosen so that a message for one is taken for another."""
    with pytest.raises(BadRequest, match="lies under"):
        Subjects(*prefixes).check_apart("_INBOX.x")


def test_prefixes_beside_each_other_are_in_order() -> None:
    for prefixes in (("dwarf", "task", "graph"), ("acme.dwarf", "acme.task", "acme.graph"), ("a", "ab", "abc")):
        Subjects(*prefixes).check_apart("_INBOX.x")


def test_inboxes_and_the_subjects_of_the_service_are_kept_apart() -> None:
    with pytest.raises(BadRequest, match="inbox prefix dwarf.replies lies under"):
        Subjects().check_apart("dwarf.replies.x")
    for prefix in ("_INBOX", "_INBOX.replica", "_R_", "_GR_.x"):
        with pytest.raises(BadRequest, match="NATS replies"):
            Subjects(task_prefix=prefix)

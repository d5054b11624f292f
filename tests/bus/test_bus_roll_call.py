"""The roll call by itself: a clock moved by hand, workers whose answers are written here (wire: section 2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest

from dwarf_nats.bus.calls import Call, Reply
from dwarf_nats.bus.roll_call import SILENCES, RollCall
from dwarf_nats.clock import ManualClock
from dwarf_nats.ports import BusAway, WorkerLost

TOKEN = "a1B2c3D4e5F6g7H8"


class Asked(NamedTuple):
    """A call as the worker gets it, to be answered."""

    worker: str
    steps: list[str]
    cancel: list[str]
    size: int
    reply: asyncio.Future[Reply | None]

    def running(self, *steps: str) -> None:
        self.reply.set_result(Reply(None, msgspec.json.encode({"running": steps})))

    def silent(self) -> None:
        self.reply.set_result(None)

    def nobody(self) -> None:
        self.reply.set_result(Reply(b"NATS/1.0 503\r\n\r\n", b"", nobody=True))


class Office:
    """In place of connection and inbox: keeps what is asked, and what became of the calls."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.roll = RollCall(self, self, clock=self.clock)  # type: ignore[arg-type]
        self.asked: asyncio.Queue[Asked] = asyncio.Queue()
        self.lost: dict[str, WorkerLost] = {}
        self.limit = 1_000_000
        self.away = False
        self.responding = True
        self.probes = 0
        self.calls: dict[str, Call] = {}

    # what the roll call needs of a connection

    def fits(self, block: bytes, body: bytes) -> bool:
        return len(block) + len(body) <= self.limit

    async def responds(self, seconds: float) -> bool:
        assert seconds > 0
        self.probes += 1
        return self.responding

    def on_reconnect(self, call: Callable[[], None]) -> None:
        self.reconnected = call

    # and of an inbox

    async def ask(self, subject: str, block: bytes, body: bytes, seconds: float) -> Reply | None:
        assert (block, seconds) == (b"", 2.0)
        if self.away:
            raise BusAway("not connected")
        sent = msgspec.json.decode(body)
        assert sent.keys() == {"steps", "cancel"}
        asked = Asked(subject, sent["steps"], sent["cancel"], len(body), asyncio.get_running_loop().create_future())
        self.asked.put_nowait(asked)
        return await asked.reply

    def find(self, step: str) -> Call | None:
        return self.calls.get(step)

    def end(self, call: Call, error: Exception) -> None:
        assert isinstance(error, WorkerLost)
        self.lost[call.public_id] = error
        self.answer(call)

    # what the test does

    def accepted(self, step: str, worker: str = "w") -> Call:
        call = Call(b"1", asyncio.get_running_loop().create_future(), "task.t", f"{step}-{TOKEN}")
        call.worker = worker
        self.calls[call.step] = call
        self.roll.watch(call)
        return call

    async def proves(self, worker: str = "w") -> None:
        """The worker accepts something, answers the call that follows at once, and is done with it."""
        call = self.accepted("7-7", worker)
        await self.settled()
        self.taken().running("7-7")
        await self.settled()
        self.answer(call)

    def answer(self, call: Call) -> None:
        """The task's reply came."""
        if self.calls.get(call.step) is call:
            del self.calls[call.step]
        self.roll.unwatch(call)

    async def settled(self) -> None:
        """Every worker's attendant waits for the clock or for an answer, and nothing else is on its way."""
        for _ in range(50):
            await asyncio.sleep(0)

    async def tick(self) -> None:
        await self.settled()
        self.clock.advance(1)
        await self.settled()

    async def call(self) -> Asked:
        """The one call of the next second."""
        await self.tick()
        return self.taken()

    def taken(self) -> Asked:
        asked = self.asked.get_nowait()
        assert self.asked.empty()
        return asked


@pytest.fixture
def office() -> Office:
    return Office()


async def test_nobody_is_called_while_nobody_has_accepted_anything(office: Office) -> None:
    for _ in range(3):
        await office.tick()
    assert (office.asked.empty(), office.roll.workers) == (True, 0)


async def test_one_call_a_second_to_each_worker_names_all_its_steps_without_tokens(office: Office) -> None:
    for number in range(3):
        office.accepted(f"1-{number}", "one")
    office.accepted("2-7", "two")
    for _ in range(3):
        await office.tick()
        asked = {one.worker: one for one in (office.asked.get_nowait(), office.asked.get_nowait())}
        assert office.asked.empty()
        assert {worker: (one.steps, one.cancel) for worker, one in asked.items()} == {
            "one": (["1-0", "1-1", "1-2"], []),
            "two": (["2-7"], []),
        }
        for one in asked.values():
            one.running(*one.steps)
    assert office.lost == {}


async def test_the_calls_end_with_the_last_step(office: Office) -> None:
    call = office.accepted("1-1")
    (await office.call()).running("1-1")
    await office.settled()
    office.answer(call)
    for _ in range(3):
        await office.tick()
    assert (office.asked.empty(), office.roll.workers) == (True, 0)
    office.accepted("1-2")
    assert (await office.call()).steps == ["1-2"]


async def test_nobody_there_loses_all_steps_of_that_worker_at_once_and_of_no_other(office: Office) -> None:
    await office.proves("dead")
    for step in ("1-1", "1-2"):
        office.accepted(step, "dead")
    await office.tick()
    office.taken().nobody()
    await office.settled()
    assert sorted(office.lost) == ["1-1", "1-2"]
    office.accepted("1-3", "alive")
    (await office.call()).running("1-3")
    await office.settled()
    assert (sorted(office.lost), office.roll.lost, office.roll.workers) == (["1-1", "1-2"], 2, 1)


async def test_a_worker_that_is_silent_for_three_calls_in_a_row_has_lost_its_steps(office: Office) -> None:
    await office.proves()
    for step in ("1-1", "1-2"):
        office.accepted(step)
    for _ in range(SILENCES - 1):
        (await office.call()).silent()
    (await office.call()).running("1-1", "1-2")  # not in a row
    for _ in range(SILENCES - 1):
        (await office.call()).silent()
    await office.settled()
    assert office.lost == {}
    (await office.call()).silent()
    await office.settled()
    assert sorted(office.lost) == ["1-1", "1-2"]


@pytest.mark.parametrize("how", ["nobody", "silent", "nonsense"])
async def test_the_silence_of_a_worker_that_never_answered_proves_nothing(
    office: Office, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Wire section 2: another account, or permissions, may keep the replica from it; the deadline alone binds."""
    calls = [office.accepted(f"1-{number}") for number in range(2)]
    cancelled = office.accepted("1-9")
    for turn in range(4 * SILENCES):
        asked = await office.call()
        assert asked.steps[:2] == ["1-0", "1-1"]
        match how:
            case "nobody":
                asked.nobody()
            case "silent":
                asked.silent()
            case _:
                asked.reply.set_result(Reply(None, b'{"running": 5}'))
        await office.settled()
        if turn == 2:
            office.roll.cancel(cancelled)
            await office.settled()
            office.taken().nobody()
    assert (office.lost, office.roll.lost) == ({}, 0)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1, "it is said once"
    assert "only their deadlines bound its steps" in told[0]
    for call in calls:
        office.answer(call)
    await office.tick()
    assert (office.asked.empty(), office.roll.workers) == (True, 0)


async def test_a_worker_is_called_at_once_when_it_accepts_for_the_first_time(office: Office) -> None:
    """So that one which is killed a moment later is missed at the next call."""
    office.accepted("1-1")
    await office.settled()
    office.taken().running("1-1")
    await office.settled()
    office.accepted("1-2")  # known by now
    await office.settled()
    assert office.asked.empty()
    (await office.call()).nobody()
    await office.settled()
    assert sorted(office.lost) == ["1-1", "1-2"]


async def test_proof_of_life_is_remembered_while_nothing_is_in_hand(office: Office) -> None:
    await office.proves()
    await office.tick()
    assert office.roll.workers == 0
    office.accepted("1-1")
    await office.settled()
    assert office.asked.empty()
    (await office.call()).nobody()
    await office.settled()
    assert sorted(office.lost) == ["1-1"]


async def test_an_answer_to_a_cancellation_is_proof_of_life(office: Office) -> None:
    office.accepted("1-1")
    await office.settled()
    first = office.taken()
    office.roll.cancel(office.accepted("1-2"))
    await office.settled()
    office.taken().running()
    first.silent()
    (await office.call()).nobody()
    await office.settled()
    assert sorted(office.lost) == ["1-1"]


@pytest.mark.parametrize("how", ["nobody", "silent"])
async def test_a_worker_that_accepts_though_it_seemed_gone_must_answer_before_it_can_be_missed_again(
    office: Office, how: str
) -> None:
    """It lives, so it is the replica that cannot reach it any more: its next step is not given back for that."""
    await office.proves()
    office.accepted("1-1")
    for _ in range(1 if how == "nobody" else SILENCES):
        getattr(await office.call(), how)()
    await office.settled()
    assert sorted(office.lost) == ["1-1"]
    office.accepted("1-1")
    await office.settled()
    getattr(office.taken(), how)()
    for _ in range(2 * SILENCES):
        getattr(await office.call(), how)()
    await office.settled()
    assert office.roll.lost == 1
    (await office.call()).running("1-1")  # reached again
    (await office.call()).nobody()
    await office.settled()
    assert office.roll.lost == 2


async def test_a_worker_whom_permissions_keep_from_the_replica_keeps_its_steps_also_if_it_was_reached_before(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    """That is no sign of death at all; it is called again when it accepts something more."""
    await office.proves()
    office.accepted("1-1")
    (await office.call()).reply.set_result(Reply(None, b"", refused=True))
    for _ in range(3):
        await office.tick()
    assert (office.lost, office.asked.empty()) == ({}, True)
    assert "permissions do not let this replica publish" in caplog.text
    office.accepted("1-2")
    await office.settled()
    office.taken().running("1-2")
    (await office.call()).nobody()
    await office.settled()
    assert sorted(office.lost) == ["1-2"]


async def test_another_server_may_not_reach_whom_the_last_one_reached(office: Office) -> None:
    await office.proves()
    office.reconnected()
    office.accepted("1-1")
    await office.settled()
    office.taken().nobody()
    (await office.call()).nobody()
    await office.settled()
    assert office.lost == {}


async def test_what_is_remembered_of_workers_is_bounded(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwarf_nats.bus.roll_call.MAX_REMEMBERED", 3)
    for number in range(5):
        await office.proves(f"w{number}")
        office.accepted("1-1", f"x{number}")
        await office.settled()
        office.taken().nobody()
        await office.settled()
    assert (list(office.roll._proven), list(office.roll._unreachable)) == (["w2", "w3", "w4"], ["x2", "x3", "x4"])


async def test_an_answer_that_makes_no_sense_is_silence(office: Office) -> None:
    await office.proves()
    office.accepted("1-1")
    for body in (b"", b"[]", b'{"running": "1-1"}'):
        (await office.call()).reply.set_result(Reply(None, body))
    await office.settled()
    assert sorted(office.lost) == ["1-1"]


async def test_silence_does_not_count_while_the_server_is_silent_as_well(office: Office) -> None:
    await office.proves()
    office.accepted("1-1")
    office.responding = False
    for _ in range(3 * SILENCES):
        (await office.call()).silent()
    await office.settled()
    assert (office.lost, office.probes) == ({}, 3 * SILENCES)
    office.responding = True
    for _ in range(SILENCES):
        (await office.call()).silent()
    await office.settled()
    assert sorted(office.lost) == ["1-1"]


async def test_whoever_accepts_something_is_not_hung(office: Office) -> None:
    office.accepted("1-1")
    for number in range(2 * SILENCES):
        (await office.call()).silent()
        await office.settled()
        office.accepted(f"1-{number + 2}")
    assert office.lost == {}


async def test_a_step_unknown_in_two_answers_in_a_row_is_lost_and_the_others_stay(office: Office) -> None:
    for step in ("1-1", "1-2"):
        office.accepted(step)
    (await office.call()).running("1-1")
    (await office.call()).running("1-1", "1-2")  # known again
    (await office.call()).running("1-1")
    (await office.call()).silent()  # says nothing about it
    await office.settled()
    assert office.lost == {}
    (await office.call()).running("1-1", "9-9")
    await office.settled()
    assert (sorted(office.lost), office.roll.workers) == (["1-2"], 1)
    assert (await office.call()).steps == ["1-1"]


async def test_a_step_whose_reply_overtakes_the_second_call_is_not_lost(office: Office) -> None:
    call = office.accepted("1-1")
    office.accepted("1-2")
    (await office.call()).running("1-2")
    second = await office.call()
    office.answer(call)
    second.running("1-2")
    assert (await office.call()).steps == ["1-2"]
    assert office.lost == {}


async def test_a_step_accepted_while_a_call_is_under_way_is_not_judged_by_its_answer(office: Office) -> None:
    await office.proves()
    office.accepted("1-1")
    for _ in range(2):
        asked = await office.call()
        late = f"1-{len(office.calls) + 1}"
        office.accepted(late)
        asked.running(*asked.steps)
    asked = await office.call()
    office.accepted("1-9")
    asked.nobody()
    await office.settled()
    assert sorted(office.lost) == ["1-1", "1-2", "1-3"]
    assert (await office.call()).steps == ["1-9"]


async def test_the_bus_going_away_loses_nobody(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    call = office.accepted("1-1")
    office.away = True
    await office.tick()
    office.answer(call)  # as the inbox ends it, with `BusAway`
    await office.tick()
    assert (office.lost, office.roll.workers, caplog.records) == ({}, 0, [])
    office.away = False
    office.accepted("1-1")
    assert (await office.call()).steps == ["1-1"]


async def in_parts(office: Office, *unknown: str) -> list[Asked]:
    """The calls of one turn, each answered with what it asked except the unknown."""
    await office.tick()
    asked: list[Asked] = []
    while not office.asked.empty():
        asked.append(office.taken())
        asked[-1].running(*[step for step in asked[-1].steps if step not in unknown])
        await office.settled()
    return asked


async def test_a_roll_over_max_payload_is_called_in_parts_that_fit(office: Office) -> None:
    await office.proves()
    steps = [f"1-{number}" for number in range(100)]
    calls = [office.accepted(step) for step in steps]
    cancels = [office.accepted(f"2-{number}") for number in range(20)]
    for call in cancels:
        office.roll.cancel(call)
    await office.settled()
    office.taken().silent()
    office.limit = 150
    asked = await in_parts(office, "1-50")
    assert [step for one in asked for step in one.steps] == steps
    assert sorted(step for one in asked for step in one.cancel) == sorted(call.public_id for call in cancels)
    assert all(one.size <= office.limit for one in asked)
    assert len(asked) > 8
    assert office.lost == {}
    asked = await in_parts(office, "1-50")
    assert all(one.cancel == [] for one in asked)
    assert sorted(office.lost) == ["1-50"]
    for call in calls:
        office.answer(call)
    assert await in_parts(office) == []


async def test_one_silent_part_leaves_the_whole_call_without_judgement(office: Office) -> None:
    await office.proves()
    for number in range(20):
        office.accepted(f"1-{number}")
    office.limit = 120
    for _ in range(2):
        await office.tick()
        office.taken().running()  # knows nothing of the first part
        await office.settled()
        office.taken().silent()
        await office.settled()
    assert office.lost == {}


async def test_a_cancelled_step_is_told_at_once_and_together_with_others_of_the_same_moment(office: Office) -> None:
    await office.proves()
    calls = [office.accepted(f"1-{number}") for number in range(3)]
    for call in calls[:2]:
        office.roll.cancel(call)
    await office.settled()
    told = office.taken()
    assert (told.steps, told.cancel) == ([], ["1-0", "1-1"])
    told.running()
    asked = await office.call()
    assert (asked.steps, asked.cancel) == (["1-2"], [])


async def test_a_cancellation_without_an_answer_goes_with_the_next_call(office: Office) -> None:
    await office.proves()
    office.accepted("1-1")
    office.roll.cancel(office.accepted("1-2"))
    await office.settled()
    office.taken().silent()
    asked = await office.call()
    assert (asked.steps, asked.cancel) == (["1-1"], ["1-2"])
    asked.running("1-1")
    asked = await office.call()
    assert (asked.steps, asked.cancel) == (["1-1"], [])


async def test_a_worker_with_nothing_but_cancellations_is_told_twice_and_then_left_alone(office: Office) -> None:
    office.roll.cancel(office.accepted("1-1"))
    await office.settled()
    office.taken().silent()
    asked = await office.call()
    assert (asked.steps, asked.cancel) == ([], ["1-1"])
    asked.silent()
    for _ in range(3):
        await office.tick()
    assert (office.asked.empty(), office.roll.workers, office.lost) == (True, 0, {})


async def test_unanswered_cancellations_do_not_make_a_worker_hung(office: Office) -> None:
    """A service may hear of a cancellation without answering; only calls for steps count."""
    await office.proves()
    office.accepted("1-0")
    for number in range(1, 3 * SILENCES):
        office.roll.cancel(office.accepted(f"1-{number}"))
        await office.settled()
        office.taken().silent()
        (await office.call()).running("1-0")
    await office.settled()
    assert office.lost == {}


async def test_a_step_in_hand_again_is_not_cancelled_for_what_it_was(office: Office) -> None:
    """O13: a restart runs the step anew under the same id."""
    office.roll.cancel(office.accepted("1-1"))
    await office.settled()
    office.taken().silent()
    office.accepted("1-1")
    asked = await office.call()
    assert (asked.steps, asked.cancel) == (["1-1"], [])


async def test_a_step_in_hand_again_elsewhere_leaves_nothing_to_say_to_its_former_worker(office: Office) -> None:
    office.roll.cancel(office.accepted("1-1", "former"))
    await office.settled()
    office.taken().silent()
    office.accepted("1-1", "present")
    for _ in range(2):
        asked = await office.call()
        assert (asked.worker, asked.steps, asked.cancel) == ("present", ["1-1"], [])
        asked.running("1-1")
    assert office.roll.workers == 1


async def test_an_answer_of_the_cancelled_step_itself_ends_the_matter(office: Office) -> None:
    call = office.accepted("1-1")
    office.roll.cancel(call)
    await office.settled()
    told = office.taken()
    office.answer(call)
    assert office.roll.workers == 0
    told.silent()
    await office.tick()
    assert (office.asked.empty(), office.roll.workers) == (True, 0)


async def test_a_cancellation_that_finds_nobody_loses_what_else_was_there(office: Office) -> None:
    await office.proves()
    office.accepted("1-1")
    office.roll.cancel(office.accepted("1-2"))
    await office.settled()
    office.taken().nobody()
    await office.settled()
    assert (sorted(office.lost), office.roll.workers) == (["1-1"], 0)


async def lose(office: Office, step: str) -> float:
    await office.proves()
    office.accepted(step)
    (await office.call()).nobody()
    await office.settled()
    return office.lost.pop(step).pause


async def test_a_step_lost_again_and_again_is_held_back_longer_and_longer(office: Office) -> None:
    """At once the first time; a step that brings down its worker must not bring down one a second."""
    assert [await lose(office, "1-1") for _ in range(10)] == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert await lose(office, "1-2") == 0
    office.roll.answered(f"1-1-{TOKEN}")
    assert await lose(office, "1-1") == 0


async def test_what_is_remembered_of_losses_is_bounded(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwarf_nats.bus.roll_call.MAX_REMEMBERED", 3)
    pauses: list[Any] = [await lose(office, f"1-{number}") for number in (1, 2, 3, 4, 1, 4)]
    assert pauses == [0, 0, 0, 0, 0, 1]

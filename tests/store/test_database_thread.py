"""The thread of an SQLite database: everything in turn, whatever becomes of the callers."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from dwarf_nats.store.database_thread import DatabaseThread


@pytest.fixture
def thread() -> Iterator[DatabaseThread]:
    made = DatabaseThread("dwarf-test")
    yield made
    made.end()


async def test_calls_are_done_in_turn_and_answered(thread: DatabaseThread) -> None:
    done: list[int] = []

    def work(number: int) -> str:
        done.append(number)
        return f"{number} by {threading.current_thread().name}"

    answers = await asyncio.gather(*(thread.call(lambda number=number: work(number)) for number in range(5)))
    assert answers == [f"{number} by dwarf-test" for number in range(5)]
    assert done == list(range(5))


async def test_an_error_goes_to_its_caller_and_ends_nothing(thread: DatabaseThread) -> None:
    with pytest.raises(ZeroDivisionError):
        await thread.call(lambda: 1 // 0)
    with pytest.raises(SystemExit):
        await thread.call(_leave)
    assert await thread.call(lambda: 1) == 1


def _leave() -> None:
    raise SystemExit(3)


async def test_work_is_done_although_its_caller_was_cancelled(thread: DatabaseThread) -> None:
    """A transaction is not left in the middle."""
    go = threading.Event()
    done: list[str] = []
    first = thread.call(go.wait)
    second = thread.call(lambda: done.append("second"))
    first.cancel()
    second.cancel()
    go.set()
    assert await thread.call(lambda: "third") == "third"
    assert done == ["second"]
    assert first.cancelled()


def test_a_loop_that_is_closed_meanwhile_stops_nothing(thread: DatabaseThread) -> None:
    go = threading.Event()

    async def leave() -> None:
        thread.call(go.wait)

    asyncio.run(leave())
    go.set()

    async def back() -> int:
        return await thread.call(lambda: 1)

    assert asyncio.run(back()) == 1


async def test_nothing_is_kept_of_a_call_that_is_over(thread: DatabaseThread) -> None:
    class Large:
        pass

    large = Large()
    seen = weakref.ref(large)
    await thread.call(lambda: None)
    assert await thread.call(lambda large=large: large) is large
    del large
    await thread.call(lambda: None)
    gc.collect()
    assert seen() is None


async def test_it_ends_when_it_has_done_what_it_was_given() -> None:
    thread = DatabaseThread("dwarf-ends")
    answer = thread.call(threading.current_thread)
    thread.end()
    ended = await answer
    await asyncio.to_thread(ended.join, 20)
    assert not ended.is_alive()

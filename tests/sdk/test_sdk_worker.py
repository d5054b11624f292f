"""The worker against a hand-made engine: requests on `task.<url>`, replies, accepted, roll call, cancel, drain."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
from nats.aio.client import Client as Nats

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.sdk import Flow, TaskError, Worker, task_subscriptions
from dwarf_nats.workflow.answer import Answer, Disposition
from dwarf_nats.workflow.state import Raw
from tests.support.engine_side import FAR, PATIENCE, EngineSide


@pytest.fixture
def engine(nc: Nats, prefix: str) -> EngineSide:
    return EngineSide(nc, prefix)


async def test_a_coroutine_function_gets_state_by_name_and_returns_changes(engine: EngineSide, serving: Any) -> None:
    async def greet(name: str, times: int = 2) -> dict[str, str]:
        return {"greeting": f"hello {name} " * times}

    await serving(greet=greet)
    answer = await engine.call("greet", {"name": "ada", "other": 1})
    assert answer == Answer(changes={"greeting": Raw(b'"hello ada hello ada "')})


async def test_a_plain_function_runs_in_a_thread_of_its_own(engine: EngineSide, serving: Any) -> None:
    threads: list[threading.Thread] = []

    def work() -> None:
        threads.append(threading.current_thread())

    await serving(work=work)
    assert await engine.call("work") == Answer()
    assert threads[0] is not threading.main_thread()


async def test_the_flow_object_says_goto_sleep_and_retry(engine: EngineSide, serving: Any) -> None:
    async def work(flow: Flow) -> None:
        flow.set("a", 2**63 - 1)
        flow.sleep(1.5)
        flow.goto("next")

    async def again(flow: Flow) -> None:
        flow.retry(max_attempts=3, initial_delay=2)
        raise TaskError("not yet", code=425)

    async def pause(flow: Flow) -> dict[str, Any]:
        return {"said": flow.interrupt({"please": "approve"})}

    await serving(work=work, again=again, pause=pause)
    answer = await engine.call("work")
    assert (answer.goto, answer.sleep_ms, bytes(answer.changes["a"])) == ("next", 1500, b"9223372036854775807")
    answer = await engine.call("again")
    assert answer.retry is not None
    assert (answer.retry.max_attempts, answer.retry.initial_delay_ms) == (3, 2000)
    assert answer.error is not None
    assert answer.error.code == 425
    assert (await engine.call("pause")).interrupt == Raw(b'{"please":"approve"}')
    assert (await engine.call("pause", resumed=Raw(b"true"))).changes == {"said": Raw(b"true")}
    late = await engine.call("pause", interrupt_timed_out=True)
    assert late.error is not None
    assert late.error.code == 408


async def test_a_task_error_travels_with_code_and_details_and_an_exception_without_traceback(
    engine: EngineSide, serving: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def declined() -> None:
        raise TaskError("card declinéd\r\nsorry 100%", code=402, card="4242")

    def broken() -> None:
        raise ZeroDivisionError("no")

    await serving(declined=declined, broken=broken)
    answer = await engine.call("declined")
    assert answer.error is not None
    assert (answer.error.code, answer.error.extra) == (402, {"card": "4242"})
    assert answer.error.message == "card declinéd\r\nsorry 100%"
    answer = await engine.call("broken")
    assert answer.error is not None
    assert answer.error.message == "ZeroDivisionError: no"
    assert not answer.error.extra
    assert "Traceback" in caplog.text
    assert "test_sdk_worker.py" in caplog.text


@pytest.mark.parametrize(
    ("code", "disposition"),
    [(429, Disposition.BACKPRESSURE), (503, Disposition.BREAKER), (529, Disposition.BREAKER), (500, Disposition.ERROR)],
)
async def test_codes_are_classified_by_the_engine(
    engine: EngineSide, serving: Any, code: int, disposition: Disposition
) -> None:
    async def busy() -> None:
        raise TaskError("busy", code=code)

    await serving(busy=busy)
    assert (await engine.call("busy")).disposition is disposition


async def test_a_malformed_request_is_answered_with_an_error(engine: EngineSide, serving: Any) -> None:
    async def work() -> None: ...

    await serving(work=work)
    for body in (b"", b"{", b"[]", b'{"state":{}}', b"\xff"):
        await engine.raw("work", body)
        error = (await engine.answer()).error
        assert error is not None
        assert error.code == 400
        assert "the task request" in error.message


async def test_a_reply_beyond_max_payload_becomes_a_413(engine: EngineSide, serving: Any, nc: Nats) -> None:
    async def big() -> dict[str, str]:
        return {"text": "x" * nc.max_payload}

    await serving(big=big)
    error = (await engine.call("big")).error
    assert error is not None
    assert error.code == 413
    assert str(nc.max_payload) in error.message


async def test_never_more_than_concurrency_run_and_the_rest_wait(engine: EngineSide, serving: Any) -> None:
    running, most = 0, 0
    gate = asyncio.Event()

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1

    await serving(concurrency=3, work=work)
    steps = [await engine.send("work", accept_ms=0) for _ in range(10)]
    worker, *_ = [await engine.accepted() for _ in steps]
    assert await engine.roll_call(worker, steps) == steps
    assert running == 3
    gate.set()
    for _ in steps:
        assert await engine.answer() == Answer()
    assert most == 3


async def test_accepted_comes_on_the_reply_subject_and_the_roll_call_names_what_runs(
    engine: EngineSide, serving: Any
) -> None:
    gate = asyncio.Event()

    async def work() -> None:
        await gate.wait()

    await serving(work=work)
    step = await engine.send("work", accept_ms=1)
    worker = await engine.accepted()
    assert await engine.roll_call(worker, [step, "1-9999"]) == [step]
    gate.set()
    assert await engine.answer() == Answer()
    assert await engine.roll_call(worker, [step]) == []


async def test_a_quick_task_accepts_nothing(engine: EngineSide, serving: Any) -> None:
    async def work() -> None: ...

    await serving(work=work)
    await engine.call("work", accept_ms=60_000)
    assert engine.signals.empty()


async def test_a_cancellation_ends_a_coroutine_at_once(engine: EngineSide, serving: Any) -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    await serving(work=work)
    step = await engine.send("work", accept_ms=0)
    worker = await engine.accepted()
    await engine.nc.publish(worker, json.dumps({"steps": [], "cancel": [step]}).encode())
    error = (await engine.answer()).error
    assert error is not None
    assert "cancelled" in error.message
    assert ended.is_set()
    assert await engine.roll_call(worker, [step]) == []


async def test_a_cancellation_also_takes_back_what_still_waits(engine: EngineSide, serving: Any) -> None:
    gate = asyncio.Event()
    ran: list[str] = []

    async def work(name: str) -> None:
        ran.append(name)
        await gate.wait()

    await serving(concurrency=1, work=work)
    await engine.send("work", {"name": "first"}, accept_ms=0)
    second = await engine.send("work", {"name": "second"}, accept_ms=0)
    worker, *_ = [await engine.accepted() for _ in range(2)]
    assert await engine.roll_call(worker, [], [second]) == []
    error = (await engine.answer()).error
    assert error is not None
    gate.set()
    assert await engine.answer() == Answer()
    assert ran == ["first"]


async def test_a_cancellation_sets_a_flag_for_a_thread(engine: EngineSide, serving: Any) -> None:
    noticed = threading.Event()

    def work(flow: Flow) -> None:
        while not flow.cancelled:
            pass
        noticed.set()

    await serving(work=work)
    step = await engine.send("work", accept_ms=0)
    worker = await engine.accepted()
    await engine.roll_call(worker, [], [step])
    assert (await engine.answer()).error is not None
    assert await asyncio.to_thread(noticed.wait, PATIENCE)


async def test_roll_calls_are_answered_while_task_functions_block_their_threads(
    engine: EngineSide, serving: Any
) -> None:
    gate = threading.Event()

    def block() -> dict[str, bool]:
        gate.wait(PATIENCE)
        return {"done": True}

    await serving(concurrency=2, block=block)
    steps = [await engine.send("block", accept_ms=0) for _ in range(3)]
    worker, *_ = [await engine.accepted() for _ in steps]
    for _ in range(3):
        assert await engine.roll_call(worker, steps) == steps  # two run, one waits for its turn
    gate.set()
    for _ in steps:
        assert await engine.answer() == Answer(changes={"done": Raw(b"true")})
    assert await engine.roll_call(worker, steps) == []
    assert (await engine.signal())["Dwarf-Signal"] == "started"  # the one that had waited
    assert engine.signals.empty(), "accepted is said once"


async def test_a_thread_that_goes_on_after_its_cancellation_is_not_named_any_more(
    engine: EngineSide, serving: Any
) -> None:
    gate, begun = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        gate.wait(PATIENCE)

    await serving(block=block)
    step = await engine.send("block", accept_ms=0)
    worker = await engine.accepted()
    assert await asyncio.to_thread(begun.wait, PATIENCE)
    assert await engine.roll_call(worker, [step]) == [step]
    await engine.roll_call(worker, [], [step])
    assert (await engine.answer()).error is not None
    assert await engine.roll_call(worker, [step]) == []
    gate.set()


async def test_a_cancellation_said_again_does_not_disturb_the_tidying_up(engine: EngineSide, serving: Any) -> None:
    """The roll call repeats what got no answer."""
    tidying, tidy = asyncio.Event(), asyncio.Event()
    seen: list[bool] = []

    async def work(flow: Flow) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(flow.cancelled)
            tidying.set()
            await tidy.wait()
            seen.append(True)

    await serving(work=work)
    step = await engine.send("work", accept_ms=0)
    worker = await engine.accepted()
    assert await engine.roll_call(worker, [step], [step]) == [step]
    await tidying.wait()
    await engine.roll_call(worker, [], [step])
    assert engine.replies.empty()
    tidy.set()
    assert (await engine.answer()).error is not None
    assert seen == [True, True]


async def test_a_worker_that_has_stopped_is_not_there_for_the_roll_call(
    engine: EngineSide, nc: Nats, prefix: str, nats_server: NatsServer
) -> None:
    """So that what it left unfinished is given to somebody else at once, also where its connection lives on."""
    own = await nats.connect(nats_server.url)

    async def work() -> None:
        await asyncio.Event().wait()

    worker = Worker(nc=own, task_prefix=prefix, drain_seconds=0)
    worker.add_task("work", work)
    try:
        async with worker:
            step = await engine.send("work", accept_ms=0)
            private = await engine.accepted()
        with pytest.raises(nats.errors.NoRespondersError):
            await nc.request(private, json.dumps({"steps": [step], "cancel": []}).encode(), timeout=PATIENCE)
    finally:
        await own.close()


async def test_a_worker_is_known_by_the_same_subject_on_its_next_connection(engine: EngineSide, serving: Any) -> None:
    """nats-py takes some errors of the server for the end of a connection; what is in hand goes on."""
    gate = asyncio.Event()

    async def work() -> dict[str, bool]:
        await gate.wait()
        return {"done": True}

    worker = await serving(work=work)
    step = await engine.send("work", accept_ms=0)
    private = await engine.accepted()
    first = worker._link.nc
    await first.close()
    async with asyncio.timeout(PATIENCE):
        while worker._link.nc is first or worker._subscriptions.reopening is not None:
            await asyncio.sleep(0)
    assert await engine.roll_call(private, [step]) == [step]
    gate.set()
    assert await engine.answer() == Answer(changes={"done": Raw(b"true")})


async def test_the_deadline_ends_an_execution_with_a_408(
    engine: EngineSide, serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("dwarf_nats.sdk.task_codec.time.time", lambda: FAR / 1e6 - 0.05)
    monkeypatch.setattr("dwarf_nats.sdk.task_executor.DEADLINE_GRACE_SECONDS", 0.0)
    await serving(work=work)
    error = (await engine.call("work", accept_ms=0)).error
    assert error is not None
    assert error.code == 408


async def test_a_deadline_long_past_means_the_clocks_differ_and_the_task_runs(engine: EngineSide, serving: Any) -> None:
    async def work() -> dict[str, bool]:
        return {"ran": True}

    await serving(work=work)
    assert (await engine.call("work", deadline=1_000_000)).changes == {"ran": Raw(b"true")}


async def test_stop_finishes_what_is_in_hand_and_takes_nothing_more(engine: EngineSide, serving: Any) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()

    async def work() -> dict[str, bool]:
        begun.set()
        await gate.wait()
        return {"done": True}

    worker = await serving(work=work)
    step = await engine.send("work", accept_ms=0)
    private = await engine.accepted()
    await begun.wait()
    stopping = asyncio.create_task(worker.stop())
    # Once the subscription is gone the server says so: nobody serves the task.
    async with asyncio.timeout(PATIENCE):
        while True:
            await engine.raw("work", b"probe")
            msg = await engine.replies.get()
            if (msg.headers or {}).get("Status") == "503":
                break
    assert await engine.roll_call(private, [step]) == [step]
    gate.set()
    assert await engine.answer() == Answer(changes={"done": Raw(b"true")})
    assert await stopping


async def test_what_a_drain_cannot_finish_is_given_back(engine: EngineSide, serving: Any) -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    worker = await serving(work=work)
    await engine.send("work", accept_ms=0)
    await engine.accepted()
    assert not await worker.stop(0)
    assert (await engine.answer()).disposition is Disposition.BACKPRESSURE


async def test_instances_share_one_queue_group(engine: EngineSide, serving: Any) -> None:
    served: list[int] = []
    for number in range(3):

        async def work(number: int = number) -> None:
            served.append(number)

        await serving(work=work)
    for _ in range(30):
        await engine.call("work")
    assert len(served) == 30


def test_registering_refuses_what_cannot_be_served() -> None:
    worker = Worker()
    worker.add_task("a.b", print)
    for url in ("a b", "a.*", "a..b", ">", ""):
        with pytest.raises(BadRequest):
            worker.task(url)(print)
    with pytest.raises(BadRequest, match="twice"):
        worker.add_task("a.b", print)
    with pytest.raises(BadRequest, match="concurrency"):
        Worker(concurrency=0)


async def test_starting_without_tasks_or_server_says_what_to_do(nats_server: NatsServer) -> None:
    with pytest.raises(BadRequest, match=r"@worker\.task"):
        await Worker(nats_server.url).start()
    worker = Worker("nats://127.0.0.1:1")
    worker.add_task("a", lambda: None)
    object.__setattr__(worker.options, "connect_seconds", 0.2)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await worker.start()


async def test_an_answer_ready_during_an_outage_is_sent_after_it(prefix: str) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()

    async def work() -> dict[str, bool]:
        begun.set()
        await gate.wait()
        return {"done": True}

    async with NatsServer() as server:
        worker = Worker(server.url, task_prefix=prefix)
        worker.add_task("work", work)
        async with worker:
            nc = await nats.connect(server.url, max_reconnect_attempts=-1, reconnect_time_wait=0)
            engine = EngineSide(nc, prefix)
            await engine.send("work")
            await begun.wait()
            await server.kill()
            gate.set()
            await server.start()
            assert await engine.answer() == Answer(changes={"done": Raw(b"true")})
            assert await engine.call("work") == Answer(changes={"done": Raw(b"true")})
            await nc.close()


async def test_accepted_that_falls_due_during_an_outage_is_said_after_it(prefix: str) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with NatsServer() as server:
        worker = Worker(server.url, task_prefix=prefix, drain_seconds=0)
        worker.add_task("work", work)
        nc = await nats.connect(server.url, max_reconnect_attempts=-1, reconnect_time_wait=0)
        async with worker:
            try:
                engine = EngineSide(nc, prefix)
                step = await engine.send("work", accept_ms=300)
                await begun.wait()
                await server.kill()
                assert worker.is_running
                (execution,) = worker._server.executor._running
                while execution.accept_after is not None:
                    await asyncio.sleep(0)
                await server.start()
                assert await engine.roll_call(await engine.accepted(), [step]) == [step]
            finally:
                await nc.close()


SCRIPT = """
import asyncio, sys
from dwarf_nats.sdk import Worker

worker = Worker(sys.argv[1], task_prefix=sys.argv[2], drain_seconds=600)

@worker.task("slow")
async def slow(seconds: float) -> dict[str, bool]:
    await asyncio.sleep(seconds)
    return {"done": True}

@worker.task("block")
def block() -> None:
    import time
    time.sleep(600)

worker.main()
"""


async def script(tmp_path: Path, url: str, prefix: str) -> asyncio.subprocess.Process:
    file = tmp_path / "tasks.py"
    file.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(file), url, prefix, stderr=asyncio.subprocess.PIPE, env=environment
    )
    await said(process, b"serving block, slow")
    return process


async def said(process: asyncio.subprocess.Process, text: bytes) -> None:
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        while text not in (line := await process.stderr.readline()):
            assert line, "the worker ended"


async def test_sigterm_drains_and_exits_with_0(
    tmp_path: Path, engine: EngineSide, nats_server: NatsServer, prefix: str
) -> None:
    process = await script(tmp_path, nats_server.url, prefix)
    await engine.send("slow", {"seconds": 0.3}, accept_ms=0)
    await engine.accepted()
    process.send_signal(signal.SIGTERM)
    assert await engine.answer() == Answer(changes={"done": Raw(b"true")})
    assert await asyncio.wait_for(process.wait(), PATIENCE) == 0


async def test_a_second_signal_stops_at_once_even_with_a_blocked_thread(
    tmp_path: Path, engine: EngineSide, nats_server: NatsServer, prefix: str
) -> None:
    process = await script(tmp_path, nats_server.url, prefix)
    await engine.send("block", accept_ms=0)
    await engine.accepted()
    process.send_signal(signal.SIGINT)
    await said(process, b"finishing what is in hand")
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), PATIENCE) == 1
    assert (await engine.answer()).disposition is Disposition.BACKPRESSURE


@pytest.mark.parametrize("patient", [True, False])
async def test_a_server_that_goes_away_while_the_worker_subscribes(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, patient: bool
) -> None:
    """Wire section 6: who seeks a server for ever tries again; who does not is told; no connection is left behind."""
    opened: list[Nats] = []
    real = task_subscriptions.round_trip

    async def first_lost(nc: Nats) -> None:
        opened.append(nc)
        if len(opened) == 1:
            raise nats.errors.FlushTimeoutError
        await real(nc)

    monkeypatch.setattr(task_subscriptions, "round_trip", first_lost)
    worker = Worker(nats_server.url, name="left", task_prefix="left")
    worker.add_task("a", lambda: None)
    if not patient:
        with pytest.raises(Unavailable, match="NATS went away before it had the worker's subscriptions"):
            await worker.start()
        assert [nc.is_closed for nc in opened] == [True]
    await worker.start_patiently()
    assert [nc.is_closed for nc in opened] == [True, False]
    assert await worker.stop()
    assert all(nc.is_closed for nc in opened)


async def test_stop_ends_what_runs_also_while_there_is_no_connection(
    engine: EngineSide, nats_server: NatsServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NATS closed the connection, and the next one went away before it had the subscriptions: there is none at the moment."""
    ended = asyncio.Event()
    opened: list[Nats] = []
    real = task_subscriptions.round_trip

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def only_the_first(nc: Nats) -> None:
        opened.append(nc)
        if len(opened) > 1:
            raise nats.errors.FlushTimeoutError
        await real(nc)

    monkeypatch.setattr(task_subscriptions, "round_trip", only_the_first)
    worker = Worker(nats_server.url, task_prefix=prefix)
    worker.add_task("work", work)
    await worker.start()
    await engine.send("work", accept_ms=0)
    await engine.accepted()
    await opened[0].close()
    async with asyncio.timeout(PATIENCE):
        while worker._link.nc is not None:
            await asyncio.sleep(0)
        assert not await worker.stop(drain_seconds=0)
        await ended.wait()
    assert not worker.is_running
    assert worker._subscriptions.reopening.done()
    assert all(nc.is_closed for nc in opened)


async def test_stop_ends_a_start_that_waits_for_a_server() -> None:
    worker = Worker("nats://127.0.0.1:1", task_prefix="waits")
    worker.add_task("a", lambda: None)
    start = asyncio.ensure_future(worker.start_patiently())
    while not worker.is_running:
        await asyncio.sleep(0)
    assert await worker.stop()
    with pytest.raises(Unavailable, match="stopped before it had started"):
        await asyncio.wait_for(start, PATIENCE)
    assert not worker.is_running


async def test_a_cancelled_start_leaves_no_attempt_behind() -> None:
    worker = Worker("nats://127.0.0.1:1", task_prefix="waits")
    worker.add_task("a", lambda: None)
    before = asyncio.all_tasks()
    start = asyncio.ensure_future(worker.start_patiently())
    while not worker.is_running:
        await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not worker.is_running
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("plain", [False, True])
async def test_b7_a_task_reports_its_progress_and_begins_at_its_checkpoint(
    engine: EngineSide, serving: Any, *, plain: bool
) -> None:
    """B7: from a coroutine and from a thread; data that is left out stays, and the last report precedes the answer."""

    def work(flow: Flow) -> dict[str, Any]:
        began = flow.checkpoint
        flow.progress(0.1, data={"page": 1})
        for at in range(200):
            flow.progress(at / 200, "reading")
        flow.progress(1, "read")
        return {"began": began}

    async def coroutine(flow: Flow) -> dict[str, Any]:
        return work(flow)

    await serving(work=work if plain else coroutine)
    answer = await engine.call("work", checkpoint=Raw(b"[7]"))
    assert answer == Answer(changes={"began": Raw(b"[7]")})
    told = [engine.signals.get_nowait() for _ in range(engine.signals.qsize())]
    assert 1 <= len(told) <= 50
    assert {(one.headers or {})["Dwarf-Signal"] for one in told} == {"progress"}
    assert all((one.headers or {})["Dwarf-Worker"] for one in told)
    assert json.loads(told[-1].data) == {"fraction": 1.0, "text": "read", "data": {"page": 1}}


async def test_b7_a_progress_that_cannot_be_told_is_an_error_of_the_task(engine: EngineSide, serving: Any) -> None:
    async def work(flow: Flow, how: dict[str, Any]) -> None:
        flow.progress(**how)

    await serving(work=work)
    for how, code in (({"fraction": 2}, 400), ({"data": "x" * 5_000}, 413)):
        answer = await engine.call("work", {"how": how})
        assert answer.error is not None
        assert answer.error.code == code
    assert engine.signals.empty()

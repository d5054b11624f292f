"""A command of the shell as a task, through a real service and a real shell."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from dwarf_nats.errors import BadRequest
from dwarf_nats.sdk import command_task
from dwarf_nats.sdk.command_task import CommandTask
from dwarf_nats.workflow.answer import Answer, TaskCall
from dwarf_nats.workflow.arguments import run_task

pytestmark = pytest.mark.slow

SECONDS = 60


def call(state: dict[str, Any] | None = None) -> TaskCall:
    return TaskCall(
        flow_key="1-2-aaaaaaaaaaaaaaaa",
        step_key="1-3-bbbbbbbbbbbbbbbb",
        workflow="w",
        task="node",
        url="shout",
        attempt=4,
        state={name: msgspec.Raw(msgspec.json.encode(value)) for name, value in (state or {}).items()},
        baggage=msgspec.Raw(b"null"),
        flow_created_at=0,
        flow_updated_at=0,
        deadline=1_000_000,
        budget=60.0,
    )


async def done(command: str, state: dict[str, Any] | None = None) -> Answer:
    return await asyncio.wait_for(run_task(CommandTask(command), call(state)), SECONDS)


def changes(answer: Answer) -> dict[str, Any]:
    assert answer.error is None, answer.error
    return {name: json.loads(bytes(value)) for name, value in answer.changes.items()}


async def test_the_state_comes_on_stdin_and_the_changes_are_what_stdout_has() -> None:
    state = {"word": "grüße", "n": 9007199254740993, "list": [1, None, {"a": "b"}]}
    assert changes(await done("cat", state)) == state
    assert changes(await done("cat")) == {}


async def test_no_output_is_no_change_and_null_deletes() -> None:
    assert changes(await done("true", {"a": 1})) == {}
    assert changes(await done("echo; echo")) == {}
    answer = await done("""echo '{"a": null}'""", {"a": 1})
    assert bytes(answer.changes["a"]) == b"null"


async def test_the_command_is_told_what_it_runs_for() -> None:
    answer = await done("""printf '{"a": "%s %s %s"}' $DWARF_STEP_KEY $DWARF_TASK $DWARF_ATTEMPT""")
    assert changes(answer) == {"a": "1-3-bbbbbbbbbbbbbbbb node 4"}


async def test_a_state_larger_than_a_pipe_and_a_command_that_reads_none_of_it() -> None:
    state = {"text": "x" * 3_000_000}
    assert changes(await done("cat", state)) == state
    assert changes(await done("""echo '{"a": 1}'""", state)) == {"a": 1}
    assert changes(await done("exec 0<&-; sleep 0; echo '{}'", state)) == {}


@pytest.mark.parametrize(
    ("command", "message", "code"),
    [
        ("echo out of paper >&2; exit 3", "out of paper", 3),
        ("exit 7", "the command ended with exit code 7 and printed nothing on stderr", 7),
        ("kill -9 $$", "the command ended with signal 9 and printed nothing on stderr", -9),
        (r"printf '\033[31mred\033[0m\r\nnext\n' >&2; exit 1", "red\nnext", 1),
        ("echo '{\"a\": 1}'; echo no >&2; exit 1", "no", 1),
        ("/nonexistent/program", None, 127),
    ],
)
async def test_an_exit_code_other_than_0_is_an_error_with_the_end_of_stderr(
    command: str, message: str | None, code: int
) -> None:
    answer = await done(command)
    assert answer.error is not None
    assert answer.error.extra == {"exitCode": code}
    assert not answer.changes  # S6
    if message is None:
        assert "/nonexistent/program" in answer.error.message
    else:
        assert answer.error.message == message


async def test_of_a_flood_on_stderr_the_end_is_kept() -> None:
    answer = await done("head -c 1000000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 1")
    assert answer.error is not None
    assert answer.error.message.endswith("the end")
    assert len(answer.error.message) <= command_task.STDERR_TAIL_BYTES


@pytest.mark.parametrize("printed", ["[1]", "done", '{"a": 1} trailing', '"text"', '{"a": 1e999}', "{'a': 1}"])
async def test_output_that_is_no_json_object_is_an_error_that_says_so(printed: str) -> None:
    answer = await done(f"cat <<'END'\n{printed}\nEND")
    assert answer.error is not None
    assert answer.error.code == 502
    assert "print the changes as one JSON object" in answer.error.message
    assert printed.split()[0].strip("'\"") in answer.error.message


async def test_output_beyond_the_bound_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_task, "MAX_STDOUT_BYTES", 1_000)
    answer = await done("head -c 100000 /dev/zero")
    assert answer.error is not None
    assert answer.error.code == 413


async def _gone(pid: int) -> None:
    async with asyncio.timeout(SECONDS):
        while _alive(pid):
            await asyncio.sleep(0)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def _started(path: Path) -> int:
    """The process id that a command wrote into a pipe with a name."""
    return int(await asyncio.to_thread(path.read_text))


async def _cancelled(running: asyncio.Task[Answer]) -> None:
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, SECONDS)


async def test_a_cancel_ends_the_command_and_what_it_started(tmp_path: Path) -> None:
    """Also one that comes before asyncio has connected the pipes of the new process."""
    for number in range(5):
        told = tmp_path / f"pid{number}"
        os.mkfifo(told)
        running = asyncio.create_task(run_task(CommandTask(f"sleep 1000 & echo $! > {told}; wait"), call()))
        child = await asyncio.wait_for(_started(told), SECONDS)
        await _cancelled(running)
        await _gone(child)


async def test_a_cancelled_command_may_tidy_up(tmp_path: Path) -> None:
    told, tidied = tmp_path / "pid", tmp_path / "tidied"
    os.mkfifo(told)
    script = f"trap 'touch {tidied}; exit 0' TERM; echo $$ > {told}; while true; do sleep 0.01; done"
    running = asyncio.create_task(run_task(CommandTask(script), call()))
    await asyncio.wait_for(_started(told), SECONDS)
    await _cancelled(running)
    assert tidied.exists()


async def test_a_command_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_task, "GRACE_SECONDS", 0.0)
    told = tmp_path / "pid"
    os.mkfifo(told)
    script = f"trap '' TERM; echo $$ > {told}; while true; do sleep 0.01; done"
    running = asyncio.create_task(run_task(CommandTask(script), call()))
    shell = await asyncio.wait_for(_started(told), SECONDS)
    await _cancelled(running)
    await _gone(shell)


async def test_what_a_command_leaves_running_holds_up_nothing_and_is_ended(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    answer = await done(f"""sleep 1000 & echo $! > {told}; echo '{{"a": 1}}'""")
    assert changes(answer) == {"a": 1}
    await _gone(int(told.read_text()))


async def test_a_command_tells_its_progress_and_gets_the_checkpoint(caplog: pytest.LogCaptureFixture) -> None:
    """Each line of the file is one; what is none is logged and left out, and a last line without its end counts (B7)."""
    told: list[tuple[float | None, str | None, Any]] = []
    one = msgspec.structs.replace(
        call(),
        checkpoint=msgspec.Raw(b'{"page":3}'),
        report=lambda _key, p: told.append((p.fraction, p.text, p.data_json and json.loads(p.data_json))),
    )
    script = """
        echo 0.25 > "$DWARF_PROGRESS"
        echo nonsense > "$DWARF_PROGRESS"
        echo '{"fraction": 7}' > "$DWARF_PROGRESS"
        printf '{"fraction": 1, "text": "done", "data": %s}' "$DWARF_CHECKPOINT" > "$DWARF_PROGRESS"
    """
    answer = await asyncio.wait_for(run_task(CommandTask(script), one), SECONDS)
    assert changes(answer) == {}
    assert told[0][0] == 0.25
    assert told[-1] == (1.0, "done", {"page": 3})
    assert sum("a line of progress is left out" in record.message for record in caplog.records) == 1
    assert changes(await done('[ -z "${DWARF_CHECKPOINT+set}" ] && echo "{}"')) == {}


async def test_what_a_failed_command_told_last_is_its_checkpoint() -> None:
    """It is read to its end before the step fails (B7)."""
    told: list[Any] = []
    one = msgspec.structs.replace(call(), report=lambda _key, progress: told.append(progress.data_json))
    script = 'for n in 1 2 3; do echo "{\\"data\\": $n}" > $DWARF_PROGRESS; done; exit 3'
    answer = await asyncio.wait_for(run_task(CommandTask(script), one), SECONDS)
    assert answer.error is not None
    assert told[-1] == b"3"


def test_an_empty_command_is_refused() -> None:
    with pytest.raises(BadRequest, match="the command is empty"):
        CommandTask("  ")


def test_on_uvloop_as_workers_run_it(tmp_path: Path) -> None:
    """uvloop's processes are not those of asyncio."""

    async def scenario() -> None:
        await test_a_state_larger_than_a_pipe_and_a_command_that_reads_none_of_it()
        for _ in range(50):  # now and then its pipes are closed before the state is written
            await test_an_exit_code_other_than_0_is_an_error_with_the_end_of_stderr("echo no >&2; exit 3", "no", 3)
        await test_a_cancel_ends_the_command_and_what_it_started(tmp_path)
        await test_what_a_command_leaves_running_holds_up_nothing_and_is_ended(tmp_path / "..")

    uvloop.run(scenario())

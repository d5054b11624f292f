"""Runs a page of the documents as a reader does, from an empty folder.

The README, the tutorial and every page of `docs/how-to/` are run; their blocks are read like this:

- a block with a title that is a file's name, such as `title="order.yaml"`, is saved under that name
- `sh` and `console` are typed into one shell, in order; a console's output is compared, where `…` stands for anything within a
  line, and a line of its own for any lines; a command may only fail if its output is shown
- with the title *Another terminal*, each command is started and goes on running until the end of the page; `dwarf-nats dev`
  there takes the place of the service that other pages are given
- a `mermaid` block draws the graph of the YAML before it
- other languages are not run, but checked by the rule of their language
- a comment `<!-- not run: reason -->` before a block leaves it out

`python -m tests.operating.page_runner PAGE …` runs pages and writes what they print, and what they draw, into them.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.render.graph import graph_mermaid
from dwarf_nats.server import replica
from dwarf_nats.settings import ServerSettings
from dwarf_nats.workflow.graph import Graph
from tests.operating.command_lines import ROOT
from tests.operating.snippets import Block, blocks

RUN_PAGES = [
    page
    for page in (ROOT / "README.md", ROOT / "docs" / "tutorial.md", *sorted((ROOT / "docs" / "how-to").glob("*.md")))
    if page != ROOT / "docs" / "how-to" / "README.md"
]
URL = "nats://127.0.0.1:4222"
"""Where the documents say that NATS is."""
ELSEWHERE = "Another terminal"
RUN_LANGUAGES = ("sh", "console")
_SOON = 60.0
_PROMPT = "$ "
_KEY = re.compile(r"\b\d+-\d+-[\w-]{16}(?!\w)")
_TIME = re.compile(r"(?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d(?: \([\w ]+\))?")
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


# -- reading


def exchanges(block: Block) -> Iterator[tuple[str, str | None]]:
    """The commands of a block, each with the output that is shown; None in a block that shows none."""
    if block.language == "sh":
        yield block.text, None
        return
    command, shown = "", ""
    for line in block.text.splitlines():
        if line.startswith(_PROMPT):
            if command:
                yield command, shown
            command, shown = line.removeprefix(_PROMPT), ""
        elif _open(command):
            command += f"\n{line}"
        else:
            shown += f"{line}\n"
    yield command, shown


def _open(command: str) -> bool:
    """Whether a command goes on in the next line."""
    try:
        shlex.split(command)
    except ValueError:
        return True
    return command.endswith("\\")


def matches(shown: str, told: str) -> bool:
    """Whether an output is the one shown. The number of spaces between words does not count."""
    pattern = ""
    for line in shown.splitlines():
        if line.strip() == "…":
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += re.escape(_spaced(line)).replace("…", r"[^\n]*") + r"\n"
    return re.fullmatch(pattern, "".join(f"{_spaced(line)}\n" for line in told.splitlines())) is not None


def _spaced(line: str) -> str:
    return " ".join(line.split())


def drawing(block: Block) -> str:
    """The Mermaid text of the graph in a block of YAML."""
    return graph_mermaid(Graph.from_json(json.dumps(yaml.safe_load(block.text)).encode()))


def is_graph(block: Block) -> bool:
    """Whether a block is a whole graph in YAML."""
    return block.language == "yaml" and "entryPoint:" in block.text


# -- running


class Terminal:
    """A shell in a folder, which keeps its variables from one command to the next."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self.environment = environment
        self._shell: asyncio.subprocess.Process | None = None
        self._started: list[asyncio.subprocess.Process] = []
        self._drains: list[asyncio.Task[bytes]] = []

    async def __aenter__(self) -> Terminal:
        self._shell = await asyncio.create_subprocess_exec(
            "bash", "--norc", "--noprofile", cwd=self._folder, env=self.environment, start_new_session=True,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in reversed([one for one in (self._shell, *self._started) if one is not None]):
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGTERM)
            if process.stdin is not None:
                process.stdin.close()
            await process.wait()
        await asyncio.gather(*self._drains)

    async def type(self, command: str) -> tuple[int, str]:
        """Run a command; its exit code and what it printed."""
        assert self._shell is not None
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        with tempfile.NamedTemporaryFile("w", suffix=".sh") as script:
            script.write(f"{command}\n")
            script.flush()
            self._shell.stdin.write(f". {script.name} < /dev/null\nprintf '\\n\\001%d\\n' $?\n".encode())
            told = await asyncio.wait_for(self._shell.stdout.readuntil(b"\n\001"), _SOON)
            code = int(await self._shell.stdout.readline())
        return code, told.removesuffix(b"\n\001").decode()

    async def start(self, command: str, until: bytes = b"\n") -> str:
        """Start a command that goes on; what it printed until it was ready: a line, or as said."""
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", f"exec {command}", cwd=self._folder, env=self.environment, start_new_session=True,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._started.append(process)
        assert process.stdout is not None
        told = await asyncio.wait_for(process.stdout.readuntil(until), _SOON)
        self._drains.append(asyncio.create_task(process.stdout.read()))
        return told.decode()


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[str]:
    """A service with the default prefixes; the URL of its nats-server."""
    async with NatsServer() as server:
        settings = ServerSettings.of(
            dsns=[f"sqlite:///{folder / 'service.db'}"], nats_url=server.url, wait_for_servers=False, drain_ms=200
        )
        async with replica(settings):
            yield server.url


def environment(folder: Path, url: str) -> dict[str, str]:
    """The environment of a reader: `dwarf-nats`, `nats`, `python` and `pytest` are at hand, and nothing is set."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    python = shlex.quote(sys.executable)
    for name, line in {
        "dwarf-nats": f"{python} -m dwarf_nats.cli.main",
        "nats": f"{python} {shlex.quote(str(ROOT / 'tests' / 'support' / 'nats_command.py'))}",
        "python": python,
        "pytest": f"{python} -m pytest -p no:cacheprovider",
    }.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        (programs / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DWARF_", "NATS_", "PYTEST_"))}
    return {
        **kept, "PATH": f"{programs}:{os.environ['PATH']}", "NATS_URL": url, "PYTHONPATH": str(ROOT),
        "HOME": str(folder), "COLUMNS": "200", "NO_COLOR": "1", "DWARF_ACTOR": "ada@laptop",
    }  # fmt: skip


class Difference(AssertionError):
    """A block does not do what the page says."""


async def run_page(page: Path, folder: Path, *, strict: bool = True) -> list[tuple[str, str]]:
    """Run a page; the commands of its consoles, with what they printed.

    `strict`: raises `Difference` for a command that fails although the page does not show it.
    """
    printed: list[tuple[str, str]] = []
    work = folder / "work"
    work.mkdir()
    async with AsyncExitStack() as stack:
        found = [one for one in blocks(page) if one.runs]
        url = ""
        if any(one.language in RUN_LANGUAGES for one in found) and not any(_is_dev(one) for one in found):
            url = await stack.enter_async_context(running(folder))
        terminal = await stack.enter_async_context(Terminal(work, environment(folder / "home", url)))
        for block in found:
            url = await _prepare_block(block, terminal, work, url)
            if block.language in RUN_LANGUAGES and not block.title:
                for command, shown in exchanges(block):
                    code, told = await terminal.type(command.replace(URL, url))
                    if shown is not None:
                        printed.append((command, told))
                    if strict and code and not shown:
                        raise Difference(f"{block.shown}: {command} ended with exit code {code}:\n{told}")
    return printed


def _is_dev(block: Block) -> bool:
    return block.title == ELSEWHERE and block.text.startswith("dwarf-nats dev")


async def _prepare_block(block: Block, terminal: Terminal, work: Path, url: str) -> str:
    """Save a file, or start what goes on running; the URL of NATS."""
    if _is_dev(block):
        told = await terminal.start(block.text.strip(), until=b"Ctrl-C stops everything.\n")
        url = re.findall(r"^NATS +(\S+)", told, re.MULTILINE)[0]
        await terminal.type(f"export NATS_URL={url}")
        terminal.environment["NATS_URL"] = url
    elif block.title == ELSEWHERE:
        for line in block.text.strip().splitlines():
            await terminal.start(line.removeprefix(_PROMPT))
    elif block.title:
        (work / block.title).parent.mkdir(parents=True, exist_ok=True)
        (work / block.title).write_text(block.text.replace(URL, url))
    return url


def check_printed(page: Path, printed: list[tuple[str, str]]) -> None:
    """Compare what the commands of a page printed with what it shows. Raises `Difference`."""
    told = iter(printed)
    for block in blocks(page):
        if block.language == "console" and block.runs and not block.title:
            for command, shown in exchanges(block):
                _, one = next(told)
                if not matches(shown or "", one):
                    raise Difference(f"{block.shown}: {command} shows\n{shown}\nand prints\n{one}")


def unmarked(page: Path) -> list[str]:
    """Blocks of a page that a reader would run, and of which nothing says how."""
    return [
        one.shown for one in blocks(page) if one.runs and not one.title and one.language in ("python", "yaml", "js")
    ]


# -- writing


def renewed(page: Path, printed: list[tuple[str, str]]) -> str:
    """The text of a page with what its commands print, and its graphs drawn."""
    told = iter(printed)
    text = page.read_text(encoding="utf-8")
    graph: Block | None = None
    for block in blocks(page):
        if block.language == "mermaid" and graph is not None:
            text = _with(text, block, drawing(graph))
        elif block.language == "console" and block.runs and not block.title:
            parts: list[str] = []
            for command, shown in exchanges(block):
                _, one = next(told)
                fits = matches(shown or "", one)
                parts.append(f"{_PROMPT}{command}\n{shown if fits else _general(one)}")
            text = _with(text, block, "".join(parts))
        graph = block if is_graph(block) else None
    return text


def _with(text: str, block: Block, body: str) -> str:
    body = body if not body or body.endswith("\n") else f"{body}\n"
    return text.replace(f"```{block.language}\n{block.text}```", f"```{block.language}\n{body}```", 1)


def _general(told: str) -> str:
    """An output without what differs each time."""
    text = _DIGEST.sub("…", _TIME.sub("…", _KEY.sub("…", told))).strip("\n")
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def _main(names: list[str]) -> None:
    for name in names:
        page = Path(name).resolve()
        with tempfile.TemporaryDirectory() as folder:
            printed: list[Any] = asyncio.run(run_page(page, Path(folder), strict=False))
        page.write_text(renewed(page, printed))


if __name__ == "__main__":
    _main(sys.argv[1:])

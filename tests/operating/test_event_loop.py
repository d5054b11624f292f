"""The event loop of the processes that this package owns."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from dwarf_nats import event_loop

SERVE = """
import asyncio, sys
from dwarf_nats import server
async def run_server(settings):
    print(type(asyncio.get_running_loop()).__module__)
server.run_server = run_server
sys.argv = ["dwarf-nats", "serve", "--dsn", "sqlite://"]
from dwarf_nats.cli.main import main
main()
"""


async def loop_module() -> str:
    return type(asyncio.get_running_loop()).__module__


def test_uvloop_runs_where_it_is_installed() -> None:
    assert event_loop.run(loop_module()) == "uvloop"


def test_serve_runs_on_it() -> None:
    """The command `serve` runs on the loop that the benchmarks measure."""
    done = subprocess.run([sys.executable, "-c", SERVE], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("uvloop", 0), done.stderr

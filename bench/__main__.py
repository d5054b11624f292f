"""The benchmark: `python -m bench` runs it; `bench compare A B` says what moved between two runs, `bench plot A …` draws,
`bench table A …` puts all engines into one table, `bench sizing A …` says what a load needs."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import sys
import tempfile
from collections import ChainMap
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import uvloop
from rich.console import Console
from rich.table import Table

from dwarf_nats.dev_servers import NatsServer, PostgresServer
from dwarf_nats.errors import DwarfError

from . import drawing, peers, restate, result, showing, sizing_command, temporal
from .arms import Servers, Sides
from .capacity import pins_of
from .cases import DATABASES, Plan, chosen, run_cases
from .children import Failed
from .compare import LEAST, compare, regressions
from .others import Others
from .processes import parent_of
from .serving import TELEMETRY


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: done; 1: could not, or a comparison found something worse; 2: wrong usage."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "compare":
        return _compare(_compare_parser().parse_args(argv[1:]))
    if argv and argv[0] == "sizing":
        return sizing_command.main(argv[1:])
    if argv and argv[0] in ("plot", "table"):
        return drawing.main(argv)
    args = _parser().parse_args(argv)
    try:
        _look_at_others(args, chosen(args.case, args.quick, args.size))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        run = uvloop.run(_bench(args, "bench " + shlex.join(argv)))
    except asyncio.CancelledError:
        return 1
    except (DwarfError, Failed, OSError, asyncpg.PostgresError) as error:
        print(f"the benchmark stopped: {error}", file=sys.stderr)
        return 1
    result.save(run, args.out)
    if args.json:
        sys.stdout.write(args.out.read_text())
    else:
        console = _console()
        showing.show(run, console)
        console.print(f"written to {args.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, epilog="example: python -m bench floor-linear --quick"
    )
    parser.add_argument(
        "case", nargs="*", help="by name or key, floor-linear or floor-linear/64, or all; the floor's by default"
    )
    parser.add_argument(
        "--arm",
        action="append",
        metavar="ARM",
        help=f"{', '.join((result.FLOOR, *DATABASES))}; of peers any; all by default",
    )
    parser.add_argument(
        "--size", action="append", type=int, default=[], help="instead of the case's own: steps of history, branches, …"
    )
    parser.add_argument("--rounds", type=int, help="3 by default, 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="fewer flows, one round: does it run, roughly how fast")
    parser.add_argument(
        "--pin",
        action="append",
        type=pins_of,
        default=[],
        metavar="PART,…=CORE,…",
        help=f"keep processes on cores, of the parts {', '.join(result.PARTS)}; repeatable",
    )
    parser.add_argument("--steps", type=int, default=10, help="steps in a flow")
    parser.add_argument("--sdk-worker", action="store_true", help="the task on the SDK's worker, not the lean service")
    parser.add_argument("--pipelined", action="store_true", help="flows with the durability of that name")
    parser.add_argument("--dsn", default="", help="a PostgreSQL where databases may be made; else an embedded one")
    parser.add_argument("--nats", default="", help="a nats-server; else an embedded one")
    others = parser.add_argument_group("further engines of the case `peers`")
    others.add_argument(
        "--with", dest="further", action="append", choices=("restate",), default=[],
        help="fetch it from the npm registry, into a cache folder of yours",
    )  # fmt: skip
    others.add_argument("--restate-server", default="", metavar="PATH", help="a program of your own; Python SDK only")
    others.add_argument("--temporal", default="", metavar="HOST:PORT", help="a Temporal server that runs")
    others.add_argument(
        "--temporal-server", default="", metavar="PATH", help="Temporal's command, whose development server is started"
    )
    parser.add_argument("--out", type=Path, default=Path("bench-result.json"))
    parser.add_argument("--json", action="store_true", help="print the result file instead of the table")
    parser.add_argument("--profile", default="", metavar="PREFIX", help="run the replicas under cProfile")
    parser.add_argument(
        "--telemetry",
        choices=TELEMETRY,
        default="off",
        help="what the replicas record, into memory, with spans of every flow",
    )
    return parser


def _compare_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench compare", description="What moved between two runs, beyond noise.")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--least", type=float, default=LEAST, help="share below which a difference is no news")
    parser.add_argument("--all", action="store_true", help="show what did not move, too")
    return parser


def _look_at_others(args: argparse.Namespace, plans: Sequence[Plan]) -> None:
    """Raise `ValueError` for options that say nothing, or nothing clear."""
    for arm in args.arm or ():
        if arm not in (result.FLOOR, *DATABASES) and any(plan.name != "peers" for plan in plans):
            raise ValueError(
                f"--arm {arm}: choose among {', '.join((result.FLOOR, *DATABASES))}; others go with peers alone"
            )
    asked = args.further or args.restate_server or args.temporal or args.temporal_server
    if asked and not any(plan.name == "peers" for plan in plans):
        raise ValueError("--with, --restate-server, --temporal and --temporal-server go with the case peers")
    if args.temporal and args.temporal_server:
        raise ValueError("--temporal and --temporal-server: give one of them")
    if args.temporal:
        temporal.address(args.temporal)


async def _others(args: argparse.Namespace) -> Others:
    """The optional engines that the user asked for, found or fetched before anything is started. Raises `Failed`."""
    temporal.check(args.temporal_server)
    wanted = args.further or args.restate_server
    found = await restate.fetch(args.restate_server) if wanted else None
    return Others(found, args.temporal, args.temporal_server, tuple(args.arm or ()))


def _console() -> Console:
    """Wide enough for the tables where nobody's terminal says how wide it is."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


async def _bench(args: argparse.Namespace, command: str) -> result.Run:
    rounds = args.rounds or (1 if args.quick else 3)
    arms = args.arm or [result.FLOOR, *DATABASES]
    sides = Sides(
        args.steps,
        args.sdk_worker,
        args.profile,
        args.telemetry,
        args.pipelined,
        await _others(args),
        dict(ChainMap(*args.pin)),
    )
    plans = chosen(args.case, args.quick, args.size)
    settings: dict[str, int | float | str | bool] = {
        "rounds": rounds,
        "quick": args.quick,
        "steps": args.steps,
        "sdk_worker": args.sdk_worker,
        "telemetry": args.telemetry,
        "pipelined": args.pipelined,
        "pins": "; ".join(f"{part} {','.join(map(str, sorted(cores)))}" for part, cores in sorted(sides.pins.items())),
        "embedded_postgresql": not args.dsn,
        "embedded_nats": not args.nats,
    }
    run = result.Run(
        datetime.now(UTC).isoformat(timespec="seconds"), command, result.machine(), result.versions(), settings
    )
    if any(plan.name == "peers" for plan in plans):
        run.versions |= peers.pinned() | (restate.versions(sides.others.restate) if sides.others.restate else {})
    quiet = Console(stderr=True, highlight=False)
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)  # so that nothing is left behind
    async with AsyncExitStack() as stack:
        servers = await _servers(args, arms, stack)
        if servers.dsn:
            await _look_at_postgres(servers, run)
        run.cases = await run_cases(
            plans,
            arms,
            servers,
            sides,
            rounds,
            lambda text: quiet.print(text, style="dim"),
        )
    return run


async def _servers(args: argparse.Namespace, arms: list[str], stack: AsyncExitStack) -> Servers:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dwarf-bench-")))
    servers = Servers(args.dsn, args.nats, folder)
    if not servers.nats:
        nats = await stack.enter_async_context(NatsServer())
        servers.nats, servers.pids["nats"] = nats.url, nats.pid
    if not servers.dsn and set(arms) != {"sqlite"}:
        postgres = await stack.enter_async_context(PostgresServer())
        servers.dsn = postgres.dsn()
    return servers


async def _look_at_postgres(servers: Servers, run: result.Run) -> None:
    """Its version and settings that matter and, where it runs here, its process."""
    connection = await asyncpg.connect(servers.dsn)
    try:
        run.versions["postgresql"] = str(await connection.fetchval("show server_version"))
        for name in ("fsync", "synchronous_commit", "shared_buffers"):
            run.settings[name] = str(await connection.fetchval(f"show {name}"))
        if servers.dsn.rsplit("@", 1)[-1].startswith(("127.0.0.1", "localhost")):
            postmaster = parent_of(connection.get_server_pid())
            if postmaster is not None:
                servers.pids["database"] = postmaster
    finally:
        await connection.close()


def _compare(args: argparse.Namespace) -> int:
    try:
        before, after = result.load(args.before), result.load(args.after)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    moves = compare(before, after, args.least)
    table = Table(title=f"{args.before} → {args.after}")
    for column in ("case", "arm", "figure", "before", "after", "change", ""):
        table.add_column(column, justify="right" if column in ("before", "after", "change") else "left")
    for move in moves:
        if move.moved or args.all:
            verdict = (
                ("better" if move.better else "worse" if move.judged else "more") if move.moved else "within noise"
            )
            table.add_row(
                move.case, move.arm, move.figure, f"{move.before:,.3g}", f"{move.after:,.3g}",
                f"{move.change:+.0%}", verdict,
            )  # fmt: skip
    console = _console()
    if table.row_count:
        console.print(table)
    else:
        console.print(f"nothing moved beyond noise, of {len(moves)} figures compared")
    return 1 if regressions(moves) else 0


if __name__ == "__main__":
    sys.exit(main())

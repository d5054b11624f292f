"""The tasks of the nightly report. Try them with::

    dwarf-nats dev examples/nightly-report/tasks.py --graphs examples/nightly-report/graphs

The parameters of a task are the state fields that it reads; it returns the fields that it changes. Money is in cents.
"""

from __future__ import annotations

import zlib
from typing import Any

from dwarf_nats.sdk import TaskError, Worker

worker = Worker(name="reports")
SHOPS = ("turku", "tampere", "oulu", "vaasa", "lahti")
CLOSED: set[str] = set()
"""Shops whose tills do not answer."""


@worker.task("report.shops")
async def shops() -> dict[str, Any]:
    """List the shops. The branches of the fan-out are made of this list."""
    return {"shops": list(SHOPS)}


@worker.task("report.read")
async def read(shop: str, day: str) -> dict[str, Any]:
    """Read the figures of one shop. The reducer of the graph appends them to those of the others."""
    if shop in CLOSED:
        raise TaskError(f"the till of {shop} does not answer", code=504)
    orders = 20 + zlib.crc32(f"{shop} {day}".encode()) % 80  # here you ask the till
    return {"figures": [{"shop": shop, "orders": orders, "cents": orders * 1_990}]}


@worker.task("report.write")
def write(day: str, figures: list[dict[str, Any]], missing: list[str] | None = None) -> dict[str, Any]:
    """Write the report: a line for each shop, in the order of the list, and the sum."""
    lines = [f"{one['shop']:<10}{one['orders']:>5} orders{one['cents'] / 100:>12,.2f} EUR" for one in figures]
    total = sum(one["cents"] for one in figures) / 100
    lines.append(f"{'all':<10}{sum(one['orders'] for one in figures):>5} orders{total:>12,.2f} EUR")
    lines += [f"{shop} did not answer" for shop in missing or ()]
    return {"text": "\n".join([f"Report of {day[:10]}", *lines])}


if __name__ == "__main__":
    worker.main()

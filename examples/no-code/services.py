"""Five services as a company has them: NATS request-reply, JSON in and out, nothing that knows of workflows.

NATS_URL=nats://127.0.0.1:4222 python services.py

They use the NATS client and nothing else. Errors are told as NATS services do, with the headers `Nats-Service-Error-Code` and
`Nats-Service-Error`. Requests repeat their `Nats-Msg-Id`, so what must not happen twice is remembered by it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import nats
from nats.aio.msg import Msg

PRICES = {"KB-TKL-ISO": 11_900, "CB-USBC-2M": 1_590, "DSK-OAK-180": 214_000}
STOCK = dict.fromkeys(PRICES, 10)


class Refused(Exception):
    """An answer that says no: a code and a sentence."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def reserve(subject: str, asked: dict[str, Any]) -> Any:
    sku = subject.split(".")[1]
    if STOCK.get(sku, 0) < asked["quantity"]:
        raise Refused(409, f"not enough {sku} in stock")
    STOCK[sku] -= asked["quantity"]
    return [{"sku": sku, "quantity": asked["quantity"]}]


def release(_: str, asked: dict[str, Any]) -> Any:
    return {"released": asked["sku"]}


def quote(_: str, asked: dict[str, Any]) -> Any:
    return {"cents": sum(PRICES[line["sku"]] * line["quantity"] for line in asked["lines"])}


def charge(_: str, asked: dict[str, Any]) -> Any:
    if asked["cents"] > 1_000_000:
        raise Refused(402, "the card has a limit of 10,000")
    return {"receipt": f"R-{asked['order']}"}


def refund(_: str, asked: dict[str, Any]) -> Any:
    return {"refunded": asked["receipt"]}


def pack(_: str, asked: dict[str, Any]) -> Any:
    return f"parcel of {len(asked['lines'])} for {asked['order']}"


SERVICES = {
    "stock.*.reserve": reserve,
    "stock.release": release,
    "pricing.quote": quote,
    "billing.charge": charge,
    "billing.refund": refund,
    "warehouse.pack": pack,
}


async def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    client = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), name="shop")
    answered: dict[str, bytes] = {}

    def serve(work: Any) -> Any:
        async def answer(message: Msg) -> None:
            seen = (message.headers or {}).get("Nats-Msg-Id") or message.reply
            headers = {}
            if seen not in answered:
                try:
                    answered[seen] = json.dumps(work(message.subject, json.loads(message.data or b"{}"))).encode()
                except Refused as no:
                    headers = {"Nats-Service-Error-Code": str(no.code), "Nats-Service-Error": str(no)}
                print(message.subject, message.data.decode(), "->", headers or answered[seen].decode(), flush=True)
            await client.publish(message.reply, answered.get(seen, b""), headers=headers or None)

        return answer

    for subject, work in SERVICES.items():
        await client.subscribe(subject, queue="shop", cb=serve(work))
    await client.flush()
    print("serving", *SERVICES, flush=True)
    stop = asyncio.Event()
    for one in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(one, stop.set)
    await stop.wait()
    await client.drain()


if __name__ == "__main__":
    asyncio.run(main())

"""The tasks of the order workflow, and of the shipping workflow that it calls. Try them with::

    dwarf-nats dev examples/orders/tasks.py --graphs examples/orders/graphs

The parameters of a task are the state fields that it reads; it returns the fields that it changes. Money is in cents. With
ORDERS_WITHOUT=orders.charge in the environment, that task is not served, so that you can see how a missing service looks.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from dwarf_nats.sdk import Flow, TaskError, Worker

worker = Worker(name="orders")


@dataclass(frozen=True)
class Product:
    """A product of the shop: price in cents, weight in grams, number of pieces in stock."""

    title: str
    cents: int
    grams: int
    stock: int


PRODUCTS = {
    "KB-TKL-ISO": Product("Keyboard, tenkeyless, ISO", 11_900, 890, 40),
    "MS-VERT": Product("Vertical mouse", 5_490, 140, 120),
    "PD-XL": Product("Desk pad, 90 × 40 cm", 2_250, 610, 75),
    "MN-27-4K": Product('Monitor, 27", 4K', 38_900, 5_600, 18),
    "AR-VESA": Product("Monitor arm, VESA 100", 8_400, 2_900, 30),
    "CB-USBC-2M": Product("Cable, USB-C, 2 m", 1_590, 60, 500),
    "CB-DP-1M": Product("Cable, DisplayPort, 1 m", 1_290, 75, 350),
}
RATES = {"EUR": Decimal("1"), "GBP": Decimal("0.84"), "USD": Decimal("1.09")}
VAT = {"SE": Decimal("0.25"), "GB": Decimal("0.20"), "FR": Decimal("0.20"), "DE": Decimal("0.19"), "US": Decimal("0")}
DISCOUNTS = {"gold": Decimal("0.05"), "business": Decimal("0.12")}
CARRIERS = {"SE": "PostNord", "GB": "Royal Mail", "FR": "Colissimo", "DE": "DHL", "US": "UPS"}
DECLINED = {"4000000000000002": "insufficient funds"}
UNANSWERED = {"4000002760003184": 2}
"""The number of charges of a card that the bank leaves unanswered before it accepts one."""


def serve(url: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a task, unless ORDERS_WITHOUT names it."""
    left_out = os.environ.get("ORDERS_WITHOUT", "").split(",")
    return worker.task(url) if url not in left_out else lambda function: function


def cents(amount: Decimal) -> int:
    """Round to whole cents, halves up."""
    return int(amount.quantize(Decimal(1), rounding=ROUND_HALF_UP))


@serve("orders.receive")
async def receive(order_id: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Check an order before anything is done for it; fail with the reason if it cannot be fulfilled."""
    if not lines:
        raise TaskError(f"order {order_id} has no lines", code=422)
    unknown = [line["sku"] for line in lines if line["sku"] not in PRODUCTS]
    if unknown:
        raise TaskError(f"order {order_id}: no such product: {', '.join(unknown)}", code=422)
    short = [line["sku"] for line in lines if line["quantity"] > PRODUCTS[line["sku"]].stock]
    if short:
        raise TaskError(f"order {order_id}: not enough in stock: {', '.join(short)}", code=409)
    return {"pieces": sum(line["quantity"] for line in lines)}


@serve("orders.reserve")
async def reserve(line: dict[str, Any], currency: str) -> dict[str, Any]:
    """Reserve the goods of one line. The graph's reducers merge the results of all lines: lists and sums."""
    product = PRODUCTS[line["sku"]]
    cost = cents(product.cents * RATES[currency]) * line["quantity"]
    return {
        "reserved": [{**line, "title": product.title, "total_cents": cost}],
        "goods_cents": cost,
        "weight_grams": product.grams * line["quantity"],
    }


@serve("orders.price")
async def price(goods_cents: int, customer: dict[str, Any], address: dict[str, Any]) -> dict[str, Any]:
    """Compute the customer's discount, and the tax of the country."""
    discount = cents(goods_cents * DISCOUNTS.get(customer["tier"], Decimal(0)))
    tax = cents((goods_cents - discount) * VAT[address["country"]])
    return {"discount_cents": discount, "tax_cents": tax, "total_cents": goods_cents - discount + tax}


@serve("orders.approve")
def approve(
    flow: Flow, order_id: str, customer: dict[str, Any], total_cents: int, currency: str
) -> dict[str, Any] | None:
    """Ask a person. The flow is interrupted until it is resumed with `{"approved": true, "by": "a name"}`.

    Then this runs again from its beginning, and `interrupt` returns the data of the resume. After any other data the person is
    asked once more.
    """
    answer = flow.interrupt(
        {
            "question": f"May order {order_id} of {customer['name']} go out?",
            "total": f"{total_cents / 100:,.2f} {currency}",
            "answer": {"approved": "true or false", "by": "a name"},
        }
    )
    if not isinstance(answer, dict) or not isinstance(answer.get("approved"), bool):
        flow.retry(initial_delay=0)  # without a delay, since the person decides how long it takes
        return None
    return {"approved": answer["approved"], "approved_by": str(answer.get("by", "somebody"))}


@serve("orders.charge")
def charge(flow: Flow, card: str, total_cents: int) -> dict[str, Any]:
    """Charge the card. This is a plain function, as a blocking payment library needs it: it runs in a thread.

    If the bank does not answer, the charge is tried again, after a longer delay each time. The reference is made from
    the step's key, which is the same in every execution: a bank that knows the reference charges once.
    """
    if not luhn_valid(card):
        raise TaskError("the card number is mistyped", code=402, last_digits=card[-4:])
    if card in DECLINED:
        raise TaskError(f"the bank declined the card: {DECLINED[card]}", code=402, last_digits=card[-4:])
    if flow.attempt < UNANSWERED.get(card, 0):
        flow.retry(max_attempts=5, initial_delay=0.3, multiplier=2)
        raise TaskError("the bank did not answer in time", code=504)
    reference = hashlib.sha256(flow.step_key.encode()).hexdigest()[:12].upper()
    return {"payment_reference": f"PAY-{reference}", "charged_cents": total_cents, "card": f"…{card[-4:]}"}


@serve("orders.ship")
def ship(flow: Flow, order_id: str, address: dict[str, Any], weight_grams: int) -> dict[str, Any]:
    """Send the parcels by another workflow, and keep the parts of its result that the customer should know."""
    sent = flow.subgraph("shipping", {"order_id": order_id, "address": address, "weight_grams": weight_grams})
    return {name: sent[name] for name in ("carrier", "tracking_number", "parcels")} | {"result": "shipped"}


@serve("orders.release")
async def release(reserved: list[dict[str, Any]], onErr: dict[str, Any] | None = None) -> dict[str, Any]:  # noqa: N803
    """Release the goods of an order that is not shipped: refused by a person, or by the bank (`onErr`)."""
    why = onErr["message"] if onErr else "not approved"
    return {"released": [f"{line['quantity']} × {line['sku']}" for line in reserved], "result": f"released: {why}"}


@serve("orders.pack")
async def pack(weight_grams: int) -> dict[str, Any]:
    """Compute the number of parcels, of at most 20 kg each."""
    return {"parcels": -(-weight_grams // 20_000)}


@serve("orders.label")
async def label(flow: Flow, address: dict[str, Any]) -> dict[str, Any]:
    """Make the tracking number, the same in every execution."""
    digits = str(int(hashlib.sha256(flow.step_key.encode()).hexdigest(), 16))[:11]
    return {"tracking_number": f"{address['country']}{digits}{check_digit(digits)}"}


@serve("orders.pickup")
async def pickup(address: dict[str, Any], parcels: int) -> dict[str, Any]:
    """Book the carrier of the country for a pickup."""
    return {"carrier": CARRIERS[address["country"]], "pickup": f"{parcels} at the ramp, today"}


def luhn_valid(number: str) -> bool:
    """Return true if the last digit of a card number fits the others (Luhn)."""
    return number.isdigit() and check_digit(number[:-1]) == int(number[-1])


def check_digit(digits: str) -> int:
    """Compute the check digit of Luhn's algorithm for the digits before it."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return -total % 10


if __name__ == "__main__":
    worker.main()

"""The task services of the order workflow. Try them with::

    dwarf-nats dev examples/orders/tasks.py --graphs examples/orders/graphs

Each task gets the fields of the state it names as arguments and returns the fields it changes. Money is in cents. With
ORDERS_WITHOUT=orders.charge in the environment, that task is not served, to see what a missing service looks like.
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
    """What the shop sells: price in cents, weight in grams, pieces on the shelf."""

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


def serve(url: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a task, unless the environment leaves it out."""
    left_out = os.environ.get("ORDERS_WITHOUT", "").split(",")
    return worker.task(url) if url not in left_out else lambda function: function


def cents(amount: Decimal) -> int:
    """Whole cents, halves up."""
    return int(amount.quantize(Decimal(1), rounding=ROUND_HALF_UP))


@serve("orders.reserve")
async def reserve(order_id: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Put the goods aside, or fail saying which are short."""
    unknown = [line["sku"] for line in lines if line["sku"] not in PRODUCTS]
    if unknown:
        raise TaskError(f"order {order_id}: no such product: {', '.join(unknown)}", code=422)
    short = [line["sku"] for line in lines if line["quantity"] > PRODUCTS[line["sku"]].stock]
    if short:
        raise TaskError(f"order {order_id}: not enough in stock: {', '.join(short)}", code=409)
    weight = sum(PRODUCTS[line["sku"]].grams * line["quantity"] for line in lines)
    return {"reserved": [line["sku"] for line in lines], "weight_grams": weight}


@serve("orders.price")
async def price(
    lines: list[dict[str, Any]], customer: dict[str, Any], address: dict[str, Any], currency: str
) -> dict[str, Any]:
    """Line totals in the order's currency, the customer's discount, the tax of the country."""
    priced = []
    for line in lines:
        product = PRODUCTS[line["sku"]]
        total = cents(product.cents * RATES[currency]) * line["quantity"]
        priced.append({**line, "title": product.title, "total_cents": total})
    goods = sum(line["total_cents"] for line in priced)
    discount = cents(goods * DISCOUNTS.get(customer["tier"], Decimal(0)))
    tax = cents((goods - discount) * VAT[address["country"]])
    return {
        "lines": priced,
        "goods_cents": goods,
        "discount_cents": discount,
        "tax_cents": tax,
        "total_cents": goods - discount + tax,
    }


@serve("orders.charge")
def charge(flow: Flow, card: str, total_cents: int) -> dict[str, Any]:
    """Charge the card. A plain function, as a blocking payment library would need: it runs in a thread.

    The reference comes from the step's key, which is the same however often this runs: a bank that knows the reference
    charges once.
    """
    if not luhn_valid(card):
        raise TaskError("the card number is mistyped", code=402, last_digits=card[-4:])
    reference = hashlib.sha256(flow.step_key.encode()).hexdigest()[:12].upper()
    return {"payment_reference": f"PAY-{reference}", "charged_cents": total_cents, "card": f"…{card[-4:]}"}


@serve("orders.ship")
async def ship(address: dict[str, Any], weight_grams: int, payment_reference: str) -> dict[str, Any]:
    """Book the parcel and get its tracking number."""
    digits = str(int(payment_reference.removeprefix("PAY-"), 16))[:11].zfill(11)
    parcels = -(-weight_grams // 20_000)
    return {
        "carrier": CARRIERS[address["country"]],
        "parcels": parcels,
        "tracking_number": f"{address['country']}{digits}{check_digit(digits)}",
    }


def luhn_valid(number: str) -> bool:
    """Whether the last digit of a card number fits the others."""
    return number.isdigit() and check_digit(number[:-1]) == int(number[-1])


def check_digit(digits: str) -> int:
    """The digit of Luhn's algorithm for what comes before it."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return -total % 10


if __name__ == "__main__":
    worker.main()

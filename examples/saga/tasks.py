"""The tasks of the trip. Try them with::

    dwarf-nats dev examples/saga/tasks.py --graphs examples/saga/graphs

`Ledger` stands for the partners' systems. Like a good partner, it knows the key of a request: the same key books once.
"""

from __future__ import annotations

from typing import Any

from dwarf_nats.sdk import Flow, TaskError, Worker

worker = Worker(name="trips")
CITIES = {"Rome": 180, "Lisbon": 240, "Kyoto": 1_150}
"""The price of a flight."""


class Ledger:
    """Bookings by number, and the numbers by the key of the request that made them."""

    def __init__(self) -> None:
        self.bookings: dict[str, str] = {}
        self._by_key: dict[str, str] = {}

    def book(self, key: str, what: str) -> str:
        """Book once for each key; return the number of the booking."""
        if key not in self._by_key:
            self._by_key[key] = f"{what.split()[0]}-{len(self._by_key) + 1}"
            self.bookings[self._by_key[key]] = what
        return self._by_key[key]

    def cancel(self, key: str) -> str | None:
        """Cancel what was booked with a key, if it still stands."""
        return self.bookings.pop(self._by_key.get(key, ""), None)


ledger = Ledger()


@worker.task("trip.book_flight")
async def book_flight(flow: Flow, traveller: str, city: str, total: int = 0) -> dict[str, Any]:
    """Book a flight. The key of the step is the same in every execution, so a retry or a crash books nothing twice."""
    if city not in CITIES:
        raise TaskError(f"no flight goes to {city}", code=404)
    return {"flight": ledger.book(flow.step_key, f"flight to {city} for {traveller}"), "total": total + CITIES[city]}


@worker.task("trip.book_hotel")
async def book_hotel(flow: Flow, traveller: str, city: str, nights: int, total: int) -> dict[str, Any]:
    """Book a hotel."""
    return {"hotel": ledger.book(flow.step_key, f"hotel in {city} for {traveller}"), "total": total + nights * 130}


@worker.task("trip.book_car")
async def book_car(flow: Flow, traveller: str, city: str, nights: int, total: int) -> dict[str, Any]:
    """Book a car."""
    return {"car": ledger.book(flow.step_key, f"car in {city} for {traveller}"), "total": total + nights * 45}


@worker.task("trip.cancel_booking")
async def cancel_booking(flow: Flow) -> None:
    """Undo one booking. The key of the step that booked says which; to cancel twice does no harm."""
    undone = flow.compensating
    if undone is not None:
        ledger.cancel(undone.step_key)


@worker.task("trip.refuse")
async def refuse() -> None:
    """Fail the flow, so that all bookings are cancelled."""
    raise TaskError("the trip was not approved", code=403)


@worker.task("trip.pay")
async def pay(flow: Flow, traveller: str, total: int) -> dict[str, str]:
    """Charge the traveller's card. A card that is declined is not tried again: the error fails the flow."""
    if traveller == "Mallory":
        raise TaskError("the card was declined", code=402)
    return {"receipt": ledger.book(flow.step_key, f"payment of {total} by {traveller}")}


if __name__ == "__main__":
    worker.main()

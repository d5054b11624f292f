"""What the console reads and does, over NATS, as one NATS user.

Everything that comes back has ids in place of keys (`identities`). Equal reads are shared (`sharing`). All methods raise the
refusal of the service as a leaf of `DwarfError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson

from dwarf_nats.errors import BadRequest, DwarfError, Forbidden, NotFound, Unavailable
from dwarf_nats.sdk import Client
from dwarf_nats.sdk.discovery import find_services
from dwarf_nats.wire.codec import encode
from dwarf_nats.wire.operations import OPERATION_NAMES
from dwarf_nats.workflow.keys import parse_public_id

from .identities import KEY_FIELDS, Identities, plain_document
from .registers import REGISTER_OPERATIONS
from .sharing import Kept, SharedReads

FRESH_SECONDS = 1.0
"""Age up to which a result is given to others who ask for the same: at most one read a second of each thing."""
HISTORY_PAGE_STEPS = 1_000
SENDING_SECONDS = 0.001
"""Time in which a request leaves, before the reply to the one before is worked on."""
SLOW_SECONDS = 3.0
"""The same for what asks all replicas or all services, or counts rows."""
STEERING = (
    *("flow.create", "flow.run", "flow.start", "flow.continue", "flow.cancel", "flow.resume", "flow.resume_break"),
    *("flow.break_before", "flow.restart", "flow.restart_from", "flow.fork", "flow.signal", "flow.tag", "flow.delete"),
    *("flow.purge", "flow.bulk", "graph.put", "graph.delete"),
)
"""Operations that the console offers if its user may publish them."""
_HARMLESS = b'{"mayPublish":true}'
"""A request that every operation refuses before it does anything, because no message has this field."""
_IDS_TO_KEYS = {"flowKey": "flow", "threadKey": "flow", "stepKey": "step"}


class Source:
    """Reads and steers as one NATS user. `client` is closed with the source. Without `payloads`, states are not read."""

    def __init__(self, client: Client, *, payloads: bool = True) -> None:
        self.client = client
        self.payloads = payloads
        self.identities = Identities()
        self.forbidden: frozenset[str] = frozenset()
        """Operations that NATS does not let this user publish, as far as that is known."""
        self._shared = SharedReads()
        self.kept: Kept[Any] = Kept()
        """Histories of flows that have ended, by their fingerprints."""
        self._with_tokens: set[tuple[str, bytes]] = set()

    # --- the connection ---

    async def connect(self) -> None:
        """Connect, and find out what this user may do. Raises `Unavailable` if no NATS server answers."""
        await self.client.connect()
        await self.learn_rights()

    async def close(self) -> None:
        await self.client.close()

    @property
    def connected(self) -> bool:
        """True while there is a connection to NATS."""
        try:
            return bool(self.client.nc.is_connected)
        except Unavailable:
            return False

    async def learn_rights(self) -> None:
        """Ask with harmless requests which operations this user may publish."""
        asked = sorted({*STEERING, *REGISTER_OPERATIONS} & OPERATION_NAMES)
        refused = await asyncio.gather(*(self._is_forbidden(name) for name in asked))
        self.forbidden = frozenset(name for name, no in zip(asked, refused, strict=True) if no)

    async def _is_forbidden(self, operation: str) -> bool:
        try:
            await self.client.request(operation, _HARMLESS)
        except Forbidden:
            return True
        except DwarfError:
            return False  # the service refused it, or nobody answered: NATS let it pass
        return False

    def may(self, operation: str) -> bool:
        """True unless NATS is known to refuse the operation to this user."""
        return operation not in self.forbidden

    # --- reading ---

    async def flows(self, query: Mapping[str, Any], cursor: str = "") -> dict[str, Any]:
        """A page of flows: `flows`, and `cursor` unless it is the last. `query`: the fields of `flow.list`."""
        return await self.read("flow.list", {**query, **({"cursor": cursor} if cursor else {})})

    async def counts(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Flows by status: `counts`, `more`, `searchedTo`. `query`: the filters of `flow.count`."""
        return await self.read("flow.count", query, seconds=SLOW_SECONDS)

    async def summary(self, flow_id: str) -> dict[str, Any]:
        """The line of one flow in a list, also of one that another flow called."""
        parse_public_id(flow_id)
        found = (await self.read("flow.list", {"flowId": flow_id, "limit": 1}))["flows"]
        if not found:
            raise NotFound(f"there is no flow {flow_id}: it may have been deleted")
        summary: dict[str, Any] = found[0]
        return summary

    async def snapshot(self, flow_id: str) -> dict[str, Any]:
        """Where a flow stands, with its state (O5)."""
        return await self.read("flow.snapshot", {"flowKey": flow_id})

    async def fingerprint(self, flow_id: str) -> dict[str, Any]:
        """`fingerprint` and `status` of a flow: the cheapest read there is (O6)."""
        return await self.read("flow.fingerprint", {"flowKey": flow_id}, seconds=FRESH_SECONDS / 2)

    async def history(self, flow_id: str, *, limit: int = 100, cursor: str = "") -> dict[str, Any]:
        """A page of steps: `steps`, and `cursor` unless it is the last (O7)."""
        fields: dict[str, Any] = {"flowKey": flow_id, "limit": limit}
        page = await self.read("flow.history", {**fields, "cursor": cursor} if cursor else fields)
        self.identities.learn_callers(flow_id, page["steps"])
        return page

    async def whole_history(self, flow_id: str, most: int) -> tuple[list[dict[str, Any]], bool]:
        """The steps of a flow, at least `most` of a longer history, and whether they are all. Pages are read ahead."""
        return await self._shared.get(("history", flow_id, most), FRESH_SECONDS, partial(self._pages, flow_id, most))

    async def _pages(self, flow_id: str, most: int) -> tuple[list[dict[str, Any]], bool]:
        key = await self.flow_key(flow_id)

        def ask(cursor: str) -> asyncio.Task[bytes]:
            fields = {"flowKey": key, "limit": HISTORY_PAGE_STEPS, **({"cursor": cursor} if cursor else {})}
            return asyncio.create_task(self.client.request("flow.history", orjson.dumps(fields)))

        steps: list[dict[str, Any]] = []
        asked: asyncio.Task[bytes] | None = ask("")
        complete = True
        while asked is not None:
            body = await asked
            cursor = _cursor_at_end(body)
            complete = not cursor
            asked = ask(cursor) if cursor and len(steps) + HISTORY_PAGE_STEPS < most else None
            if asked is not None:  # it is on its way while this page is worked on
                await asyncio.wait({asked}, timeout=SENDING_SECONDS)
            steps += self.identities.sealed(body, payloads=self.payloads)["steps"]
        self.identities.learn_callers(flow_id, steps)
        return steps, complete

    async def explain(self, flow_id: str) -> dict[str, Any]:
        """What each living step of the flow waits for."""
        return await self.read("flow.explain", {"flowKey": flow_id})

    async def step(self, step_id: str, flow_id: str) -> dict[str, Any]:
        """One step with state and changes. `flow_id`: its flow, whose history is read if the step has not been seen."""
        await self.step_key(step_id, flow_id)
        return await self.read("step.get", {"stepKey": step_id})

    async def graphs(self) -> list[dict[str, Any]]:
        """The registered graphs: `name`, `digest`, `updatedAt`."""
        found: list[dict[str, Any]] = (await self.read("graph.list", {}))["graphs"]
        return found

    async def graph(self, name: str) -> dict[str, Any]:
        """A registered graph, as its JSON."""
        return await self.read("graph.get", {"name": name})

    async def shards(self) -> list[dict[str, Any]]:
        """Health and size of each shard."""
        found: list[dict[str, Any]] = (await self.read("shard.info", {}, seconds=SLOW_SECONDS))["shards"]
        return found

    async def health(self) -> list[dict[str, Any]]:
        """The health that each replica reports."""

        async def ask() -> list[dict[str, Any]]:
            return [orjson.loads(encode(one)) for one in await self.client.health()]

        return await self._shared.get("health", SLOW_SECONDS, ask)

    async def services(self, verb: str, name: str = "") -> list[dict[str, Any]]:
        """Replies of NATS services to a request of service discovery, `INFO` or `STATS`."""

        async def ask() -> list[dict[str, Any]]:
            await self.client.connect()
            return await find_services(self.client.nc, verb, name)

        return await self._shared.get(("services", verb, name), SLOW_SECONDS, ask)

    async def read(
        self, operation: str, fields: Mapping[str, Any], *, seconds: float = FRESH_SECONDS
    ) -> dict[str, Any]:
        """Carry out a reading operation. `flowKey` and the like of `fields` hold ids. Equal reads within `seconds` are one."""
        body = orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)

        async def ask() -> dict[str, Any]:
            reply = await self.client.request(operation, await self._with_keys(fields))
            return self.identities.sealed(reply, payloads=self.payloads)

        return await self._shared.get((operation, body), seconds, ask)

    async def document(self, operation: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The reply of an operation on a register: under the names of the wire, without tokens of keys."""
        body = orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)

        async def ask() -> dict[str, Any]:
            found, changed = plain_document(await self.client.request(operation, body), payloads=self.payloads)
            (self._with_tokens.add if changed else self._with_tokens.discard)((operation, body))
            return found

        return await self._shared.get(("document", operation, body), FRESH_SECONDS, ask)

    def hides_keys(self, operation: str, fields: Mapping[str, Any]) -> bool:
        """True if the document that was read with these fields had tokens of keys, which no page shows."""
        return (operation, orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)) in self._with_tokens

    # --- steering ---

    async def act(
        self, operation: str, fields: Mapping[str, Any], *, actor: str = "", idempotency_key: str = ""
    ) -> dict[str, Any]:
        """Carry out an operation that changes something. `flowKey` and the like of `fields` hold ids.

        `actor` says who asks. What was read before is read again.
        """
        try:
            reply = await self.client.request(
                operation, await self._with_keys(fields), actor=actor, idempotency_key=idempotency_key
            )
        except Forbidden:
            self.forbidden |= {operation}
            raise
        finally:
            self._shared.clear()
        return self.identities.sealed(reply, payloads=self.payloads)

    # --- keys ---

    def learn_flow(self, key: str) -> None:
        """Keep a key that a person has pasted, unless the flow is known already."""
        if self.identities.flow_key("-".join(key.split("-")[:2])) is None:
            self.identities.learn("flowKey", key)

    async def flow_key(self, flow_id: str) -> str:
        """The key of a flow: from memory, else looked up with the rights of this user. Raises `NotFound`."""
        key = self.identities.flow_key(flow_id)
        if key is None:
            await self.summary(flow_id)
            key = self.identities.flow_key(flow_id)
        if key is None:
            raise NotFound(f"there is no flow {flow_id}")
        return key

    async def step_key(self, step_id: str, flow_id: str = "") -> str:
        """The key of a step: from memory, else from the history of its flow. Raises `NotFound`."""
        parse_public_id(step_id)
        key = self.identities.step_key(step_id)
        cursor, more = "", bool(flow_id)
        while key is None and more:
            page = await self.history(flow_id, limit=1000, cursor=cursor)
            key, cursor = self.identities.step_key(step_id), page.get("cursor", "")
            more = bool(cursor)
        if key is None:
            raise NotFound(f"there is no step {step_id}" + (f" in flow {flow_id}" if flow_id else ""))
        return key

    async def _with_keys(self, fields: Mapping[str, Any]) -> bytes:
        found = dict(fields)
        for name, kind in _IDS_TO_KEYS.items():
            if name in found:
                known = await (self.flow_key(found[name]) if kind == "flow" else self.step_key(found[name]))
                found[name] = known
        return orjson.dumps(found)


def _cursor_at_end(body: bytes) -> str:
    """The cursor of a page, without reading the page: it is the last field."""
    if not body.endswith(b'"}'):
        return ""
    name, _, text = body[-400:-2].rpartition(b'"')
    return text.decode() if name.endswith(b'],"cursor":') else ""


def request_line(prefix: str, operation: str, fields: Mapping[str, Any]) -> str:
    """The `nats req` line that does the same. Keys are shown as placeholders, `KEY-OF-1-42`."""
    shown = {
        name: f"KEY-OF-{value}" if name in KEY_FIELDS and isinstance(value, str) else value
        for name, value in fields.items()
    }
    text = orjson.dumps(shown).decode().replace("'", "'\\''")
    return f"nats req {prefix}.{operation} '{text}'"


def flow_id_of(text: str) -> str:
    """The id in an address. Raises `NotFound` for text that is none."""
    try:
        parse_public_id(text)
    except BadRequest:
        raise NotFound(f"there is no flow {text[:80]}: an id is written 1-42") from None
    return text

"""The client's operations on the deployment: health, shards, breakers, registered graphs (O16, G11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET

from dwarf_nats.errors import BadRequest, Unavailable
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.codec import graph_record, or_default
from dwarf_nats.workflow.records import GraphInfo, ShardInfo

from .arguments import graph_json
from .replies import decode
from .requester import Requester

if TYPE_CHECKING:
    from dwarf_nats.workflow.audit import AuditQuery, AuditRecord
    from dwarf_nats.workflow.graph import Graph


class Deployment(Requester):
    """Base of `Client` with the operations on replicas, shards, tasks and graphs."""

    async def breaker(self, task: str) -> bool:
        """Return whether the circuit breaker of a task, named by its url, is tripped (O16).

        Example: `tripped = await client.breaker("charge")`
        """
        body = await self._read("task.breaker", m.TaskBreakerRequest(task=task))
        return decode(m.TaskBreakerReply, body, "task.breaker").tripped

    async def health(self, wait: float = 2.0) -> list[m.HealthReply]:
        """Return the health each replica reports: `ready`, `live`, and a `reason` if not; in the order of the answers.

        All replicas are asked at once. Replicas that do not answer within `wait` seconds, or long after the others, are
        missing. Raises `Unavailable` if none answers.

        Example: `ready = [one.ready for one in await client.health()]`
        """
        from .discovery import all_replies

        await self._channel()
        found = await all_replies(self.nc, self.subjects.health(), wait)
        if not found:
            raise Unavailable(self._nobody_answers(), cause="no_responders")
        return [decode(m.HealthReply, message.data, "health") for message in found]

    async def shard_info(self) -> list[ShardInfo]:
        """Return health and size of every shard (O16).

        Example: `shards = await client.shard_info()`
        """
        from dwarf_nats.wire.shards import shard_record

        body = await self._read("shard.info", m.EmptyRequest())
        return [shard_record(one) for one in decode(m.ShardInfoReply, body, "shard.info").shards]

    async def list_audit(self, query: AuditQuery | None = None, cursor: str = "") -> tuple[list[AuditRecord], str]:
        """Return audit records, newest first, and the cursor of the next page, empty on the last one (M3).

        Each says which operation steered what, by whom, why, and whether it was refused.

        Example: `records, cursor = await client.list_audit(AuditQuery(operation="flow.cancel"))`
        """
        from dwarf_nats.wire.audits import audit_record, audit_request
        from dwarf_nats.workflow.audit import AuditQuery

        body = await self._read("audit.list", audit_request(query if query is not None else AuditQuery(), cursor))
        reply = decode(m.AuditListReply, body, "audit.list")
        return [audit_record(one) for one in reply.records], or_default(reply.cursor, "")

    async def put_shard(self, shard: int, *, cordoned: bool | None = None, weight: float | None = None) -> None:
        """Say whether a shard takes new flows, and its share of them; `None` leaves one as it is (O17).

        A cordoned shard goes on with the flows it has.

        Example: `await client.put_shard(1, weight=0.5)`
        """
        request = m.ShardPutRequest(
            shard=shard,
            cordoned=UNSET if cordoned is None else cordoned,
            weight=UNSET if weight is None else weight,
        )
        await self._read("shard.put", request)

    async def put_graph(self, graph: Graph) -> GraphInfo:
        """Register a graph under its name, replacing the graph registered there; `warnings` name likely mistakes (G11).

        `updated_at` is 0, because the reply does not have it.

        Example: `info = await client.put_graph(graph)`
        """
        text = graph_json(graph)
        try:
            body = await self._read("graph.put", text)
        except BadRequest as error:
            raise graph.placed(error) from None
        reply = decode(m.GraphPutReply, body, "graph.put")
        return GraphInfo(reply.name, reply.digest, 0, tuple(or_default(reply.warnings, [])))

    async def get_graph(self, name: str) -> Graph:
        """Return a registered graph.

        Example: `graph = await client.get_graph("order")`
        """
        from dwarf_nats.workflow.graph import Graph

        return Graph.from_json(await self._read("graph.get", m.GraphRequest(name=name)))

    async def delete_graph(self, name: str) -> None:
        """Remove a graph from the registry; flows made of it keep theirs (G10).

        Example: `await client.delete_graph("old")`
        """
        await self._request("graph.delete", m.GraphRequest(name=name))

    async def list_graphs(self) -> list[GraphInfo]:
        """Return all registered graphs.

        Example: `names = [one.name for one in await client.list_graphs()]`
        """
        reply = decode(m.GraphListReply, await self._read("graph.list", m.EmptyRequest()), "graph.list")
        return [graph_record(one) for one in reply.graphs]

    async def validate_graph(self, graph: Graph) -> list[str]:
        """Return the likely mistakes in the graph, a sentence each (G11).

        Raises `BadRequest` if the service would refuse the graph (G6).

        Example: `warnings = await client.validate_graph(graph)`
        """
        text = graph_json(graph)
        try:
            body = await self._read("graph.validate", text)
        except BadRequest as error:
            raise graph.placed(error) from None
        return or_default(decode(m.GraphValidateReply, body, "graph.validate").warnings, [])

    async def graph_mermaid(self, name: str) -> str:
        """Return a registered graph as a Mermaid flowchart (D1).

        Example: `text = await client.graph_mermaid("order")`
        """
        body = await self._read("graph.mermaid", m.GraphRequest(name=name))
        return decode(m.MermaidReply, body, "graph.mermaid").mermaid

"""The synchronous client's operations on the deployment: health, shards, breakers, registered graphs (O16, G11).

Made by `python -m dwarf_nats.sdk.generate_sync`; do not edit.
"""

from __future__ import annotations

from dwarf_nats.sync.requester import SyncRequester
from dwarf_nats.wire import messages as m
from dwarf_nats.workflow.audit import AuditQuery, AuditRecord
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.records import GraphInfo, ShardInfo


class Deployment(SyncRequester):
    """Base of `Client` with the operations on replicas, shards, tasks and graphs."""

    def breaker(self, task: str) -> bool:
        """Return whether the circuit breaker of a task, named by its url, is tripped (O16).

        Example: `tripped = client.breaker("charge")`
        """
        return self._run(self._async.breaker(task=task))

    def health(self, wait: float = 2.0) -> list[m.HealthReply]:
        """Return the health each replica reports: `ready`, `live`, and a `reason` if not; in the order of the answers.

        All replicas are asked at once. Replicas that do not answer within `wait` seconds, or long after the others, are
        missing. Raises `Unavailable` if none answers.

        Example: `ready = [one.ready for one in client.health()]`
        """
        return self._run(self._async.health(wait=wait))

    def shard_info(self) -> list[ShardInfo]:
        """Return health and size of every shard (O16).

        Example: `shards = client.shard_info()`
        """
        return self._run(self._async.shard_info())

    def list_audit(self, query: AuditQuery | None = None, cursor: str = "") -> tuple[list[AuditRecord], str]:
        """Return audit records, newest first, and the cursor of the next page, empty on the last one (M3).

        Each says which operation steered what, by whom, why, and whether it was refused.

        Example: `records, cursor = client.list_audit(AuditQuery(operation="flow.cancel"))`
        """
        return self._run(self._async.list_audit(query=query, cursor=cursor))

    def put_shard(self, shard: int, *, cordoned: bool | None = None, weight: float | None = None) -> None:
        """Say whether a shard takes new flows, and its share of them; `None` leaves one as it is (O17).

        A cordoned shard goes on with the flows it has.

        Example: `client.put_shard(1, weight=0.5)`
        """
        self._run(self._async.put_shard(shard=shard, cordoned=cordoned, weight=weight))

    def put_graph(self, graph: Graph) -> GraphInfo:
        """Register a graph under its name, replacing the graph registered there; `warnings` name likely mistakes (G11).

        `updated_at` is 0, because the reply does not have it.

        Example: `info = client.put_graph(graph)`
        """
        return self._run(self._async.put_graph(graph=graph))

    def get_graph(self, name: str) -> Graph:
        """Return a registered graph.

        Example: `graph = client.get_graph("order")`
        """
        return self._run(self._async.get_graph(name=name))

    def delete_graph(self, name: str) -> None:
        """Remove a graph from the registry; flows made of it keep theirs (G10).

        Example: `client.delete_graph("old")`
        """
        self._run(self._async.delete_graph(name=name))

    def list_graphs(self) -> list[GraphInfo]:
        """Return all registered graphs.

        Example: `names = [one.name for one in client.list_graphs()]`
        """
        return self._run(self._async.list_graphs())

    def validate_graph(self, graph: Graph) -> list[str]:
        """Return the likely mistakes in the graph, a sentence each (G11).

        Raises `BadRequest` if the service would refuse the graph (G6).

        Example: `warnings = client.validate_graph(graph)`
        """
        return self._run(self._async.validate_graph(graph=graph))

    def graph_mermaid(self, name: str) -> str:
        """Return a registered graph as a Mermaid flowchart (D1).

        Example: `text = client.graph_mermaid("order")`
        """
        return self._run(self._async.graph_mermaid(name=name))

"""The table of operations (wire section 1).

A row is all that names an operation. Its handler is the function in `bus.handlers` marked with the name; endpoints, schemas,
permissions and documents are made from the table or compared with it. `tests/wire/test_operation_table.py` finds what a new row
lacks.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import msgspec

from . import messages as m
from .subjects import endpoint_name


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    `client`: the method of `sdk.Client`. `command`: the command of the CLI. `waits`: it may hold its caller for long. `keyed`:
    `Nats-Msg-Id` is its idempotency key. `reads`: it changes nothing, so a viewer may ask it, and it may be sent again.
    `confidential`: it reads what a viewer may not see. `begins`: it makes or starts flows or brings an event, of which flows
    tell themselves. All others steer and are audited (M3).
    """

    name: str
    request: type[msgspec.Struct]
    reply: type[msgspec.Struct]
    _: KW_ONLY
    client: str
    command: str
    waits: bool = False
    keyed: bool = False
    reads: bool = False
    confidential: bool = False
    begins: bool = False

    @property
    def audited(self) -> bool:
        """It leaves an audit record."""
        return not self.reads and not self.begins

    @property
    def endpoint(self) -> str:
        return endpoint_name(self.name)


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "flow.create",
        m.FlowCreateRequest,
        m.FlowKeyReply,
        client="create",
        command="flow create",
        keyed=True,
        begins=True,
    ),
    Operation(
        "flow.create_task",
        m.FlowCreateTaskRequest,
        m.FlowKeyReply,
        client="create_task",
        command="flow create",
        keyed=True,
        begins=True,
    ),
    Operation("flow.start", m.FlowStartRequest, m.Empty, client="start", command="flow start", begins=True),
    Operation(
        "flow.run", m.FlowRunRequest, m.Outcome, client="run", command="flow run", waits=True, keyed=True, begins=True
    ),
    Operation(
        "flow.await", m.FlowWaitRequest, m.Outcome, client="await_", command="flow await", waits=True, reads=True
    ),
    Operation("flow.poll", m.FlowWaitRequest, m.Outcome, client="poll", command="flow await", waits=True, reads=True),
    Operation("flow.snapshot", m.FlowRequest, m.Outcome, client="snapshot", command="flow get", reads=True),
    Operation(
        "flow.fingerprint", m.FlowRequest, m.FingerprintReply, client="fingerprint", command="flow get", reads=True
    ),
    Operation(
        "flow.history", m.FlowHistoryRequest, m.HistoryReply, client="history_page", command="flow history", reads=True
    ),
    Operation("flow.mermaid", m.FlowRequest, m.MermaidReply, client="mermaid", command="flow mermaid", reads=True),
    Operation("flow.graph", m.FlowRequest, m.FlowGraphReply, client="flow_graph", command="flow graph", reads=True),
    Operation("flow.explain", m.FlowRequest, m.ExplanationReply, client="explain", command="flow explain", reads=True),
    Operation("flow.list", m.FlowListRequest, m.FlowListReply, client="list", command="flow list", reads=True),
    Operation("flow.count", m.FlowCountRequest, m.FlowCountReply, client="count", command="flow count", reads=True),
    Operation("flow.purge", m.FlowPurgeRequest, m.FlowPurgeReply, client="purge", command="flow purge"),
    Operation("flow.bulk", m.FlowBulkRequest, m.FlowBulkReply, client="bulk_page", command="flow bulk"),
    Operation("flow.delete", m.FlowRequest, m.Empty, client="delete", command="flow delete"),
    Operation("flow.cancel", m.FlowCancelRequest, m.Empty, client="cancel", command="flow cancel"),
    Operation("flow.resume", m.FlowResumeRequest, m.Empty, client="resume", command="flow resume"),
    Operation(
        "flow.resume_break", m.FlowResumeBreakRequest, m.Empty, client="resume_break", command="flow resume-break"
    ),
    Operation("flow.break_before", m.FlowBreakBeforeRequest, m.Empty, client="break_before", command="flow break"),
    Operation("flow.restart", m.FlowOverridesRequest, m.Empty, client="restart", command="flow restart"),
    Operation("flow.restart_from", m.StepOverridesRequest, m.Empty, client="restart_from", command="flow restart-from"),
    Operation("flow.fork", m.FlowForkRequest, m.FlowKeyReply, client="fork", command="flow fork"),
    Operation("flow.tag", m.FlowTagRequest, m.FlowTagReply, client="tag", command="flow tag"),
    Operation(
        "flow.continue",
        m.FlowContinueRequest,
        m.FlowKeyReply,
        client="continue_",
        command="flow continue",
        keyed=True,
        begins=True,
    ),
    Operation(
        "flow.signal",
        m.FlowSignalRequest,
        m.FlowSignalReply,
        client="signal",
        command="flow signal",
        keyed=True,
        begins=True,
    ),
    Operation("step.get", m.StepRequest, m.Step, client="step", command="flow get", reads=True),
    Operation(
        "audit.list",
        m.AuditListRequest,
        m.AuditListReply,
        client="list_audit",
        command="audit list",
        reads=True,
        confidential=True,
    ),
    Operation("schedule.put", m.SchedulePutRequest, m.ScheduleReply, client="put_schedule", command="schedule put"),
    Operation(
        "schedule.get", m.ScheduleRequest, m.ScheduleReply, client="get_schedule", command="schedule get", reads=True
    ),
    Operation(
        "schedule.list",
        m.ScheduleListRequest,
        m.ScheduleListReply,
        client="list_schedules",
        command="schedule list",
        reads=True,
    ),
    Operation("schedule.delete", m.ScheduleRequest, m.Empty, client="delete_schedule", command="schedule delete"),
    Operation("schedule.pause", m.ScheduleRequest, m.ScheduleReply, client="pause_schedule", command="schedule pause"),
    Operation(
        "schedule.resume", m.ScheduleRequest, m.ScheduleReply, client="resume_schedule", command="schedule resume"
    ),
    Operation(
        "schedule.trigger",
        m.ScheduleRequest,
        m.ScheduleReply,
        client="trigger_schedule",
        command="schedule trigger",
        keyed=True,
    ),
    Operation(
        "schedule.backfill",
        m.ScheduleBackfillRequest,
        m.ScheduleBackfillReply,
        client="backfill_schedule",
        command="schedule backfill",
        waits=True,
    ),
    Operation("task.breaker", m.TaskBreakerRequest, m.TaskBreakerReply, client="breaker", command="tasks", reads=True),
    Operation("shard.put", m.ShardPutRequest, m.ShardPutReply, client="put_shard", command="shard put"),
    Operation("shard.info", m.EmptyRequest, m.ShardInfoReply, client="shard_info", command="shards", reads=True),
    Operation("retention.put", m.RetentionDocument, m.Empty, client="put_retention", command="retention put"),
    Operation(
        "retention.list",
        m.EmptyRequest,
        m.RetentionListReply,
        client="list_retention",
        command="retention list",
        reads=True,
    ),
    Operation("retention.delete", m.RetentionRequest, m.Empty, client="delete_retention", command="retention delete"),
    Operation(
        "retention.preview",
        m.RetentionPreviewRequest,
        m.RetentionPreviewReply,
        client="preview_retention",
        command="retention preview",
        reads=True,
    ),
    Operation("limit.put", m.LimitDocument, m.Empty, client="put_limit", command="limit put"),
    Operation("limit.list", m.EmptyRequest, m.LimitListReply, client="list_limits", command="limit list", reads=True),
    Operation("limit.delete", m.LimitRequest, m.Empty, client="delete_limit", command="limit delete"),
    Operation("hold.put", m.HoldPutRequest, m.Hold, client="put_hold", command="hold put"),
    Operation("hold.list", m.EmptyRequest, m.HoldListReply, client="list_holds", command="hold list", reads=True),
    Operation("hold.delete", m.HoldRequest, m.Empty, client="delete_hold", command="hold delete"),
    Operation("source.put", m.SourcePutRequest, m.SourceReply, client="put_source", command="source put"),
    Operation("source.get", m.SourceRequest, m.SourceReply, client="get_source", command="source get", reads=True),
    Operation(
        "source.list", m.EmptyRequest, m.SourceListReply, client="list_sources", command="source list", reads=True
    ),
    Operation("source.delete", m.SourceRequest, m.Empty, client="delete_source", command="source delete"),
    Operation("source.pause", m.SourceRequest, m.SourceReply, client="pause_source", command="source pause"),
    Operation("source.resume", m.SourceRequest, m.SourceReply, client="resume_source", command="source resume"),
    Operation(
        "outbox.list", m.OutboxListRequest, m.OutboxListReply, client="list_outbox", command="outbox list", reads=True
    ),
    Operation("outbox.retry", m.OutboxRequest, m.Empty, client="retry_outbox", command="outbox retry"),
    Operation("outbox.delete", m.OutboxRequest, m.Empty, client="delete_outbox", command="outbox delete"),
    Operation("graph.put", m.GraphDocument, m.GraphPutReply, client="put_graph", command="graph put"),
    Operation("graph.get", m.GraphRequest, m.GraphDocument, client="get_graph", command="graph get", reads=True),
    Operation("graph.delete", m.GraphRequest, m.Empty, client="delete_graph", command="graph delete"),
    Operation(
        "graph.mermaid", m.GraphRequest, m.MermaidReply, client="graph_mermaid", command="graph mermaid", reads=True
    ),
    Operation("graph.list", m.EmptyRequest, m.GraphListReply, client="list_graphs", command="graph list", reads=True),
    Operation(
        "graph.validate",
        m.GraphDocument,
        m.GraphValidateReply,
        client="validate_graph",
        command="graph validate",
        reads=True,
    ),
)
SIGNAL = Operation(
    "signal", m.SignalRequest, m.FlowSignalReply, client="signal", command="flow signal", keyed=True, begins=True
)
"""`flow.signal` by subject: the name of the event follows, so that it can be permitted event by event (E1)."""
OPERATION_NAMES = frozenset(one.name for one in OPERATIONS)
REPEATABLE = frozenset(one.name for one in OPERATIONS if one.reads and not one.waits)
"""Operations that may be sent again if a reply was lost, because they change nothing."""

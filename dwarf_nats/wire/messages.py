"""The messages of the operations, as types (wire section 1). Schemas, decoding and the endpoints are derived from them.

Requests refuse unknown fields; replies are open, so that a newer service can add to them. JSON text is kept as `Raw`. Each
message has its name here and is loaded from its module when it is used for the first time, so that a client loads the messages
that it sends. `dwarf_nats.wire.examples` has an example of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.lazy_names import loader

if TYPE_CHECKING:
    from .audit_messages import AuditEntry as AuditEntry
    from .audit_messages import AuditError as AuditError
    from .audit_messages import AuditListReply as AuditListReply
    from .audit_messages import AuditListRequest as AuditListRequest
    from .bulk_messages import BulkFailure as BulkFailure
    from .bulk_messages import BulkMember as BulkMember
    from .bulk_messages import FlowBulkReply as FlowBulkReply
    from .bulk_messages import FlowBulkRequest as FlowBulkRequest
    from .event_messages import FlowSignalReply as FlowSignalReply
    from .event_messages import FlowSignalRequest as FlowSignalRequest
    from .event_messages import SignalRequest as SignalRequest
    from .explain_messages import ExplanationReply as ExplanationReply
    from .explain_messages import WaitsFor as WaitsFor
    from .filter_messages import Conditions as Conditions
    from .filter_messages import Filters as Filters
    from .filter_messages import FlowCountRequest as FlowCountRequest
    from .filter_messages import FlowListRequest as FlowListRequest
    from .filter_messages import FlowPurgeRequest as FlowPurgeRequest
    from .flow_messages import Empty as Empty
    from .flow_messages import EmptyRequest as EmptyRequest
    from .flow_messages import ErrorDetail as ErrorDetail
    from .flow_messages import ErrorReply as ErrorReply
    from .flow_messages import FingerprintReply as FingerprintReply
    from .flow_messages import FlowBreakBeforeRequest as FlowBreakBeforeRequest
    from .flow_messages import FlowCancelRequest as FlowCancelRequest
    from .flow_messages import FlowContinueRequest as FlowContinueRequest
    from .flow_messages import FlowCountReply as FlowCountReply
    from .flow_messages import FlowCreateRequest as FlowCreateRequest
    from .flow_messages import FlowCreateTaskRequest as FlowCreateTaskRequest
    from .flow_messages import FlowGraphReply as FlowGraphReply
    from .flow_messages import FlowHistoryRequest as FlowHistoryRequest
    from .flow_messages import FlowKeyReply as FlowKeyReply
    from .flow_messages import FlowListReply as FlowListReply
    from .flow_messages import FlowOverridesRequest as FlowOverridesRequest
    from .flow_messages import FlowPurgeReply as FlowPurgeReply
    from .flow_messages import FlowRequest as FlowRequest
    from .flow_messages import FlowRunRequest as FlowRunRequest
    from .flow_messages import FlowStartRequest as FlowStartRequest
    from .flow_messages import FlowSummary as FlowSummary
    from .flow_messages import FlowWaitRequest as FlowWaitRequest
    from .flow_messages import HealthListReply as HealthListReply
    from .flow_messages import HealthReply as HealthReply
    from .flow_messages import MermaidReply as MermaidReply
    from .flow_messages import Options as Options
    from .flow_messages import Outcome as Outcome
    from .flow_messages import ShardHealth as ShardHealth
    from .flow_messages import StepOverridesRequest as StepOverridesRequest
    from .flow_messages import StepRequest as StepRequest
    from .flow_messages import TaskBreakerReply as TaskBreakerReply
    from .flow_messages import TaskBreakerRequest as TaskBreakerRequest
    from .graph_messages import GraphDocument as GraphDocument
    from .graph_messages import GraphEntry as GraphEntry
    from .graph_messages import GraphListReply as GraphListReply
    from .graph_messages import GraphPutReply as GraphPutReply
    from .graph_messages import GraphRequest as GraphRequest
    from .graph_messages import GraphValidateReply as GraphValidateReply
    from .hold_messages import Hold as Hold
    from .hold_messages import HoldListReply as HoldListReply
    from .hold_messages import HoldPutRequest as HoldPutRequest
    from .hold_messages import HoldRequest as HoldRequest
    from .limit_messages import LimitDocument as LimitDocument
    from .limit_messages import LimitEntry as LimitEntry
    from .limit_messages import LimitListReply as LimitListReply
    from .limit_messages import LimitRequest as LimitRequest
    from .outbox_messages import OutboxListReply as OutboxListReply
    from .outbox_messages import OutboxListRequest as OutboxListRequest
    from .outbox_messages import OutboxRequest as OutboxRequest
    from .pause_messages import FlowResumeBreakRequest as FlowResumeBreakRequest
    from .pause_messages import FlowResumeRequest as FlowResumeRequest
    from .pause_messages import Pause as Pause
    from .retention_messages import RetentionDocument as RetentionDocument
    from .retention_messages import RetentionListReply as RetentionListReply
    from .retention_messages import RetentionPreviewReply as RetentionPreviewReply
    from .retention_messages import RetentionPreviewRequest as RetentionPreviewRequest
    from .retention_messages import RetentionRequest as RetentionRequest
    from .schedule_messages import ScheduleBackfillReply as ScheduleBackfillReply
    from .schedule_messages import ScheduleBackfillRequest as ScheduleBackfillRequest
    from .schedule_messages import ScheduleListReply as ScheduleListReply
    from .schedule_messages import ScheduleListRequest as ScheduleListRequest
    from .schedule_messages import SchedulePutRequest as SchedulePutRequest
    from .schedule_messages import ScheduleReply as ScheduleReply
    from .schedule_messages import ScheduleRequest as ScheduleRequest
    from .schedule_messages import ScheduleRun as ScheduleRun
    from .shard_messages import KeyBacklog as KeyBacklog
    from .shard_messages import PriorityBacklog as PriorityBacklog
    from .shard_messages import Shard as Shard
    from .shard_messages import ShardInfoReply as ShardInfoReply
    from .shard_messages import ShardPutReply as ShardPutReply
    from .shard_messages import ShardPutRequest as ShardPutRequest
    from .source_messages import Rejected as Rejected
    from .source_messages import SourceListReply as SourceListReply
    from .source_messages import SourcePutRequest as SourcePutRequest
    from .source_messages import SourceReply as SourceReply
    from .source_messages import SourceRequest as SourceRequest
    from .step_messages import HistoryReply as HistoryReply
    from .step_messages import Step as Step
    from .tag_messages import FlowForkRequest as FlowForkRequest
    from .tag_messages import FlowTagReply as FlowTagReply
    from .tag_messages import FlowTagRequest as FlowTagRequest

_MODULES = {
    "dwarf_nats.wire.audit_messages": (
        "AuditEntry",
        "AuditError",
        "AuditListReply",
        "AuditListRequest",
    ),
    "dwarf_nats.wire.bulk_messages": (
        "BulkFailure",
        "BulkMember",
        "FlowBulkReply",
        "FlowBulkRequest",
    ),
    "dwarf_nats.wire.event_messages": (
        "FlowSignalReply",
        "FlowSignalRequest",
        "SignalRequest",
    ),
    "dwarf_nats.wire.explain_messages": (
        "ExplanationReply",
        "WaitsFor",
    ),
    "dwarf_nats.wire.filter_messages": (
        "Conditions",
        "Filters",
        "FlowCountRequest",
        "FlowListRequest",
        "FlowPurgeRequest",
    ),
    "dwarf_nats.wire.flow_messages": (
        "Empty",
        "EmptyRequest",
        "ErrorDetail",
        "ErrorReply",
        "FingerprintReply",
        "FlowBreakBeforeRequest",
        "FlowCancelRequest",
        "FlowContinueRequest",
        "FlowCountReply",
        "FlowCreateRequest",
        "FlowCreateTaskRequest",
        "FlowGraphReply",
        "FlowHistoryRequest",
        "FlowKeyReply",
        "FlowListReply",
        "FlowOverridesRequest",
        "FlowPurgeReply",
        "FlowRequest",
        "FlowRunRequest",
        "FlowStartRequest",
        "FlowSummary",
        "FlowWaitRequest",
        "HealthListReply",
        "HealthReply",
        "MermaidReply",
        "Options",
        "Outcome",
        "ShardHealth",
        "StepOverridesRequest",
        "StepRequest",
        "TaskBreakerReply",
        "TaskBreakerRequest",
    ),
    "dwarf_nats.wire.graph_messages": (
        "GraphDocument",
        "GraphEntry",
        "GraphListReply",
        "GraphPutReply",
        "GraphRequest",
        "GraphValidateReply",
    ),
    "dwarf_nats.wire.hold_messages": (
        "Hold",
        "HoldListReply",
        "HoldPutRequest",
        "HoldRequest",
    ),
    "dwarf_nats.wire.limit_messages": (
        "LimitDocument",
        "LimitEntry",
        "LimitListReply",
        "LimitRequest",
    ),
    "dwarf_nats.wire.outbox_messages": (
        "OutboxListReply",
        "OutboxListRequest",
        "OutboxRequest",
    ),
    "dwarf_nats.wire.pause_messages": (
        "FlowResumeBreakRequest",
        "FlowResumeRequest",
        "Pause",
    ),
    "dwarf_nats.wire.retention_messages": (
        "RetentionDocument",
        "RetentionListReply",
        "RetentionPreviewReply",
        "RetentionPreviewRequest",
        "RetentionRequest",
    ),
    "dwarf_nats.wire.schedule_messages": (
        "ScheduleBackfillReply",
        "ScheduleBackfillRequest",
        "ScheduleListReply",
        "ScheduleListRequest",
        "SchedulePutRequest",
        "ScheduleReply",
        "ScheduleRequest",
        "ScheduleRun",
    ),
    "dwarf_nats.wire.shard_messages": (
        "KeyBacklog",
        "PriorityBacklog",
        "Shard",
        "ShardInfoReply",
        "ShardPutReply",
        "ShardPutRequest",
    ),
    "dwarf_nats.wire.source_messages": (
        "Rejected",
        "SourceListReply",
        "SourcePutRequest",
        "SourceReply",
        "SourceRequest",
    ),
    "dwarf_nats.wire.step_messages": (
        "HistoryReply",
        "Step",
    ),
    "dwarf_nats.wire.tag_messages": (
        "FlowForkRequest",
        "FlowTagReply",
        "FlowTagRequest",
    ),
}
"""The names by the module that defines them; the same as the imports for type checkers above, which a test holds."""
__getattr__ = loader(globals(), _MODULES)

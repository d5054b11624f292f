"""The Python SDK: `Client` calls the operations of the service, `Worker` serves tasks. Neither imports the engine.

The types that they take, return and raise are exported here, too, so that one import is enough.

Each name is loaded from its module when it is used for the first time: a program that only calls loads no worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwarf_nats.lazy_names import loader

if TYPE_CHECKING:
    from dwarf_nats.errors import (
        BadRequest,
        Conflict,
        DwarfError,
        Forbidden,
        Internal,
        NotFound,
        TimedOut,
        TooLarge,
        TooMany,
        Unavailable,
    )
    from dwarf_nats.sdk.claim_checks import ClaimChecks
    from dwarf_nats.sdk.client import Change, Client
    from dwarf_nats.sdk.codec import Codec
    from dwarf_nats.sdk.flow_stream import FlowStream
    from dwarf_nats.sdk.message_sources import Stored
    from dwarf_nats.sdk.serving import main, serve
    from dwarf_nats.sdk.worker import Worker
    from dwarf_nats.wire.connect_options import ConnectOptions
    from dwarf_nats.wire.messages import HealthReply
    from dwarf_nats.wire.outbox_messages import OutboxRowInfo
    from dwarf_nats.workflow.answer import ErrorInfo
    from dwarf_nats.workflow.audit import AuditQuery, AuditRecord
    from dwarf_nats.workflow.bulk import Bulk, BulkAction, BulkFailure, BulkMember, BulkPage
    from dwarf_nats.workflow.code_graph import Workflow
    from dwarf_nats.workflow.code_parts import WorkflowNode
    from dwarf_nats.workflow.durability import Durability
    from dwarf_nats.workflow.explanation import Because, Explanation, Reason, Wait, WaitsFor
    from dwarf_nats.workflow.flow import Flow
    from dwarf_nats.workflow.graph import END, Graph
    from dwarf_nats.workflow.limit import Limit, LimitInfo
    from dwarf_nats.workflow.nodes import PublishMessage, RetryPolicy, SendRequest, SetFields
    from dwarf_nats.workflow.options import FlowOptions, Query
    from dwarf_nats.workflow.output import Chunk, OutputEnd
    from dwarf_nats.workflow.progress import Progress
    from dwarf_nats.workflow.records import (
        EventReceipt,
        FlowCounts,
        FlowSummary,
        GraphInfo,
        HoldInfo,
        KeyBacklog,
        Outcome,
        Pause,
        PriorityBacklog,
        ShardInfo,
        Step,
    )
    from dwarf_nats.workflow.retention import RetentionInfo, RetentionPreview, RetentionRule
    from dwarf_nats.workflow.schedules import Overlap, RunOutcome, Schedule, ScheduleInfo, ScheduleRun
    from dwarf_nats.workflow.sources import Source, SourceInfo, SourceSignal, SourceStart, SourceState
    from dwarf_nats.workflow.status import Status
    from dwarf_nats.workflow.step_details import Branch, FailedAttempt, StepPause
    from dwarf_nats.workflow.task_error import SubgraphError, TaskError, WaitTimeout
    from dwarf_nats.workflow.task_parameters import WholeState

__all__ = [
    "END",
    "AuditQuery",
    "AuditRecord",
    "BadRequest",
    "Because",
    "Branch",
    "Bulk",
    "BulkAction",
    "BulkFailure",
    "BulkMember",
    "BulkPage",
    "Change",
    "Chunk",
    "ClaimChecks",
    "Client",
    "Codec",
    "Conflict",
    "ConnectOptions",
    "Durability",
    "DwarfError",
    "ErrorInfo",
    "EventReceipt",
    "Explanation",
    "FailedAttempt",
    "Flow",
    "FlowCounts",
    "FlowOptions",
    "FlowStream",
    "FlowSummary",
    "Forbidden",
    "Graph",
    "GraphInfo",
    "HealthReply",
    "HoldInfo",
    "Internal",
    "KeyBacklog",
    "Limit",
    "LimitInfo",
    "NotFound",
    "OutboxRowInfo",
    "Outcome",
    "OutputEnd",
    "Overlap",
    "Pause",
    "PriorityBacklog",
    "Progress",
    "PublishMessage",
    "Query",
    "Reason",
    "RetentionInfo",
    "RetentionPreview",
    "RetentionRule",
    "RetryPolicy",
    "RunOutcome",
    "Schedule",
    "ScheduleInfo",
    "ScheduleRun",
    "SendRequest",
    "SetFields",
    "ShardInfo",
    "Source",
    "SourceInfo",
    "SourceSignal",
    "SourceStart",
    "SourceState",
    "Status",
    "Step",
    "StepPause",
    "Stored",
    "SubgraphError",
    "TaskError",
    "TimedOut",
    "TooLarge",
    "TooMany",
    "Unavailable",
    "Wait",
    "WaitTimeout",
    "WaitsFor",
    "WholeState",
    "Worker",
    "Workflow",
    "WorkflowNode",
    "main",
    "serve",
]

_MODULES = {
    "dwarf_nats.errors": (
        "BadRequest",
        "Conflict",
        "DwarfError",
        "Forbidden",
        "Internal",
        "NotFound",
        "TimedOut",
        "TooLarge",
        "TooMany",
        "Unavailable",
    ),
    "dwarf_nats.sdk.claim_checks": ("ClaimChecks",),
    "dwarf_nats.sdk.client": ("Change", "Client"),
    "dwarf_nats.sdk.codec": ("Codec",),
    "dwarf_nats.sdk.flow_stream": ("FlowStream",),
    "dwarf_nats.sdk.message_sources": ("Stored",),
    "dwarf_nats.sdk.serving": ("main", "serve"),
    "dwarf_nats.sdk.worker": ("Worker",),
    "dwarf_nats.wire.connect_options": ("ConnectOptions",),
    "dwarf_nats.wire.messages": ("HealthReply",),
    "dwarf_nats.wire.outbox_messages": ("OutboxRowInfo",),
    "dwarf_nats.workflow.answer": ("ErrorInfo",),
    "dwarf_nats.workflow.audit": ("AuditQuery", "AuditRecord"),
    "dwarf_nats.workflow.bulk": ("Bulk", "BulkAction", "BulkFailure", "BulkMember", "BulkPage"),
    "dwarf_nats.workflow.code_graph": ("Workflow",),
    "dwarf_nats.workflow.code_parts": ("WorkflowNode",),
    "dwarf_nats.workflow.explanation": ("Because", "Explanation", "Reason", "Wait", "WaitsFor"),
    "dwarf_nats.workflow.flow": ("Flow",),
    "dwarf_nats.workflow.graph": ("END", "Graph"),
    "dwarf_nats.workflow.limit": ("Limit", "LimitInfo"),
    "dwarf_nats.workflow.nodes": ("PublishMessage", "RetryPolicy", "SendRequest", "SetFields"),
    "dwarf_nats.workflow.durability": ("Durability",),
    "dwarf_nats.workflow.options": ("FlowOptions", "Query"),
    "dwarf_nats.workflow.output": ("Chunk", "OutputEnd"),
    "dwarf_nats.workflow.progress": ("Progress",),
    "dwarf_nats.workflow.records": (
        "EventReceipt",
        "FlowCounts",
        "FlowSummary",
        "GraphInfo",
        "HoldInfo",
        "KeyBacklog",
        "Outcome",
        "Pause",
        "PriorityBacklog",
        "ShardInfo",
        "Step",
    ),
    "dwarf_nats.workflow.retention": ("RetentionInfo", "RetentionPreview", "RetentionRule"),
    "dwarf_nats.workflow.schedules": ("Overlap", "RunOutcome", "Schedule", "ScheduleInfo", "ScheduleRun"),
    "dwarf_nats.workflow.sources": ("Source", "SourceInfo", "SourceSignal", "SourceStart", "SourceState"),
    "dwarf_nats.workflow.status": ("Status",),
    "dwarf_nats.workflow.step_details": ("Branch", "FailedAttempt", "StepPause"),
    "dwarf_nats.workflow.task_error": ("SubgraphError", "TaskError", "WaitTimeout"),
    "dwarf_nats.workflow.task_parameters": ("WholeState",),
}
"""The public names by the module that defines them; the same as the imports for type checkers above, which a test holds."""
__getattr__ = loader(globals(), _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

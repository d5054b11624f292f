"""dwarf-nats: durable workflow orchestration as a service on NATS.

The names of `__all__` are what clients, workers and hosts of the engine use. Each is loaded from its module when it is used for
the first time, so that `import dwarf_nats` alone loads neither NATS nor a database driver.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dwarf_nats.lazy_names import loader
from dwarf_nats.version import __version__

if TYPE_CHECKING:
    from dwarf_nats.engine import Engine
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
    from dwarf_nats.library import add_shard, open_engine
    from dwarf_nats.ports import BusAway, WorkerLost
    from dwarf_nats.sdk.claim_checks import ClaimChecks
    from dwarf_nats.sdk.client import Change, Client
    from dwarf_nats.sdk.codec import Codec
    from dwarf_nats.sdk.flow_stream import FlowStream
    from dwarf_nats.sdk.message_sources import Stored
    from dwarf_nats.sdk.worker import Worker
    from dwarf_nats.settings import EngineSettings
    from dwarf_nats.wire.connect_options import ConnectOptions
    from dwarf_nats.wire.messages import HealthReply
    from dwarf_nats.wire.outbox_messages import OutboxRowInfo
    from dwarf_nats.workflow.answer import Answer, ErrorInfo, TaskCall
    from dwarf_nats.workflow.arguments import run_task
    from dwarf_nats.workflow.audit import AuditNote, AuditQuery, AuditRecord
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
    "Answer",
    "AuditNote",
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
    "BusAway",
    "Change",
    "Chunk",
    "ClaimChecks",
    "Client",
    "Codec",
    "Conflict",
    "ConnectOptions",
    "Durability",
    "DwarfError",
    "Engine",
    "EngineSettings",
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
    "TaskCall",
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
    "WorkerLost",
    "Workflow",
    "WorkflowNode",
    "__version__",
    "add_shard",
    "open_engine",
    "run_task",
]

_MODULES = {
    "dwarf_nats.engine": ("Engine",),
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
    "dwarf_nats.library": ("add_shard", "open_engine"),
    "dwarf_nats.ports": ("BusAway", "WorkerLost"),
    "dwarf_nats.sdk.claim_checks": ("ClaimChecks",),
    "dwarf_nats.sdk.client": ("Change", "Client"),
    "dwarf_nats.sdk.codec": ("Codec",),
    "dwarf_nats.sdk.flow_stream": ("FlowStream",),
    "dwarf_nats.sdk.message_sources": ("Stored",),
    "dwarf_nats.sdk.worker": ("Worker",),
    "dwarf_nats.settings": ("EngineSettings",),
    "dwarf_nats.wire.connect_options": ("ConnectOptions",),
    "dwarf_nats.wire.messages": ("HealthReply",),
    "dwarf_nats.wire.outbox_messages": ("OutboxRowInfo",),
    "dwarf_nats.workflow.answer": ("Answer", "ErrorInfo", "TaskCall"),
    "dwarf_nats.workflow.arguments": ("run_task",),
    "dwarf_nats.workflow.audit": ("AuditNote", "AuditQuery", "AuditRecord"),
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

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent unless the host configures logging


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

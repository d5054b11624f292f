"""The Python SDK: `Client` calls the operations of the service, `Worker` serves tasks. Neither imports the engine.

The types that they take, return and raise are exported here, too, so that one import is enough.
"""

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
from dwarf_nats.sdk.client import Change, Client
from dwarf_nats.sdk.serving import main, serve
from dwarf_nats.sdk.worker import Worker
from dwarf_nats.wire.connect_options import ConnectOptions
from dwarf_nats.wire.messages import HealthReply
from dwarf_nats.workflow.answer import ErrorInfo
from dwarf_nats.workflow.explanation import Because, Explanation, Reason, Wait, WaitsFor
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.nodes import PublishMessage, RetryPolicy, SendRequest, SetFields
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.progress import Progress
from dwarf_nats.workflow.records import EventReceipt, FlowSummary, GraphInfo, Outcome, Pause, ShardInfo, Step
from dwarf_nats.workflow.status import Status
from dwarf_nats.workflow.step_details import Branch, FailedAttempt, StepPause
from dwarf_nats.workflow.task_error import SubgraphError, TaskError, WaitTimeout

__all__ = [
    "END",
    "BadRequest",
    "Because",
    "Branch",
    "Change",
    "Client",
    "Conflict",
    "ConnectOptions",
    "DwarfError",
    "ErrorInfo",
    "EventReceipt",
    "Explanation",
    "FailedAttempt",
    "Flow",
    "FlowOptions",
    "FlowSummary",
    "Forbidden",
    "Graph",
    "GraphInfo",
    "HealthReply",
    "Internal",
    "NotFound",
    "Outcome",
    "Pause",
    "Progress",
    "PublishMessage",
    "Query",
    "Reason",
    "RetryPolicy",
    "SendRequest",
    "SetFields",
    "ShardInfo",
    "Status",
    "Step",
    "StepPause",
    "SubgraphError",
    "TaskError",
    "TimedOut",
    "TooLarge",
    "TooMany",
    "Unavailable",
    "Wait",
    "WaitTimeout",
    "WaitsFor",
    "Worker",
    "main",
    "serve",
]

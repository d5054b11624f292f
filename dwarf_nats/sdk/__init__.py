"""For users of the service: `Client` asks for operations, `Worker` serves tasks. Neither imports the engine."""

from dwarf_nats.sdk.client import Change, Client
from dwarf_nats.sdk.serving import main, serve
from dwarf_nats.sdk.worker import Worker
from dwarf_nats.wire.connecting import ConnectOptions
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import END, Graph
from dwarf_nats.workflow.options import FlowOptions, Query
from dwarf_nats.workflow.task_error import SubgraphError, TaskError

__all__ = [
    "END",
    "Change",
    "Client",
    "ConnectOptions",
    "Flow",
    "FlowOptions",
    "Graph",
    "Query",
    "SubgraphError",
    "TaskError",
    "Worker",
    "main",
    "serve",
]

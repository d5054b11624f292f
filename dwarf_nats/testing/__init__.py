"""A test harness for workflows: real engine, SQLite in memory, task functions in this process.

    async with workflow_engine() as (engine, proxy):
        proxy.handle_graph(graph)
        proxy.handle_task("greet", lambda name: {"greeting": f"hello {name}"})
        outcome = await engine.run("greeting", {"name": "ada"})

`service` runs the whole service, NATS included. As a pytest fixture: `dwarf_engine` gives the same pair.
"""

from dwarf_nats.testing.harness import workflow_engine
from dwarf_nats.testing.proxy import TaskProxy
from dwarf_nats.testing.service import service

__all__ = ["TaskProxy", "service", "workflow_engine"]

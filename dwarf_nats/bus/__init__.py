"""NATS, server side: the service's endpoints, and the engine's ports (tasks, graphs, notices, signals) on the bus."""

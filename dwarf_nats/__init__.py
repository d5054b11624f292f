"""dwarf-nats: durable workflow orchestration as a service on NATS."""

__version__ = "0.1.0"

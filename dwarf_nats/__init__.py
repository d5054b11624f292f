"""dwarf-nats: durable workflow orchestration as a service on NATS."""

import logging

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent unless the host wants to hear it

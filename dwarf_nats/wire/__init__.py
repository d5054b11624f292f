"""The wire contract as values: subjects, messages, and the way from bytes to values and back. No NATS import."""

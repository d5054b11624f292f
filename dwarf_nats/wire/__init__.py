"""The wire contract: subjects, messages, encoding and decoding, connection options. Nothing here imports nats-py."""

"""The command line, `dwarf-nats`: one module per command."""

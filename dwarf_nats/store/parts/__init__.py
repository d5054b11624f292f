"""The ports to one database (`dwarf_nats.ports.store`), one class each, over either driver."""

"""The operations of the engine, one module for each kind."""

"""One step from its claim to what follows its commit (architecture: the spine)."""

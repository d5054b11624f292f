"""One step from its claim to what follows its commit (design note 0001)."""

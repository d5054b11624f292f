"""Which due steps are claimed next, and how many (C1-C3): the view of each shard's ready queue and the fair scheduler. Pure."""

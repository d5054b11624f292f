"""Claiming due steps: worker slots, the ready queue of each shard, and the fetcher that fills the slots (C1-C6, O17)."""

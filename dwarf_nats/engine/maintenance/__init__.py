"""The duties of a replica for each shard, beside running steps (B1-B6)."""

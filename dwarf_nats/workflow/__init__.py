"""The nouns: what an author and a caller of workflows hold. Pure values, no I/O."""

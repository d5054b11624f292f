"""The statements of the store, one module a verb, the texts for both databases side by side."""

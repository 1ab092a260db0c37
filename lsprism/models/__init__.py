"""Hugging Face at arm's length: where a model comes from, how it is loaded, where its linear layers are."""

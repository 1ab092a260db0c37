"""Hugging Face models: finding, checking and loading them, and finding their linear layers."""

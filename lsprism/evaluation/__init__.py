"""Measures of a model, each by its stated protocol."""

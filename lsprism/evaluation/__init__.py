"""Evaluation of models; every metric states its measurement protocol."""

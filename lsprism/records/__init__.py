"""Immutable records of plain values: plans, compressions, metrics, evaluations. They are the JSON that is written."""

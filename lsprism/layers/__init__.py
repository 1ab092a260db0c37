"""How a compressed matrix is held and run. Knows torch, no model."""

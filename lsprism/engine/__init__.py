"""The work itself: plan a compression, then carry it out block by block."""

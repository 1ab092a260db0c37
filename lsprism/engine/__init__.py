"""Plan a compression, then run it block by block."""

"""Calibration data and activations: text to token windows, the block-by-block forward pass, and input statistics."""

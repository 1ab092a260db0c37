"""Packed weight formats, the modules that hold them, and their kernels. Independent of models."""

"""Kernels that multiply by packed weights. The reference path defines the result; all others are tested against it."""

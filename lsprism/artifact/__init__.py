"""The format on disk: a transformers folder with packed tensors, and the recipe, plan and report of the compression."""

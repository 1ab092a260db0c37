"""What lies on disk: a transformers folder with packed tensors, and beside them the recipe, the plan and the report."""

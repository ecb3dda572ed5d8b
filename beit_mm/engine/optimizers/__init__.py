"""The optimizer wrapper and the parameter groups."""

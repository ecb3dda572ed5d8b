"""Loops, launching, restarts and shards."""

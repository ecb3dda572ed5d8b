"""Loops, launching and shards."""

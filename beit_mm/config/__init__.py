"""Configs as data: parts found and changed wherever they stand, and a config as one text."""

"""Configs as data: find and change parts, and write a config as one text."""

"""The tables of docs/performance.md from the JSON of gpu.py."""


def tables(figures):
    return ''


def write_tables(figures, page):
    pass

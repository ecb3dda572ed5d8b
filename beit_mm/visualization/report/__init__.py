"""A report of the runs of a work directory: one HTML page that needs no other file."""

from .page import write_report
from .record import Record, versions

__all__ = ['Record', 'versions', 'write_report']

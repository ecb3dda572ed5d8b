"""A report of the runs of a work directory: one HTML page that needs no other file."""

from .page import report_command, write_report
from .record import Record, versions

__all__ = ['Record', 'report_command', 'versions', 'write_report']

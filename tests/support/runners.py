"""Tools and MMEngine's Runners in the tests' own process."""

import runpy
import sys
from collections.abc import Callable, Iterator, Sequence

from mmengine.utils import ManagerMixin
from yapf.yapflib import yapf_api


def run_here(words: Sequence[object], by: Callable = runpy.run_path) -> None:
    """A script, or by runpy.run_module a module, and its arguments in this process, which has all modules loaded.

    Raises:
        SystemExit: If it ends badly.
    """
    forget_instances()
    before, sys.argv = sys.argv, [str(word) for word in words]
    try:
        by(sys.argv[0], run_name='__main__')
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv = before


def forget_instances() -> None:
    """Take away all that MMEngine's Runners have made known by name.

    A second Runner of the same second and config would go on with the histories of the first, log to its files and into
    its visualizer's folder, and whatever logs without one would write to its output, which may be closed.
    """
    for manager in _subclasses(ManagerMixin):
        manager._instance_dict.clear()


def leave_text_as_it_is(patch: Callable = setattr) -> None:
    """MMEngine lays out the text of a config several times a run, which would take most of the time."""
    patch(yapf_api, 'FormatCode', lambda text, **_: (text, True))


def _subclasses(kind: type) -> Iterator[type]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)

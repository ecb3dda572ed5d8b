"""What a Runner leaves behind in its process."""
from typing import Iterator

from mmengine.utils import ManagerMixin


def forget_instances() -> None:
    """Take away all that MMEngine's Runners have made known by name.

    A second Runner of the same second and config would go on with the histories of the first, log to its files and into
    its visualizer's folder, and whatever logs without one would write to its output, which may be closed.
    """
    for manager in _subclasses(ManagerMixin):
        manager._instance_dict.clear()


def _subclasses(kind: type) -> Iterator[type]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)

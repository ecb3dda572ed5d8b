import pytest
import torch
from mmengine.registry import DefaultScope

# Small tensors: more threads only get in each other's way.
torch.set_num_threads(1)
# Folders whose files share what takes long to make; the files of others go to whichever process is free.
KEPT_TOGETHER = ('ecosystem', 'scale', 'tools')


def pytest_collection_modifyitems(items):
    """For `make test`, which runs several processes (pytest-xdist): what one of them must run whole."""
    for item in items:
        folder = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group(folder if folder in KEPT_TOGETHER else item.path.as_posix()))


@pytest.fixture(autouse=True)
def no_scope_left_behind():
    """A Runner leaves its default scope to whoever comes after it."""
    yield
    DefaultScope._instance_dict.clear()

import pytest
import torch
from mmengine.registry import DefaultScope

# Small tensors: more threads only get in each other's way.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_scope_left_behind():
    """A Runner leaves its default scope to whoever comes after it."""
    yield
    DefaultScope._instance_dict.clear()

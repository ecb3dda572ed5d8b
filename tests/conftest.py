import pytest
import torch
from support.runners import forget_instances

# Small tensors: more threads only get in each other's way.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_instances_left_behind():
    yield
    forget_instances()

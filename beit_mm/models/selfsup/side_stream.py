"""Work that runs beside other work on the same GPU."""

from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    # One for good, as each stream has memory of its own; outside of modules, which are copied and streams cannot be.
    return torch.cuda.Stream(device)


@contextmanager
def beside(given: Tensor):
    """Run what is in this context beside what follows it, on the GPU of `given`, which it reads."""
    stream = _stream(given.device)
    stream.wait_stream(torch.cuda.current_stream(given.device))  # where `given` is made
    with torch.cuda.stream(stream):
        yield
    given.record_stream(stream)  # its memory is not free before the stream is done with it


def join(made: Tensor) -> None:
    """Let what follows wait, on the GPU alone, for all that ran `beside`, which made the tensor."""
    current = torch.cuda.current_stream(made.device)
    current.wait_stream(_stream(made.device))
    made.record_stream(current)

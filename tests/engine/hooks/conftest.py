import signal

import pytest


@pytest.fixture(autouse=True)
def no_handler_left_behind():
    """A run that was stopped is its process's last, so it leaves its own."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)

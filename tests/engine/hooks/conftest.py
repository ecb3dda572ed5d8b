import signal

import pytest

STOPPING = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1


@pytest.fixture(autouse=True)
def no_handler_left_behind():
    """A run that was stopped is its process's last, so it leaves its own."""
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)

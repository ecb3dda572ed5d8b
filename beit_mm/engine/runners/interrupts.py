"""Ctrl-C at a moment in which Python would drop it."""

import _thread
import sys
import threading

DELAY = 0.1  # seconds in which the destructor ends


def repeat_interrupt(lost) -> None:
    """Interrupt once more what went on, since the first interruption met a destructor, such as a loader's; a
    `sys.unraisablehook`.
    """
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(DELAY, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)

"""Checks in a forked child, which is ended where it hangs."""

import os
import signal
import time

SECONDS = 60


def holds_in_child(check):
    """Whether check() is true in a fork of this process. A child that does not end in time fails the test."""
    if (child := os.fork()) == 0:
        status = 1
        try:
            status = 0 if check() else 1
        finally:
            os._exit(status)
    deadline = time.monotonic() + SECONDS
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"the child still ran after {SECONDS} s")
        time.sleep(0.001)
    return os.waitstatus_to_exitcode(ended[1]) == 0

"""Being told to stop, at whatever moment it comes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

WAITS = """
import threading
from outbound import signals
stop = threading.Event()
signals.on_stop(stop.set)
print("ready", flush=True)
while not stop.wait(0):
    pass
"""


def started() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_told_to_stop_just_as_it_begins_to_wait_stops(number):
    # Set by a handler, the event is locked by the wait that the handler interrupts, about
    # every third time.
    processes = [started() for _ in range(12)]
    try:
        for process in processes:
            time.sleep(0.003)  # each at another moment of its wait
            process.send_signal(number)
        assert [process.wait(10) for process in processes] == [0] * 12
    finally:
        for process in processes:
            process.kill()
            process.communicate()

"""Processes of this machine, as if they were hosts."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from flashjax.launch.launchers.job import INTERRUPTED, Launch
from flashjax.parallel import signals

LEAVE_SECONDS = 60.0  # for the others, when one has failed: they hear of it, and say what they know


def local(launch: Launch, processes: int) -> int:
    """Runs the stages in `processes` processes; returns the exit code of the first that failed."""
    started: list[subprocess.Popen[bytes]] = []

    def forward(number: int, frame: Any) -> None:
        for process in started:
            process.send_signal(signal.SIGTERM)

    port = free_port()
    with signals.handed_on(forward):
        for i in range(processes):
            environment = os.environ | local_environment(i, processes, port)
            started.append(subprocess.Popen(launch.words(), env=environment))
        return wait_for_all(started)


def wait_for_all(started: Sequence[subprocess.Popen[bytes]]) -> int:
    """0, or the exit code of the first that fails; the others have a while to leave."""
    first, deadline = 0, float("inf")
    while True:
        codes = [process.poll() for process in started]
        failed = [code for code in codes if code not in (None, 0, INTERRUPTED)]
        if failed and not first:
            first, deadline = failed[0], time.monotonic() + LEAVE_SECONDS
        ended = [code for code in codes if code is not None]
        if len(ended) == len(codes):
            return first or max(ended)
        if time.monotonic() > deadline:
            for process in started:
                process.kill()
        time.sleep(0.05)


def free_port() -> int:
    """A port that nobody listens to, so that several jobs may run on one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def local_environment(process: int, processes: int, port: int) -> dict[str, str]:
    """How a process of this machine finds the others; of one there is nothing to find."""
    if processes == 1:
        return {}
    return {
        "FLASHJAX_COORDINATOR": f"127.0.0.1:{port}",
        "FLASHJAX_PROCESSES": str(processes),
        "FLASHJAX_PROCESS": str(process),
    }

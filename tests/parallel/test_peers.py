"""Processes of a job hear of each other's end: who is gone, and with what code one has ended."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from flashjax.parallel import peers, signals

WAIT = """
import os, time
from flashjax.parallel import signals
signals.listen("flashjax toy")
from flashjax.parallel.hosts import initialise
initialise(os.environ)
print("here", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("dead", [0, 3])
def test_of_four_processes_one_is_killed_and_the_others_name_it_and_leave(dead):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "PYTHONPATH": ":".join(path for path in sys.path if path),
        "FLASHJAX_COORDINATOR": f"127.0.0.1:{port}",
        "FLASHJAX_PROCESSES": "4",
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WAIT],
            env=os.environ | shared | {"FLASHJAX_PROCESS": str(number)},
            **pipes,
        )
        for number in range(4)
    ]
    try:
        for process in running:
            assert "here\n" in iter(process.stdout.readline, "")
        running.pop(dead).kill()
        said = [process.communicate(timeout=60)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [75] * 3
    for text in said:
        assert f"flashjax toy: process {dead} is gone: it was killed" in text


@pytest.fixture
def ends(monkeypatch):
    """What would have ended this process, instead of its end."""
    seen = []
    monkeypatch.setattr(signals, "end", lambda line="", code=75: seen.append((line, code)))
    return seen


def hub(number):
    """Process 0 of so many others, with their ends of the connections, and its listening thread."""
    pairs = {other: socket.socketpair() for other in range(1, number + 1)}
    middle = peers.Peers(0, {other: pair[0] for other, pair in pairs.items()})
    thread = threading.Thread(target=middle.listen)
    thread.start()
    return {other: pair[1] for other, pair in pairs.items()}, thread


def test_who_is_done_disturbs_nobody(ends):
    links, thread = hub(2)
    links[1].sendall(b"1 0\n")
    links[1].close()
    assert links[2].recv(100) == b"1 0\n"
    links[2].sendall(b"2 0\n")
    links[2].close()
    thread.join()
    assert not ends


def test_who_fails_ends_the_others_with_its_own_code(ends):
    links, thread = hub(3)
    links[1].sendall(b"1 2\n")
    assert links[2].recv(100) == links[3].recv(100) == b"1 2\n"
    links[2].sendall(b"2 0")  # half a line, and no life
    for link in links.values():
        link.close()
    thread.join()
    assert ends[0] == ("process 1 has ended with code 2", 2)
    (half,) = [end for end in ends if end[0].startswith("process 2 is gone: it was killed")]
    assert half[1] == 75

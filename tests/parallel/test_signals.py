"""Signals: one line, code 75, at once; only a step is waited for."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

NUMBERS = (signal.SIGTERM, signal.SIGINT)
LISTEN = "from flashjax.parallel import signals; signals.listen('flashjax toy');"
# Minutes, and no Python.
BUSY = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"
ENVIRONMENT = os.environ | {"PYTHONPATH": ":".join(path for path in sys.path if path)}
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def hears(pid):
    """Whether a process has a handler for both signals, by the word of the kernel."""
    status = Path(f"/proc/{pid}/status").read_text().split()
    caught = int(status[status.index("SigCgt:") + 1], 16)
    return all(caught >> (number - 1) & 1 for number in NUMBERS)


def start(code):
    process = subprocess.Popen([sys.executable, "-c", code], env=ENVIRONMENT, **PIPES)
    wait_for(lambda: hears(process.pid))
    return process


def end_of(process):
    """Exit code and the lines of a process that ends by itself."""
    try:
        out, error = process.communicate(timeout=20)
    finally:
        process.kill()
    return process.returncode, out.splitlines(), error.splitlines()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_process_that_is_busy_outside_python_ends_at_once_with_one_line(number):
    process = start(LISTEN + BUSY)
    process.send_signal(number)
    code, _, lines = end_of(process)
    what = f"{number.name}: nothing is half written; run the same command again"
    assert (code, lines) == (75, [f"flashjax toy: {what}"])


def test_what_is_saved_is_said():
    process = start(
        f"{LISTEN}\nwith signals.saving(lambda: 'half of it is saved'): print(flush=True); {BUSY}"
    )
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    code, _, (line,) = end_of(process)
    assert code == 75 and "SIGTERM: half of it is saved; " in line


STEP = """
with signals.deferred() as asked:
    asked()
    print("a step", flush=True)
    while not asked(): pass
    print("asked", flush=True)
    {busy}
print("saved")
"""


def test_a_first_step_is_not_waited_for():
    """It compiles, and there is nothing new to save."""
    process = start(f"{LISTEN}\nwith signals.deferred(): print('a step', flush=True); {BUSY}")
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert end_of(process)[0] == 75


def test_a_process_that_is_done_ends_as_it_would():
    code = f"{LISTEN} signals.done(); import time; print('done', flush=True); time.sleep(1)"
    process = subprocess.Popen([sys.executable, "-c", code], env=ENVIRONMENT, **PIPES)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert end_of(process) == (0, [], [])


def test_a_step_is_waited_for():
    process = start(LISTEN + STEP.format(busy="pass"))
    assert process.stdout.readline() == "a step\n"
    process.send_signal(signal.SIGTERM)
    code, lines, _ = end_of(process)
    assert (code, lines) == (0, ["asked", "saved"])


def test_a_second_signal_waits_for_no_step():
    process = start(LISTEN + STEP.format(busy=BUSY))
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked\n"
    time.sleep(0.5)  # the same signal twice in a moment is one: groups are told, and their members
    process.send_signal(signal.SIGTERM)
    code, _, lines = end_of(process)
    assert code == 75 and "SIGTERM again: " in lines[-1]


def test_the_console_script_hears_before_it_reads_jax():
    words = [sys.executable, "-X", "importtime", "-m", "flashjax", "run", "--config", "none"]
    process = subprocess.Popen(words, env=ENVIRONMENT, **PIPES)
    wait_for(lambda: hears(process.pid))
    process.send_signal(signal.SIGTERM)
    code, _, lines = end_of(process)
    said = [line for line in lines if not line.startswith("import time:")]
    assert code == 75 and said[-1].startswith("flashjax: SIGTERM: nothing is half written")
    assert not any(line.endswith(" jax") for line in lines)


def test_the_first_process_of_a_container_hears():
    """Its kernel keeps from PID 1 every signal that it has no handler for."""
    probe = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no process namespaces here: PID 1 cannot be imitated")
    code = f"{LISTEN}import os; print(os.getpid(), flush=True); {BUSY}"
    words = [*probe[:-1], sys.executable, "-c", code]
    process = subprocess.Popen(words, env=ENVIRONMENT, **PIPES)
    assert process.stdout.readline() == "1\n"
    (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(first), signal.SIGTERM)
    code, _, lines = end_of(process)
    assert code == 75 and len(lines) == 1

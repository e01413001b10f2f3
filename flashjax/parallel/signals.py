"""SIGTERM and SIGINT: a process that is told to stop says what is saved and ends, with code 75.

Results appear whole or not at all, so that a process may end at any moment; only a training step is
worth waiting for, and is `deferred`. A second signal ends that, too. A thread does it: the main one
may be inside a compilation for minutes. Nothing heavy is imported here: who is asked to listen
does so before JAX is loaded.
"""

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

STARTED = time.monotonic()  # of the command: this is read first
INTERRUPTED = 75
NUMBERS = (signal.SIGTERM, signal.SIGINT)
SAME_SECONDS = 0.25  # terminals and schedulers tell a group of processes, and each of them again
AGAIN = "run the same command again"

Saved = Callable[[], str]

log = logging.getLogger(__name__)


class _Process:
    """What this process does about a signal."""

    def __init__(self) -> None:
        self.undo: Callable[[], None] | None = None  # where this process listens
        self.title = "flashjax"
        self.saved: list[Saved] = [lambda: "nothing is half written"]
        self.before_end: list[Callable[[int], None]] = []
        self.deferred = False
        self.asked = threading.Event()
        self.tell: Callable[[], None] | None = None
        self.ending = threading.Lock()

    def heard(self, number: int, frame: Any) -> None:
        """The main thread's part: Python calls it between two of its instructions."""
        name = signal.Signals(number).name
        if not self.deferred:  # any more: where it ended meanwhile, nobody else does it
            threading.Thread(target=end, args=(f"{name}: {saved()}; {AGAIN}",)).start()
        elif not self.asked.is_set():
            self.asked.set()
            log.warning("%s: stopping after this step", name)

    def watch(self, ear: socket.socket) -> None:
        """The thread's part, which does not wait for the main one."""
        first = None
        while told := ear.recv(1):
            if told[0] not in NUMBERS:
                continue
            now = time.monotonic()
            again = first is not None and now - first > SAME_SECONDS
            first = now if first is None else first
            if again or not (self.deferred or self.asked.is_set()):
                name = signal.Signals(told[0]).name
                end(f"{name}{' again' if again else ''}: {saved()}; {AGAIN}")
            if self.tell:
                self.tell()


_process = _Process()


def listen(title: str = "flashjax") -> None:
    """From now on a signal ends this process in good order; `title` begins what it says."""
    _process.title = title
    if not listening():
        _install()


def name(title: str) -> None:
    """What the last line of this process begins with."""
    _process.title = title


@contextlib.contextmanager
def deferred(tell: Callable[[], None] | None = None) -> Iterator[Callable[[], bool]]:
    """Whether a signal has asked to stop; it ends nothing within the block, a second one does.

    Where the process listens already, this begins when it is first asked for: a first step compiles
    for minutes, and before its end there is nothing new to save. `tell` is called with the signal.
    Who does not listen yet does so for the block; only a main thread can.
    """
    for_now = not listening() and threading.current_thread() is threading.main_thread()
    _process.asked.clear()
    _process.tell, _process.deferred = tell, not listening()
    if for_now:
        _install()

    def asked() -> bool:
        _process.deferred = True
        return _process.asked.is_set()

    try:
        yield asked
    finally:
        if for_now and _process.undo:
            _process.undo()
        _process.tell, _process.deferred = None, False


@contextlib.contextmanager
def handed_on(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Signals are the business of `handler(number, frame)` alone within the block."""
    was_listening = _process.undo
    if was_listening:
        was_listening()
    previous = {number: signal.signal(number, handler) for number in NUMBERS}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
        if was_listening:
            _install()


@contextlib.contextmanager
def saving(text: Saved) -> Iterator[None]:
    """What is said to be saved where the process ends within the block."""
    _process.saved.append(text)
    try:
        yield
    finally:
        _process.saved.remove(text)


def saved() -> str:
    """What is saved, in words."""
    return _process.saved[-1]()


def before_end(call: Callable[[int], None]) -> None:
    """Has `call(code)` called before this process ends at once."""
    _process.before_end.append(call)


def end(line: str = "", code: int = INTERRUPTED) -> None:
    """Ends this process at once, its last line said; of several that try, the first does.

    A log on a full disk takes no line, and is no reason to stay.
    """
    _process.ending.acquire()
    for call in _process.before_end:
        call(code)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{_process.title}: {line}\n" if line else "")
        sys.stderr.flush()
    os._exit(code)


def done() -> None:
    """All is done and saved: no signal is to change the exit code of a process that ends."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def listening() -> bool:
    """Whether signals are this process' own business."""
    return _process.undo is not None


def take_back(number: int) -> Callable[[], None]:
    """Puts our handler in the place of one that a library has set in C; that one, to be called."""
    theirs = ctypes.CFUNCTYPE(None, ctypes.c_int)(_set_in_c(number, None))
    signal.signal(number, _process.heard)
    return lambda: theirs(number)


def delay_abort() -> None:
    """Has an abort wait for seconds, so that a thread that knows more may end the process before.

    JAX aborts where the process in its middle is gone. Nothing else than C may run then: the
    handler is libc's `sleep`, which is handed the number of the signal, 6.
    """
    _set_in_c(signal.SIGABRT, ctypes.CDLL(None).sleep)


def _set_in_c(number: int, handler: Any) -> int:
    """Sets a handler that is a C function, or the default; returns the one before."""
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    return libc.signal(int(number), ctypes.cast(handler, ctypes.c_void_p) if handler else None) or 0


def _install() -> None:
    """Sets handlers, and the thread that hears of signals at once."""
    previous = {number: signal.getsignal(number) for number in NUMBERS}
    mouth, ear = socket.socketpair()
    mouth.setblocking(False)
    before = signal.set_wakeup_fd(mouth.fileno())
    for number in NUMBERS:
        signal.signal(number, _process.heard)
    threading.Thread(target=_process.watch, args=(ear,), daemon=True).start()

    def undo() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        mouth.close()
        _process.undo = None

    _process.undo = undo

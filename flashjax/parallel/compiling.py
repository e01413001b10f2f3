"""What is being compiled: a line while it takes long, and the seconds of all of it.

JAX says when it begins and ends to trace, lower and compile a function; the last of the three is
what takes minutes. What is read from a cache counts with the time of its reading.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

import jax

TRACE = "/jax/core/compile/jaxpr_trace_duration"
LOWER = "/jax/core/compile/jaxpr_to_mlir_module_duration"
COMPILE = "/jax/core/compile/backend_compile_duration"
SAID_SECONDS = 3.0  # a compilation that takes longer is announced

log = logging.getLogger(__name__)


class Compiling:
    """A listener of JAX's own events.

    `seconds` are those that the process has spent on it so far: compiling itself, or waiting for a
    thread that does.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._here = _Thread()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What this thread compiles within the block is for others to wait for, and not counted."""
        self._here.aside = True
        try:
            yield
        finally:
            self._here.aside = False

    @contextlib.contextmanager
    def waited(self) -> Iterator[None]:
        """In the block this thread waits for what another one compiles."""
        since = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - since

    def began(self, event: str, value: float, **said: str | int) -> None:
        """A phase of a function begins; one inside another (a jit inside a jit) counts once."""
        if event in (TRACE, LOWER, COMPILE):
            line = _Line(str(said["fun_name"])) if event == COMPILE else None
            self._here.stack.append((time.monotonic(), line))

    def ended(self, event: str, duration_secs: float, **said: str | int) -> None:
        """It ends, well or not."""
        stack = self._here.stack
        if event not in (TRACE, LOWER, COMPILE) or not stack:
            return
        since, line = stack.pop()
        took = time.monotonic() - since
        if not stack and not self._here.aside:
            self.seconds += took
        if line is not None:
            line.end(took)


class _Thread(threading.local):
    """What one thread is compiling, from the outermost on: several may compile."""

    def __init__(self) -> None:
        self.stack: list[tuple[float, _Line | None]] = []
        self.aside = False


class _Line:
    """Said if the compilation of `name` is not over soon; then its end is said, too."""

    def __init__(self, name: str) -> None:
        self._name, self._said = name, False
        self._timer = threading.Timer(SAID_SECONDS, self._say)
        self._timer.daemon = True
        self._timer.start()

    def _say(self) -> None:
        self._said = True
        log.info("compiling %s ...", self._name)

    def end(self, seconds: float) -> None:
        self._timer.cancel()
        if self._said:
            log.info("compiled %s in %.1f s", self._name, seconds)


COMPILING = Compiling()
jax.monitoring.register_scalar_listener(COMPILING.began)
jax.monitoring.register_event_duration_secs_listener(COMPILING.ended)

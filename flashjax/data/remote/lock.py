"""One job at a time in a folder at an address: an object that its holder writes again and again.

Services have no locks that end with a process. Who finds a lock watches it: one that is not written
again for `STALE` seconds of our own clock is that of a job that is dead.
"""

import contextlib
import functools
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from flashjax.data.remote.manifest import LOCK
from flashjax.data.remote.store import Store
from flashjax.types import InputError

RENEW, STALE, LOOK, AGREE = 15.0, 75.0, 5.0, 2.0  # seconds

log = logging.getLogger(__name__)


class Taken(InputError):
    """A folder that was held is another job's now."""


@contextlib.contextmanager
def held(store: Store) -> Iterator[Callable[[], None]]:
    """Holds a folder; the function that it gives raises `Taken` once another job has it.

    InputError where another job is at work there. The lock of one that is dead is taken, after a
    while if it was another machine's.
    """
    token = uuid.uuid4().hex
    _acquire(store, token)
    ended, turn = threading.Event(), threading.Lock()  # a lock that is half written is not ours

    def renew() -> None:
        while not ended.wait(RENEW):
            with turn, contextlib.suppress(InputError, OSError):  # it is seen before the next write
                if _token(store.read(LOCK)) == token:
                    store.put(LOCK, _content(token))

    def check() -> None:
        with turn:
            found = _token(store.read(LOCK))
        if found != token:
            raise Taken(f"{store}: another job has taken it, nothing more is put there")

    beat = threading.Thread(target=renew, daemon=True)
    beat.start()
    try:
        yield check
    finally:
        ended.set()
        beat.join()
        if _token(store.read(LOCK)) == token:
            store.remove(LOCK)


def _acquire(store: Store, token: str) -> None:
    while not store.put(LOCK, _content(token), new=True):
        before = store.read(LOCK)
        if before is None:  # its job has just ended
            continue
        if not _is_dead_here(before):
            _watch(store, before)
        # Of several that take it the last has it: all look again when all have written.
        store.put(LOCK, _content(token))
        time.sleep(AGREE)
        if _token(store.read(LOCK)) != token:
            raise InputError(f"{store}: another job has just begun there, wait for its end")
        return


def _watch(store: Store, before: bytes) -> None:
    """Returns when nobody has written a lock for long; InputError when somebody does."""
    log.info("%s is locked: %.0f s will tell whether its job is alive", store, STALE)
    begun = time.monotonic()
    while time.monotonic() - begun < STALE:
        time.sleep(LOOK)
        now = store.read(LOCK)
        if now is None:
            return
        if now != before:
            told = _told(now)
            raise InputError(
                f"{store}: another job is at work there (host {told.get('host')}, process "
                f"{told.get('process')}): wait for its end, or use another address"
            )


def _is_dead_here(content: bytes) -> bool:
    """Whether a lock is of a process of this machine that is no more."""
    told = _told(content)
    process = told.get("process")
    here = {"host": socket.gethostname(), "numbers": _numbers()}
    if {key: told.get(key) for key in here} != here or not isinstance(process, int):
        return False
    if process == os.getpid():  # a number that is ours is no other's any more
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


@functools.cache
def _numbers() -> str:
    """Whose numbers processes have here: of this machine since its start, or of this container.

    Machines may have one name, and containers of a machine its own. "" where no system says so.
    """
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _content(token: str) -> bytes:
    told = {"token": token, "host": socket.gethostname(), "process": os.getpid()}
    return json.dumps(told | {"numbers": _numbers(), "written": time.time()}).encode()


def _token(content: bytes | None) -> str:
    return str(_told(content or b"{}").get("token", ""))


def _told(content: bytes) -> dict:
    try:
        found = json.loads(content)
    except ValueError:  # it is being written, where writing is not at once
        return {}
    return found if isinstance(found, dict) else {}

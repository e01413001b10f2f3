"""One job at a time is at work in a folder at an address; that of a dead one is free."""

import json
import socket
import subprocess
import sys

import pytest

from flashjax.data.remote import lock
from flashjax.data.remote.lock import held
from flashjax.data.remote.manifest import LOCK
from flashjax.data.remote.store import Store
from flashjax.types import InputError


def as_of(host, process):
    return json.dumps({"token": "t", "host": host, "process": process}).encode()


def test_a_job_that_is_alive_elsewhere_keeps_its_folder(bucket, monkeypatch):
    store = Store.of(bucket)
    with held(store), monkeypatch.context() as patch:
        patch.setattr(lock, "_is_dead_here", lambda content: False)
        with pytest.raises(InputError, match=r"another job is at work there \(host .*, process"):
            with held(store):
                raise AssertionError("two jobs hold it")
    assert store.read(LOCK) is None


def test_the_lock_of_a_job_that_is_dead_is_taken(bucket):
    store = Store.of(bucket)
    for content in (as_of("another", 1), as_of(socket.gethostname(), 2**22 + 1), b"{"):
        store.put(LOCK, content)
        with held(store) as check:
            check()
        assert store.read(LOCK) is None


def test_who_has_lost_its_folder_is_told(bucket):
    store = Store.of(bucket)
    with held(store) as check:
        store.put(LOCK, as_of("another", 1))
        with pytest.raises(InputError, match="another job has taken it, nothing more is put there"):
            check()
    assert json.loads(store.read(LOCK))["host"] == "another"  # it is not ours to remove


def test_a_job_that_is_killed_leaves_a_lock_that_its_next_one_takes_at_once(tmp_path):
    where = f"file://{tmp_path}/b"
    code = (
        "import os, signal; from flashjax.data.remote import lock, store\n"
        f"with lock.held(store.Store.of({where!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    store = Store.of(where)
    assert store.read(LOCK)
    with held(store) as check:
        check()

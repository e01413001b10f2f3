"""One job at a time is at work in a folder at an address; that of a dead one is free."""

import json
import socket
import subprocess
import sys
import time

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


def test_a_job_in_another_container_of_this_host_is_not_taken_for_dead(bucket, monkeypatch):
    store = Store.of(bucket)
    with held(store), monkeypatch.context() as patch:  # its number is ours, or nobody's, in here
        patch.setattr(lock, "_numbers", lambda: "this boot pid:[2]")
        with pytest.raises(InputError, match="another job is at work there"):
            with held(store):
                raise AssertionError("two jobs hold it")


def test_a_job_that_writes_its_lock_again_meanwhile_still_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "RENEW", 0.0)
    monkeypatch.setattr(lock.Store, "put", _slowly(lock.Store.put))
    store = Store.of(f"file://{tmp_path}/b")
    with held(store) as check:
        for _ in range(50):
            check()


def _slowly(put):
    """A `put` of a folder on a slow disk: for a while its object is there, and empty."""

    def putting(self, name, content, **more):
        if not more:
            put(self, name, b"")
            time.sleep(0.001)
        return put(self, name, content, **more)

    return putting


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

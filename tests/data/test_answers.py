"""What a service or its library refuses is one line; what a disk refuses stays what it is."""

import errno
import os
import socket

import pytest

from flashjax.data.answers import answering
from flashjax.data.files import Address
from flashjax.data.remote.store import Store
from flashjax.types import InputError


class Refused(Exception):
    """As libraries of services have them: of no class that anybody else knows."""


Refused.__module__ = "botocore.exceptions"


@pytest.mark.parametrize(
    "error",
    [
        Refused("Unable to locate credentials\nat all"),
        PermissionError("Access Denied"),
        OSError(errno.EINVAL, "The specified bucket is not valid."),
        OSError("403"),
        ConnectionResetError("reset"),
        socket.gaierror("no such host"),
    ],
)
def test_what_a_service_refuses_is_one_line(error):
    with pytest.raises(InputError) as told, answering("s3://b/x"):
        raise error
    (line,) = told.value.args
    assert line.startswith("s3://b/x cannot be reached (") and "\n" not in line
    assert "that this machine may read and write there" in line


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), FileNotFoundError(), KeyError("a")]
)
def test_what_is_no_answer_stays_what_it_is(error):
    with pytest.raises(type(error)) as told, answering("s3://b/x"):
        raise error
    assert told.value is error


@pytest.mark.parametrize("verb", ["stamps", "read", "below", "open"])
def test_every_way_to_a_service_says_so(verb, monkeypatch):
    store = Store.of("memory://refused/x")

    def refuse(*arguments, **named):
        raise Refused("Access Denied")

    for name in ("find", "cat_file", "open"):
        monkeypatch.setattr(type(store._files), name, refuse)
    found = store if verb in ("stamps", "read") else Address.of("memory://refused/x")
    with pytest.raises(InputError, match=r"memory://refused/x cannot be reached \(Access Denied\)"):
        list(getattr(found, verb)(*(["a"] if verb == "read" else [])))


def test_a_bucket_that_is_not_there_holds_nothing_and_takes_nothing(monkeypatch, tmp_path):
    store = Store.of("memory://refused/x")

    def absent(*arguments, **named):
        raise FileNotFoundError("The specified bucket does not exist")

    for name in ("find", "pipe_file", "put_file"):
        monkeypatch.setattr(type(store._files), name, absent)
    assert store.stamps() == {}
    for write in (lambda: store.put("a", b"a"), lambda: store.send(tmp_path, "a")):
        with pytest.raises(InputError, match=r"cannot be reached .The specified bucket does not"):
            write()

"""Buckets for tests: fsspec's memory, and folders behind file://, which processes share."""

import uuid

import pytest

from flashjax.data.remote import lock, store


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(store.CACHE, str(tmp_path / "cache"))
    for name, seconds in {"RENEW": 0.05, "STALE": 0.5, "LOOK": 0.05, "AGREE": 0.01}.items():
        monkeypatch.setattr(lock, name, seconds)
    return tmp_path / "cache"


@pytest.fixture(params=["memory", "file"])
def bucket(request, tmp_path):
    return f"memory://{uuid.uuid4().hex}" if request.param == "memory" else f"file://{tmp_path}/b"

"""Every kind is read from an address as it is from this machine's disk."""

import json
from pathlib import Path

import fsspec
import numpy as np
import pytest

from flashjax.data.kinds.listed import Wording
from flashjax.data.kinds.recognise import open_kind
from flashjax.data.prompts import read_prompts
from flashjax.data.samples import captions_of
from flashjax.types import InputError

GOLDEN = Path(__file__).parents[2] / "golden" / "data"


@pytest.fixture(scope="module")
def bucket():
    """The golden files, and pictures with captions and a manifest, in memory."""
    files = fsspec.filesystem("memory")
    files.put(f"{GOLDEN}/", "/bucket/", recursive=True)
    samples = open_kind(str(GOLDEN / "{000..001}.tar"), Wording())
    rows = []
    for number, suffix in enumerate(("png", "webp", "jpg")):
        content = samples._entries[number].open().read()
        files.pipe_file(f"/bucket/my pictures/{number}.{suffix}", content)
        files.pipe_file(f"/bucket/my pictures/{number}.txt", b"caption %d" % number)
        rows.append({"image": f"my pictures/{number}.{suffix}", "caption": f"caption {number}"})
    files.pipe_file("/bucket/list.jsonl", "\n".join(map(json.dumps, rows)).encode())
    files.pipe_file("/bucket/p.txt", b"\xef\xbb\xbfone\r\ntwo\n")
    yield "memory://bucket"
    files.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    "source",
    ["my pictures", "list.jsonl", "{000..001}.tar", "*.tar", "saved", "snapshot", "splits/test"],
)
def test_a_source_at_an_address(source, bucket):
    samples = open_kind(f"{bucket}/{source}", Wording())
    here = GOLDEN / source
    count = 1 if source == "splits/test" else 3
    captions = [f"caption {n}" for n in range(3)] if count == 3 else ["tabby cat"]
    assert captions_of(samples) == captions
    for number in range(count):
        assert samples.size(number) == (8, 8 + number)
        np.testing.assert_allclose(samples[number].image[0, 0], (number, 0, 0), atol=2)
    if here.exists():
        assert samples.digest == open_kind(str(here), Wording()).digest


def test_prompts_at_an_address(bucket):
    assert read_prompts(f"{bucket}/p.txt") == ["one", "two"]
    assert captions_of(open_kind(f"{bucket}/p.txt", Wording())) == ["one", "two"]


def test_nothing_at_an_address_is_said(bucket):
    with pytest.raises(InputError, match="none does not exist, or may not be read: give a folder"):
        open_kind(f"{bucket}/none", Wording())

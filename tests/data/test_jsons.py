"""JSON and arrays: what was asked for, or a line."""

import numpy as np
import pytest

from flashjax.data.jsons import read_array, read_json, read_texts
from flashjax.types import InputError


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "\xff", '{"a": 1}}', "nul"])
@pytest.mark.parametrize("read", [read_json, read_texts])
def test_what_is_no_json_is_one_line(read, content, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content.encode("latin1"))
    with pytest.raises(InputError, match=r"x\.json is not JSON") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_json_of_another_kind_is_one_line(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('["a", "b"]')
    assert read_texts(path) == ["a", "b"]
    with pytest.raises(InputError, match="holds no JSON object"):
        read_json(path)
    path.write_text('["a", 1]')
    with pytest.raises(InputError, match="holds no list of texts"):
        read_texts(path)


def test_an_array_is_whole_or_refused(tmp_path):
    path, array = tmp_path / "x.npy", np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.save(path, array)
    whole = path.read_bytes()
    np.testing.assert_array_equal(read_array(path), array)
    huge = whole.replace(b"(3, 4)", b"(3, 9999999999999)")[: len(whole)]
    objects = np.array([{}], dtype=object)
    for content in (whole[:-1], whole[:40], b"", b"\0" * 200, huge, b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.npy is broken, delete it"):
            read_array(path)
    np.save(path, objects, allow_pickle=True)
    with pytest.raises(InputError, match=r"x\.npy is broken, delete it"):
        read_array(path)
    with pytest.raises(InputError, match=r"absent\.npy is broken"):
        read_array(tmp_path / "absent.npy")

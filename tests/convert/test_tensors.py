"""Named tensors: a view never reads more than it is asked for."""

import numpy as np
import pytest

from flashjax.convert.tensors import Info, Tensors, computed, in_memory, joined
from flashjax.types import InputError


def counted(arrays, where="counted"):
    """Tensors that note what is read of them."""
    source, read = in_memory(arrays, where), []

    def piece(name, start, stop):
        read.append((name, start, stop))
        return source.piece(name, start, stop)

    return Tensors(where, source.infos, piece), read


ARRAYS = {"a.x": np.arange(6.0).reshape(2, 3), "a.y": np.arange(4.0), "b": np.zeros(2)}


def test_views_read_only_what_is_looked_up():
    tensors, read = counted(ARRAYS)
    view = tensors.under("a.").without("y").prefixed("z.")
    assert dict(view.shapes) == {"z.x": (2, 3)}
    assert read == []
    np.testing.assert_array_equal(view["z.x"], ARRAYS["a.x"])
    np.testing.assert_array_equal(view.piece("z.x", 2, 4), [2.0, 3.0])
    assert read == [("a.x", 0, 6), ("a.x", 2, 4)]


def test_joined_tensors_keep_their_sources_and_a_name_is_given_once():
    first, second = in_memory({"a": np.ones(2)}, "one"), in_memory({"b": np.zeros(3)}, "two")
    both = joined(first, second)
    assert list(both) == ["a", "b"]
    assert both.nbytes == 5 * 8
    np.testing.assert_array_equal(both["b"], np.zeros(3))
    with pytest.raises(InputError, match="one: a is in one too"):
        joined(first, second, first)


def test_computed_tensors_are_computed_once_for_pieces_in_a_row():
    calls = []

    def read(name):
        calls.append(name)
        return ARRAYS[name]

    infos = {name: Info(array.shape, array.dtype) for name, array in ARRAYS.items()}
    tensors = computed("computed", infos, read)
    np.testing.assert_array_equal(tensors.piece("a.y", 0, 2), [0.0, 1.0])
    np.testing.assert_array_equal(tensors.piece("a.y", 2, 4), [2.0, 3.0])
    assert calls == ["a.y"]

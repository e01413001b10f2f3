"""Drawing: chunks are kept and not drawn again; what is no number is no picture."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashjax.evaluate.sample import draw_noise
from flashjax.stages.drawing import draw_all, fetched, filled, forget
from flashjax.types import InputError, Tokens

STUDIO = SimpleNamespace(rows=2, shape=(2, 2, 3))


def tokens(count):
    ids = np.arange(3 * count, dtype=np.int32).reshape(count, 3)
    return Tokens(clip_l=ids, clip_g=ids, t5=ids)


class Draw:
    """Shows a caption's first token and its noise; stops before the chunk number `stop`."""

    def __init__(self, stop=None):
        self.chunks, self.stop = [], stop

    def __call__(self, tokens, noise):
        if self.stop is not None and len(self.chunks) == self.stop:
            raise KeyboardInterrupt
        self.chunks.append(tokens.clip_l[:, 0].tolist())
        pictures = tokens.clip_l[:, 0, None, None, None] + (100 + 10 * noise)
        return jnp.asarray(pictures, jnp.uint8), jnp.ones(len(noise), bool)


def test_an_interrupted_drawing_goes_on_and_gives_the_same_pictures(tmp_path):
    whole = draw_all(STUDIO, Draw(), tokens(5), tmp_path / "whole", seed=7, chunk=2)
    noise = draw_noise(7, 5, STUDIO.shape)
    expected = (3 * np.arange(5)[:, None, None, None] + (100 + 10 * noise)).astype(np.uint8)
    np.testing.assert_array_equal(whole.images, expected)
    assert whole.seconds_per_image > 0
    # The first chunk is drawn twice, and kept when the third is asked for.
    with pytest.raises(KeyboardInterrupt):
        draw_all(STUDIO, Draw(stop=3), tokens(5), tmp_path / "part", seed=7, chunk=2)
    assert [path.name for path in (tmp_path / "part").iterdir()] == ["0-2.npz"]
    again = Draw()
    rest = draw_all(STUDIO, again, tokens(5), tmp_path / "part", seed=7, chunk=2)
    np.testing.assert_array_equal(rest.images, expected)
    assert [0, 3] not in again.chunks  # what is kept is not drawn again
    other = SimpleNamespace(rows=3, shape=STUDIO.shape)  # another mesh splits otherwise
    moved = draw_all(other, Draw(), tokens(5), tmp_path / "part", seed=7, chunk=2)
    np.testing.assert_array_equal(moved.images, expected)


def test_chunks_split_over_devices_and_are_filled_up():
    assert [row.tolist() for row in filled(5, 3, 2)] == [[0, 1, 2, 3], [4, 0, 1, 2]]
    assert [row.tolist() for row in filled(1, 8, 4)] == [[0, 0, 0, 0]]


def test_a_picture_that_is_none_is_refused():
    pictures = jnp.zeros((2, 4, 4, 3), jnp.uint8)
    assert fetched((pictures, jnp.ones(2, bool))).shape == (2, 4, 4, 3)
    with pytest.raises(InputError, match="draws NaN: its weights are broken"):
        fetched(jax.device_put((pictures, jnp.array([True, False]))))


def test_what_lies_among_the_chunks_is_not_taken_away(tmp_path):
    place = tmp_path / "drawn" / "a"
    draw_all(STUDIO, Draw(), tokens(5), place, seed=7, chunk=2)
    (place / "mine.npz").write_bytes(b"a user's")
    forget(place)
    assert [path.name for path in place.iterdir()] == ["mine.npz"]
    (place / "mine.npz").unlink()
    forget(place)
    assert not (tmp_path / "drawn").exists()


@pytest.mark.parametrize("change", ["cut", "flipped", "empty", "other"])
def test_a_chunk_that_is_broken_is_one_line(tmp_path, change):
    draw_all(STUDIO, Draw(), tokens(5), tmp_path, seed=7, chunk=2)
    path = tmp_path / "2-2.npz"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[content.find(np.load(path)["pictures"].tobytes()) + 3] ^= 1
    kept = {"cut": content[:middle], "flipped": content, "empty": b"", "other": b"\x93NUMPY"}
    path.write_bytes(kept[change])
    if change == "other":
        np.savez(path, pictures=np.zeros((2, 2), np.uint8), seconds=1.0)
    with pytest.raises(InputError, match=r"2-2\.npz.* delete it"):
        draw_all(STUDIO, Draw(), tokens(5), tmp_path, seed=7, chunk=2)

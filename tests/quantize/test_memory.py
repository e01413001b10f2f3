"""Memory from shapes: sums that files and configs of the public checkpoints confirm."""

import pytest

from flashjax.models.variants import MMDIT
from flashjax.quantize.memory import Need, needs, transformer_bytes
from flashjax.tools.quantize.memory import line, sizes_of

GB = 1e9


PUBLISHED = [("gguf-f16", 4.94), ("gguf-q8_0", 2.86), ("gguf-q6_k", 2.32), ("mlx-6", 2.30)]


@pytest.mark.parametrize(("name", "size"), PUBLISHED)
def test_sd35_medium_takes_what_published_files_take(name, size) -> None:
    assert transformer_bytes(MMDIT["sd35_medium"], name) / GB == pytest.approx(size, abs=0.006)


def test_sd35_large_has_no_six_bits_in_gguf_but_in_mlx() -> None:
    """2432 columns are no whole blocks of 256: such weights stay at 16 bits."""
    whole = transformer_bytes(MMDIT["sd35_large"], "gguf-f16")
    assert transformer_bytes(MMDIT["sd35_large"], "gguf-q6_k") > 0.8 * whole
    assert transformer_bytes(MMDIT["sd35_large"], "mlx-6") < 0.45 * whole


def test_only_the_network_that_runs_holds_activations() -> None:
    need = Need({"a": 10, "b": 5}, {"a": 1, "b": 4})
    assert need.loaded(("a", "b")) == 15 + 4
    assert need.in_turn(("a", "b")) == 11


def test_nano_is_a_row_of_every_network() -> None:
    sizes, (pixels,) = sizes_of("nano")
    found = needs(sizes, {"gguf-f16": "", "gguf-q6_k": "t5-gguf-q8_0"}, pixels=pixels)
    six = found["gguf-q6_k"]
    assert (
        set(six.weights) == set(six.activations) == {"transformer", "vae", "clip_l", "clip_g", "t5"}
    )
    assert six.weights["transformer"] == pytest.approx(6_672_704, rel=0.01)  # the file has a table
    assert 0.53 < six.weights["t5"] / found["gguf-f16"].weights["t5"] < 0.57  # 34 bytes for 32
    assert 0 < six.activations["vae"] < 64 * 64 * 8 * 2 * 10
    assert line("gguf-q6_k", six).count("|") == 12

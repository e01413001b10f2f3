"""Memory from shapes: sums that files and configs of the public checkpoints confirm."""

import dataclasses

import pytest

from flashjax.models.variants import MMDIT
from flashjax.quantize.memory import Need, needs, transformer_bytes, wider
from flashjax.tools.quantize import memory
from flashjax.tools.quantize.memory import line, sizes_of

GB = 1e9
NETWORKS = ("transformer", "clip_l", "clip_g", "t5", "vae")


PUBLISHED = [("gguf-f16", 4.94), ("gguf-q8_0", 2.86), ("gguf-q6_k", 2.32), ("mlx-6", 2.30)]


@pytest.mark.parametrize(("name", "size"), PUBLISHED)
def test_sd35_medium_takes_what_published_files_take(name, size) -> None:
    assert transformer_bytes(MMDIT["sd35_medium"], name) / GB == pytest.approx(size, abs=0.006)


def test_rows_of_sd35_large_have_eight_bits_in_gguf_where_six_do_not_fit() -> None:
    """2432 columns are no whole blocks of 256; those of 9728 are."""
    whole = transformer_bytes(MMDIT["sd35_large"], "gguf-f16")
    six, eight = (transformer_bytes(MMDIT["sd35_large"], f"gguf-{q}") for q in ("q6_k", "q8_0"))
    assert six < eight < 0.55 * whole and six > 0.9 * eight
    assert transformer_bytes(MMDIT["sd35_large"], "mlx-6") < 0.45 * whole
    assert wider(MMDIT["sd35_large"], "gguf-q6_k") == {"Q8_0": pytest.approx(0.8, abs=0.08)}
    assert wider(MMDIT["sd35_medium"], "gguf-q6_k") == wider(MMDIT["sd35_large"], "mlx-6") == {}


def test_rows_that_are_no_whole_groups_stay_at_16_bits() -> None:
    narrow = dataclasses.replace(MMDIT["nano"], heads=5, head_width=8)  # rows of 40 and 160
    (share,) = wider(narrow, "mlx-6").values()
    assert share > 0.5 and wider(narrow, "gguf-q6_k").keys() == {"F16", "Q8_0"}
    assert transformer_bytes(narrow, "mlx-6") > 0.9 * transformer_bytes(narrow, "gguf-f16")
    assert wider(narrow, "comfy-int8-convrot") == wider(narrow, "torchao-int8") == {}


def test_the_table_says_what_has_more_bits(capsys, monkeypatch) -> None:
    need = Need(dict.fromkeys(NETWORKS, 2**30), dict.fromkeys(NETWORKS, 0))
    monkeypatch.setattr(memory, "needs", lambda sizes, formats, pixels: {"gguf-q6_k": need})
    memory.print_table("sd35_large")
    said = capsys.readouterr().out
    assert "gguf-q6_k has " in said and " % of its weights in Q8_0" in said
    memory.print_table("sd35_medium")
    assert "weights in" not in capsys.readouterr().out


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

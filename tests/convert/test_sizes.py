"""Sizes read off tensors: a file's own win over those of another model that is given beside it."""

import dataclasses

import numpy as np
import pytest

from flashjax.convert.fields import say
from flashjax.convert.sai import split_file
from flashjax.convert.sizes import clip_sizes, mmdit_sizes, t5_sizes, vae_sizes
from flashjax.convert.tensors import Info, shapes_only
from flashjax.convert.text import abstract_clip, abstract_t5, clip_to, t5_to
from flashjax.convert.transformer import transformer_rows
from flashjax.convert.vae import vae_rows
from flashjax.models.clip import CLIPConfig
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.t5 import T5Config
from flashjax.models.vae import VAEConfig
from flashjax.models.variants import MMDIT, SD3_VAE
from flashjax.types import InputError

SD3 = MMDiTConfig(
    depth=3, heads=4, dual=0, position_size=8, text_width=48, pooled_width=40, qk_norm=False
)
NANO_VAE = VAEConfig((8, 8), layers=1, groups=4, scaling_factor=0.9, shift_factor=0.1)
CLIP = CLIPConfig(50, 9, 64, 2, 2, 32, "quick_gelu")


def header(rows):
    """Tensors whose shapes alone are known."""
    infos = {key: Info(row.shape, np.dtype(np.float32)) for row in rows for key in row.keys}
    return shapes_only(infos)


def transformer(config):
    return header(transformer_rows(config, "sai"))


def vae(config):
    return header(vae_rows(config, "sai"))


@pytest.mark.parametrize("file", ["nano", "sd3_medium", "sd35_medium", "sd35_large"])
def test_a_transformers_own_sizes_win_over_a_bases(file):
    for base in MMDIT.values():
        assert mmdit_sizes(transformer(MMDIT[file]), base) == MMDIT[file]


def test_heads_that_no_norm_tells_are_the_bases_if_it_is_the_same_model():
    narrow = dataclasses.replace(SD3, heads=8, head_width=32)
    assert mmdit_sizes(transformer(narrow), narrow) == narrow
    cropped = dataclasses.replace(narrow, position_size=4)
    assert mmdit_sizes(transformer(cropped), narrow) == cropped
    wider = dataclasses.replace(SD3, heads=8)
    assert mmdit_sizes(transformer(wider), narrow) == wider
    assert mmdit_sizes(transformer(SD3)) == SD3
    odd = dataclasses.replace(SD3, heads=3, head_width=40)
    with pytest.raises(InputError, match="its width 120 is not of heads of 64; give --base"):
        mmdit_sizes(transformer(odd))
    assert mmdit_sizes(transformer(odd), odd) == odd


@pytest.mark.parametrize("naming", ["sai", "diffusers"])
def test_heads_narrower_than_any_released_ones_are_the_bases_under_all_names(naming):
    tiny = dataclasses.replace(SD3, heads=4, head_width=8)
    file = header(transformer_rows(tiny, naming))
    assert mmdit_sizes(split_file(file)["transformer"], tiny) == tiny


def test_a_line_says_what_heads_are_taken_to_be_where_nothing_tells_them(caplog):
    caplog.set_level("INFO", "flashjax")
    say.cache_clear()
    narrow = dataclasses.replace(SD3, heads=4, head_width=32)
    mmdit_sizes(transformer(narrow), narrow)
    mmdit_sizes(transformer(MMDIT["sd3_medium"]))
    mmdit_sizes(transformer(MMDIT["nano"]))
    assert not caplog.messages
    wide = dataclasses.replace(narrow, heads=2, head_width=64)
    for known in (None, dataclasses.replace(narrow, depth=4)):
        assert mmdit_sizes(transformer(narrow), known) == wide
    (line,) = caplog.messages
    assert line.endswith("does not say its heads: they are taken to be 64 wide")


def test_an_autoencoders_scale_is_the_bases_if_it_has_its_sizes_or_sd3s():
    assert vae_sizes(vae(NANO_VAE), NANO_VAE) == NANO_VAE
    assert vae_sizes(vae(SD3_VAE), NANO_VAE) == SD3_VAE
    assert vae_sizes(vae(SD3_VAE)) == SD3_VAE
    scaled = dataclasses.replace(SD3_VAE, scaling_factor=1.0)
    assert vae_sizes(vae(SD3_VAE), scaled) == scaled
    for known in (None, SD3_VAE):
        with pytest.raises(InputError, match="does not say its groups, scale and shift: give --ba"):
            vae_sizes(vae(NANO_VAE), known)


def test_text_encoders_take_from_a_base_only_what_their_tensors_do_not_say(random_params, caplog):
    caplog.set_level("INFO", "flashjax")
    tensors = clip_to(random_params(abstract_clip(CLIP)), CLIP)
    sizes = dict(activation="quick_gelu", projected=False)
    assert clip_sizes(tensors, CLIP, **sizes) == CLIP
    assert not caplog.messages
    other = dataclasses.replace(CLIP, depth=3, heads=4)
    assert clip_sizes(tensors, other, **sizes) == dataclasses.replace(CLIP, heads=1)
    (line,) = caplog.messages
    assert line == f"{tensors.where} does not say its heads: they are taken to be 64 wide"
    t5 = T5Config(60, 24, 2, 3, 8, 24, max_distance=64)
    tensors = t5_to(random_params(abstract_t5(t5)), t5)
    assert t5_sizes(tensors, t5) == t5
    assert t5_sizes(tensors, dataclasses.replace(t5, depth=1)).max_distance == 128


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("pos_embed", (64, 256), r"pos_embed is \(64, 256\), not of 3 dims"),
        ("pos_embed", (1, 63, 256), "pos_embed has 63 places, no square"),
        ("pos_embed", None, "pos_embed is not there"),
        ("x_embedder.proj.weight", (256, 64), "x_embedder.proj.weight is .*, not of 4 dims"),
        ("x_embedder.proj.weight", (256, 16, 0, 0), "x_embedder.proj.weight is .*, not of 4 dims"),
        ("context_embedder.weight", (), "context_embedder.weight is .*, not of 2 dims"),
    ],
)
def test_tensors_of_another_form_are_named(name, shape, message):
    infos = dict(transformer(SD3).infos)
    del infos[name]
    if shape is not None:
        infos[name] = Info(shape, np.dtype(np.float32))
    with pytest.raises(InputError, match=message):
        mmdit_sizes(shapes_only(infos))


def test_a_block_that_is_lacking_counts():
    infos = {name: info for name, info in transformer(SD3).infos.items() if ".1." not in name}
    assert mmdit_sizes(shapes_only(infos)).depth == SD3.depth
    strange = infos | {f"joint_blocks.{10**9}.x_block.attn.qkv.weight": infos["pos_embed"]}
    assert mmdit_sizes(shapes_only(strange)).depth == SD3.depth
    for block in (0, 1, 2):
        infos = {name: one for name, one in infos.items() if f"blocks.{block}." not in name}
    with pytest.raises(InputError, match="is no SD3 model: it has no blocks"):
        mmdit_sizes(shapes_only(infos))

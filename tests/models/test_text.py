"""The encoders: their programs' size, the three ways to be without T5, compute in bfloat16."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flashjax.models.clip import CLIPConfig, CLIPText
from flashjax.models.t5 import T5Config, T5Encoder
from flashjax.models.text import AbsentT5, TextConfig, drop_encoders, encode_pair, encode_text
from flashjax.models.variants import SD3_TEXT
from flashjax.parallel.hlo import collectives
from flashjax.types import Cond, InputError, Tokens

CONFIG = TextConfig(
    CLIPConfig(30, 7, 16, 2, 2, 32, "quick_gelu"),
    CLIPConfig(30, 7, 24, 2, 2, 32, "gelu", 20),
    T5Config(30, 48, 2, 2, 8, 32),
)
IDS = np.array([[28, 3, 5, 29, 29, 29, 29], [28, 9, 8, 7, 6, 4, 29]], np.int32)
TOKENS = Tokens(clip_l=IDS, clip_g=IDS, t5=IDS[:, :5])


@pytest.fixture(scope="module")
def params(random_params):
    modules = {
        "clip_l": CLIPText(CONFIG.clip_l),
        "clip_g": CLIPText(CONFIG.clip_g),
        "t5": T5Encoder(CONFIG.t5),
    }
    return {
        name: random_params(jax.eval_shape(module.init, jax.random.key(0), IDS)["params"], std=0.3)
        for name, module in modules.items()
    }


@pytest.fixture(scope="module")
def whole(params):
    return jax.jit(lambda p: encode_text(CONFIG, p, TOKENS))(params)


@pytest.mark.parametrize(
    ("model", "config"),
    [(CLIPText, SD3_TEXT.clip_l), (CLIPText, SD3_TEXT.clip_g), (T5Encoder, SD3_TEXT.t5)],
    ids=["clip_l", "clip_g", "t5"],
)
def test_the_program_does_not_grow_with_depth(model, config):
    def lowered(depth):
        """Characters of the lowered program; nothing is allocated or compiled."""
        module = model(dataclasses.replace(config, depth=depth))
        variables = jax.eval_shape(module.init, jax.random.key(0), IDS)
        return len(jax.jit(module.apply).lower(variables, IDS).as_text())

    assert lowered(config.depth) == pytest.approx(lowered(3), rel=0.01)


def test_devices_that_share_a_batch_do_not_wait_for_each_other(params):
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    tokens = jax.device_put(TOKENS, NamedSharding(mesh, PartitionSpec("data")))
    program = jax.jit(lambda *given: encode_text(CONFIG, *given)).lower(params, tokens).compile()
    assert collectives(program.as_text(), mesh) == []


@pytest.mark.parametrize("name", ["clip_l", "clip_g", "t5"])
def test_float16_is_refused(name):
    with pytest.raises(InputError, match="not computed in float16: choose float32 or bfloat16"):
        dataclasses.replace(getattr(CONFIG, name), dtype=jnp.float16)


@pytest.mark.parametrize("length", [0, 77, 256])
def test_an_absent_t5_is_so_many_zeros_and_needs_no_weights(length, params, whole):
    absent = dataclasses.replace(CONFIG, t5=AbsentT5(width=48, length=length))
    clips = {name: params[name] for name in ("clip_l", "clip_g")}
    tokens = dataclasses.replace(TOKENS, t5=np.zeros((2, 0), np.int32))
    cond = jax.jit(lambda p: encode_text(absent, p, tokens))(clips)
    assert cond.text.shape == (2, 7 + length, 48)
    np.testing.assert_allclose(cond.text[:, :7], whole.text[:, :7], atol=1e-6)
    assert not np.any(cond.text[:, 7:])
    np.testing.assert_allclose(cond.pooled, whole.pooled, atol=1e-6)


def test_an_absent_t5_is_one_whose_features_are_dropped(params):
    absent = dataclasses.replace(CONFIG, t5=AbsentT5(width=48, length=5))
    drop = jnp.array([[False, False, True]] * 2)
    empty = jax.tree.map(lambda ids: ids[:1], TOKENS)

    def pair(config, drop):
        return jax.jit(lambda p: encode_pair(config, p, TOKENS, empty, drop=drop))(params)

    for got, want in zip(
        pair(absent, jnp.zeros((2, 3), bool)),
        pair(CONFIG, drop),
        strict=True,
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, want)


def test_half_precision_encoders_condition_alike_in_fp32(params, whole):
    half = {
        name: dataclasses.replace(getattr(CONFIG, name), dtype=jnp.bfloat16)
        for name in ("clip_l", "clip_g", "t5")
    }
    cond = jax.jit(lambda p: encode_text(TextConfig(**half), p, TOKENS))(params)
    for got, want in ((cond.text, whole.text), (cond.pooled, whole.pooled)):
        assert got.dtype == jnp.float32
        error = np.abs(got - want).max() / np.abs(want).max()
        assert 1e-5 < error < 0.02


@pytest.mark.parametrize(("length", "cut"), [(7, 0), (20, 0), (20, 7), (7, 5)])
def test_all_of_t5_is_dropped_also_beside_a_clip_with_more_places_than_its_prompts_fill(
    length, cut
):
    """A CLIP for long prompts has 248 places; beside one of 77 both see 77 tokens."""
    long = dataclasses.replace(CONFIG.clip_l, length=length)
    config = dataclasses.replace(CONFIG, clip_l=long, cut=cut)
    cond = Cond(jnp.ones((1, (cut or 7) + 5, 48)), jnp.ones((1, config.pooled_width)))
    without = drop_encoders(config, cond, jnp.array([[False, False, True]]))
    np.testing.assert_array_equal(without.text[0, :, 0], [1] * (cut or 7) + [0] * 5)


@pytest.mark.parametrize(("of_l", "of_g"), [(0, 20), (12, 0), (12, 20), (0, 0)])
def test_either_clip_may_pool_with_a_projection_or_without(of_l, of_g):
    clip_l = dataclasses.replace(CONFIG.clip_l, projection=of_l)
    clip_g = dataclasses.replace(CONFIG.clip_g, projection=of_g)
    config = dataclasses.replace(CONFIG, clip_l=clip_l, clip_g=clip_g)
    modules = {"clip_l": CLIPText(clip_l), "clip_g": CLIPText(clip_g), "t5": T5Encoder(CONFIG.t5)}

    def encoded(key):
        made = {name: module.init(key, IDS)["params"] for name, module in modules.items()}
        return encode_text(config, made, TOKENS)

    cond = jax.eval_shape(encoded, jax.random.key(0))
    assert cond.pooled.shape[1] == config.pooled_width
    without = drop_encoders(
        config, jax.tree.map(jnp.ones_like, cond), jnp.array([[True, False, False]])
    )
    assert without.pooled[0].tolist() == [0] * (of_l or 16) + [1] * (of_g or 24)

"""The whole family at full size: every count of the released checkpoints, nothing allocated."""

import pytest

from flashjax import trees
from flashjax.convert.text import abstract_clip, abstract_t5
from flashjax.convert.transformer import abstract_transformer, transformer_rows
from flashjax.convert.vae import abstract_vae, vae_rows
from flashjax.models.variants import MMDIT, SD3_TEXT, SD3_VAE

# trained parameters, elements of the position table, SAI's keys, diffusers' keys
RELEASED = {
    "sd3_medium": (2_028_328_000, 56_623_104, 491, 683),
    "sd35_medium": (2_243_171_520, 226_492_416, 665, 909),
    "sd35_large": (8_056_627_520, 89_653_248, 923, 1227),
}


@pytest.mark.parametrize("name", RELEASED)
def test_a_transformer_has_the_released_number_of_parameters(name):
    trained, table, *_ = RELEASED[name]
    abstract = abstract_transformer(MMDIT[name])
    assert trees.count(abstract.pop("position")) == table
    assert trees.count(abstract) == trained


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize("naming", ["sai", "diffusers"])
def test_a_transformer_has_the_released_number_of_keys(name, naming):
    keys = {key for row in transformer_rows(MMDIT[name], naming) for key in row.keys}
    assert len(keys) == RELEASED[name][("sai", "diffusers").index(naming) + 2]


def test_the_text_encoders_have_the_released_number_of_parameters():
    # L is used without its projection of 768 x 768, which files hold as the identity.
    assert trees.count(abstract_clip(SD3_TEXT.clip_l)) == 123_650_304 - 768**2
    assert trees.count(abstract_clip(SD3_TEXT.clip_g)) == 694_659_840
    assert trees.count(abstract_t5(SD3_TEXT.t5)) == 4_762_310_656


def test_the_autoencoder_has_the_released_number_of_parameters():
    assert trees.count(abstract_vae(SD3_VAE)) == 83_819_683
    assert len(vae_rows(SD3_VAE, "sai")) == 244


def test_the_text_encoders_fit_every_transformer():
    for name in RELEASED:
        assert MMDIT[name].pooled_width == SD3_TEXT.pooled_width
        assert MMDIT[name].text_width == SD3_TEXT.t5.width

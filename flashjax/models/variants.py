"""The family as a table: sizes of every model that the project knows by name.

Source: the configs of the public checkpoints; nano is the project's own miniature.
"""

from flashjax.models.clip import CLIPConfig
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.t5 import T5Config
from flashjax.models.text import TextConfig
from flashjax.models.vae import VAEConfig

MMDIT = {
    "nano": MMDiTConfig(
        depth=3, heads=4, dual=1, position_size=16, text_width=256, pooled_width=192
    ),
    "sd3_medium": MMDiTConfig(
        depth=24,
        heads=24,
        dual=0,
        position_size=192,
        text_width=4096,
        pooled_width=2048,
        qk_norm=False,
    ),
    "sd35_medium": MMDiTConfig(
        depth=24, heads=24, dual=13, position_size=384, text_width=4096, pooled_width=2048
    ),
    "sd35_large": MMDiTConfig(
        depth=38, heads=38, dual=0, position_size=192, text_width=4096, pooled_width=2048
    ),
}

# CLIP-L, CLIP-bigG and T5-v1.1-XXL: the whole family shares them, and the autoencoder.
SD3_TEXT = TextConfig(
    clip_l=CLIPConfig(
        vocabulary=49408,
        length=77,
        width=768,
        depth=12,
        heads=12,
        hidden=3072,
        activation="quick_gelu",
    ),
    clip_g=CLIPConfig(
        vocabulary=49408,
        length=77,
        width=1280,
        depth=32,
        heads=20,
        hidden=5120,
        activation="gelu",
        projection=1280,
    ),
    t5=T5Config(vocabulary=32128, width=4096, depth=24, heads=64, head_width=64, hidden=10240),
)
SD3_VAE = VAEConfig()

NANO_LENGTH = 12  # tokens of every nano text encoder


def nano_text(clip_vocabulary: int, t5_vocabulary: int) -> TextConfig:
    """Nano's text encoders: CLIP-L-, CLIP-bigG- and T5-shaped, for small vocabularies."""
    return TextConfig(
        clip_l=CLIPConfig(
            vocabulary=clip_vocabulary,
            length=NANO_LENGTH,
            width=64,
            depth=2,
            heads=2,
            hidden=256,
            activation="quick_gelu",
        ),
        clip_g=CLIPConfig(
            vocabulary=clip_vocabulary,
            length=NANO_LENGTH,
            width=128,
            depth=3,
            heads=4,
            hidden=512,
            activation="gelu",
            projection=128,
        ),
        t5=T5Config(
            vocabulary=t5_vocabulary, width=256, depth=2, heads=4, head_width=64, hidden=512
        ),
    )


# The one that nano's flow was trained on; the package has the slim one (configs/nano_slim.py).
NANO_VAE = VAEConfig(channels=(8, 16, 32, 64), layers=1, groups=2)

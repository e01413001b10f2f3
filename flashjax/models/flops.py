"""Operations of one forward pass, counted from the sizes: what a pass must cost, nothing re-run.

A multiplication and an addition are two operations. Norms, activations and softmax are left out.
"""

from flashjax.models.heads import HeadsConfig
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.t5 import T5Config
from flashjax.models.text import TextConfig


def mmdit_flops(config: MMDiTConfig, *, image: int, text: int) -> float:
    """One sample of `image` and `text` tokens through the transformer."""
    d, hidden = config.width, config.mlp_ratio * config.width

    def stream(tokens: int, *, mlp: bool = True) -> float:
        """qkv; and, unless it is read only, output projection and MLP."""
        return 2.0 * tokens * d * (3 * d + (d + 2 * hidden if mlp else 0))

    def attention(tokens: int) -> float:
        return 4.0 * tokens**2 * d

    def modulation(chunks: int) -> float:
        return 2.0 * d * chunks * d

    joint = stream(image) + stream(text) + attention(image + text) + modulation(12)
    dual = 2.0 * image * d * 4 * d + attention(image) + modulation(3)
    last = stream(image) + stream(text, mlp=False) + attention(image + text) + modulation(8)
    patch = config.patch**2 * config.channels
    ends = 2.0 * (2 * image * patch * d + text * config.text_width * d)
    condition = 2.0 * d * (256 + d + config.pooled_width + d + 2 * d)
    return (config.depth - 1) * joint + config.dual * dual + last + ends + condition


def heads_flops(config: HeadsConfig, *, width: int, image: int) -> float:
    """One sample through the pool of heads."""
    squeeze, look = 2.0 * image * width * config.width, 2.0 * image / 4 * 16 * config.width**2
    return len(config.taps) * (squeeze + look + 2.0 * image / 4 * config.width)


def text_flops(config: TextConfig, *, t5_tokens: int) -> float:
    """One caption through all encoders."""

    def blocks(tokens: int, width: int, inner: int, hidden: float, depth: int) -> float:
        return depth * (2.0 * tokens * width * (4 * inner + hidden) + 4.0 * tokens**2 * inner)

    total = sum(
        blocks(config.clip_tokens, clip.width, clip.width, 2 * clip.hidden, clip.depth)
        for clip in (config.clip_l, config.clip_g)
    )
    t5 = config.t5
    if isinstance(t5, T5Config):
        inner = t5.heads * t5.head_width
        total += blocks(t5_tokens, t5.width, inner, 3 * t5.hidden, t5.depth)
    return total

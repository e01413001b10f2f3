"""The MMDiT-X said once more, in the few operations that a runtime has, under SAI's names.

A runtime gives its own `Ops`; `velocity` then builds its graph, or computes, step by step. Values
are the runtime's own, in whatever layout suits it: tokens by width, vectors being one token.
Source: as `models/mmdit.py`; Stability-AI/sd3.5 `mmditx.py`.
"""

from typing import Any, Protocol, TypeAlias

from flashjax.models.mmdit import MMDiTConfig

Value: TypeAlias = Any  # a node, a variable or an array of the runtime

TIME_WIDTH, MAX_PERIOD = 256, 10000.0  # of the sinusoids of a timestep
EPSILON = 1e-6  # of all norms
INPUTS = ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep")
OUTPUT = "out_hidden_states"  # all five as Hugging Face's exporters call them


class Ops(Protocol):
    """What a runtime must be able to do with its values."""

    def linear(self, x: Value, name: str) -> Value:
        """The projection of the width that SAI calls `name`, with its bias."""

    def parts(self, x: Value, count: int) -> list[Value]:
        """The width, or the width of every head, cut into equal parts."""

    def add(self, x: Value, y: Value) -> Value:
        """x + y; a single token meets all tokens."""

    def multiply(self, x: Value, y: Value) -> Value:
        """x * y, likewise."""

    def one_plus(self, x: Value) -> Value:
        """1 + x."""

    def silu(self, x: Value) -> Value:
        """x sigmoid(x)."""

    def gelu(self, x: Value) -> Value:
        """GELU in its tanh form."""

    def layer_norm(self, x: Value) -> Value:
        """Over the width, without parameters."""

    def heads(self, x: Value) -> Value:
        """The width as heads."""

    def rms_norm(self, x: Value, name: str) -> Value:
        """Over the width of each head, scaled by the weight `name`."""

    def join(self, text: Value, image: Value) -> Value:
        """Tokens of heads, text first."""

    def apart(self, joint: Value) -> tuple[Value, Value]:
        """Text and image of joint tokens."""

    def attention(self, q: Value, k: Value, v: Value) -> Value:
        """Softmax attention of heads, the heads side by side in the width again."""

    def sinusoids(self, timestep: Value) -> Value:
        """[cos, sin] of the timestep at 10000^(-i / 128), one token."""

    def patches(self, latents: Value) -> Value:
        """Latents to tokens, with the centre of the position table added."""

    def picture(self, tokens: Value) -> Value:
        """Tokens "(patch patch c)" to latents."""


def velocity(
    ops: Ops, config: MMDiTConfig, latents: Value, text: Value, pooled: Value, timestep: Value
) -> Value:
    """The velocity at `latents`; `timestep` is 1000 sigma, `text` and `pooled` are tokens."""
    image = ops.patches(latents)
    c = ops.add(_mlp(ops, ops.sinusoids(timestep), "t_embedder"), _mlp(ops, pooled, "y_embedder"))
    c, text = ops.silu(c), ops.linear(text, "context_embedder")
    for block in range(config.depth):
        image, text = _joint_block(ops, config, block, image, text, c)
    mod = _modulation(ops, c, "final_layer", 2)
    return ops.picture(
        ops.linear(_modulated(ops, ops.layer_norm(image), mod), "final_layer.linear")
    )


def _mlp(ops: Ops, x: Value, name: str) -> Value:
    return ops.linear(ops.silu(ops.linear(x, f"{name}.mlp.0")), f"{name}.mlp.2")


def _joint_block(
    ops: Ops, config: MMDiTConfig, block: int, image: Value, text: Value, c: Value
) -> tuple[Value, Value]:
    """Image and text after a block; the last one reads the text and leaves it as it is."""
    x, context = (f"joint_blocks.{block}.{side}_block" for side in ("x", "context"))
    last, dual = block == config.depth - 1, block < config.dual
    image_mod = _modulation(ops, c, x, 9 if dual else 6)
    text_mod = _modulation(ops, c, context, 2 if last else 6)
    normed = ops.layer_norm(image)
    of_image = _project(ops, config, normed, image_mod, f"{x}.attn")
    of_text = _project(ops, config, ops.layer_norm(text), text_mod, f"{context}.attn")
    joint = (ops.join(*pair) for pair in zip(of_text, of_image, strict=True))
    for_text, for_image = ops.apart(ops.attention(*joint))
    image = _gated(ops, image, image_mod[2], ops.linear(for_image, f"{x}.attn.proj"))
    if dual:
        own = ops.attention(*_project(ops, config, normed, image_mod[6:], f"{x}.attn2"))
        image = _gated(ops, image, image_mod[8], ops.linear(own, f"{x}.attn2.proj"))
    image = _fed(ops, image, image_mod, f"{x}.mlp")
    if last:
        return image, text
    text = _gated(ops, text, text_mod[2], ops.linear(for_text, f"{context}.attn.proj"))
    return image, _fed(ops, text, text_mod, f"{context}.mlp")


def _modulation(ops: Ops, c: Value, stream: str, count: int) -> list[Value]:
    return ops.parts(ops.linear(c, f"{stream}.adaLN_modulation.1"), count)


def _modulated(ops: Ops, normed: Value, mod: list[Value]) -> Value:
    """Adaptive layer norm by the first two of `mod`: shift and scale."""
    return ops.add(ops.multiply(normed, ops.one_plus(mod[1])), mod[0])


def _gated(ops: Ops, x: Value, gate: Value, branch: Value) -> Value:
    return ops.add(x, ops.multiply(gate, branch))


def _project(
    ops: Ops, config: MMDiTConfig, normed: Value, mod: list[Value], name: str
) -> tuple[Value, Value, Value]:
    """Queries, keys and values of a stream, heads apart."""
    fused = ops.linear(_modulated(ops, normed, mod), f"{name}.qkv")
    q, k, v = (ops.heads(part) for part in ops.parts(fused, 3))
    if config.qk_norm:
        q, k = ops.rms_norm(q, f"{name}.ln_q.weight"), ops.rms_norm(k, f"{name}.ln_k.weight")
    return q, k, v


def _fed(ops: Ops, x: Value, mod: list[Value], name: str) -> Value:
    """The stream after its MLP, by the fourth to sixth of `mod`."""
    hidden = ops.linear(_modulated(ops, ops.layer_norm(x), mod[3:]), f"{name}.fc1")
    return _gated(ops, x, mod[5], ops.linear(ops.gelu(hidden), f"{name}.fc2"))

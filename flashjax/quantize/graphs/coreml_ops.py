"""The operations of the transformer in Core ML's MIL, and its weights as MIL keeps them.

Activations are "b width 1 tokens" in float16 and every projection is a convolution of 1 x 1; norms
divide by the largest value first, because squares beyond 256 do not fit float16. Sizes are fixed.
Source: coremltools' MIL of iOS 16 / macOS 13.
"""

import math
from typing import Any

import numpy as np

from flashjax.convert.tensors import Tensors
from flashjax.models.mmdit import MMDiTConfig
from flashjax.quantize.codecs.palettes import INDICES, LUT
from flashjax.quantize.containers.packing import SCALE, WEIGHT
from flashjax.quantize.graphs.graph import EPSILON, MAX_PERIOD, TIME_WIDTH
from flashjax.quantize.policy import as_half


class CoreMLWeights:
    """SAI's tensors as constants of a MIL program."""

    def __init__(self, builder: Any, tensors: Tensors) -> None:
        self.build, self.tensors = builder, tensors

    def weight(self, name: str, shape: tuple[int, ...]) -> Any:
        """SAI's tensor `name`, packed as it is given, in float16."""
        layer, known = name.removesuffix(WEIGHT), mil_name(name)
        if layer + LUT in self.tensors:
            return self.build.constexpr_lut_to_dense(
                indices=self.tensors[layer + INDICES].reshape(-1),
                lut=self.tensors[layer + LUT],
                shape=np.array(shape, np.uint32),
                name=known,
            )
        array = self.tensors[name]
        if name.endswith(WEIGHT) and layer + SCALE in self.tensors:
            return self.build.constexpr_affine_dequantize(
                quantized_data=array.reshape(shape),
                zero_point=np.int8(0),
                scale=self.tensors[layer + SCALE].reshape(-1),
                axis=np.int32(0),
                name=known,
            )
        return self.build.const(val=as_half(array, name).reshape(shape), name=known)


class CoreMLOps(CoreMLWeights):
    """MIL's operations for `graph.velocity`; tokens are "b width 1 n", heads "b h k n"."""

    def __init__(
        self, builder: Any, tensors: Tensors, config: MMDiTConfig, *, text_tokens: int
    ) -> None:
        super().__init__(builder, tensors)
        self.config, self.text_tokens = config, text_tokens

    def linear(self, x: Any, name: str) -> Any:
        (outputs,) = self.tensors.shapes[f"{name}.bias"]
        weight = self.weight(f"{name}.weight", (outputs, x.shape[1], 1, 1))
        bias = self.weight(f"{name}.bias", (outputs,))
        return self.build.conv(x=x, weight=weight, bias=bias)

    def parts(self, x: Any, count: int) -> list[Any]:
        return self.build.split(x=x, num_splits=count, axis=1)

    def add(self, x: Any, y: Any) -> Any:
        return self.build.add(x=x, y=y)

    def multiply(self, x: Any, y: Any) -> Any:
        return self.build.mul(x=x, y=y)

    def one_plus(self, x: Any) -> Any:
        return self.build.add(x=x, y=np.float16(1))

    def silu(self, x: Any) -> Any:
        return self.build.silu(x=x)

    def gelu(self, x: Any) -> Any:
        return self.build.gelu(x=x, mode="TANH_APPROXIMATION")

    def layer_norm(self, x: Any) -> Any:
        return self.normed(x, axis=1, centred=True)

    def rms_norm(self, x: Any, name: str) -> Any:
        width = self.config.head_width
        return self.multiply(self.normed(x, axis=2), self.weight(name, (1, 1, width, 1)))

    def normed(self, x: Any, *, axis: int, centred: bool = False) -> Any:
        """x / sqrt(mean(x x) + eps) with no number beyond float16: of x over its largest value.

        The root of eps bounds that value from below, so that nothing is divided by zero.
        """
        build, floor = self.build, np.float16(math.sqrt(EPSILON))
        largest = build.reduce_max(x=build.abs(x=x), axes=[axis], keep_dims=True)
        largest = build.maximum(x=largest, y=floor)
        x = build.real_div(x=x, y=largest)
        if centred:
            x = build.sub(x=x, y=build.reduce_mean(x=x, axes=[axis], keep_dims=True))
        mean = build.reduce_mean(x=build.mul(x=x, y=x), axes=[axis], keep_dims=True)
        least = build.real_div(x=floor, y=largest)
        root = build.sqrt(x=build.add(x=mean, y=build.mul(x=least, y=least)))
        return build.real_div(x=x, y=root)

    def heads(self, x: Any) -> Any:
        shape = (x.shape[0], self.config.heads, self.config.head_width, x.shape[3])
        return self.build.reshape(x=x, shape=shape)

    def join(self, text: Any, image: Any) -> Any:
        return self.build.concat(values=[text, image], axis=3)

    def apart(self, joint: Any) -> tuple[Any, Any]:
        sizes = [self.text_tokens, joint.shape[3] - self.text_tokens]
        text, image = self.build.split(x=joint, split_sizes=sizes, axis=3)
        return text, image

    def attention(self, q: Any, k: Any, v: Any) -> Any:
        scale = np.float16(1 / math.sqrt(self.config.head_width))
        logits = self.build.matmul(x=self.build.mul(x=q, y=scale), y=k, transpose_x=True)
        weights = self.build.softmax(x=logits, axis=-1)
        mixed = self.build.matmul(x=v, y=weights, transpose_y=True)
        return self.build.reshape(x=mixed, shape=(q.shape[0], self.config.width, 1, q.shape[3]))

    def sinusoids(self, timestep: Any) -> Any:
        """In float32: a timestep of 1000 has steps of 0.5 in float16."""
        half = TIME_WIDTH // 2
        frequencies = np.exp(-math.log(MAX_PERIOD) * np.arange(half) / half).astype(np.float32)
        times = self.build.reshape(x=timestep, shape=(timestep.shape[0], 1, 1, 1))
        angles = self.build.mul(x=times, y=frequencies.reshape(1, half, 1, 1))
        both = [self.build.cos(x=angles), self.build.sin(x=angles)]
        return self.build.cast(x=self.build.concat(values=both, axis=1), dtype="fp16")

    def patches(self, latents: Any) -> Any:
        config, stem = self.config, "x_embedder.proj"
        sides = (config.patch, config.patch)
        weight = self.weight(f"{stem}.weight", (config.width, config.channels, *sides))
        bias = self.weight(f"{stem}.bias", (config.width,))
        grid = self.build.conv(x=latents, weight=weight, bias=bias, strides=sides)
        tokens = self.build.reshape(x=grid, shape=(grid.shape[0], config.width, 1, -1))
        table = as_half(self.tensors["pos_embed"][0].T, "pos_embed")
        place = self.build.const(val=table[None, :, None], name=mil_name("pos_embed"))
        return self.build.add(x=tokens, y=place)

    def picture(self, tokens: Any) -> Any:
        config, batch, count = self.config, tokens.shape[0], tokens.shape[3]
        unit = config.patch * config.patch
        cells = self.build.reshape(x=tokens, shape=(batch, unit, config.channels, count))
        turned = self.build.transpose(x=cells, perm=[0, 2, 1, 3])
        side = math.isqrt(count)
        grid = self.build.reshape(x=turned, shape=(batch, unit * config.channels, side, side))
        return self.build.pixel_shuffle(x=grid, upscale_factor=config.patch)


def mil_name(name: str) -> str:
    """SAI's name as MIL allows it."""
    return name.replace(".", "_")

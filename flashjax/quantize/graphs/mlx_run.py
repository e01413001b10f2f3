"""The transformer of an MLX file, run by MLX: nobody else's runner knows SD3.5-Medium's blocks.

Weights stay in their 8 or 6 bits; MLX multiplies by them directly.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flashjax.convert.reading import open_safetensors
from flashjax.convert.scales import dequantised
from flashjax.convert.sizes import mmdit_sizes
from flashjax.models.mmdit import MMDiTConfig
from flashjax.quantize.containers.packings import MLX_GROUP
from flashjax.quantize.graphs.graph import EPSILON, INPUTS, MAX_PERIOD, TIME_WIDTH, velocity
from flashjax.quantize.graphs.packages import package


def mlx_velocity(path: Path | str) -> Callable[..., np.ndarray]:
    """Opens a file of `--format mlx-8` or `mlx-6`.

    Returns `velocity(hidden_states, encoder_hidden_states, pooled_projections, timestep)`: float32
    arrays, channels first, as diffusers' transformer has them.
    """
    mx = package("mlx.core")
    config = mmdit_sizes(dequantised(open_safetensors(Path(path))))
    weights = mx.load(str(path))

    def run(**inputs: np.ndarray) -> np.ndarray:
        latents, text, pooled, timestep = (mx.array(inputs[name]) for name in INPUTS)
        ops = MlxOps(mx, weights, config, text_tokens=text.shape[1], shape=latents.shape)
        return np.array(velocity(ops, config, latents, text, pooled[:, None], timestep))

    return run


class MlxOps:
    """MLX's functions for `graph.velocity`; tokens are "b n d", heads "b h n k"."""

    def __init__(
        self,
        mx: Any,
        weights: dict[str, Any],
        config: MMDiTConfig,
        *,
        text_tokens: int,
        shape: tuple[int, ...],
    ) -> None:
        self.mx, self.weights, self.config = mx, weights, config
        self.text_tokens, self.shape = text_tokens, shape

    def linear(self, x: Any, name: str) -> Any:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        scales = self.weights.get(f"{name}.scales")
        if scales is None:
            return x @ weight.T + bias
        bits = 32 * weight.shape[1] // (scales.shape[1] * MLX_GROUP)
        product = self.mx.quantized_matmul(
            x, weight, scales, self.weights[f"{name}.biases"], group_size=MLX_GROUP, bits=bits
        )
        return product + bias

    def parts(self, x: Any, count: int) -> list[Any]:
        return self.mx.split(x, count, axis=-1)

    def add(self, x: Any, y: Any) -> Any:
        return x + y

    def multiply(self, x: Any, y: Any) -> Any:
        return x * y

    def one_plus(self, x: Any) -> Any:
        return 1 + x

    def silu(self, x: Any) -> Any:
        return x * self.mx.sigmoid(x)

    def gelu(self, x: Any) -> Any:
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
        return 0.5 * x * (1 + self.mx.tanh(inner))

    def layer_norm(self, x: Any) -> Any:
        return self.mx.fast.layer_norm(x, None, None, EPSILON)

    def heads(self, x: Any) -> Any:
        split = x.reshape(*x.shape[:2], self.config.heads, self.config.head_width)
        return split.transpose(0, 2, 1, 3)

    def rms_norm(self, x: Any, name: str) -> Any:
        return self.mx.fast.rms_norm(x, self.weights[name], EPSILON)

    def join(self, text: Any, image: Any) -> Any:
        return self.mx.concatenate([text, image], axis=2)

    def apart(self, joint: Any) -> tuple[Any, Any]:
        return joint[:, : self.text_tokens], joint[:, self.text_tokens :]

    def attention(self, q: Any, k: Any, v: Any) -> Any:
        scale = 1 / math.sqrt(self.config.head_width)
        mixed = self.mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)
        return mixed.transpose(0, 2, 1, 3).reshape(mixed.shape[0], -1, self.config.width)

    def sinusoids(self, timestep: Any) -> Any:
        half = TIME_WIDTH // 2
        frequencies = np.exp(-math.log(MAX_PERIOD) * np.arange(half) / half).astype(np.float32)
        angles = timestep[:, None, None] * self.mx.array(frequencies)
        return self.mx.concatenate([self.mx.cos(angles), self.mx.sin(angles)], axis=-1)

    def patches(self, latents: Any) -> Any:
        config, stem = self.config, "x_embedder.proj"
        kernel = self.weights[f"{stem}.weight"].transpose(0, 2, 3, 1)
        grid = self.mx.conv2d(latents.transpose(0, 2, 3, 1), kernel, stride=config.patch)
        _, rows, columns, _ = grid.shape
        side = config.position_size
        table = self.weights["pos_embed"].reshape(side, side, -1)
        top, left = (side - rows) // 2, (side - columns) // 2
        place = table[top : top + rows, left : left + columns]
        return (grid + self.weights[f"{stem}.bias"] + place).reshape(len(grid), -1, config.width)

    def picture(self, tokens: Any) -> Any:
        patch = self.config.patch
        batch, channels, height, width = self.shape
        cells = tokens.reshape(batch, height // patch, width // patch, patch, patch, channels)
        return cells.transpose(0, 5, 1, 3, 2, 4).reshape(self.shape)

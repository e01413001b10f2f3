"""The transformer as ONNX: its graph, built from our weights, that any size of picture fits.

Those of the blocks may be int8; ONNX Runtime keeps them so and multiplies in float32.
Source: inputs and outputs as Hugging Face's exporters call them.
"""

import math
from pathlib import Path

import numpy as np

from flashjax.convert.tensors import Info, Tensors, computed
from flashjax.models.mmdit import MMDiTConfig
from flashjax.quantize.containers.packing import SCALE
from flashjax.quantize.graphs.graph import EPSILON, INPUTS, MAX_PERIOD, OUTPUT, TIME_WIDTH, velocity
from flashjax.quantize.graphs.onnx_graph import DATA, MODEL
from flashjax.quantize.graphs.onnx_layers import OnnxLayers
from flashjax.quantize.graphs.packages import package


def write_onnx(folder: Path, tensors: Tensors, config: MMDiTConfig) -> None:
    """Writes `model.onnx` and its weights; `tensors` are SAI's, int8 where they have scales."""
    dims = (
        ("batch", config.channels, "height", "width"),
        ("batch", "tokens", config.text_width),
        ("batch", config.pooled_width),
        ("batch",),
    )
    latents, text, pooled, timestep = INPUTS
    with OnnxOps(folder, tensors, config) as graph:
        vector = graph.reshape(pooled, [0, 1, -1])
        out = velocity(graph, config, latents, text, vector, timestep)
        graph.save("MMDiT-X", dict(zip(INPUTS, dims, strict=True)), {OUTPUT: (out, dims[0])})


class OnnxOps(OnnxLayers):
    """ONNX's nodes for `graph.velocity`; tokens are "b n d", heads "b h n k"."""

    def __init__(self, folder: Path, tensors: Tensors, config: MMDiTConfig) -> None:
        super().__init__(folder, tensors)
        self.config = config

    def parts(self, x: str, count: int) -> list[str]:
        return self.node("Split", x, count=count, axis=-1, num_outputs=count)

    def one_plus(self, x: str) -> str:
        return self.node("Add", x, self.constant(1, np.float32))

    def gelu(self, x: str) -> str:
        return self.node("Gelu", x, approximate="tanh")

    def layer_norm(self, x: str) -> str:
        ones = self.constant(np.ones(self.config.width), np.float32)
        return self.node("LayerNormalization", x, ones, axis=-1, epsilon=EPSILON)

    def heads(self, x: str) -> str:
        return self.as_heads(x, self.config.heads)

    def rms_norm(self, x: str, name: str) -> str:
        return self.scaled_norm(x, name, epsilon=EPSILON)

    def join(self, text: str, image: str) -> str:
        return self.node("Concat", text, image, axis=2)

    def apart(self, joint: str) -> tuple[str, str]:
        length = self.size_of(INPUTS[1], 1)
        return (
            self.sliced(joint, self.constant([0]), length, axis=1),
            self.sliced(joint, length, self.constant([np.iinfo(np.int64).max]), axis=1),
        )

    def attention(self, q: str, k: str, v: str) -> str:
        return self.mixed(q, k, v, scale=1 / math.sqrt(self.config.head_width))

    def sinusoids(self, timestep: str) -> str:
        half = TIME_WIDTH // 2
        frequencies = np.exp(-math.log(MAX_PERIOD) * np.arange(half) / half)
        times = self.reshape(timestep, [-1, 1, 1])
        angles = self.node("Mul", times, self.constant(frequencies, np.float32))
        return self.node("Concat", self.node("Cos", angles), self.node("Sin", angles), axis=-1)

    def patches(self, latents: str) -> str:
        config, stem = self.config, "x_embedder.proj"
        sides = [config.patch, config.patch]
        weight, bias = self.weight(f"{stem}.weight"), self.weight(f"{stem}.bias")
        grid = self.node("Conv", latents, weight, bias, kernel_shape=sides, strides=sides)
        flat = self.reshape(grid, [0, config.width, -1])
        tokens = self.node("Transpose", flat, perm=[0, 2, 1])
        side = config.position_size
        table = self.reshape(self.weight("pos_embed"), [side, side, config.width])
        for axis in (0, 1):
            count = self.size_of(grid, 2 + axis)
            rest = self.node("Sub", self.constant([side]), count)
            first = self.node("Div", rest, self.constant([2]))
            table = self.sliced(table, first, self.node("Add", first, count), axis=axis)
        return self.node("Add", tokens, self.reshape(table, [1, -1, config.width]))

    def picture(self, tokens: str) -> str:
        patch, channels = self.config.patch, self.config.channels
        unit = self.constant([patch])
        height, width = (self.size_of(INPUTS[0], axis) for axis in (2, 3))
        rows, columns = (self.node("Div", side, unit) for side in (height, width))
        sizes = self.constant([patch, patch, channels])
        batch = self.constant([-1])
        grid = self.node("Concat", batch, rows, columns, sizes, axis=0)
        turned = self.node("Transpose", self.node("Reshape", tokens, grid), perm=[0, 5, 1, 3, 2, 4])
        shape = self.node("Concat", batch, self.constant([channels]), height, width, axis=0)
        return self.node("Reshape", turned, shape)


def open_onnx(folder: Path, config: MMDiTConfig) -> Tensors:
    """The tensors of a file that `write_onnx` wrote, under SAI's names, as they are stored."""
    del config
    onnx = package("onnx")
    graph = onnx.load(folder / MODEL, load_external_data=False).graph
    protos = {proto.name: proto for proto in graph.initializer if proto.external_data}
    turned = {node.input[1] for node in graph.node if node.op_type == "MatMul"}
    sources = {node.output[0]: node.input[0] for node in graph.node}
    matrices = {sources.get(name, name) for name in turned}
    infos = {}
    for name, proto in protos.items():
        shape = tuple(proto.dims)
        shape = shape[::-1] if name in matrices else shape
        shape = (*shape, 1) if name.endswith(SCALE) else shape
        infos[name] = Info(shape, onnx.helper.tensor_dtype_to_np_dtype(proto.data_type))

    def read(name: str) -> np.ndarray:
        place = {entry.key: entry.value for entry in protos[name].external_data}
        stored = np.memmap(
            folder / DATA, infos[name].dtype, "r", int(place["offset"]), tuple(protos[name].dims)
        )
        return np.asarray(stored.T if name in matrices else stored).reshape(infos[name].shape)

    return computed(str(folder / MODEL), infos, read)

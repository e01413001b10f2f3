"""The transformer as ONNX: its graph, built from our weights, that any size of picture fits.

Weights lie in a file of their own, so that no size is too large for it. Those of the blocks are
int8 with one scale for each output; ONNX Runtime keeps them so and multiplies in float32.
Source: ONNX operators, opset 21; inputs and outputs as Hugging Face's exporters call them.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flashjax.convert.tensors import Info, Tensors, computed
from flashjax.models.mmdit import MMDiTConfig
from flashjax.quantize.graph import EPSILON, INPUTS, MAX_PERIOD, OUTPUT, TIME_WIDTH, velocity
from flashjax.quantize.packages import package
from flashjax.quantize.packing import SCALE, WEIGHT

MODEL, DATA = "model.onnx", "model.onnx_data"
OPSET, IR_VERSION = 21, 10
ALIGNMENT = 4096  # of tensors in the file of weights: a page, so that runtimes may map it


def write_onnx(folder: Path, tensors: Tensors, config: MMDiTConfig) -> None:
    """Writes `model.onnx` and its weights; `tensors` are SAI's, int8 where they have scales."""
    onnx = package("onnx")
    with (folder / DATA).open("wb") as data:
        graph = OnnxOps(tensors, config, data)
        latents, text, pooled, timestep = INPUTS
        pooled = graph.reshape(pooled, [0, 1, -1])
        out = velocity(graph, config, latents, text, pooled, timestep)
        graph.node("Identity", out, output=OUTPUT)
    shapes: Mapping[str, list[str | int]] = dict(
        zip(
            INPUTS,
            (
                ["batch", config.channels, "height", "width"],
                ["batch", "tokens", config.text_width],
                ["batch", config.pooled_width],
                ["batch"],
            ),
            strict=True,
        )
    )
    float32 = onnx.TensorProto.FLOAT
    info = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_graph(
        graph.nodes,
        "MMDiT-X",
        [info(name, float32, shape) for name, shape in shapes.items()],
        [info(OUTPUT, float32, shapes[latents])],
        graph.initializers,
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(
        made, opset_imports=[opset], ir_version=IR_VERSION, producer_name="flashjax"
    )
    onnx.save(model, folder / MODEL)
    onnx.checker.check_model(folder / MODEL, full_check=True)


class OnnxOps:
    """ONNX's nodes for `graph.velocity`; a value is the name of an edge, tokens are "b n d"."""

    def __init__(self, tensors: Tensors, config: MMDiTConfig, data: BinaryIO) -> None:
        self.onnx = package("onnx")
        self.tensors, self.config, self.data = tensors, config, data
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.known: dict[str, str] = {}  # constants and weights that are there already

    # The graph itself.

    def node(self, kind: str, *inputs: str, output: str = "", count: int = 1, **attributes) -> Any:
        """A node; returns its output, or the list of its `count` outputs."""
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        outputs = [name] if count == 1 else [f"{name}_{part}" for part in range(count)]
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, outputs, name, **attributes))
        return name if count == 1 else outputs

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """A small constant, kept in the graph."""
        array = np.asarray(value, dtype)
        name = f"constant_{array.dtype}_{'x'.join(map(str, array.shape))}_{array.tobytes().hex()}"
        if len(name) > 120:
            name = f"constant_{len(self.initializers)}"
        if name not in self.known:
            self.initializers.append(self.onnx.numpy_helper.from_array(array, name))
            self.known[name] = name
        return name

    def stored(self, name: str, array: np.ndarray) -> str:
        """A tensor in the file of weights."""
        array = np.ascontiguousarray(array)
        self.data.write(b"\0" * (-self.data.tell() % ALIGNMENT))
        proto = self.onnx.TensorProto(
            name=name,
            data_type=self.onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=self.onnx.TensorProto.EXTERNAL,
        )
        place = {"location": DATA, "offset": self.data.tell(), "length": array.nbytes}
        for key, value in place.items():
            proto.external_data.add(key=key, value=str(value))
        self.data.write(array.tobytes())
        self.initializers.append(proto)
        return name

    def weight(self, name: str, *, transposed: bool = False) -> str:
        """SAI's tensor `name` as float32: int8 with scales, 16 bits, or vectors in float32."""
        array = self.tensors[name]
        array = array.T if transposed else array
        scale = name.removesuffix(WEIGHT) + SCALE
        if name.endswith(WEIGHT) and scale in self.tensors:
            codes = self.stored(name, array)
            scales = self.stored(scale, self.tensors[scale].reshape(-1))
            return self.node("DequantizeLinear", codes, scales, axis=1 if transposed else 0)
        if array.ndim == 1:
            return self.stored(name, array.astype(np.float32))
        half = self.stored(name, array.astype(np.float16))
        return self.node("Cast", half, to=self.onnx.TensorProto.FLOAT)

    def reshape(self, x: str, shape: list[int]) -> str:
        """0 keeps a dim, -1 takes what is left."""
        return self.node("Reshape", x, self.constant(shape))

    # What the model asks for.

    def linear(self, x: str, name: str) -> str:
        product = self.node("MatMul", x, self.weight(f"{name}.weight", transposed=True))
        return self.node("Add", product, self.weight(f"{name}.bias"))

    def parts(self, x: str, count: int) -> list[str]:
        return self.node("Split", x, count=count, axis=-1, num_outputs=count)

    def add(self, x: str, y: str) -> str:
        return self.node("Add", x, y)

    def multiply(self, x: str, y: str) -> str:
        return self.node("Mul", x, y)

    def one_plus(self, x: str) -> str:
        return self.node("Add", x, self.constant(1, np.float32))

    def silu(self, x: str) -> str:
        return self.node("Mul", x, self.node("Sigmoid", x))

    def gelu(self, x: str) -> str:
        return self.node("Gelu", x, approximate="tanh")

    def layer_norm(self, x: str) -> str:
        ones = self.constant(np.ones(self.config.width), np.float32)
        return self.node("LayerNormalization", x, ones, axis=-1, epsilon=EPSILON)

    def heads(self, x: str) -> str:
        split = self.reshape(x, [0, 0, self.config.heads, self.config.head_width])
        return self.node("Transpose", split, perm=[0, 2, 1, 3])

    def rms_norm(self, x: str, name: str) -> str:
        square = self.node("Mul", x, x)
        mean = self.node("ReduceMean", square, self.constant([-1]), keepdims=1)
        root = self.node("Sqrt", self.node("Add", mean, self.constant(EPSILON, np.float32)))
        return self.node("Mul", self.node("Div", x, root), self.weight(name))

    def join(self, text: str, image: str) -> str:
        return self.node("Concat", text, image, axis=2)

    def apart(self, joint: str) -> tuple[str, str]:
        length = self.size_of(INPUTS[1], 1)
        return (
            self.sliced(joint, self.constant([0]), length, axis=1),
            self.sliced(joint, length, self.constant([np.iinfo(np.int64).max]), axis=1),
        )

    def attention(self, q: str, k: str, v: str) -> str:
        scale = self.constant(1 / math.sqrt(self.config.head_width), np.float32)
        turned = self.node("Transpose", k, perm=[0, 1, 3, 2])
        logits = self.node("MatMul", self.node("Mul", q, scale), turned)
        mixed = self.node("MatMul", self.node("Softmax", logits, axis=-1), v)
        return self.reshape(self.node("Transpose", mixed, perm=[0, 2, 1, 3]), [0, 0, -1])

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

    def size_of(self, x: str, axis: int) -> str:
        """The size of a dim as a vector of one number."""
        key = f"{x}:{axis}"
        if key not in self.known:
            self.known[key] = self.node("Shape", x, start=axis, end=axis + 1)
        return self.known[key]

    def sliced(self, x: str, start: str, stop: str, *, axis: int) -> str:
        """The elements from `start` to `stop` of a dim."""
        return self.node("Slice", x, start, stop, self.constant([axis]))


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

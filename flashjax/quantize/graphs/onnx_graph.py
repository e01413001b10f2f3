"""ONNX models as files: nodes, and weights that lie in a file of their own, of any size.

Matrices are int8 with one scale for each output where they are given so, else 16 bits; all is
computed in float32.
Source: ONNX operators, opset 21.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np

from flashjax.convert.tensors import Tensors
from flashjax.quantize.containers.packing import SCALE, WEIGHT
from flashjax.quantize.graphs.packages import package
from flashjax.quantize.policy import as_half

MODEL, DATA = "model.onnx", "model.onnx_data"
OPSET, IR_VERSION = 21, 10
ALIGNMENT = 4096  # of tensors in the file of weights: a page, so that runtimes may map it

IDS = "input_ids"  # of tokens, as Hugging Face's exporters call them

Dims: TypeAlias = Sequence[str | int]  # of an input or output: a name where any size fits


class OnnxGraph:
    """The nodes and weights of one model in `folder`; a value is the name of an edge.

    `tensors` are read when they are asked for. It is left as a context, once it is saved.
    """

    def __init__(self, folder: Path, tensors: Tensors) -> None:
        self.onnx = package("onnx")
        self.folder, self.tensors = folder, tensors
        folder.mkdir(parents=True, exist_ok=True)
        self.data = (folder / DATA).open("wb")
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.known: dict[str, str] = {}  # constants and sizes that are there already

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.data.close()

    def save(
        self, title: str, inputs: Mapping[str, Dims], outputs: Mapping[str, tuple[str, Dims]]
    ) -> None:
        """Writes the model and has it checked; `outputs` are edges, named.

        All are float32, but token ids are int64.
        """
        helper, proto = self.onnx.helper, self.onnx.TensorProto
        for name, (edge, _) in outputs.items():
            self.node("Identity", edge, output=name)
        given = [
            helper.make_tensor_value_info(
                name, proto.INT64 if name == IDS else proto.FLOAT, list(dims)
            )
            for name, dims in inputs.items()
        ]
        made = [
            helper.make_tensor_value_info(name, proto.FLOAT, list(dims))
            for name, (_, dims) in outputs.items()
        ]
        model = helper.make_model(
            helper.make_graph(self.nodes, title, given, made, self.initializers),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="flashjax",
        )
        self.data.flush()
        self.onnx.save(model, self.folder / MODEL)
        self.onnx.checker.check_model(self.folder / MODEL, full_check=True)

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
        """The tensor `name` as float32: int8 with scales, 16 bits, or vectors in float32."""
        array = self.tensors[name]
        array = array.T if transposed else array
        scale = name.removesuffix(WEIGHT) + SCALE
        if name.endswith(WEIGHT) and scale in self.tensors:
            codes = self.stored(name, array)
            scales = self.stored(scale, self.tensors[scale].reshape(-1))
            return self.node("DequantizeLinear", codes, scales, axis=1 if transposed else 0)
        if array.ndim == 1:
            return self.stored(name, array.astype(np.float32))
        half = self.stored(name, as_half(array, name))
        return self.node("Cast", half, to=self.onnx.TensorProto.FLOAT)

    def reshape(self, x: str, shape: list[int]) -> str:
        """0 keeps a dim, -1 takes what is left."""
        return self.node("Reshape", x, self.constant(shape))

    def size_of(self, x: str, axis: int) -> str:
        """The size of a dim as a vector of one number."""
        key = f"{x}:{axis}"
        if key not in self.known:
            self.known[key] = self.node("Shape", x, start=axis, end=axis + 1)
        return self.known[key]

    def sliced(self, x: str, start: str, stop: str, *, axis: int) -> str:
        """The elements from `start` to `stop` of a dim."""
        return self.node("Slice", x, start, stop, self.constant([axis]))

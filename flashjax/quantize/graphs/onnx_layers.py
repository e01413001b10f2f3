"""Layers of networks as ONNX nodes: projections, norms, attention, tables.

Tokens are "b n d", heads "b h n k". Source: ONNX operators, opset 21.
"""

import numpy as np

from flashjax.quantize.graphs.onnx_graph import OnnxGraph
from flashjax.quantize.policy import as_half


class OnnxLayers(OnnxGraph):
    """A graph that is built layer by layer, each under the name of its weights."""

    def linear(self, x: str, name: str) -> str:
        """The projection `name` of the last dim, with its bias if it has one."""
        product = self.node("MatMul", x, self.weight(f"{name}.weight", transposed=True))
        bias = f"{name}.bias"
        return self.node("Add", product, self.weight(bias)) if bias in self.tensors else product

    def add(self, x: str, y: str) -> str:
        return self.node("Add", x, y)

    def multiply(self, x: str, y: str) -> str:
        return self.node("Mul", x, y)

    def silu(self, x: str) -> str:
        return self.node("Mul", x, self.node("Sigmoid", x))

    def scaled_norm(self, x: str, name: str, *, epsilon: float) -> str:
        """Over the last dim, scaled by the weight `name`."""
        square = self.node("Mul", x, x)
        mean = self.node("ReduceMean", square, self.constant([-1]), keepdims=1)
        root = self.node("Sqrt", self.node("Add", mean, self.constant(epsilon, np.float32)))
        return self.node("Mul", self.node("Div", x, root), self.weight(name))

    def as_heads(self, x: str, count: int) -> str:
        """Tokens "b n d" as heads "b h n k"."""
        return self.node("Transpose", self.reshape(x, [0, 0, count, -1]), perm=[0, 2, 1, 3])

    def mixed(self, q: str, k: str, v: str, *, scale: float, bias: str = "") -> str:
        """Softmax attention of heads, `bias` added to the logits -> tokens "b n d"."""
        turned = self.node("Transpose", k, perm=[0, 1, 3, 2])
        scaled = q if scale == 1 else self.node("Mul", q, self.constant(scale, np.float32))
        logits = self.node("MatMul", scaled, turned)
        logits = self.node("Add", logits, bias) if bias else logits
        summed = self.node("MatMul", self.node("Softmax", logits, axis=-1), v)
        return self.reshape(self.node("Transpose", summed, perm=[0, 2, 1, 3]), [0, 0, -1])

    def embedded(self, ids: str, name: str) -> str:
        """Rows of the table `name`, which stays in 16 bits."""
        table = self.stored(name, as_half(self.tensors[name], name))
        return self.node("Cast", self.node("Gather", table, ids), to=self.onnx.TensorProto.FLOAT)

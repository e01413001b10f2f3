"""Core ML's package of a tiny transformer: read back on any system, and computed with numpy.

No system but Apple's runs a package: numpy does here what each of its operations is said to do.
"""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from flashjax.convert.sizes import mmdit_sizes
from flashjax.convert.tensors import in_memory
from flashjax.convert.transformer import abstract_transformer, transformer_from, transformer_to
from flashjax.models.mmdit import MMDiT, MMDiTConfig, velocity_of
from flashjax.quantize.formats import Model, open_format, write_format
from flashjax.quantize.graphs.coreml import BATCH, INPUTS, OUTPUT, TOKENS, open_program
from flashjax.types import Cond

CONFIG = MMDiTConfig(
    depth=2, heads=4, dual=1, position_size=8, text_width=64, pooled_width=64, head_width=64
)
NAMES = ("coreml-fp16", "coreml-int8", "coreml-lut6")
SIDE = 8  # of the latents: half of what the position table has room for


@pytest.fixture(scope="module")
def model(random_params) -> Model:
    params = random_params(abstract_transformer(CONFIG))
    return Model(transformer_to(params, CONFIG, "sai"), CONFIG, "tiny", sample_size=SIDE)


@pytest.fixture(scope="module")
def written(model, tmp_path_factory: pytest.TempPathFactory):
    """The path of a format, written once."""
    pytest.importorskip("coremltools")
    folder, paths = tmp_path_factory.mktemp("formats"), {}

    def path_of(name: str) -> Path:
        if name not in paths:
            paths[name] = write_format(name, model, folder)
        return paths[name]

    return path_of


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    shapes = ((BATCH, 16, SIDE, SIDE), (BATCH, 64, 1, TOKENS), (BATCH, 64, 1, 1))
    latents, text, pooled = (random.normal(size=shape).astype(np.float32) for shape in shapes)
    times = np.linspace(900, 300, BATCH, dtype=np.float32)
    return dict(zip(INPUTS, (latents, times, text, pooled), strict=True))


def ours(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Our velocity, channels first, of the tensors that a package stands for."""
    tensors = open_format(path, CONFIG)
    config = mmdit_sizes(tensors)
    params = transformer_from(tensors, config, "sai")
    latents, times, text, pooled = (inputs[name] for name in INPUTS)
    cond = Cond(text[:, :, 0].transpose(0, 2, 1), pooled[:, :, 0, 0])
    velocity = jax.jit(velocity_of(MMDiT(config)))
    out = velocity(params, latents.transpose(0, 2, 3, 1), times / 1000, cond)
    return np.asarray(out).transpose(0, 3, 1, 2)


def snr_db(clean: np.ndarray, other: np.ndarray) -> float:
    error = np.asarray(other, np.float64) - clean
    return 10 * math.log10(np.square(clean).sum() / np.square(error).sum())


def conv(x, weight, bias, strides, **_: Any) -> np.ndarray:
    outputs, _, height, width = weight.shape
    assert (height, width) == tuple(strides)
    batch, channels, rows, columns = x.shape
    cells = x.reshape(batch, channels, rows // height, height, columns // width, width)
    return np.einsum("bcihjw,ochw->boij", cells, weight) + bias.reshape(outputs, 1, 1)


def split(x, axis, num_splits=None, split_sizes=None) -> list[np.ndarray]:
    return np.split(x, np.cumsum(split_sizes)[:-1] if num_splits is None else num_splits, axis)


def matmul(x, y, transpose_x, transpose_y) -> np.ndarray:
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def softmax(x, axis) -> np.ndarray:
    power = np.exp(x - x.max(axis, keepdims=True))
    return power / power.sum(axis, keepdims=True)


def gelu(x, mode) -> np.ndarray:
    assert mode == "TANH_APPROXIMATION"
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def pixel_shuffle(x, upscale_factor) -> np.ndarray:
    batch, channels, rows, columns = x.shape
    unit = upscale_factor
    cells = x.reshape(batch, channels // unit**2, unit, unit, rows, columns)
    shape = (batch, channels // unit**2, rows * unit, columns * unit)
    return cells.transpose(0, 1, 4, 2, 5, 3).reshape(shape)


MEANING = {
    "conv": conv,
    "split": split,
    "matmul": matmul,
    "softmax": softmax,
    "gelu": gelu,
    "pixel_shuffle": pixel_shuffle,
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "real_div": lambda x, y: x / y,
    "maximum": lambda x, y: np.maximum(x, y),
    "abs": lambda x: np.abs(x),
    "sqrt": lambda x: np.sqrt(x),
    "cos": lambda x: np.cos(x),
    "sin": lambda x: np.sin(x),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "reduce_max": lambda x, axes, keep_dims: x.max(tuple(axes), keepdims=bool(keep_dims)),
    "reduce_mean": lambda x, axes, keep_dims: x.mean(tuple(axes), keepdims=bool(keep_dims)),
    "reshape": lambda x, shape: x.reshape(shape),
    "transpose": lambda x, perm: x.transpose(perm),
    "concat": lambda values, axis, interleave: np.concatenate(values, axis),
}


def computed(path: Path, inputs: dict[str, np.ndarray], *, half: bool) -> dict[str, np.ndarray]:
    """Every value of a package's program; in the types it names, or all in float32."""
    values: dict[str, np.ndarray] = dict(inputs)

    def value(var: Any) -> Any:
        if isinstance(var, list | tuple):
            return [value(one) for one in var]
        found = values.get(var.name, var.val)
        wide = isinstance(found, np.ndarray | np.generic) and found.dtype == np.float16
        return found.astype(np.float32) if wide and not half else found

    for op in open_program(path):
        given = {name: value(var) for name, var in op.inputs.items() if var is not None}
        if op.op_type == "const":
            continue
        if op.op_type.startswith("constexpr"):
            out = op.materialized_val_inference()
        elif op.op_type == "cast":
            out = given["x"].astype({"fp16": np.float16, "fp32": np.float32}[given["dtype"]])
            out = out if half else given["x"]
        else:
            out = MEANING[op.op_type](**given)
        outs = out if isinstance(out, list) else [out]
        for var, array in zip(op.outputs, outs, strict=True):
            assert array.shape == tuple(var.shape)
            values[var.name] = array
    return values


@pytest.mark.parametrize("name", NAMES)
def test_the_package_computes_what_we_do(name: str, written, inputs) -> None:
    path = written(name)
    theirs = computed(path, inputs, half=False)[OUTPUT]
    assert snr_db(ours(path, inputs), theirs) > 90


def test_the_package_computes_in_float16_what_we_do_in_float32(written, inputs) -> None:
    path = written("coreml-fp16")
    assert snr_db(ours(path, inputs), computed(path, inputs, half=True)[OUTPUT]) > 45


def test_norms_are_right_where_squares_exceed_float16(written, model, inputs, tmp_path) -> None:
    """Activations in the thousands, as SD3.5 has them: their squares are infinite in float16."""
    large = {name: np.array(model.tensors[name]) for name in model.tensors}
    large["x_embedder.proj.weight"] *= 1000
    path = write_format(
        "coreml-fp16", Model(in_memory(large), CONFIG, "large", sample_size=SIDE), tmp_path
    )
    values = computed(path, inputs, half=True)
    assert max(np.abs(array).max() for array in values.values() if array.dtype == np.float16) > 1000
    assert snr_db(ours(path, inputs), values[OUTPUT]) > 40


def test_projections_are_convolutions_of_1x1_and_activations_float16(written) -> None:
    """The neural engine's form: "b width 1 tokens", no linear layer, four dims at the most."""
    from coremltools.converters.mil.mil import types

    ops = open_program(written("coreml-lut6"))
    kinds = {op.op_type for op in ops}
    assert kinds - {"const", "cast", "constexpr_lut_to_dense"} == set(MEANING)
    kernels = [op.weight.shape[2:] for op in ops if op.op_type == "conv"]
    assert sorted(set(kernels)) == [(1, 1), (2, 2)] and kernels.count((2, 2)) == 1
    wide = {
        op.op_type
        for op in ops
        for var in op.outputs
        if types.builtin_to_string(var.dtype) == "fp32"
    }
    assert wide == {"const", "cast", "reshape", "mul", "cos", "sin", "concat"}  # of timesteps
    assert max(len(var.shape) for op in ops for var in op.outputs if op.op_type != "const") == 4


def test_writing_a_package_says_nothing(model, tmp_path, capfd) -> None:
    """Apple's converter draws a bar for each round of passes, and warns of what is absent."""
    pytest.importorskip("coremltools")
    for name in NAMES:
        write_format(name, model, tmp_path)
    assert capfd.readouterr() == ("", "")

"""The tiny transformer as ONNX, OpenVINO's IR and Core ML's package, run by whoever can run it."""

import dataclasses
import math
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from flashjax.convert.sizes import mmdit_sizes
from flashjax.convert.tensors import shapes_only
from flashjax.convert.transformer import abstract_transformer, transformer_from, transformer_to
from flashjax.models.mmdit import MMDiT, MMDiTConfig, velocity_of
from flashjax.quantize.formats import Model, of_block, open_format, write_format
from flashjax.quantize.graphs.exchange import write_exchange
from flashjax.quantize.graphs.graph import INPUTS
from flashjax.quantize.graphs.mlx_run import mlx_velocity
from flashjax.types import Cond, InputError

CONFIG = MMDiTConfig(
    depth=2, heads=4, dual=1, position_size=8, text_width=64, pooled_width=64, head_width=64
)


@pytest.fixture(scope="module")
def model(random_params) -> Model:
    params = random_params(abstract_transformer(CONFIG))
    return Model(transformer_to(params, CONFIG, "sai"), CONFIG, "tiny", sample_size=8)


@pytest.fixture(scope="module")
def written(model, tmp_path_factory: pytest.TempPathFactory):
    """The path of a format, written once."""
    folder, paths = tmp_path_factory.mktemp("formats"), {}

    def path_of(name: str) -> Path:
        if name not in paths:
            paths[name] = write_format(name, model, folder)
        return paths[name]

    return path_of


def inputs(height: int, width: int, tokens: int, batch: int = 2) -> dict[str, np.ndarray]:
    """As runtimes take them: channels first, timesteps."""
    random = np.random.default_rng(1)
    shapes = ((batch, 16, height, width), (batch, tokens, 64), (batch, 64))
    arrays = [random.normal(size=shape).astype(np.float32) for shape in shapes]
    return dict(zip(INPUTS, [*arrays, np.linspace(900, 300, batch, dtype=np.float32)], strict=True))


def ours(path: Path, given: dict[str, np.ndarray]) -> np.ndarray:
    """Our velocity, channels first, of the tensors that a format stands for."""
    tensors = open_format(path, CONFIG)
    config = mmdit_sizes(tensors)
    params = transformer_from(tensors, config, "sai")
    x, text, pooled, timestep = (given[name] for name in INPUTS)
    velocity = jax.jit(velocity_of(MMDiT(config)))
    out = velocity(params, x.transpose(0, 2, 3, 1), timestep / 1000, Cond(text, pooled))
    return np.asarray(out).transpose(0, 3, 1, 2)


def snr_db(clean: np.ndarray, other: np.ndarray) -> float:
    error = np.asarray(other, np.float64) - clean
    return 10 * math.log10(np.square(clean).sum() / np.square(error).sum())


SIZES = [(8, 8, 5), (4, 8, 7)]


def onnx_velocity(path: Path, **settings: str):
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    for key, value in settings.items():
        options.add_session_config_entry(f"session.{key}", value)
    session = runtime.InferenceSession(path / "model.onnx", options)
    return lambda given: session.run(None, given)[0]


def openvino_velocity(path: Path, **settings: str):
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().compile_model(path / "openvino_model.xml", "CPU", settings)
    return lambda given: model(given)[0]


IN_FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


@pytest.mark.parametrize("name", ["onnx-fp16", "onnx-int8"])
def test_onnx_runtime_computes_what_we_do_for_any_size(name: str, written) -> None:
    theirs = onnx_velocity(written(name), qdq_matmulnbits_accuracy_level="1")  # float32 activations
    for given in (inputs(8, 8, 5), inputs(4, 8, 7, batch=1)):
        assert snr_db(ours(written(name), given), theirs(given)) > 90


@pytest.mark.parametrize("name", ["openvino-fp16", "openvino-int8"])
def test_openvino_computes_what_we_do_for_any_size(name: str, written) -> None:
    theirs = openvino_velocity(written(name), **IN_FLOAT32)
    for given in (inputs(8, 8, 5), inputs(4, 8, 7, batch=1)):
        assert snr_db(ours(written(name), given), theirs(given)) > 90


def test_activations_of_8_bits_stay_near(written) -> None:
    """Both runtimes round activations too unless told otherwise."""
    given = inputs(8, 8, 5)
    theirs = onnx_velocity(written("onnx-int8"))(given)
    assert snr_db(ours(written("onnx-int8"), given), theirs) > 30
    theirs = openvino_velocity(written("openvino-int8"), INFERENCE_PRECISION_HINT="f32")(given)
    assert snr_db(ours(written("openvino-int8"), given), theirs) > 30


def test_a_missing_package_is_one_line(model, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match="needs the package onnx: pip install onnx"):
        write_format("onnx-int8", model, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mlx-8", "mlx-6"])
def test_mlx_computes_what_we_do_for_any_size(name: str, written) -> None:
    pytest.importorskip("mlx")
    theirs = mlx_velocity(written(name))
    for given in (inputs(8, 8, 5), inputs(4, 8, 7, batch=1)):
        assert snr_db(ours(written(name), given), theirs(**given)) > 90


@pytest.mark.parametrize(
    ("table", "size", "message"),
    [
        (
            8,
            10,
            "5 patches a side, no centre of a table of 8: give --position an even number up to 5",
        ),
        (
            7,
            16,
            "8 patches a side, no centre of a table of 7: give --position an odd number up to 7",
        ),
    ],
)
def test_a_size_that_a_table_has_no_centre_of_is_refused_by_its_format(
    table: int, size: int, message: str, tmp_path: Path
) -> None:
    """Nobody has given `--position`: it is what mends it."""
    config = dataclasses.replace(CONFIG, position_size=table)
    tensors = shapes_only({})
    with pytest.raises(
        InputError, match=f"--format coreml-int8 has one size of pictures, {message}"
    ):
        write_exchange(
            "coreml-int8", tmp_path, tensors, config, sample_size=size, chosen=of_block("sai")
        )

"""The transformer as a Core ML package, in the form that the neural engine runs. Sizes are fixed.

Source: apple/ml-stable-diffusion, whose Swift pipeline for SD3 gives these inputs.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from flashjax.convert.tensors import Tensors, in_memory
from flashjax.convert.transformer import transformer_rows
from flashjax.models.mmdit import MMDiTConfig
from flashjax.quantize.codecs.palettes import INDICES, LUT
from flashjax.quantize.containers.packing import SCALE, WEIGHT
from flashjax.quantize.graphs.coreml_ops import CoreMLOps, mil_name
from flashjax.quantize.graphs.graph import velocity
from flashjax.quantize.graphs.packages import package, quiet, without_bars

INPUTS = (
    "latent_image_embeddings",
    "timestep",
    "token_level_text_embeddings",
    "pooled_text_embeddings",
)
OUTPUT = "denoiser_output"
MANIFEST = "Manifest.json"  # that every mlpackage has
BATCH = 2  # of Apple's pipeline, which always brings a negative prompt
TOKENS = 154  # of text, in Apple's pipeline: 77 of CLIP, 77 of T5


def write_coreml(
    path: Path,
    tensors: Tensors,
    config: MMDiTConfig,
    *,
    batch: int = BATCH,
    tokens: int = TOKENS,
) -> None:
    """Writes an mlpackage; `tensors` are SAI's, packed or not, the position table cropped to size.

    Pictures have as many patches as the table. It can be written and read on any system, and runs
    on Apple's alone.
    """
    ct, mil = package("coremltools"), package("coremltools.converters.mil")
    side = config.patch * math.isqrt(tensors.shapes["pos_embed"][1])
    shapes = (
        (batch, config.channels, side, side),
        (batch,),
        (batch, config.text_width, 1, tokens),
        (batch, config.pooled_width, 1, 1),
    )
    specs = [mil.Builder.TensorSpec(shape, dtype=mil.mil.types.fp32) for shape in shapes]

    @mil.Builder.program(input_specs=specs, opset_version=ct.target.iOS16)
    def program(
        latent_image_embeddings: Any,
        timestep: Any,
        token_level_text_embeddings: Any,
        pooled_text_embeddings: Any,
    ) -> Any:
        ops = CoreMLOps(mil.Builder, tensors, config, text_tokens=tokens)
        latents, text, pooled = (
            ops.build.cast(x=x, dtype="fp16")
            for x in (latent_image_embeddings, token_level_text_embeddings, pooled_text_embeddings)
        )
        out = velocity(ops, config, latents, text, pooled, timestep)
        return ops.build.cast(x=out, dtype="fp32", name=OUTPUT)

    passes = package("coremltools.converters.mil.mil.passes.pass_pipeline")
    with quiet(), without_bars(passes):
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS16,
            compute_precision=ct.precision.FLOAT32,  # as built: float16 wherever it is safe
            pass_pipeline=ct.PassPipeline.EMPTY,  # others would merge equal weights
            skip_model_load=True,
        )
    model.short_description = "MMDiT-X: velocity of latents, quantized by flashjax"
    model.save(str(path))


def open_coreml(path: Path, config: MMDiTConfig) -> Tensors:
    """The tensors of a package that `write_coreml` wrote, under SAI's names, as they are stored."""
    stored = {var.name: var for op in open_program(path) for var in op.outputs}
    arrays: dict[str, np.ndarray] = {}
    for row in transformer_rows(config, "sai"):
        (name,) = row.keys
        var, layer = stored[mil_name(name)], name.removesuffix(WEIGHT)
        if var.op.op_type == "constexpr_lut_to_dense":
            arrays[layer + INDICES] = var.op.indices.val.reshape(row.shape[0], -1)
            arrays[layer + LUT] = var.op.lut.val
        elif var.op.op_type == "constexpr_affine_dequantize":
            arrays[name] = var.op.quantized_data.val.reshape(row.shape)
            arrays[layer + SCALE] = var.op.scale.val[:, None]
        elif name == "pos_embed":
            arrays[name] = var.val[0, :, 0].T[None]
        else:
            arrays[name] = var.val.reshape(row.shape)
    return in_memory(arrays, str(path))


def open_program(path: Path) -> list[Any]:
    """The operations of a package, in order, with their weights."""
    ct, proto = package("coremltools"), package("coremltools.converters.mil.frontend.milproto.load")
    model = ct.models.MLModel(str(path), skip_model_load=True)
    spec = model.get_spec()
    program = proto.load(spec, spec.specificationVersion, model.weights_dir)
    return list(program.functions["main"].operations)

"""The flags of what takes any checkpoint."""

import argparse

GRIDS = ("sampler", "student")
SOLVERS = ("euler", "dpmpp_2m")
COMPUTED = ("float32", "bfloat16")
WRITTEN = ("float16", "bfloat16", "float32")
AXES = "steps, guidance_scale, solver, grid, seed, skip_layers"
GUIDED = "acts with guidance"
FORMATS = (
    "gguf-f16, gguf-bf16, gguf-q8_0, gguf-q6_k, gguf-q5_k, gguf-q4_k, gguf-q6_k-calibrated, "
    "gguf-mixed, gguf-q6_k-tuned, comfy-int8, comfy-int8-convrot, comfy-fp8, mlx-8, mlx-6, "
    "torchao-int8, onnx-fp16, onnx-int8, openvino-fp16, openvino-int8, coreml-fp16, "
    "coreml-int8, coreml-lut6, t5-gguf-q8_0, t5-gguf-q6_k, t5-comfy-fp8, "
    "pipeline-torchao-int8, pipeline-onnx-fp16, pipeline-onnx-int8, pipeline-openvino-fp16, "
    "pipeline-openvino-int8"
)


def _source(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--base", metavar="DIR", help="a pipeline with whatever the source lacks")
    verb.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE:SCALE",
        help="a LoRA to add, may be repeated",
    )
    verb.add_argument("--force", action="store_true", help="write over files of others")


def sample(verb: argparse.ArgumentParser) -> None:
    """Of `sample`."""
    prompts = verb.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompt", action="append", metavar="TEXT", help="may be repeated")
    prompts.add_argument("--prompts", metavar="FILE", help="one prompt a line")
    verb.add_argument("--negative_prompt", default="", metavar="TEXT", help=GUIDED)
    verb.add_argument(
        "--source",
        default="nano",
        metavar="PATH[,PATH]",
        help="pipeline or transformer folder, single file, GGUF, a stage's folder, or nano",
    )
    _source(verb)
    verb.add_argument("--out", required=True, metavar="PATH", help="a folder, or the file X.png")
    verb.add_argument("--seed", type=int, default=0, help="of the first picture; one more for each")
    verb.add_argument("--steps", type=int, default=28, help="from noise to picture")
    verb.add_argument("--grid", choices=GRIDS, default="sampler", help="of noise levels")
    verb.add_argument("--solver", choices=SOLVERS, default="euler", help="of the flow's equation")
    verb.add_argument("--guidance_scale", type=float, default=1.0, metavar="X", help="1 is without")
    verb.add_argument("--skip_layers", metavar="7,8,9", help="blocks of skip-layer guidance")
    verb.add_argument("--size", metavar="HxW", help="height x width, pixels; the model's own")
    verb.add_argument("--batch", type=int, default=8, help="pictures at a time, at most")
    verb.add_argument(
        "--xy",
        nargs="+",
        metavar="NAME=A,B",
        help=f"a table: columns and rows of {AXES}; of every source",
    )
    verb.add_argument(
        "--dtype",
        choices=COMPUTED,
        help="of weights and computing; weights are kept as stored by default, and computed with "
        "in float32 on CPUs, in bfloat16 elsewhere",
    )
    verb.add_argument(
        "--absent_t5", type=int, default=256, metavar="N", help="zero tokens where T5 is left out"
    )


def evaluate(verb: argparse.ArgumentParser) -> None:
    """Of `evaluate` without a config."""
    verb.add_argument(
        "--source", required=True, metavar="A[,B]", help="checkpoints; the first is the reference"
    )
    _source(verb)
    verb.add_argument("--prompts", required=True, metavar="FILE", help="one prompt a line")
    verb.add_argument("--out", required=True, metavar="DIR", help="where report.html goes")
    verb.add_argument("--judges", default="", metavar="NAME=PATH,…", help="clip, pick, dino, fid")
    verb.add_argument("--real", metavar="PATH", help="real pictures, as data.source has them")
    verb.add_argument("--steps", default="28", metavar="N[,N]", help="of all, or of each source")
    verb.add_argument("--guidance_scale", default="1", metavar="X[,X]", help="the same")
    verb.add_argument("--grid", default="sampler", metavar="|".join(GRIDS), help="the same")
    verb.add_argument("--solver", choices=SOLVERS, default="euler", help="of the flow's equation")
    verb.add_argument("--skip_layers", metavar="7,8,9", help="blocks of skip-layer guidance")
    verb.add_argument("--negative_prompt", default="", metavar="TEXT", help=GUIDED)
    verb.add_argument("--size", metavar="HxW", help="height x width, pixels; the first model's own")
    verb.add_argument("--seed", type=int, default=0, help="of the noise")
    verb.add_argument("--batch", type=int, default=8, help="pictures at a time, at most")
    verb.add_argument("--shown", type=int, default=8, help="pictures of each source in the report")
    verb.add_argument("--dtype", choices=COMPUTED, help="of weights and computing")
    verb.add_argument(
        "--absent_t5", type=int, default=256, metavar="N", help="zero tokens where T5 is left out"
    )
    verb.add_argument("--title", default="Checkpoints side by side", help="of the page")


def export(verb: argparse.ArgumentParser) -> None:
    """Of `export` without a config."""
    verb.add_argument("--source", required=True, metavar="PATH", help="any checkpoint")
    _source(verb)
    verb.add_argument(
        "--out", required=True, metavar="PATH", help="a folder, or the one file X.safetensors"
    )
    verb.add_argument(
        "--format", metavar="NAME[,NAME]", help="diffusers,sai by default; sai for a file"
    )
    verb.add_argument("--dtype", choices=WRITTEN, help="as stored by default")
    verb.add_argument("--title", default="", help="in the single file; its own by default")
    verb.add_argument("--shard_gb", type=float, metavar="GB", help="of a folder's file; 10")


def quantize(verb: argparse.ArgumentParser) -> None:
    """Of `quantize` without a config."""
    verb.add_argument("--source", "--in", dest="source", metavar="PATH", help="any checkpoint")
    _source(verb)
    verb.add_argument("--out", metavar="PATH", help="a folder, or the file of one format")
    verb.add_argument("--format", metavar="NAME[,NAME]", help=FORMATS)
    verb.add_argument("--memory", metavar="MODEL[,MODEL]", help="only say what models need")
    verb.add_argument("--position", type=int, metavar="N", help="keep N x N patches of the table")
    verb.add_argument(
        "--calibrate", metavar="FILE", help="prompts, for gguf-q6_k-calibrated, -tuned, gguf-mixed"
    )
    verb.add_argument("--size_mb", type=float, metavar="N", help="of the file gguf-mixed, at most")
    verb.add_argument("--tune", type=int, metavar="N", help="steps, for gguf-q6_k-tuned")
    verb.add_argument("--measure", metavar="FILE", help="prompts: how far the output moves")
    verb.add_argument("--report", action="store_true", help="OUT/report.html: drawn side by side")
    verb.add_argument("--samples", type=int, default=500, help="unseen captions of a report")
    verb.add_argument("--steps", type=int, default=4, help="of the student")
    verb.add_argument("--seed", type=int, default=0, help="of noise and captions")
    verb.add_argument("--title", default="", help="in a .safetensors; quantized by flashjax")

"""Whole pipelines: every network in the form of a runtime that then needs nothing of ours.

The transformer is in one of the formats, T5 has 8 bits where the transformer has them, CLIP and
the decoder of pictures have 16: together they weigh a fifth of T5, and suffer most.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flashjax.convert import folder as folders
from flashjax.convert.configs import mmdit_config_to_diffusers
from flashjax.convert.pipeline import NETWORKS, Parts
from flashjax.convert.tensors import Tensors
from flashjax.convert.text import TWIN
from flashjax.convert.writing import replacing, write_json
from flashjax.flow.schedule import Schedule
from flashjax.quantize.containers.packing import packed
from flashjax.quantize.containers.packings import ROW_INT8
from flashjax.quantize.containers.t5 import of_t5_block
from flashjax.quantize.containers.torchao import write_torchao
from flashjax.quantize.formats import Model, write_format
from flashjax.quantize.graphs import onnx_companions as onnx
from flashjax.quantize.graphs.onnx_graph import MODEL
from flashjax.quantize.graphs.openvino_ir import XML
from flashjax.quantize.graphs.packages import package

COMPANIONS = tuple(name for name in NETWORKS if name != "transformer")
PIPELINES = {  # format: that of its transformer
    f"pipeline-{name}": name
    for name in ("torchao-int8", "onnx-fp16", "onnx-int8", "openvino-fp16", "openvino-int8")
}
GRAPHS: dict[str, tuple[str, Callable[[Path, Tensors, Any], None]]] = {
    "vae": ("vae_decoder", onnx.write_decoder),
    "clip_l": (folders.FOLDERS["clip_l"], onnx.write_clip),
    "clip_g": (folders.FOLDERS["clip_g"], onnx.write_clip),
    "t5": (folders.FOLDERS["t5"], onnx.write_t5),
}


def write_whole(
    format_name: str,
    model: Model,
    companions: Parts,
    out: Path,
    *,
    schedule: Schedule,
    tokenizers_from: Path,
) -> Path:
    """Writes a format of PIPELINES under `out`, in the layout of diffusers, Optimum or OpenVINO.

    `companions` are the networks COMPANIONS (T5 may be left out). Returns the folder.
    """
    path, kind = out / format_name, PIPELINES[format_name]
    with_t5 = "t5" in companions
    folders.check_tokenizers(tokenizers_from, with_t5=with_t5)
    with replacing(path) as new:
        new.mkdir()
        home = write_format(kind, model, new).rename(new / folders.FOLDERS["transformer"])
        if kind == "torchao-int8":
            _write_torchao_companions(new, companions)
        else:
            config = mmdit_config_to_diffusers(model.config, sample_size=model.sample_size)
            write_json(home / "config.json", config)
            for name, part in companions.items():
                _write_graph(new, kind, name, *part)
        folders.write_frame(
            new, schedule=schedule, with_t5=with_t5, tokenizers_from=tokenizers_from
        )
        if kind.startswith("openvino"):
            _convert_tokenizers(new)
    return path


def _write_torchao_companions(folder: Path, companions: Parts) -> None:
    folders.write_parts(folder, {name: companions[name] for name in companions if name != "t5"})
    if "t5" in companions:
        stem, config, tensors = folders.network("t5", *companions["t5"])
        home = folder / folders.FOLDERS["t5"]
        write_torchao(home, stem, tensors.without(TWIN), config, chosen=of_t5_block)


def _write_graph(folder: Path, kind: str, name: str, params: Any, config: Any) -> None:
    _, written, tensors = folders.network(name, params, config)
    if name == "t5" and kind.endswith("int8"):
        tensors = packed(tensors, ROW_INT8, chosen=of_t5_block)
    place, write = GRAPHS[name]
    home = folder / place
    if kind.startswith("onnx"):
        write(home, tensors, config)
    else:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            write(Path(scratch), tensors, config)
            openvino = package("openvino")
            read = openvino.Core().read_model(Path(scratch) / MODEL)
            openvino.save_model(read, home / XML, compress_to_fp16=False)
    # Optimum asks every text encoder for its hidden states, and T5 for their number by this name.
    more = {"num_decoder_layers": config.depth} if name == "t5" else {}
    write_json(home / "config.json", written | more)


def _convert_tokenizers(folder: Path) -> None:
    """Each tokenizer once more, as a graph: OpenVINO's runtime reads no other."""
    openvino, tokenizers = package("openvino"), package("openvino_tokenizers")
    from transformers import AutoTokenizer

    for home in sorted(folder.glob("tokenizer*")):
        graph = tokenizers.convert_tokenizer(AutoTokenizer.from_pretrained(home))
        openvino.save_model(graph, home / "openvino_tokenizer.xml")

"""`quantize --source` for T5: the text encoder of any checkpoint that holds one."""

from pathlib import Path

from flashjax.convert import folder as folders
from flashjax.convert.reading import open_safetensors
from flashjax.convert.sai import split_file
from flashjax.convert.sizes import t5_sizes
from flashjax.convert.tensors import Tensors
from flashjax.convert.weights import open_weights
from flashjax.models.t5 import T5Config
from flashjax.quantize.containers.t5 import write_t5
from flashjax.quantize.formats import dequantised
from flashjax.sources import kind_of
from flashjax.types import InputError


def write_text(format_name: str, source: Path, out: Path) -> Path:
    """Writes the T5 of `source` in a format of T5_FORMATS. Returns the file's path."""
    return write_t5(format_name, *open_t5(source), out)


def open_t5(source: Path) -> tuple[Tensors, T5Config]:
    """T5's tensors under transformers' names, read when asked for, and its sizes."""
    kind = kind_of(source)
    if kind == "pipeline" and folders.has_t5(source):
        tensors = open_weights(source / folders.FOLDERS["t5"], "model")
        return tensors, folders.read_configs(source)["t5"]
    networks = split_file(dequantised(open_safetensors(source))) if kind == "single" else {}
    if "t5" not in networks:
        raise InputError(f"{source} holds no T5: give a pipeline's folder or a single file with it")
    return networks["t5"], t5_sizes(networks["t5"])

"""`quantize --source` for T5: the text encoder of any checkpoint that holds one."""

from pathlib import Path

from flashjax.convert import folder as folders
from flashjax.convert.naming import network
from flashjax.convert.sai import split_file
from flashjax.convert.sizes import t5_sizes
from flashjax.convert.table import check_shapes
from flashjax.convert.tensors import Tensors
from flashjax.convert.text import one_table, t5_rows
from flashjax.convert.weights import open_weights
from flashjax.models.t5 import T5Config
from flashjax.sources import kind_of, open_file
from flashjax.types import InputError


def open_t5(source: Path) -> tuple[Tensors, T5Config]:
    """T5's tensors under transformers' names, read when asked for, and its sizes.

    InputError unless names and shapes are exactly a T5's.
    """
    kind = kind_of(source)
    if kind == "pipeline" and folders.has_t5(source):
        stored = open_weights(source / folders.FOLDERS["t5"], "model")
        tensors = one_table(network(stored, "t5", "transformers"))
        config = folders.read_configs(source)["t5"]
    else:
        networks = split_file(open_file(source)) if kind in ("single", "gguf") else {}
        if "t5" not in networks:
            raise InputError(f"{source} holds no T5: give a pipeline's folder or a file with it")
        tensors = networks["t5"]
        config = t5_sizes(tensors)
    check_shapes(t5_rows(config), tensors)
    return tensors, config

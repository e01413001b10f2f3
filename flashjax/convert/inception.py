"""FID's InceptionV3 between flashjax's names and those of its PyTorch ports.

Source: keys of torch-fidelity's weights-inception-2015-12-05-6726825d.pth and pytorch-fid's
pt_inception-2015-12-05-6726825d.pth, which are the same.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp

from flashjax import trees
from flashjax.convert import mistaken
from flashjax.convert.reading import open_safetensors
from flashjax.convert.table import FLOAT32, Layout, Row, conv, from_tensors, linear, row, vector
from flashjax.convert.tensors import Shape, Tensors
from flashjax.convert.weights import open_weights
from flashjax.models.inception import CLASSES, SIDE, Inception
from flashjax.models.layers import init
from flashjax.types import InputError, Params

STEM = "inception"  # the name of the weights' file in a folder
_NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "variance": "running_var"}
_COUNTER = "num_batches_tracked"  # of training


def read_inception(path: Path) -> Params:
    """The network of a safetensors file, or of `inception.safetensors` in a folder.

    InputError for what is missing, broken, a pickle or another network.
    """
    if path.suffix in mistaken.PICKLES and path.is_file():
        raise InputError(mistaken.pickle(path))
    tensors = open_weights(path, STEM) if path.is_dir() else open_safetensors(path)
    return inception_from(tensors)


def inception_from(tensors: Tensors) -> Params:
    """The parameter tree of FID's network. InputError if the tensors are not exactly its own."""
    classes = tensors.infos["fc.weight"].shape[0] if "fc.weight" in tensors else None
    if classes != CLASSES:
        found = "no classes" if classes is None else f"{classes} classes"
        raise InputError(
            f"{tensors.where} has {found} and is not the InceptionV3 of FID, which has {CLASSES}: "
            "convert weights-inception-2015-12-05-6726825d.pth of torch-fidelity"
        )
    counters = [name for name in tensors if name.endswith(_COUNTER)]
    return from_tensors(inception_rows(), tensors.without(*counters), FLOAT32)


def inception_rows() -> list[Row]:
    """Where every leaf lies."""
    return [
        row(path, (_key(path),), _layout(path, leaf.shape))
        for path, leaf in trees.flatten(abstract_inception()).items()
    ]


@functools.cache
def abstract_inception() -> Params:
    """The shapes of the parameter tree; nothing is computed."""
    image = jnp.zeros((1, SIDE, SIDE, 3))
    return jax.eval_shape(functools.partial(init, Inception()), jax.random.key(0), image)


def _key(path: str) -> str:
    *modules, name = path.split("/")
    return ".".join([*modules, _NAMES.get(name, name)])


def _layout(path: str, leaf: Shape) -> Layout:
    if not path.endswith("/kernel"):
        return vector(leaf)
    return conv(leaf) if len(leaf) == 4 else linear(leaf)

"""Stability AI's single file: transformer, autoencoder, perhaps text encoders, original names.

Source: layout of sd3.5_medium.safetensors and of single files with text encoders as ComfyUI and
diffusers read them; metadata of https://github.com/Stability-AI/ModelSpec.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flashjax.convert.pipeline import NETWORKS, Parts, Place, in_float32, read_all
from flashjax.convert.reading import open_safetensors
from flashjax.convert.sizes import clip_sizes, mmdit_sizes, t5_sizes, vae_sizes
from flashjax.convert.table import Placement
from flashjax.convert.tensors import Tensors, joined
from flashjax.convert.text import clip_from, clip_is_projected, clip_to, t5_from, t5_to
from flashjax.convert.transformer import transformer_from, transformer_to
from flashjax.convert.vae import vae_from, vae_to
from flashjax.convert.writing import write_safetensors
from flashjax.models.mmdit import MMDiTConfig
from flashjax.types import InputError, Params

PREFIXES = {
    "transformer": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "clip_l": "text_encoders.clip_l.transformer.",
    "clip_g": "text_encoders.clip_g.transformer.",
    "t5": "text_encoders.t5xxl.transformer.",
}
ACTIVATIONS = {"clip_l": "quick_gelu", "clip_g": "gelu"}


def split_file(tensors: Tensors) -> dict[str, Tensors]:
    """The tensors of each network of a file, without prefix; a bare file is all transformer.

    InputError lists tensors that belong to no network.
    """
    if "x_embedder.proj.weight" in tensors:
        return {"transformer": tensors}
    parts = {name: tensors.under(prefix) for name, prefix in PREFIXES.items()}
    strange = [key for key in tensors if not key.startswith(tuple(PREFIXES.values()))]
    if strange or not parts["transformer"]:
        raise InputError(
            f"{tensors.where} is no SD3 model: "
            + (f"{', '.join(strange)}: of no network of it" if strange else "no transformer in it")
        )
    return {name: part for name, part in parts.items() if part}


def read_parts(
    path: Path | str,
    *,
    place: Place = in_float32,
    known: Mapping[str, Any] | None = None,
    names: Sequence[str] = NETWORKS,
) -> Parts:
    """Those of the networks `names` that a file holds.

    Their sizes are read off the tensors; what these do not say is as `known` (network -> config)
    has it where it is of the same sizes, else as released models have it.
    """
    return parts_of(open_safetensors(path), place=place, known=known, names=names)


def parts_of(
    tensors: Tensors,
    *,
    place: Place = in_float32,
    known: Mapping[str, Any] | None = None,
    names: Sequence[str] = NETWORKS,
) -> Parts:
    """`read_parts` of tensors that are open already."""
    networks = split_file(tensors)
    known = known or {}
    return read_all(
        {
            name: partial(_network, name, networks[name], place(name), known.get(name))
            for name in names
            if name in networks
        }
    )


def write_sai(
    path: Path | str, parts: Parts, *, metadata: Mapping[str, str], dtype: Any = None
) -> None:
    """Write the networks `parts` to one file that ComfyUI and its kin load.

    `dtype` None keeps each tensor's own. The released files hold transformer and autoencoder.
    """
    named = (_named(name, *part).prefixed(PREFIXES[name]) for name, part in parts.items())
    write_safetensors(path, joined(*named), dtype=dtype, metadata=metadata)


def model_spec(config: MMDiTConfig, *, title: str, side: int) -> dict[str, str]:
    """The metadata by which user interfaces tell the models apart; `side` in pixels."""
    size = "v3-medium" if not config.qk_norm else "v3.5-medium" if config.dual else "v3.5-large"
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"stable-diffusion-{size}",
        "modelspec.title": title,
        "modelspec.resolution": f"{side}x{side}",
    }


def _network(
    name: str, tensors: Tensors, placement: Placement, known: Any | None
) -> tuple[Params, Any]:
    config: Any
    if name == "transformer":
        config = mmdit_sizes(tensors, known)
        return transformer_from(tensors, config, "sai", placement), config
    if name == "vae":
        config = vae_sizes(tensors, known)
        return vae_from(tensors, config, "sai", placement), config
    if name == "t5":
        config = t5_sizes(tensors, known)
        return t5_from(tensors, config, placement), config
    projected = clip_is_projected(tensors)
    config = clip_sizes(tensors, known, activation=ACTIVATIONS[name], projected=projected)
    return clip_from(tensors, config, placement), config


def _named(name: str, params: Params, config: Any) -> Tensors:
    if name == "transformer":
        return transformer_to(params, config, "sai")
    if name == "vae":
        return vae_to(params, config, "sai")
    return t5_to(params, config) if name == "t5" else clip_to(params, config)

"""Stability AI's single file: transformer, autoencoder, perhaps text encoders, original names.

Source: layout of sd3.5_medium.safetensors and of single files with text encoders as ComfyUI and
diffusers read them; metadata of https://github.com/Stability-AI/ModelSpec.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flashjax.convert import transformer, vae
from flashjax.convert.naming import networks
from flashjax.convert.pipeline import NETWORKS, Parts, Place, in_float32, read_all
from flashjax.convert.reading import open_safetensors
from flashjax.convert.scales import dequantised
from flashjax.convert.sizes import clip_sizes, mmdit_sizes, t5_sizes, vae_sizes
from flashjax.convert.table import Placement
from flashjax.convert.tensors import Tensors, joined
from flashjax.convert.text import clip_from, clip_is_projected, clip_to, one_table, t5_from, t5_to
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
_TO_SAI = {"transformer": transformer.under_sai_names, "vae": vae.under_sai_names}
ACTIVATIONS = {"clip_l": "quick_gelu", "clip_g": "gelu"}


def split_file(tensors: Tensors) -> dict[str, Tensors]:
    """The tensors of each network of a file, without prefix, under SAI's or transformers' names.

    What belongs to none is left out, and said. InputError where there is no network, or one that is
    named as diffusers does and not whole.
    """
    found: dict[str, Tensors] = {}
    for name, (part, naming) in networks(tensors).items():
        if naming == "diffusers":
            part = _TO_SAI[name](part)
        if name == "t5":
            part = one_table(part)
        if name == "transformer" and len(part.shapes.get("pos_embed", ())) == 2:
            part = part.shaped({"pos_embed": (1, *part.shapes["pos_embed"])})  # ggml drops the 1
        found[name] = part
    return found


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
    return parts_of(dequantised(open_safetensors(path)), place=place, known=known, names=names)


def parts_of(
    tensors: Tensors,
    *,
    place: Place = in_float32,
    known: Mapping[str, Any] | None = None,
    names: Sequence[str] = NETWORKS,
) -> Parts:
    """`read_parts` of tensors that are open already. InputError for a network that is not there."""
    found = split_file(tensors)
    if "transformer" in names and "transformer" not in found:
        raise InputError(f"{tensors.where} holds {', '.join(found)} and no transformer")
    known = known or {}
    return read_all(
        {
            name: partial(params_of, name, found[name], place(name), known.get(name))
            for name in names
            if name in found
        }
    )


def write_sai(
    path: Path | str, parts: Parts, *, metadata: Mapping[str, str], dtype: Any = None
) -> None:
    """Write the networks `parts` to one file that ComfyUI and its kin load.

    `dtype` None keeps each tensor's own. The released files hold transformer and autoencoder.
    """
    named = (tensors_of(name, *part).prefixed(PREFIXES[name]) for name, part in parts.items())
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


def params_of(
    name: str, tensors: Tensors, placement: Placement, known: Any | None
) -> tuple[Params, Any]:
    """The parameters and sizes of a network; the sizes are `known`, or read off its tensors."""
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


def tensors_of(name: str, params: Params, config: Any) -> Tensors:
    """The tensors of a network under SAI's or transformers' names, without prefix."""
    if name == "transformer":
        return transformer_to(params, config, "sai")
    if name == "vae":
        return vae_to(params, config, "sai")
    return t5_to(params, config) if name == "t5" else clip_to(params, config)

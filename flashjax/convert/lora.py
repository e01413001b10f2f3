"""LoRA: small products that are added to weights, of a file of their own or inside a checkpoint.

Names are those of kohya's sd-scripts and OneTrainer, of diffusers, and of PEFT. A product is added
in float32: W + scale * alpha / rank * up @ down. Source: Hu et al. 2021, arXiv:2106.09685, section
4.1; PEFT's `LoraConfig` for alpha, rank and their patterns.
"""

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from flashjax.convert import mistaken
from flashjax.convert.reading import open_safetensors
from flashjax.convert.tensors import Info, Shape, Tensors
from flashjax.data.jsons import read_json
from flashjax.types import InputError, listed

# What every tensor of an adapter has in its name.
LORA = re.compile(r"^lora_|[._]lora[._]|[._](?:hada|lokr|oft)_")
_BASE, _MODULE = ".base_layer.", re.compile(r"\.modules_to_save\.[^.]+\.")
_WRAPPED = re.compile(r"\.base_layer\.|\.modules_to_save\.|\.original_module\.")  # by PEFT
_WEIGHT = ".weight"
_DOWN = r"lora_A|lora_down|lora\.down|lora_linear_layer\.down"
_UP = r"lora_B|lora_up|lora\.up|lora_linear_layer\.up"
_PART = re.compile(rf"(.+)[._](?:({_DOWN})|({_UP}))(?:\.(?!weight$|bias$)([^.]+))?(?:\.weight)?")
_METADATA = "lora_adapter_metadata"  # diffusers' key of the config
_KINDS = (  # adapters that are no plain LoRA, by what is in their names
    ("LoHa", re.compile(r"\.hada_")),
    ("LoKr", re.compile(r"\.lokr_")),
    ("DoRA", re.compile(r"\.dora_scale|\.lora_magnitude_vector")),
    ("OFT", re.compile(r"\.oft_")),
    ("GLoRA", re.compile(r"\.[ab][12]\.weight$")),
    ("IA3", re.compile(r"\.on_input$|\.ia3_")),
    ("a LoCon with a core", re.compile(r"\.lora_mid\.")),
    ("a LoRA of embeddings", re.compile(r"\.lora_embedding_[AB]")),
    ("a LoRA with full weights or biases", re.compile(r"\.diff(?:_b)?$|\.lora_[AB].*\.bias$")),
)
_PLAIN_CONFIG = {  # of PEFT's keys those that change what a product is, and what they are here
    "peft_type": ("LORA",), "use_dora": (False,), "fan_in_fan_out": (False,), "lora_bias": (False,),
}  # fmt: skip
_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # are added to other weights than W
_WRAPPER = "base_model.model."  # before the names in PEFT's files, not in its patterns

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delta:
    """One product: `down` "rank in" and `up` "out rank" of a file, and what it is multiplied by."""

    tensors: Tensors
    down: str
    up: str
    scale: float

    def fits(self, info: Info) -> bool:
        """Whether it can be added to a weight."""
        down, up = (self.tensors.shapes[name] for name in (self.down, self.up))
        if not info.shape:
            return False
        (rank, *inner), (rows, *inside) = down, up
        size = rows * math.prod(inner)
        return math.prod(inside) == rank and (rows, size) == (info.shape[0], info.size)

    def read(self) -> np.ndarray:
        """The product in float32, "out in". InputError where it is not finite."""
        down, up = (self.tensors[name].astype(np.float32) for name in (self.down, self.up))
        with np.errstate(all="ignore"):  # an overflow is what the next lines report
            product = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
            product = np.float32(self.scale) * product
        if not np.isfinite(product).all():
            raise InputError(
                f"{self.tensors.where}: {self.up} @ {self.down} times {self.scale:.4g} is not "
                "finite: train or fetch it anew"
            )
        return product


def added(tensors: Tensors, deltas: Mapping[str, Sequence[Delta]]) -> Tensors:
    """The tensors with the products that `deltas` lists for them; 8-bit ones become float32.

    InputError for a product of another shape.
    """
    made = {}
    for name, products in deltas.items():
        info = tensors.infos[name]
        for delta in products:
            if not delta.fits(info):
                down, up = (delta.tensors.shapes[part] for part in (delta.down, delta.up))
                raise InputError(
                    f"{delta.tensors.where}: {delta.down} {down} and {delta.up} {up} do not fit "
                    f"{name} {info.shape}: it is a LoRA of another model"
                )
        made[name] = info if info.dtype.itemsize > 1 else Info(info.shape, np.dtype(np.float32))

    def read(name: str) -> np.ndarray:
        weight = tensors[name].astype(np.float32)
        for delta in deltas[name]:
            weight = weight + delta.read().reshape(weight.shape)
        return weight.astype(made[name].dtype)

    return tensors.overlaid(made, read)


def absorbed(tensors: Tensors) -> Tensors:
    """A checkpoint of PEFT's whose adapter lies inside, as `merge_and_unload` leaves it.

    Its alpha is not in it: the rank stands for it, as it does in diffusers. InputError for more
    than one adapter, for none, and for one of a layer that is not there.
    """
    wrapped = [name for name in tensors if _WRAPPED.search(name)]
    if not wrapped:
        return tensors
    inside = [name for name in tensors if LORA.search(name) and name not in wrapped]
    products = products_of(tensors.renamed({name: name for name in inside}, where=tensors.where))
    names = {
        name: _MODULE.sub(".", name.replace(_BASE, "."))
        for name in tensors
        if name not in inside and ".original_module." not in name
    }
    whole = tensors.renamed(names, where=tensors.where)
    layers = {name.partition(_BASE)[0] for name in wrapped if _BASE in name}
    if wrong := sorted(products.keys() - layers) or sorted(layers if not products else ()):
        raise InputError(f"{tensors.where}: {listed(wrong)}: of layer and LoRA one is not there")
    said = "" if any(name.endswith(".alpha") for name in inside) else ", alpha being the rank"
    log.info("%s: merged %d products of the LoRA inside%s", tensors.where, len(products), said)
    return added(whole, {module + _WEIGHT: [delta] for module, delta in products.items()})


def open_lora(text: str) -> tuple[str, dict[str, Delta]]:
    """The name and the products of FILE:SCALE, or of FILE alone, whose scale is 1.

    FILE may be a folder as diffusers or PEFT writes it. Products are by the module's name in the
    file. InputError where there is no such file, or it is no plain LoRA.
    """
    path, scale = _path_and_scale(text)
    if path.is_dir():
        path = _file_of(path)
    tensors = open_safetensors(path)
    if not any(LORA.search(name) for name in tensors):
        raise InputError(f"{path} is no LoRA: {len(tensors)} tensors, {listed(list(tensors))}")
    products = products_of(tensors, config=_config_of(path, tensors), scale=scale)
    return str(path), products


def products_of(
    tensors: Tensors, *, config: Mapping[str, Any] | None = None, scale: float = 1.0
) -> dict[str, Delta]:
    """The product of every module that a LoRA's tensors name; `config` is PEFT's, by prefix.

    InputError for tensors that are no part of a product: other kinds of adapters, too.
    """
    halves: dict[str, dict[str, str]] = {}
    adapters: set[str] = set()
    alphas, strange = {}, []
    for name in tensors:
        if name.endswith(".alpha") and tensors.infos[name].size == 1:
            alphas[name.removesuffix(".alpha")] = float(tensors[name].item())
        elif (found := _PART.fullmatch(name)) and _is_half(name, tensors.shapes[name]):
            halves.setdefault(found[1], {})["down" if found[2] else "up"] = name
            adapters |= {found[4]} if found[4] else set()
        else:
            strange.append(name)
    if strange:
        kinds = [kind for kind, pattern in _KINDS if any(map(pattern.search, strange))]
        raise InputError(
            f"{tensors.where}: {listed(strange)}: {kinds[0] if kinds else 'what this is'} is no "
            "plain LoRA: merge it with the tool that made it"
        )
    codes = [
        f"{name} is {tensors.infos[name].dtype.name}"
        for parts in halves.values()
        for name in parts.values()
        if not jnp.issubdtype(tensors.infos[name].dtype, jnp.floating)
    ]
    if codes:
        raise InputError(f"{tensors.where}: {listed(codes)}: codes, no factors of a product")
    if len(adapters) > 1:
        raise InputError(f"{tensors.where} holds the adapters {listed(sorted(adapters))}: keep one")
    half = [name for parts in halves.values() if len(parts) == 1 for name in parts.values()]
    half += [f"{module}.alpha" for module in alphas.keys() - halves.keys()]
    if half:
        raise InputError(f"{tensors.where}: {listed(half)}: the other half of it is not there")

    def delta(module: str, parts: Mapping[str, str]) -> Delta:
        rank = tensors.shapes[parts["down"]][0]
        told = _told(config or {}, module, tensors.where)
        alpha = alphas.get(module, told.alpha)
        share = 1.0 if alpha is None else alpha / (math.sqrt(rank) if told.root else rank)
        return Delta(tensors, parts["down"], parts["up"], scale * share)

    return {module: delta(module, parts) for module, parts in halves.items()}


def _is_half(name: str, shape: Shape) -> bool:
    """Whether a tensor can be a factor of a product."""
    return not name.endswith(".bias") and len(shape) > 1 and min(shape) > 0


@dataclass(frozen=True)
class _Told:
    """What a config says of a module: alpha, and whether the rank's root divides it."""

    alpha: float | None = None
    root: bool = False


def _told(config: Mapping[str, Any], module: str, where: str) -> _Told:
    """PEFT's rules: the first pattern that is the end of the module's name, else all's alpha."""
    prefix = max((p for p in config if module.startswith(p)), key=len, default=None)
    if prefix is None:
        return _Told()
    says, name = config[prefix], module.removeprefix(prefix).removeprefix(_WRAPPER)
    for key, plain in _PLAIN_CONFIG.items():
        if says.get(key) not in (*plain, None):
            raise InputError(
                f"{where}: its config says {key} {says[key]!r}, which is no plain LoRA"
            )
    begun = str(says.get("init_lora_weights")).lower()
    if begun.startswith(_OTHER_BASE):
        raise InputError(
            f"{where} was begun as {begun!r}: it is added to other weights than the model's; "
            "convert it to a plain LoRA with PEFT"
        )
    try:
        patterns = dict(says.get("alpha_pattern") or {})
        fits = (patterns[key] for key in patterns if re.match(rf"(.*\.)?({key})$", name))
        alpha = next(fits, says.get("lora_alpha"))
        return _Told(None if alpha is None else float(alpha), bool(says.get("use_rslora")))
    except (re.error, TypeError, ValueError) as error:
        raise InputError(f"{where}: lora_alpha or alpha_pattern is none: {error}") from error


def _config_of(path: Path, tensors: Tensors) -> dict[str, Any]:
    """By prefix, PEFT's config: beside the file, or as diffusers keeps it in the file."""
    beside = path.with_name("adapter_config.json")
    if path.name == "adapter_model.safetensors" and beside.is_file():
        return {"": read_json(beside)}
    if _METADATA not in tensors.metadata:
        return {}
    try:
        told = json.loads(tensors.metadata[_METADATA])
    except ValueError as error:
        raise InputError(f"{path}: {_METADATA} is not JSON: {error}") from error
    if not isinstance(told, dict):
        raise InputError(f"{path}: {_METADATA} holds no JSON object")
    found: dict[str, Any] = {}
    for key, value in told.items():
        prefix, _, name = key.rpartition(".")
        found.setdefault(f"{prefix}." if prefix else "", {})[name] = value
    return found


def _file_of(folder: Path) -> Path:
    """The LoRA in a folder, as diffusers or PEFT calls it. InputError where there is none."""
    names = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    found = mistaken.other_folder(folder)
    raise InputError(found or f"{folder} is no LoRA: it has no {' and no '.join(names)}")


def _path_and_scale(text: str) -> tuple[Path, float]:
    """The two parts of FILE:SCALE."""
    name, colon, number = text.rpartition(":")
    if not colon or Path(text).exists():
        return Path(text), 1.0
    try:
        scale = float(number)
    except ValueError as error:
        raise InputError(f"--lora {text}: give FILE:SCALE, as in style.safetensors:0.8") from error
    if not math.isfinite(scale):
        raise InputError(f"--lora {text}: the scale is no finite number")
    return Path(name), scale

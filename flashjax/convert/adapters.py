"""LoRA files on networks: whose each product is, by its name, and the weights with it added.

Source of names: kohya's sd-scripts (`lora_unet_`, `lora_te1_`), OneTrainer (`lora_transformer_`),
diffusers (`transformer.`, `text_encoder.`), PEFT (`base_model.model.`), ComfyUI
(`diffusion_model.`).
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashjax.convert.lora import Delta, added, open_lora
from flashjax.convert.pipeline import Parts, Place
from flashjax.convert.sai import params_of, tensors_of
from flashjax.convert.tensors import Tensors
from flashjax.convert.transformer import translated
from flashjax.types import InputError, listed

# Of a product's name: the network, and what follows is the module; underscores for dots or not.
_TEXT = "text_encoder{0}|text_encoders\\.{1}(?:\\.transformer)?|{1}"
_PLACES = (
    ("transformer", re.compile(r"(?:lora_unet|lora_transformer|lycoris)_(.+)")),
    ("clip_l", re.compile(r"lora_te1?_(.+)")),
    ("clip_g", re.compile(r"lora_te2_(.+)")),
    ("t5", re.compile(r"lora_te3_(.+)")),
    *(
        (name, re.compile(rf"(?:base_model\.model\.)?(?:{_TEXT.format(number, sai)})\.(.+)"))
        for name, number, sai in (
            ("clip_l", "", "clip_l"), ("clip_g", "_2", "clip_g"), ("t5", "_3", "t5xxl"),
        )
    ),
    (
        "transformer",
        re.compile(
            r"(?:(?:base_model|model|transformer|unet|diffusion_model|module|student|net)\.)*(.+)"
        ),
    ),
)  # fmt: skip
_WEIGHT = ".weight"
_Given = tuple[str, Mapping[str, Delta]]  # a file, and its products of a network

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lora:
    """The products of one file, by network and by the module's name in the file's own spelling."""

    where: str
    products: Mapping[str, Mapping[str, Delta]]


def open_loras(texts: Sequence[str]) -> list[Lora]:
    """The LoRA files, each given as FILE:SCALE. InputError for one that is no plain LoRA."""
    found = []
    for text in texts:
        where, products = open_lora(text)
        by_network: dict[str, dict[str, Delta]] = {}
        for module, delta in products.items():
            network, rest = _place(module)
            by_network.setdefault(network, {})[rest] = delta
        found.append(Lora(where, by_network))
    return found


def with_loras(
    parts: Parts, loras: Sequence[Lora], *, place: Place, beside: Sequence[str] = ()
) -> Parts:
    """The networks with the products that are theirs, each of these kept as `place` says.

    A weight is rounded once, with its products, to the dtype of `place`, else to its own.
    InputError for a product that fits no weight, and for a file without any for these networks or
    those `beside` them, which are served elsewhere.
    """
    check_used(loras, [*parts, *beside])
    made = dict(parts)
    for name, (params, config) in parts.items():
        tensors, kept = tensors_of(name, params, config), place(name)
        if kept.dtype is not None:
            tensors = tensors.in_dtype(np.dtype(kept.dtype))
        changed = merged(name, tensors, loras, config=config)
        if changed is not tensors:
            made[name] = params_of(name, changed, kept, config)
    return made


def check_used(loras: Sequence[Lora], networks: Sequence[str]) -> None:
    """Says what a file has for other networks. InputError if it has nothing for these."""
    for lora in loras:
        left = {name: len(found) for name, found in lora.products.items() if name not in networks}
        if len(left) == len(lora.products):
            raise InputError(
                f"{lora.where} is a LoRA of {listed(sorted(left))}: nothing to add it to"
            )
        for name, count in left.items():
            log.info("%s: left out %d products for %s", lora.where, count, name)


def merged(name: str, tensors: Tensors, loras: Sequence[Lora], *, config: Any) -> Tensors:
    """A network's tensors under SAI's or transformers' names, with the products that are theirs.

    Each is read when it is asked for. Products of modules that SAI fuses, or that diffusers keeps
    in another order, are added under diffusers' own names: the translation brings them to their
    place. InputError for a product that fits no weight.
    """
    given = [(lora.where, lora.products[name]) for lora in loras if lora.products.get(name)]
    tensors, left = _with_products(tensors, given)
    if any(rest for _, rest in left) and name == "transformer":
        parts = translated(tensors, config, given="sai", wanted="diffusers")
        changed, left = _with_products(parts, left)
        if changed is not parts:
            tensors = translated(changed, config, given="diffusers", wanted="sai")
    for (where, products), (_, rest) in zip(given, left, strict=True):
        if rest:
            raise InputError(
                f"{where}: {len(rest)} of {len(products)} products are of no weight of the {name} "
                f"({listed(list(rest))}): it is a LoRA of another model"
            )
    return tensors


def _with_products(tensors: Tensors, given: Sequence[_Given]) -> tuple[Tensors, list[_Given]]:
    """The tensors with the products of all files together, and what is of no weight, by file.

    One file after the other would round each time: products below half a unit would all be lost.
    """
    found: dict[str, list[Delta]] = {}
    left: list[_Given] = []
    for where, products in given:
        deltas, rest = _matched(tensors, products)
        for key, several in deltas.items():
            found.setdefault(key, []).extend(several)
        left.append((where, rest))
    return added(tensors, found) if found else tensors, left


def _matched(
    tensors: Tensors, products: Mapping[str, Delta]
) -> tuple[dict[str, list[Delta]], dict[str, Delta]]:
    """The products of each weight, and those that no weight has the name of."""
    modules = {key.removesuffix(_WEIGHT): key for key in tensors if key.endswith(_WEIGHT)}
    spellings = {module.replace(".", "_"): key for module, key in modules.items()} | modules
    found: dict[str, list[Delta]] = {}
    rest = {}
    for module, delta in products.items():
        bare = (f"text_model.{module}", f"text_model_{module}")  # as transformers 5 has CLIP
        key = next(filter(None, map(spellings.get, (module, *bare))), None)
        if key is None:
            rest[module] = delta
        else:
            found.setdefault(key, []).append(delta)
    return found, rest


def _place(module: str) -> tuple[str, str]:
    """The network of a product, and the module's name in it."""
    for network, pattern in _PLACES:
        if found := pattern.fullmatch(module):
            return network, found[1]
    return "transformer", module

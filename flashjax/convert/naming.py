"""Whose each tensor of a file is, by its name: networks under any prefix, and what is no network's.

Trainers, user interfaces and compilers put names of their own before a network's, and other things
beside it. What could change a weight is never left out.
"""

import itertools
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable

from flashjax.convert.lora import LORA, absorbed
from flashjax.convert.tensors import Tensors
from flashjax.types import InputError, listed

# What modules that wrap others put into names, wherever they stand.
_WRAPPER = re.compile(r"(?:^|(?<=\.))_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.")
# A CLIP without the level that transformers leaves out since its version 5.6, and its level.
_BARE_CLIP = re.compile(
    r"((?:.+?\.)?)(?<!text_model\.)(?<!vision_model\.)"
    r"((?:embeddings\.(?:token|position)_embedding|encoder\.layers\.\d+|final_layer_norm)\.)"
)
_CLIP_TABLE, _CLIP_LEVEL = "embeddings.token_embedding.weight", "text_model."
# kind of network, whose names, what only it has; the group is what stands before them.
_ANCHORS = tuple(
    (kind, naming, re.compile(rf"((?:.+?\.)?){pattern}"))
    for kind, naming, pattern in (
        ("transformer", "sai", r"joint_blocks\.\d+\.(?:x|context)_block\."),
        ("transformer", "diffusers", r"transformer_blocks\.\d+\.(?:attn|ff_context)\."),
        ("vae", "sai", r"(?:en|de)coder\.(?:down|up)\.\d+\.block\."),
        ("vae", "diffusers", r"(?:en|de)coder\.(?:down|up)_blocks\.\d+\.resnets\."),
        ("clip", "transformers", r"text_model\.encoder\.layers\.\d+\."),
        ("t5", "transformers", r"encoder\.block\.\d+\.layer\.\d+\."),
    )
)
# The first part of all names of a network, and of those that would make it another network.
_OWN = {
    ("transformer", "sai"): "pos_embed x_embedder t_embedder y_embedder context_embedder "
    "final_layer joint_blocks register context_processor",
    ("transformer", "diffusers"): "pos_embed time_text_embed context_embedder norm_out proj_out "
    "transformer_blocks controlnet_blocks",
    ("vae", "sai"): "encoder decoder quant_conv post_quant_conv",
    ("vae", "diffusers"): "encoder decoder quant_conv post_quant_conv",
    ("clip", "transformers"): "text_model text_projection",
    ("t5", "transformers"): "shared encoder",
}
_CLIP_WIDTH = "text_model.final_layer_norm.weight"
RELEASED_CLIPS = {"clip_l": 768, "clip_g": 1280}  # their widths
_NUMBERS = re.compile(r"(?:^|\.)(?:position_ids|num_batches_tracked)$")  # counted, not learned
# Prefixes of copies: they are set aside where the network itself is there.
_COPY = re.compile(r"(?:^|[._])(?:ema|teacher|fake|critic|discriminator)", re.IGNORECASE)
_CLIPS = (  # of a CLIP's prefix: which of the two it is
    ("clip_g", re.compile(r"clip_g|text_encoder_2")),
    ("clip_l", re.compile(r"clip_l|text_encoder\.")),
)
_NOT_SD3 = (  # what shares some names with SD3's transformer
    (re.compile(r"(?:^|\.)(?:double_blocks|single_blocks|single_transformer_blocks)\."), "Flux"),
    (re.compile(r"(?:^|\.)controlnet_blocks\."), "a ControlNet"),
    (re.compile(r"(?:^|\.)transformer_blocks\.\d+\.(?:img|txt)_mod\."), "Qwen-Image"),
    (re.compile(r"(?:^|\.)(?:double_layers|single_layers|joint_transformer_blocks)\."), "AuraFlow"),
)
_OTHERS = (  # what shares none
    (re.compile(r"(?:^|\.)(?:input_blocks|output_blocks)\.\d+\."), "a UNet of SD 1, 2 or XL"),
    (re.compile(r"(?:^|\.)(?:down|up)_blocks\.\d+\.attentions\."), "a UNet of SD 1, 2 or XL"),
    (re.compile(r"(?:^|\.)(?:adaln_single|caption_projection)\."), "PixArt"),
    (re.compile(r"(?:^|\.)(?:t_block\.1|y_embedder\.y_embedding)"), "PixArt"),
    (re.compile(r"(?:^|\.)mlp_t5\.\d"), "HunyuanDiT"),
    (re.compile(r"(?:^|\.)layers\.\d+\.attention\.qkv\."), "Lumina or Z-Image"),
    (re.compile(r"(?:^|\.)blocks\.\d+\.(?:self|cross)_attn\."), "Wan"),
    (
        re.compile(r"^(?:token_embd|enc\.blk\.\d+|blk\.\d+)\."),
        "a text model named by llama.cpp",
    ),
    (re.compile(r"(?:^|\.)resblocks\.\d+\."), "a CLIP under OpenCLIP's names"),
)
_ALONE = {"vae": "an autoencoder", "clip": "a CLIP", "t5": "a T5"}
MODEL = "flashjax reads SD3 and SD3.5 under Stability AI's or diffusers' names"

log = logging.getLogger(__name__)


def networks(tensors: Tensors) -> dict[str, tuple[Tensors, str]]:
    """The tensors of each network that a file holds, without prefix, and whose names they have.

    The rest is left out, and said in one line. InputError where there is no network, where there
    are two of a kind, or a LoRA beside one.
    """
    tensors = _plain(tensors)
    _refuse(tensors, _NOT_SD3)
    found: dict[str, tuple[str, str, str]] = {}
    for kind, places in _places(tensors).items():
        clips = _which_clips(tensors, [prefix for _, prefix in places]) if kind == "clip" else {}
        for naming, prefix in places:
            name = clips.get(prefix, "") if kind == "clip" else kind
            if name in found:
                raise _twice(tensors, name, found[name][2], prefix)
            if name:
                found[name] = (kind, naming, prefix)
    if "transformer" not in found:
        _refuse(tensors, _OTHERS)
    if not found:
        raise _unknown(tensors)
    taken = {
        name: _own(tensors, kind, naming, prefix) for name, (kind, naming, prefix) in found.items()
    }
    _leave_out(tensors, [name for names in taken.values() for name in names])
    return {
        name: (tensors.renamed(names, where=_where(tensors, found[name][2])), found[name][1])
        for name, names in taken.items()
    }


def network(tensors: Tensors, kind: str, naming: str) -> Tensors:
    """The tensors of the one network of a `kind` ("transformer", "vae", "clip", "t5").

    They are taken as they are where none is found: then it is the names that do not fit.
    """
    tensors = _plain(tensors)
    _refuse(tensors, ())
    prefixes = [prefix for given, prefix in _places(tensors).get(kind, []) if given == naming]
    if len(prefixes) > 1:
        raise _twice(tensors, kind, *prefixes[:2])
    if not prefixes:
        return tensors
    names = _own(tensors, kind, naming, prefixes[0])
    _leave_out(tensors, names)
    return tensors.renamed(names, where=_where(tensors, prefixes[0]))


def _plain(tensors: Tensors) -> Tensors:
    """Names without wrappers, a CLIP's with their level; adapters that lie inside are merged."""
    names = {name: _WRAPPER.sub("", name) for name in tensors}
    if any(name.endswith(_CLIP_TABLE) and _BARE_CLIP.match(name) for name in names.values()):
        levelled = rf"\1{_CLIP_LEVEL}\2"
        names = {old: _BARE_CLIP.sub(levelled, name, count=1) for old, name in names.items()}
    if len(set(names.values())) < len(names):
        twice = [name for name, count in Counter(names.values()).items() if count > 1]
        raise InputError(f"{tensors.where} has {listed(twice)} twice, wrapped and not: keep one")
    if any(old != new for old, new in names.items()):
        tensors = tensors.renamed(names, where=tensors.where)
    return absorbed(tensors)


def _places(tensors: Tensors) -> dict[str, list[tuple[str, str]]]:
    """Of every kind of network, whose names and which prefix; copies only where all are copies."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name in tensors:
        for kind, naming, pattern in _ANCHORS:
            match = pattern.match(name)
            if match and (naming, match[1]) not in found.setdefault(kind, []):
                found[kind].append((naming, match[1]))
    return {
        kind: [place for place in places if not _COPY.search(place[1])] or places
        for kind, places in found.items()
        if places
    }


def _which_clips(tensors: Tensors, prefixes: list[str]) -> dict[str, str]:
    """By prefix which of the two CLIPs it is: it says so, or else of two the narrower is L."""
    found = {
        prefix: name for prefix in prefixes for name, pattern in _CLIPS if pattern.search(prefix)
    }
    widths = {prefix: tensors.shapes.get(f"{prefix}{_CLIP_WIDTH}", (0,))[0] for prefix in prefixes}
    if not found and len(prefixes) == len(set(widths.values())) == 2:
        narrow, wide = sorted(prefixes, key=widths.__getitem__)
        return {narrow: "clip_l", wide: "clip_g"}
    released = {width: name for name, width in RELEASED_CLIPS.items()}
    return {prefix: found.get(prefix) or released.get(widths[prefix], "") for prefix in prefixes}


def _own(tensors: Tensors, kind: str, naming: str, prefix: str) -> dict[str, str]:
    """The names under a prefix that are a network's, old to new."""
    firsts = set(_OWN[kind, naming].split())
    return {
        name: name.removeprefix(prefix)
        for name in tensors
        if name.startswith(prefix)
        and name.removeprefix(prefix).partition(".")[0] in firsts
        and not _NUMBERS.search(name)
    }


def _leave_out(tensors: Tensors, taken: Collection[str]) -> None:
    """Says in one line what is not taken."""
    taken = set(taken)
    left = [name for name in tensors if name not in taken]
    if left:
        log.info(
            "%s: left out %d tensors of no network: %s", tensors.where, len(left), listed(left)
        )


def _refuse(tensors: Tensors, others: Iterable[tuple[re.Pattern[str], str]]) -> None:
    """InputError for a file of another model, by what it is, and for one with a LoRA inside."""
    loras = [name for name in tensors if LORA.search(name)]
    if loras and all(LORA.search(name) or name.endswith(".alpha") for name in tensors):
        raise InputError(
            f"{tensors.where} is a LoRA, no model: give the model with --source, and this with "
            f"--lora {tensors.where}:1"
        )
    for pattern, what in others:
        if any(pattern.search(name) for name in tensors):
            raise InputError(f"{tensors.where} is {what}: {MODEL}")
    if loras:
        raise InputError(
            f"{tensors.where}: a LoRA lies beside the weights ({listed(loras)}), and nothing says "
            "whether it is in them: take it out, and give it with --lora FILE:SCALE if it is not"
        )


def _unknown(tensors: Tensors) -> InputError:
    """What a file is whose networks, if there are any, cannot be told apart."""
    if kinds := _places(tensors):
        alone = " and ".join(_ALONE[kind] for kind in kinds)
        return InputError(f"{tensors.where} is {alone} alone: give a file with a transformer")
    if not tensors:
        return InputError(f"{tensors.where} holds no tensors: fetch it anew")
    parts = zip(*(name.split(".")[:-1] for name in tensors), strict=False)
    same = itertools.takewhile(lambda found: len(set(found)) == 1, parts)
    prefix = "".join(f"{found[0]}." for found in same)
    under = f" under {prefix!r}" if prefix else ""
    return InputError(
        f"{tensors.where} is no SD3 model: {len(tensors)} tensors{under}, "
        f"{listed(list(tensors))}: of no network of it; {MODEL}"
    )


def _twice(tensors: Tensors, name: str, *prefixes: str) -> InputError:
    places = " and ".join(map(repr, prefixes))
    return InputError(f"{tensors.where} holds two of {name}, under {places}: keep one of them")


def _where(tensors: Tensors, prefix: str) -> str:
    return f"{tensors.where} {prefix}" if prefix else tensors.where

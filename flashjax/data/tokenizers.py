"""Tokenizers: the three of an SD3.5 folder, loaded as diffusers loads them, and small real ones.

Letters: b batch, m text tokens. `transformers` takes seconds to import, so functions import it.
"""

import itertools
import json
import logging
import math
import reprlib
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flashjax.data.jsons import read_json
from flashjax.data.prompts import shortened
from flashjax.types import InputError, Tokens

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, T5Tokenizer

MAX_LENGTH = 4096  # tokens of a prompt
SHOWN = 200  # characters of a prompt that is cut
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_T5_SPECIAL = ("<pad>", "</s>", "<unk>")
_T5_SPACE = "\u2581"
_T5_LENGTH = 256  # what SD3.5 was trained with; its tokenizer itself would allow 512
_VOCABULARIES = {  # a folder holds tokenizer.json, or else these
    "tokenizer": ("vocab.json", "merges.txt"),
    "tokenizer_2": ("vocab.json", "merges.txt"),
    "tokenizer_3": ("spiece.model",),
}

# What transformers raises for files that are cut short, changed or another tokenizer's.
_BROKEN = (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizers of a pipeline and the lengths they pad and cut to; T5 may be left out."""

    clip_l: "CLIPTokenizer"
    clip_g: "CLIPTokenizer"
    t5: "T5Tokenizer | None"
    clip_length: int
    t5_length: int
    _said: set[str] = field(default_factory=set, repr=False, compare=False)

    def __call__(self, prompts: list[str]) -> Tokens:
        """The ids of `prompts`, numpy int32: CLIP-L and CLIP-G "b clip_length", T5 "b t5_length".

        Without T5 its ids are "b 0". Warns once, at the first prompts that are cut.
        Source: `_get_clip_prompt_embeds` and `_get_t5_prompt_embeds` of diffusers'
        `StableDiffusion3Pipeline`.
        """
        prompts = [shortened(prompt) for prompt in prompts]
        clip_l, cut_l = encode(self.clip_l, prompts, length=self.clip_length)
        clip_g, cut_g = encode(self.clip_g, prompts, length=self.clip_length)
        if self.t5 is None:
            t5, cut_t5 = np.zeros((len(prompts), 0), np.int32), [False] * len(prompts)
        else:
            t5, cut_t5 = encode(self.t5, prompts, length=self.t5_length)
        self._say_cuts(prompts, {"CLIP-L": cut_l, "CLIP-G": cut_g, "T5": cut_t5})
        return Tokens(clip_l=clip_l, clip_g=clip_g, t5=t5)

    @property
    def words(self) -> frozenset[str]:
        """The words of two letters or more that are one token of CLIP-L."""
        ends = [token for token in self.clip_l.get_vocab() if token.endswith(_WORD_END)]
        words = (token.removesuffix(_WORD_END) for token in ends)
        return frozenset(word for word in words if len(word) > 1)

    def _say_cuts(self, prompts: list[str], cuts: dict[str, list[bool]]) -> None:
        """Says of each encoder once that prompts are too long for it: a training sees many."""
        new = {name: cut for name, cut in cuts.items() if any(cut) and name not in self._said}
        if not new:
            return
        self._said.update(new)
        several = [any(cut) for cut in zip(*new.values(), strict=True)]
        lengths = {name: self.t5_length if name == "T5" else self.clip_length for name in new}
        _log.warning(
            "%d of %d prompts are too long for %s, their ends are cut; the first is %r",
            sum(several),
            len(prompts),
            ", ".join(f"{name} ({length} tokens)" for name, length in lengths.items()),
            prompts[several.index(True)][:SHOWN],
        )


def load_tokenizers(folder: str | Path, *, t5_length: int | None = None) -> Tokenizer:
    """The tokenizers of `folder`, any pipeline in SD3.5's diffusers layout; never uses the network.

    Both CLIPs take the length of `tokenizer/`, as in diffusers. `t5_length` is by default that of
    `tokenizer_3/`, at most 256; a pipeline whose index leaves T5 out has none. Raises InputError
    for a missing file or a missing CLIP length.
    """
    folder = Path(folder)
    with_t5 = not _leaves_t5_out(folder)
    for name in _VOCABULARIES:
        if with_t5 or name != "tokenizer_3":
            check_files(folder / name, "a folder in SD3.5's layout")
    config = folder / "tokenizer" / "tokenizer_config.json"
    _length(config)

    from transformers import CLIPTokenizer, T5Tokenizer

    clip_l = _opened(CLIPTokenizer, folder / "tokenizer", _WORD_END)
    t5 = None
    if with_t5:
        t5_config = folder / "tokenizer_3" / config.name
        _length(t5_config, default=_T5_LENGTH, most=math.inf)
        _check_gaps(t5_config)
        t5 = _opened(T5Tokenizer, folder / "tokenizer_3", _T5_SPACE)
        t5_length = t5_length or min(t5.model_max_length, _T5_LENGTH)
    return Tokenizer(
        clip_l=clip_l,
        clip_g=_opened(CLIPTokenizer, folder / "tokenizer_2", _WORD_END),
        t5=t5,
        clip_length=clip_l.model_max_length,
        t5_length=t5_length or 0,
    )


def clip_length(folder: Path) -> int:
    """Tokens of a prompt that both CLIPs of a pipeline's `folder` see. InputError for none."""
    return _length(folder / "tokenizer" / "tokenizer_config.json")


def _length(config: Path, *, default: int | None = None, most: float = MAX_LENGTH) -> int:
    """The length that prompts are padded to. InputError where a tokenizer's config says none."""
    length = read_json(config).get("model_max_length", default)
    if type(length) is not int or not 0 < length <= most:
        raise InputError(
            f"{config}: model_max_length is {reprlib.repr(length)}; set it (77 for SD3.5)"
        )
    return length


def _check_gaps(config: Path) -> None:
    """InputError for more tokens that stand for gaps than T5 could have: a list is made of them."""
    found = read_json(config).get("extra_ids", 0)
    if isinstance(found, int) and found > MAX_LENGTH:
        raise InputError(f"{config}: extra_ids is {found}; set it (100 for T5)")


def check_fits(tokenizer: Tokenizer, rows: Mapping[str, int], where: str, *, places: int) -> None:
    """InputError where a tokenizer knows more tokens than its encoder's table of tokens has rows.

    `rows` is by encoder, "clip_l", "clip_g" and "t5"; of one that is left out nothing is asked.
    `places` is how many tokens of a prompt both CLIPs have places for.
    """
    if tokenizer.t5 is None and "t5" in rows:  # whose encoder would be told nothing
        raise InputError(
            f"{where} has no tokenizer of T5, and the model has its encoder: give a pipeline's "
            "folder that has it"
        )
    if tokenizer.clip_length > places:
        raise InputError(
            f"{where}: tokenizer/ cuts prompts at {tokenizer.clip_length} tokens, a CLIP has "
            f"{places} places: set its model_max_length to {places}"
        )
    for name, count in rows.items():
        known = getattr(tokenizer, name)
        if known is not None and (highest := max(known.get_vocab().values()) + 1) > count:
            raise InputError(
                f"{where}: the tokenizer of {name} has {highest} tokens, its text encoder "
                f"{count}: they are of different models"
            )


def check_files(folder: Path, wanted: str, *, vocabulary: Sequence[str] = ()) -> None:
    """InputError unless the folder of a tokenizer has all files of one; `wanted` is what to give.

    `vocabulary` are the files that it needs where it has no tokenizer.json, by default those of a
    pipeline's tokenizer of that name.
    """
    needed = ["tokenizer_config.json"]
    if not (folder / "tokenizer.json").is_file():
        needed += vocabulary or _VOCABULARIES[folder.name]
    for name in needed:
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file; give {wanted}")


def load_clip_tokenizer(folder: Path) -> "CLIPTokenizer":
    """The tokenizer that lies beside the weights of a CLIP. InputError where there is none."""
    wanted = "the tokenizer of a CLIP beside its weights: tokenizer.json, tokenizer_config.json"
    check_files(folder, wanted, vocabulary=_VOCABULARIES["tokenizer"])

    from transformers import CLIPTokenizer

    return _opened(CLIPTokenizer, folder, _WORD_END)


def build_tokenizers(
    folder: str | Path, words: Sequence[str], *, clip_length: int = 12, t5_length: int = 12
) -> None:
    """Write `tokenizer`, `tokenizer_2` and `tokenizer_3` under `folder`: each word is one token.

    Any other text still has tokens: bytes for CLIP, characters or <unk> for T5. The lengths are in
    tokens, with begin and end. Raises InputError for a word that is not lower-case ASCII letters.
    """
    words = list(dict.fromkeys(words))
    for word in words:
        if not word or set(word) - set(string.ascii_lowercase):
            raise InputError(f"word {word!r}: not one word; use lower-case letters a-z only")
    folder = Path(folder)
    _write_clip(folder / "tokenizer", words, length=clip_length, pad=EOS)
    _write_clip(folder / "tokenizer_2", words, length=clip_length, pad="!")
    _write_t5(folder / "tokenizer_3", words, length=t5_length)


def encode(
    tokenizer: "CLIPTokenizer | T5Tokenizer", prompts: list[str], *, length: int
) -> tuple[np.ndarray, list[bool]]:
    """Ids "b m" int32 padded and cut to `length`, and which prompts were cut."""
    encoded = tokenizer(prompts, padding="max_length", max_length=length, truncation=True)
    cut = [bool(encoding.overflowing) for encoding in encoded.encodings]
    return np.asarray(encoded["input_ids"], np.int32), cut


def _leaves_t5_out(folder: Path) -> bool:
    """Whether the folder is a pipeline's whose index has no third tokenizer."""
    index = folder / "model_index.json"
    if not index.is_file():
        return False
    entry = read_json(index).get("tokenizer_3")
    return not entry or entry[1] is None


def _opened(kind: Any, folder: Path, mark: str) -> Any:
    """The tokenizer of a folder. InputError where it is broken, or has no `mark` in its words."""
    try:
        found = kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        # What is not JSON, or other JSON than it expects, is a bare Exception of its parser.
        if type(error) is not Exception and not isinstance(error, _BROKEN):
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{folder} is no whole {kind.__name__}, fetch it anew: {first}") from error
    if not any(mark in token for token in found.get_vocab()):
        raise InputError(
            f"{folder} is no {kind.__name__}, none of its {len(found)} tokens has {mark!r}: it is "
            "of another encoder"
        )
    return found


def _write_clip(folder: Path, words: Iterable[str], *, length: int, pad: str) -> None:
    """The files of a CLIPTokenizer: 256 bytes, the same ending a word, merges, BOS, EOS."""
    symbols = _byte_symbols()
    merges = _merges(words)
    tokens = [*symbols, *(s + _WORD_END for s in symbols), *map("".join, merges), BOS, EOS]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    special = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": pad}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, **special}
    lines = ["#version: 0.2", *map(" ".join, merges)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_json(folder / "vocab.json", vocabulary)
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "tokenizer_config.json", config)


def _byte_symbols() -> list[str]:
    """The printable character of every byte, in CLIP's order (so that "!" is 0).

    Source: `bytes_to_unicode` of the GPT-2 and CLIP encoders.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [*map(chr, printable), *(chr(0x100 + i) for i in range(256 - len(printable)))]


def _merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Merges, most urgent first, that make each word one token.

    Each word is first encoded with the merges so far, as those act before the new ones.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = _merge([*word[:-1], word[-1] + _WORD_END], ranks)
        while len(pieces) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
            pieces = _merge(pieces, ranks)
    return list(ranks)


def _merge(pieces: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding: the pieces after every merge of `ranks` that applies."""
    while True:
        pairs = [pair for pair in itertools.pairwise(pieces) if pair in ranks]
        if not pairs:
            return pieces
        best = min(pairs, key=ranks.__getitem__)
        at = next(i for i in range(len(pieces)) if tuple(pieces[i : i + 2]) == best)
        pieces = [*pieces[:at], "".join(best), *pieces[at + 2 :]]


def _write_t5(folder: Path, words: Iterable[str], *, length: int) -> None:
    """The files of a T5 tokenizer, a unigram model: <pad>, </s>, <unk>, words, characters."""
    from transformers import T5Tokenizer

    characters = [_T5_SPACE, *sorted(set(string.printable) - set(string.whitespace))]
    pieces = [(token, 0.0) for token in _T5_SPECIAL]
    pieces += [(_T5_SPACE + word, -1.0) for word in words]
    known = {piece for piece, _ in pieces}
    pieces += [(character, -10.0) for character in characters if character not in known]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length)
    tokenizer.save_pretrained(folder)
    pad, eos, unk = _T5_SPECIAL
    _write_json(
        folder / "special_tokens_map.json", {"eos_token": eos, "unk_token": unk, "pad_token": pad}
    )
    (folder / "spiece.model").write_bytes(_sentencepiece(pieces))


def _sentencepiece(pieces: list[tuple[str, float]]) -> bytes:
    """The same unigram model as a SentencePiece file, for readers that know no tokenizer.json."""
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

    kinds = {"<pad>": ModelProto.SentencePiece.CONTROL, "</s>": ModelProto.SentencePiece.CONTROL}
    kinds["<unk>"] = ModelProto.SentencePiece.UNKNOWN
    model = ModelProto()
    for piece, score in pieces:
        kind = kinds.get(piece, ModelProto.SentencePiece.NORMAL)
        model.pieces.add(piece=piece, score=score, type=kind)
    model.trainer_spec.vocab_size = len(pieces)
    model.trainer_spec.pad_id, model.trainer_spec.eos_id, model.trainer_spec.unk_id = 0, 1, 2
    model.trainer_spec.bos_id = -1
    model.normalizer_spec.name = "identity"
    return model.SerializeToString(deterministic=True)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

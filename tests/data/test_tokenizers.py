"""Tokenizers: oracles are transformers, diffusers' calls and the sentencepiece library."""

import dataclasses
import filecmp
import json
import logging
import shutil
import time

import numpy as np
import pytest
import sentencepiece
import torch
import transformers

from flashjax.data.tokenizers import BOS, EOS, build_tokenizers, check_fits, load_tokenizers
from flashjax.tasks.digit_scenes.captions import vocabulary
from flashjax.types import InputError

WORDS = "a above background blue bottom five four green left nine of on red seven the three".split()
CAPTION = "a red seven left of a blue three on green"
STRANGE = "Ünïcode: 3 wörds, 🙂 & more!"
CLIPS = ("tokenizer", "tokenizer_2")
FILES = {
    "tokenizer": "vocab.json merges.txt tokenizer_config.json special_tokens_map.json".split(),
    "tokenizer_3": "tokenizer.json spiece.model tokenizer_config.json".split(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipeline")
    build_tokenizers(path, WORDS)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizers(folder)


@pytest.mark.parametrize("words", [WORDS, WORDS[::-1], list(vocabulary())])
def test_every_word_is_one_token(tmp_path, words):
    build_tokenizers(tmp_path, words)
    built = load_tokenizers(tmp_path)
    for each in (built.clip_l, built.clip_g, built.t5):
        ids = [each(f"{word} {word}", add_special_tokens=False)["input_ids"] for word in words]
        assert all(len(pair) == 2 and pair[0] == pair[1] for pair in ids)
        assert len({pair[0] for pair in ids}) == len(words)


def test_words_that_share_pieces_stay_one_token(tmp_path):
    words = ["ab", "bc", "abc", "bcabc", "cab", "abab", "aaaa", "aaa"]
    build_tokenizers(tmp_path, words)
    clip = load_tokenizers(tmp_path).clip_l
    assert all(len(clip(word, add_special_tokens=False)["input_ids"]) == 1 for word in words)


def test_decoding_gives_the_caption_back(tokenizer):
    tokens = tokenizer([CAPTION])
    assert tokenizer.clip_l.decode(tokens.clip_l[0], skip_special_tokens=True) == CAPTION
    assert tokenizer.clip_g.decode(tokens.clip_g[0], skip_special_tokens=True) == CAPTION
    assert tokenizer.t5.decode(tokens.t5[0], skip_special_tokens=True) == CAPTION


def test_unknown_text_still_has_tokens(tokenizer):
    ids = tokenizer.clip_l(STRANGE, add_special_tokens=False)["input_ids"]
    assert tokenizer.clip_l.eos_token_id not in ids
    decoded = tokenizer.clip_l.decode(ids).replace(" ", "")
    assert decoded == STRANGE.lower().replace(" ", "")
    plain = "Hello, World 42?"
    ids = tokenizer.t5(plain)["input_ids"]
    assert tokenizer.t5.unk_token_id not in ids
    assert tokenizer.t5.decode(ids, skip_special_tokens=True) == plain
    assert tokenizer.t5.unk_token_id in tokenizer.t5(STRANGE)["input_ids"]


def test_ids_are_padded_like_sd35(tokenizer):
    tokens = tokenizer(["red seven", ""])
    last = len(tokenizer.clip_l) - 1
    red, seven = tokenizer.clip_l.convert_tokens_to_ids(["red</w>", "seven</w>"])
    assert [each.shape for each in (tokens.clip_l, tokens.clip_g, tokens.t5)] == [(2, 12)] * 3
    assert {each.dtype for each in (tokens.clip_l, tokens.clip_g, tokens.t5)} == {np.dtype("int32")}
    assert tokens.clip_l[0].tolist() == [last - 1, red, seven, last] + [last] * 8
    assert tokens.clip_g[0].tolist() == [last - 1, red, seven, last] + [0] * 8
    assert tokens.t5[0, 2:].tolist() == [1] + [0] * 9
    assert tokens.t5[1].tolist() == [1] + [0] * 11


def test_special_ids_are_where_sd35_has_them(tokenizer):
    size = len(tokenizer.clip_l)
    for clip in (tokenizer.clip_l, tokenizer.clip_g):
        assert clip.convert_tokens_to_ids([BOS, EOS, "!"]) == [size - 2, size - 1, 0]
        assert clip.convert_tokens_to_ids("!</w>") == 256
    assert tokenizer.clip_l.pad_token == EOS
    assert tokenizer.clip_g.pad_token == "!"
    t5 = tokenizer.t5
    assert (t5.pad_token_id, t5.eos_token_id, t5.unk_token_id) == (0, 1, 2)


@pytest.mark.parametrize("name", [*CLIPS, "tokenizer_3"])
def test_transformers_loads_the_folder_by_class_and_by_auto(folder, name):
    kind = "T5TokenizerFast" if name == "tokenizer_3" else "CLIPTokenizer"
    texts = [CAPTION, STRANGE]
    by_class = getattr(transformers, kind).from_pretrained(folder / name, local_files_only=True)
    by_auto = transformers.AutoTokenizer.from_pretrained(folder / name, local_files_only=True)
    assert by_class.model_max_length == by_auto.model_max_length == 12
    assert by_class(texts)["input_ids"] == by_auto(texts)["input_ids"]


class RecordIds(torch.nn.Module):
    """A text encoder that only keeps the ids it was given."""

    dtype = torch.float32

    def forward(self, ids, output_hidden_states=False):
        self.ids = ids.numpy()
        states = torch.zeros(*ids.shape, 4)
        first = states[:, 0] if output_hidden_states else states  # CLIP pools, T5 does not
        return transformers.modeling_outputs.BaseModelOutput(first, hidden_states=(states,) * 2)


def test_ids_equal_those_of_the_diffusers_pipeline(tokenizer, tmp_path):
    from diffusers import StableDiffusion3Pipeline

    others = ("transformer", "scheduler", "vae", "image_encoder", "feature_extractor")
    index = {"_class_name": "StableDiffusion3Pipeline", **dict.fromkeys(others, (None, None))}
    index |= dict.fromkeys(CLIPS, ("transformers", "CLIPTokenizer"))
    index["tokenizer_3"] = ("transformers", "T5TokenizerFast")
    build_tokenizers(tmp_path, WORDS)
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    encoders = {name: RecordIds() for name in ("text_encoder", "text_encoder_2", "text_encoder_3")}
    absent = dict.fromkeys(others)
    pipeline = StableDiffusion3Pipeline.from_pretrained(tmp_path, **encoders, **absent)
    prompts = [CAPTION, "", STRANGE, "red " * 20]
    for i in (0, 1):
        pipeline._get_clip_prompt_embeds(prompts, device="cpu", clip_model_index=i)
    pipeline._get_t5_prompt_embeds(prompts, max_sequence_length=12, device="cpu")
    tokens = tokenizer(prompts)
    for encoder, ours in zip(
        encoders.values(), (tokens.clip_l, tokens.clip_g, tokens.t5), strict=True
    ):
        np.testing.assert_array_equal(encoder.ids, ours)


def test_sentencepiece_agrees_with_the_t5_tokenizer(folder, tokenizer):
    model = sentencepiece.SentencePieceProcessor(
        model_file=str(folder / "tokenizer_3/spiece.model")
    )
    for text in (CAPTION, "Hello,  World 42?", "reds sevenths", STRANGE):
        expected = model.encode(text, add_eos=True)
        assert tokenizer.t5(text)["input_ids"] == expected


@pytest.mark.parametrize("name", CLIPS)
def test_byte_symbols_are_those_of_clip(folder, name):
    from tokenizers.pre_tokenizers import ByteLevel

    clip = transformers.CLIPTokenizer.from_pretrained(folder / name)
    symbols = clip.convert_ids_to_tokens(list(range(512)))
    assert set(symbols[:256]) == set(ByteLevel.alphabet())
    assert symbols[256:] == [symbol + "</w>" for symbol in symbols[:256]]
    assert symbols[:94] == [chr(i) for i in range(33, 127)]


def test_a_cut_prompt_logs_one_warning(folder, caplog):
    """And only one: a training asks for the same prompts again and again."""
    tokenizer = load_tokenizers(folder)
    with caplog.at_level(logging.WARNING):
        tokens = tokenizer([CAPTION, CAPTION + " five nine", "red"])
        tokenizer(["red " * 40, "blue " * 40])
    assert len(caplog.records) == 1
    assert "1 of 3 prompts are too long for CLIP-L (12 tokens), CLIP-G (12" in caplog.text
    assert "five nine" in caplog.text
    assert tokens.clip_l[1, -1] == tokenizer.clip_l.eos_token_id
    assert tokens.t5[1, -1] == tokenizer.t5.eos_token_id


def test_a_prompt_of_megabytes_has_the_tokens_of_its_begin_and_costs_no_minutes(folder, caplog):
    tokenizer = load_tokenizers(folder)
    started = time.monotonic()
    tokens = tokenizer([(CAPTION + " ") * 200_000])
    assert time.monotonic() - started < 5
    again = tokenizer([(CAPTION + " ") * 3])
    np.testing.assert_array_equal(tokens.clip_l, again.clip_l)
    assert len(caplog.text) < 1000


def test_lengths_come_from_the_configs(tmp_path):
    build_tokenizers(tmp_path, WORDS, clip_length=77, t5_length=512)
    assert load_tokenizers(tmp_path)(["red"]).clip_g.shape == (1, 77)
    assert load_tokenizers(tmp_path)(["red"]).t5.shape == (1, 256)
    assert load_tokenizers(tmp_path, t5_length=300)(["red"]).t5.shape == (1, 300)


def test_a_folder_that_transformers_saved_again_loads_the_same(folder, tokenizer, tmp_path):
    for name in (*CLIPS, "tokenizer_3"):
        transformers.AutoTokenizer.from_pretrained(folder / name).save_pretrained(tmp_path / name)
    ours, again = tokenizer([CAPTION, "red"]), load_tokenizers(tmp_path)([CAPTION, "red"])
    for name in ("clip_l", "clip_g", "t5"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(again, name))


def test_t5_loads_from_sentencepiece_alone(tmp_path, tokenizer):
    build_tokenizers(tmp_path, WORDS)
    (tmp_path / "tokenizer_3/tokenizer.json").unlink()
    alone = load_tokenizers(tmp_path)
    np.testing.assert_array_equal(alone([CAPTION]).t5, tokenizer([CAPTION]).t5)


@pytest.mark.parametrize("name", FILES)
def test_building_twice_writes_the_same_bytes(folder, tmp_path, name):
    build_tokenizers(tmp_path, WORDS)
    _, differ, missing = filecmp.cmpfiles(
        folder / name, tmp_path / name, FILES[name], shallow=False
    )
    assert not differ and not missing


def swapped(folder):
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(folder / "tokenizer_3", folder / "tokenizer")


def broken(folder):
    (folder / "tokenizer_3" / "tokenizer.json").write_text("{")


def no_json(folder):
    (folder / "tokenizer" / "tokenizer_config.json").write_text("<html>")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            swapped,
            "tokenizer is no CLIPTokenizer, none of its .* tokens has '</w>': it is of anoth",
        ),
        (broken, "tokenizer_3 is no whole T5Tokenizer, fetch it anew"),
        (no_json, "tokenizer_config.json is not JSON"),
    ],
)
def test_a_tokenizer_of_another_model_or_broken_is_named(tmp_path, change, message):
    build_tokenizers(tmp_path, WORDS)
    change(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        load_tokenizers(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_editors_mark_and_line_ends_are_no_part_of_an_index(tmp_path):
    build_tokenizers(tmp_path, WORDS)
    index = {"tokenizer_3": [None, None]}
    (tmp_path / "model_index.json").write_bytes(b"\xef\xbb\xbf\r\n" + json.dumps(index).encode())
    assert load_tokenizers(tmp_path).t5 is None


def test_a_tokenizer_with_more_tokens_than_its_encoder_has_rows_or_places_is_refused(tokenizer):
    """Beyond the table a lookup takes its last row, and nobody is told."""
    sizes = {"clip_l": len(tokenizer.clip_l), "clip_g": 2**20, "t5": len(tokenizer.t5)}
    places = tokenizer.clip_length
    check_fits(tokenizer, sizes, "here", places=places)
    with pytest.raises(
        InputError, match=r"here: the tokenizer of t5 has \d+ tokens, its text enco"
    ):
        check_fits(tokenizer, sizes | {"t5": len(tokenizer.t5) - 1}, "here", places=places)
    with pytest.raises(
        InputError, match=r"here: tokenizer/ cuts prompts at 12 tokens, a CLIP has 11"
    ):
        check_fits(tokenizer, sizes, "here", places=11)


@pytest.mark.parametrize("lost", ["tokenizer/merges.txt", "tokenizer_2/tokenizer_config.json"])
def test_a_missing_file_is_named(tmp_path, lost):
    build_tokenizers(tmp_path, WORDS)
    (tmp_path / lost).unlink()
    with pytest.raises(InputError, match=lost):
        load_tokenizers(tmp_path)


@pytest.mark.parametrize("word", ["Seven", "two words", "", "7"])
def test_a_word_that_cannot_be_one_token_is_refused(tmp_path, word):
    with pytest.raises(InputError, match="lower-case"):
        build_tokenizers(tmp_path, ["red", word])


BROKEN = {
    "vocab.json": ["", "{", "[]", "{}", '{"a": "b"}', "[" * 100_000],
    "merges.txt": ["one\ntwo", "\0"],
    "tokenizer_config.json": [
        "{",
        "[]",
        '{"model_max_length": "77"}',
        '{"model_max_length": 1e30}',
    ],
}


@pytest.mark.parametrize(
    ("name", "content"), [(name, text) for name, texts in BROKEN.items() for text in texts]
)
def test_a_broken_file_of_a_tokenizer_is_one_line(name, content, tmp_path):
    build_tokenizers(tmp_path, ["red"])
    (tmp_path / "tokenizer" / name).write_text(content)
    with pytest.raises(InputError) as caught:
        load_tokenizers(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_more_gaps_than_memory_holds_are_refused_before_a_list_is_made_of_them(tmp_path):
    build_tokenizers(tmp_path, ["red"])
    path = tmp_path / "tokenizer_3" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extra_ids": 2**31}))
    with pytest.raises(InputError, match=r"tokenizer_config.json: extra_ids is 2147483648"):
        load_tokenizers(tmp_path)


def test_an_encoder_of_t5_without_its_tokenizer_is_refused(tokenizer):
    """As of a file with T5 whose base has none: not a token of it would be seen."""
    bare = dataclasses.replace(tokenizer, t5=None, t5_length=0)
    check_fits(bare, {"clip_l": len(tokenizer.clip_l)}, "here", places=12)
    with pytest.raises(InputError, match="here has no tokenizer of T5, and the model has its enc"):
        check_fits(bare, {"t5": len(tokenizer.t5)}, "here", places=12)


def test_a_token_beyond_its_encoders_table_is_found_among_few(tmp_path):
    build_tokenizers(tmp_path, ["red"])
    path = tmp_path / "tokenizer" / "vocab.json"
    words = json.loads(path.read_text())
    path.write_text(json.dumps(words | {"red</w>": 40_000}))
    tokenizer = load_tokenizers(tmp_path)
    with pytest.raises(InputError, match="of clip_l has 40001 tokens, its text encoder 30000"):
        check_fits(tokenizer, {"clip_l": 30_000}, "here", places=77)

"""CLIP score is transformers' whole pipeline; CMMD is the paper's formula on its features."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from flashjax.evaluate.judges.clip import open_clip
from flashjax.types import InputError

PROMPTS = ["a red seven", "blue three left of green one", "a blue one", "red", "a green three"]


def transformers_features(folder, images, prompts):
    """Unit vectors of pictures and of prompts, by transformers alone."""
    model = CLIPModel.from_pretrained(folder).eval()
    process = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=28)
    tokenize = CLIPTokenizer.from_pretrained(folder)
    tokens = tokenize(prompts, padding="max_length", truncation=True, return_tensors="pt")
    pixels = process(list(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        found = model(**tokens, pixel_values=pixels)
    return found.image_embeds.numpy(), found.text_embeds.numpy()


def paper_cmmd(x, y):
    """Jayasumana et al., the unbiased estimate of equation 3, in loops."""
    kernel = lambda a, b: np.exp(-np.sum((a - b) ** 2) / (2 * 10**2))
    other = lambda x: np.mean(
        [kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    )
    across = np.mean([kernel(a, b) for a in x for b in y])
    return 1000 * (other(x) + other(y) - 2 * across)


def test_figures_are_transformers(clip_folder, pictures, tmp_path):
    folder = clip_folder("quick_gelu")
    images, real, teacher = pictures(5), pictures(7, seed=1), pictures(6, seed=2)
    judge = open_clip(folder, real, teacher=teacher, cache=tmp_path)
    judge.check(PROMPTS)
    with pytest.raises(InputError, match=r"clip scores .*, and 1 of 2 are empty"):
        judge.check(["", "red"])
    score, cmmd, from_teacher = judge.judge(images, PROMPTS)
    seen, read = transformers_features(folder, images, PROMPTS)
    assert score.name == "CLIP score" and score.better == "more"
    assert score.value == pytest.approx(100 * (seen * read).sum(1).mean(), abs=1e-4)
    assert np.ptp((seen * read).sum(1)) > 0.05 and score.error > 0
    of_real, _ = transformers_features(folder, real, PROMPTS)
    assert cmmd.value == pytest.approx(paper_cmmd(np.float64(seen), np.float64(of_real)), abs=1e-4)
    assert (cmmd.name, from_teacher.name) == ("CMMD", "CMMD-T") and cmmd.better == "less"
    assert "7 real pictures and 6 pictures of the teacher" in judge.note
    assert "ViT-14 of width 16 at 28 px" in judge.note
    assert len(list(tmp_path.iterdir())) == 2


def test_without_pictures_to_compare_with_there_is_a_score_alone(clip_folder, pictures):
    judge = open_clip(clip_folder("quick_gelu"), None)
    judge.check(["red"])
    (figure,) = judge.judge(pictures(1), ["red"])
    assert figure.name == "CLIP score" and figure.error is None


def test_a_prompt_that_is_too_long_is_cut_and_it_is_said_once(clip_folder, pictures, caplog):
    judge = open_clip(clip_folder("quick_gelu"), None)
    long = "red " * 30
    for _ in range(2):
        (figure,) = judge.judge(pictures(2), ["a red seven", long])
    said = [
        record.message for record in caplog.records if "judged by their first" in record.message
    ]
    assert len(said) == 1 and "1 of 2 prompts are judged by their first 9 tokens" in said[0]
    seen, read = transformers_features(
        clip_folder("quick_gelu"), pictures(2), ["a red seven", long]
    )
    assert figure.value == pytest.approx(100 * (seen * read).sum(1).mean(), abs=1e-4)


def test_one_picture_has_no_distance(clip_folder, pictures):
    judge = open_clip(clip_folder("quick_gelu"), pictures(3))
    with pytest.raises(InputError, match="judge clip needs 2 pictures, 1 are to be drawn"):
        judge.check(["red"])


def changed(folder, tmp_path, **values):
    """A copy of the folder whose config says something else."""
    new = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((new / "config.json").read_text())
    (new / "config.json").write_text(json.dumps(config | values))
    return new


def test_weights_that_are_not_there_are_named(tmp_path):
    with pytest.raises(InputError, match=r"judge clip needs a folder of transformers' CLIPModel"):
        open_clip(tmp_path / "absent", None)


def test_another_model_is_refused_by_name(clip_folder, tmp_path):
    folder = changed(clip_folder("quick_gelu"), tmp_path, model_type="siglip")
    with pytest.raises(InputError, match="model_type is 'siglip'; only 'clip' is supported"):
        open_clip(folder, None)


def test_a_pickle_alone_is_refused_with_its_conversion(clip_folder, tmp_path):
    folder = changed(clip_folder("quick_gelu"), tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model.bin is a pickle.* convert it first"):
        open_clip(folder, None)


def test_a_folder_without_tokenizer_is_refused(clip_folder, tmp_path):
    folder = changed(clip_folder("quick_gelu"), tmp_path)
    (folder / "merges.txt").unlink()
    with pytest.raises(InputError, match=r"merges.txt: no such file; give the tokenizer of a CLIP"):
        open_clip(folder, None)


def test_the_tokenizer_of_another_model_is_refused(clip_folder, tmp_path):
    folder = changed(clip_folder("quick_gelu"), tmp_path)
    words = json.loads((folder / "vocab.json").read_text())
    end = words.pop("<|endoftext|>")
    words |= {"another</w>": end, "<|endoftext|>": end + 1}
    (folder / "vocab.json").write_text(json.dumps(words))
    with pytest.raises(InputError, match="give the tokenizer of this model"):
        open_clip(folder, None)

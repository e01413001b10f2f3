"""`evaluate --source`: checkpoints side by side, without a workdir."""

import argparse
import re

import numpy as np
import pytest
from PIL import Image

from flashjax.cli import main
from flashjax.tools import evaluate
from flashjax.tools.sheets import SETTINGS

PROMPTS = ["a red seven on a blue background", "a green two on a white background"]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


def flags(prompts, out, *sources):
    place = ["--source", ",".join(map(str, sources)), "--prompts", str(prompts)]
    return ["evaluate", *place, "--out", str(out), "--batch", "8"]


def test_sources_are_drawn_judged_and_reported_side_by_side(
    tiny_teacher, clip_folder, prompts, tmp_path, capsys
):
    real = tmp_path / "real"
    real.mkdir()
    for number, size in enumerate(((80, 64), (64, 96), (64, 64))):  # of any shapes
        noise = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(noise).save(real / f"{number}.png")
        (real / f"{number}.txt").write_text("noise")
    judged = ["--judges", f"clip={clip_folder('quick_gelu')},dino=/nowhere", "--real", str(real)]
    each = ["--steps", "2,1", "--guidance_scale", "4,1", "--title", "Two of them"]
    theirs = tmp_path / "out" / "drawn" / "by hand.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    run = [*flags(prompts, tmp_path / "out", tiny_teacher, tiny_teacher / "transformer")]
    assert main([*run, "--base", str(tiny_teacher), *judged, *each]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "report.html")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Two of them" in page and "2 steps, guidance 4" in page and "1 steps" in page
    assert all(prompt in page for prompt in PROMPTS)
    assert page.count("data:image/png") == 4
    assert re.search(r"CLIP score.*CMMD.*CMMD-T", page, re.DOTALL)
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == [".flashjax.json", "drawn", "features", "report.html"]
    assert list(theirs.parent.iterdir()) == [theirs]  # what we drew is gone, and nothing else


def test_what_is_drawn_is_of_linked_weights_too(tiny_teacher, tmp_path):
    """Or what is kept of them when it was stopped would be another model's."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.safetensors").write_bytes(bytes(9))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "transformer").symlink_to(tmp_path / "weights", target_is_directory=True)
    flags = dict.fromkeys((*SETTINGS, "seed", "batch", "base"))
    told = argparse.Namespace(**flags | {"lora": []})
    before = evaluate.asked(told, str(tmp_path / "model"), ["a"])
    assert evaluate.bytes_of(tmp_path / "model") == 9
    (tmp_path / "weights" / "w.safetensors").write_bytes(bytes(10))
    assert evaluate.asked(told, str(tmp_path / "model"), ["a"]) != before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--steps", "1,2,3"], "--steps has 3 values: give one, or one for each source"),
        (["--grid", "other"], "--grid other: choose of sampler, student"),
        (["--judges", "clip"], "--judges: clip has no weights, give clip=PATH"),
        (["--judges", "taste=x"], "--judges: 'taste=x' is unknown: choose of"),
        (["--guidance_scale", "much"], "--guidance_scale much: give a value of float"),
        (["--real", "/nowhere"], "/nowhere does not exist"),
        (["--guidance_scale", "1", "--negative_prompt", "dark"], "acts through guidance"),
        (["--guidance_scale", "1", "--skip_layers", "1"], "--skip_layers adds to guidance"),
        (["--shown", "-1"], "--shown -1: give one or more"),
    ],
)
def test_a_wrong_flag_is_one_line_before_anything_is_drawn(
    more, message, tiny_teacher, prompts, tmp_path, capsys
):
    assert main([*flags(prompts, tmp_path / "out", tiny_teacher), *more]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_report_of_somebody_else_is_not_written_over(tiny_teacher, prompts, tmp_path, capsys):
    (tmp_path / "report.html").write_text("mine")
    assert main(flags(prompts, tmp_path, tiny_teacher)) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_text() == "mine"


def test_pictures_of_other_weights_are_not_taken_for_a_sources(tmp_path):
    folder = tmp_path / "a model"
    (folder / "transformer").mkdir(parents=True)
    weights = folder / "transformer" / "w.safetensors"
    weights.write_bytes(b"1")
    asked = {name: None for name in (*SETTINGS, "seed", "batch")} | {"lora": []}
    names = set()
    for steps, written in ((4, b"1"), (2, b"1"), (2, b"22")):  # within the folder alone
        weights.write_bytes(written)
        names.add(evaluate.asked(argparse.Namespace(**asked | {"steps": steps}), str(folder), []))
    assert len(names) == 3

"""`sample` and `export --source`: the same model from every container, the same pictures."""

import json
import shutil

import jax
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from flashjax.cli import main
from flashjax.convert.folder import read_transformer
from flashjax.convert.transformer import transformer_to
from flashjax.quantize.containers.gguf import open_gguf
from flashjax.quantize.containers.gguf_export import quantize_transformer
from flashjax.sources import read_parts
from flashjax.tools import drawing
from flashjax.tools.drawing import DTYPES, computed_in, open_source, placement
from flashjax.types import Cond

PROMPT = "a red seven on white"


@pytest.fixture(scope="module")
def containers(tiny_teacher, tmp_path_factory):
    """The tiny teacher as a folder, its transformer folder, a single file and a GGUF file."""
    out = tmp_path_factory.mktemp("containers")
    assert main(["export", "--source", str(tiny_teacher), "--out", str(out)]) == 0
    params, config = read_transformer(tiny_teacher / "transformer")
    gguf = out / "model.gguf"
    quantize_transformer(transformer_to(params, config, "sai").items(), scheme="f16", path=gguf)
    return {
        "folder": out / "diffusers",
        "transformer": out / "diffusers" / "transformer",
        "single": out / "model.safetensors",
        "gguf": gguf,
    }


@pytest.fixture(scope="module")
def picture(tiny_teacher, tmp_path_factory):
    """What the tiny teacher draws."""
    return drawn(tmp_path_factory.mktemp("sample"), tiny_teacher)


def drawn(out, source, *flags):
    """The PNG that `sample` writes in two steps."""
    arguments = ["--source", str(source), "--prompt", PROMPT, "--out", str(out), "--steps", "2"]
    assert main(["sample", *arguments, "--seed", "3", "--guidance_scale", "4", *flags]) == 0
    with Image.open(out / "0000.png") as image:
        return np.asarray(image).astype(int), dict(image.text)


@pytest.mark.parametrize("name", ["folder", "transformer", "single", "gguf"])
def test_every_container_draws_the_same_picture(name, containers, picture, tiny_teacher, tmp_path):
    base = () if name == "folder" else ("--base", str(tiny_teacher))
    found, _ = drawn(tmp_path, containers[name], *base)
    assert np.abs(found - picture[0]).max() <= 1
    assert picture[0].std() > 1


@pytest.mark.parametrize(
    "name", ["comfy-int8", "comfy-int8-convrot", "comfy-fp8", "mlx-8", "torchao-int8"]
)
def test_what_quantize_wrote_is_a_source_too(name, tiny_teacher, tmp_path):
    flags = ["--source", str(tiny_teacher), "--out", str(tmp_path), "--format", name]
    assert main(["quantize", *flags]) == 0
    (path,) = (entry for entry in tmp_path.iterdir() if entry.suffix != ".json")
    (found, sizes), (given, _) = (
        read_parts(source, names=("transformer",))["transformer"] for source in (path, tiny_teacher)
    )
    found, given = (np.concatenate([x.ravel() for x in jax.tree.leaves(p)]) for p in (found, given))
    assert 0 < np.square(found - given).sum() < 10**-2.5 * np.square(given).sum()
    assert sizes.qk_norm


def test_a_lora_is_added_alike_by_every_verb(picture, tiny_teacher, tmp_path):
    """By torch's product, and twice where it is given twice."""
    stored = load_file(tiny_teacher / "transformer" / "diffusion_pytorch_model.safetensors")
    name, random = "transformer_blocks.0.attn.to_q", torch.Generator().manual_seed(0)
    down, up = (torch.randn(shape, generator=random) / 4 for shape in ((4, 256), (256, 4)))
    lora = tmp_path / "style.safetensors"
    halves = {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
    save_file(halves, lora)
    wanted = stored[f"{name}.weight"].float() + 2 * 0.5 * up @ down
    flags = ["--source", str(tiny_teacher), *["--lora", f"{lora}:0.5"] * 2, "--out", str(tmp_path)]
    assert main(["export", *flags, "--format", "diffusers", "--dtype", "float32"]) == 0
    made = tmp_path / "diffusers" / "transformer" / "diffusion_pytorch_model.safetensors"
    for key, value in load_file(made).items():
        expected = wanted if key == f"{name}.weight" else stored[key].float()
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=0)
    assert main(["quantize", *flags, "--format", "gguf-f16"]) == 0
    fused = open_gguf(tmp_path / "transformer-f16.gguf")["joint_blocks.0.x_block.attn.qkv.weight"]
    np.testing.assert_allclose(fused[:256], wanted.numpy(), atol=2e-3)
    found, text = drawn(tmp_path / "lora", tiny_teacher, *flags[2:6])
    merged, _ = drawn(tmp_path / "merged", tmp_path / "diffusers")
    assert np.abs(found - merged).max() <= 1 < np.abs(found - picture[0]).max()
    assert json.loads(text["settings"])["lora"] == [f"{lora}:0.5"] * 2


def test_what_half_precision_cannot_hold_is_named_with_loras_too(tiny_teacher, tmp_path, capsys):
    source, lora = tmp_path / "teacher", tmp_path / "style.safetensors"
    shutil.copytree(tiny_teacher, source)
    path = source / "transformer" / "diffusion_pytorch_model.safetensors"
    stored, name = load_file(path), "transformer_blocks.0.attn.to_q"
    save_file(
        stored
        | {"proj_out.bias": torch.full_like(stored["proj_out.bias"], 1e5, dtype=torch.float32)},
        path,
    )
    halves = {f"transformer.{name}.lora_A.weight": torch.zeros(4, 256)}
    save_file(halves | {f"transformer.{name}.lora_B.weight": torch.zeros(256, 4)}, lora)
    flags = ["--source", str(source), "--format", "diffusers", "--dtype", "float16"]
    for more in ([], ["--lora", str(lora)]):
        assert main(["export", *flags, *more, "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert "proj_out.bias" in said and "bfloat16" in said
    assert not (tmp_path / "out").exists()


def test_a_png_says_how_it_was_made(picture):
    """In two chunks. One that is called "prompt" would have to be a graph of ComfyUI's."""
    _, text = picture
    assert set(text) == {"parameters", "settings"}
    settings = json.loads(text["settings"])
    assert settings["prompt"] == PROMPT
    assert settings["seed"] == 3
    assert settings["steps"] == 2
    assert settings["guidance_scale"] == 4.0
    prompt, negative, line = text["parameters"].split("\n")
    assert prompt == PROMPT and negative == "Negative prompt: "
    assert line.startswith("Steps: 2, Sampler: Euler, CFG scale: 4, Seed: 3, Size: 64x64, Model: ")


@pytest.mark.parametrize("flag", ["--prompt", "--negative_prompt"])
def test_words_of_another_encoding_are_refused(flag, tiny_teacher, tmp_path, capsys):
    """A shell in Latin-1 gives bytes that are no text."""
    word = b"caf\xe9".decode(errors="surrogateescape")
    place = ["--source", str(tiny_teacher), "--out", str(tmp_path / "new"), "--prompt", PROMPT]
    assert main(["sample", *place, "--guidance_scale", "4", flag, word]) == 2
    told = capsys.readouterr().err
    assert r"'caf\udce9' is no text in UTF-8" in told and told.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--xy", "guidance=4,1", "--skip_layers", "1"], "--skip_layers adds to guidance"),
        (["--xy", "skip_layers=0;99", "--guidance_scale", "4"], "99"),
    ],
)
def test_what_a_cell_cannot_be_drawn_with_is_said_before_the_first_is(
    settings, said, tiny_teacher, tmp_path, capsys
):
    place = ["--source", str(tiny_teacher), "--out", str(tmp_path / "new"), "--prompt", PROMPT]
    assert main(["sample", *place, "--steps", "1", *settings]) == 2
    assert said in capsys.readouterr().err
    assert not list((tmp_path / "new").glob("*.png"))


def test_a_picture_depends_on_its_seed_alone(picture, tiny_teacher, tmp_path):
    """Not on what is drawn with it: picture i of a seed is the first one of the seed + i."""
    more = ("--prompt", PROMPT, "--prompt", "a pink eight", "--batch", "2", "--seed", "1")
    drawn(tmp_path, tiny_teacher, *more)  # two before it, and in another batch
    drawn(tmp_path / "other", tiny_teacher, "--prompt", PROMPT, "--seed", "2")
    with Image.open(tmp_path / "0001.png") as second, Image.open(tmp_path / "0000.png") as first:
        assert json.loads(second.text["settings"])["seed"] == 2
        assert np.abs(np.asarray(second).astype(int) - np.asarray(first)).max() > 8
        with Image.open(tmp_path / "other" / "0000.png") as alone:
            assert np.abs(np.asarray(second).astype(int) - np.asarray(alone)).max() <= 1
        with Image.open(tmp_path / "other" / "0001.png") as third:
            assert np.abs(np.asarray(third).astype(int) - picture[0]).max() <= 1


def test_a_table_of_sources_steps_and_seeds_has_every_picture(
    picture, tiny_teacher, containers, tmp_path, capsys
):
    sources = f"{tiny_teacher},{containers['single']}"
    flags = ("--base", str(tiny_teacher), "--xy", "steps=1,2", "seed=3,4")
    place = ["--source", sources, "--prompt", PROMPT, "--out", str(tmp_path)]
    assert main(["sample", *place, *flags, "--guidance_scale", "4"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "xy-0000.png")
    names = {path.name for path in tmp_path.glob("0000-*.png")}
    assert names == {
        f"0000-{source}-steps={steps}-seed={seed}.png"
        for source in ("tiny", "model")
        for steps in (1, 2)
        for seed in (3, 4)
    }
    for source in ("tiny", "model"):
        with Image.open(tmp_path / f"0000-{source}-steps=2-seed=3.png") as image:
            assert np.abs(np.asarray(image).astype(int) - picture[0]).max() <= 1
    with Image.open(tmp_path / "xy-0000.png") as sheet:
        assert sheet.height > 4 * 64 and sheet.width > 2 * 64


def test_a_name_that_ends_in_png_is_the_picture(picture, tiny_teacher, tmp_path, capsys):
    place = ["--source", str(tiny_teacher), "--prompt", PROMPT, "--seed", "3", "--steps", "2"]
    place += ["--guidance_scale", "4", "--out", str(tmp_path / "new" / "x.png")]
    for _ in range(2):  # our own may be written over
        assert main(["sample", *place]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "new" / "x.png")] * 2
    with Image.open(tmp_path / "new" / "x.png") as image:
        assert np.abs(np.asarray(image).astype(int) - picture[0]).max() <= 1
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [".flashjax.json", "x.png"]
    assert main(["sample", *place, "--prompt", "a pink eight"]) == 2
    assert "x.png is one file, and 2 things are to be written" in capsys.readouterr().err
    (tmp_path / "new" / "x.png").write_bytes(b"edited")
    assert main(["sample", *place]) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "new" / "x.png").read_bytes() == b"edited"


def test_weights_are_kept_as_they_are_stored_and_on_every_device(tiny_teacher):
    pipeline, _ = open_source(str(tiny_teacher))
    leaves = jax.tree.leaves([pipeline.transformer, pipeline.vae, pipeline.text])
    assert {leaf.dtype.name for leaf in leaves} == {"float16"}
    assert {len(leaf.sharding.device_set) for leaf in leaves} == {jax.device_count()}
    assert pipeline.transformer_config.dtype == "float32"
    for dtype in DTYPES:
        assert placement(dtype).dtype == computed_in(dtype) == dtype


def test_sizes_solvers_and_skipped_layers_reach_the_sampler(picture, tiny_teacher, tmp_path):
    flags = ("--size", "32x64", "--solver", "dpmpp_2m", "--skip_layers", "0")
    found, _ = drawn(tmp_path, tiny_teacher, *flags)
    assert found.shape == (32, 64, 3)
    assert (tmp_path / "grid.png").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--size", "60x64"), "--size 60x64: give HEIGHTxWIDTH in pixels, multiples of 16"),
        (("--skip_layers", "1"), "blocks (1,) cannot all be skipped"),
        (("--source", "/nowhere"), "/nowhere does not exist: check the path"),
        (("--steps", "0"), "--steps 0: give one or more"),
        (("--batch", "0"), "--batch 0: give one or more"),
        (("--seed", "-1"), "seed -1: give a number from 0"),
        (("--seed", str(2**63)), f"seed {2**63}: give a number from 0"),
        (("--seed", str(2**63 - 1), "--prompt", "b"), f"seed {2**63}: give a number from 0"),
        (("--guidance_scale", "nan"), "--guidance_scale nan: give a number"),
        (("--guidance_scale", "1", "--negative_prompt", "x"), "--negative_prompt acts through"),
        (("--xy", "stops=1"), "--xy stops=1: give NAME=VALUE,VALUE with a NAME of steps"),
        (("--xy", "steps=1,x"), "--xy steps=1,x: steps takes values of int"),
        (("--xy", "steps=0,1"), "--steps 0: give one or more"),
        (("--xy", "solver=heun"), "--xy solver=heun: choose of euler"),
        (("--xy", "steps=1,1"), "a value is there twice"),
        (("--xy", "steps=1", "steps=2"), "both axes are steps"),
        (("--xy", "steps=1", "seed=2", "grid=student"), "has 3 axes: give one or two"),
    ],
)
def test_a_wrong_flag_is_one_line(flags, message, tiny_teacher, tmp_path, capsys):
    source = () if "--source" in flags else ("--source", str(tiny_teacher))
    words = [*source, "--prompt", PROMPT, "--out", str(tmp_path), "--guidance_scale", "4"]
    assert main(["sample", *words, *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_file_without_tokenizers_asks_for_a_base(containers, tmp_path, capsys):
    arguments = ["--source", str(containers["single"]), "--prompt", PROMPT, "--out", str(tmp_path)]
    assert main(["sample", *arguments]) == 2
    assert "has no tokenizers: give --base" in capsys.readouterr().err


def test_export_gives_back_the_bytes_it_was_given(containers, tiny_teacher, tmp_path):
    for source, name in ((containers["single"], "sai"), (containers["folder"], "diffusers")):
        flags = ["--source", str(source), "--base", str(tiny_teacher), "--out", str(tmp_path)]
        assert main(["export", *flags, "--format", name]) == 0
    again = (tmp_path / "model.safetensors").read_bytes()
    assert again == containers["single"].read_bytes()
    files = sorted(p.relative_to(containers["folder"]) for p in containers["folder"].rglob("*.*"))
    assert files
    for file in files:
        if not (containers["folder"] / file).is_dir():
            found = (tmp_path / "diffusers" / file).read_bytes()
            assert found == (containers["folder"] / file).read_bytes(), file


def test_a_negative_prompt_is_encoded_once_for_a_table(tiny_teacher, tmp_path, monkeypatch):
    given, draw = [], drawing.draw_seeds
    spy = lambda *a, **named: given.append(a[3]) or draw(*a, **named)
    monkeypatch.setattr(drawing, "draw_seeds", spy)
    flags = ["--source", str(tiny_teacher), "--prompt", PROMPT, "--out", str(tmp_path)]
    flags += ["--steps", "1", "--negative_prompt", "blue", "--xy", "guidance_scale=2,3"]
    assert main(["sample", *flags]) == 0
    first, second = given
    assert isinstance(first, Cond) and first is second

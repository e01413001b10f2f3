"""`sample` and `export --source`: the same model from every container, the same pictures."""

import json

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


def test_a_png_says_how_it_was_made(picture):
    _, text = picture
    assert text["prompt"] == PROMPT
    assert text["seed"] == "3"
    settings = json.loads(text["settings"])
    assert settings["steps"] == 2
    assert settings["guidance_scale"] == 4.0


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
        (("--source", "/nowhere"), "/nowhere is no model: give a pipeline's folder"),
        (("--steps", "0"), "--steps 0: give one or more"),
    ],
)
def test_a_wrong_flag_is_one_line(flags, message, tiny_teacher, tmp_path, capsys):
    arguments = ["--source", str(tiny_teacher), "--prompt", PROMPT, "--out", str(tmp_path)]
    assert main(["sample", *arguments, "--guidance_scale", "4", *flags]) == 2
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

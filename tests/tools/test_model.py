"""`flashjax.load`: what the tools do, from Python."""

import shutil
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel
from PIL import Image

import flashjax
from flashjax.cli import main
from flashjax.data.cache import Cache

PROMPT = "a red seven on white"


@pytest.fixture(scope="module")
def model(shallow_teacher):
    return flashjax.load(shallow_teacher)


@pytest.fixture(scope="module")
def picture(model):
    return model.sample(PROMPT, steps=2, seed=3, guidance_scale=4.0)[0]


def test_importing_the_package_is_light():
    code = "import flashjax, sys; print(flashjax.__version__, 'jax' in sys.modules)"
    started = time.perf_counter()
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == [flashjax.__version__, "False"]
    assert time.perf_counter() - started < 5
    assert flashjax.InputError is flashjax.__getattr__("InputError")
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = flashjax.lode


def test_a_model_draws_the_pixels_of_the_tool(picture, shallow_teacher, tmp_path):
    flags = ["--steps", "2", "--seed", "3", "--guidance_scale", "4", "--out", str(tmp_path)]
    assert main(["sample", "--source", str(shallow_teacher), "--prompt", PROMPT, *flags]) == 0
    with Image.open(tmp_path / "0000.png") as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
    assert picture.dtype == np.uint8 and picture.shape == (64, 64, 3) and picture.std() > 1


@pytest.mark.parametrize("name", ["folder", "model.safetensors"])
def test_what_is_saved_is_loaded_as_the_same_model(name, model, picture, tmp_path):
    saved = model.save(tmp_path / name)
    assert saved == tmp_path / ("folder/diffusers" if name == "folder" else name)
    base = None if name == "folder" else model.source
    again = flashjax.load(saved, base=base)
    found = again.sample([PROMPT], steps=2, seed=3, guidance_scale=4.0)[0]
    np.testing.assert_array_equal(found, picture)


def test_a_quantised_model_is_a_model_that_differs_a_little(model, tmp_path):
    (path,) = model.quantize(tmp_path / "x.gguf", format="gguf-q8_0", seed=1)
    x, sigma = jnp.ones((1, 8, 8, 16)), jnp.array([0.5])
    wanted = model.velocity(x, sigma, model.encode(PROMPT))
    again = flashjax.load(path, base=model.source)
    found = again.velocity(x, sigma, again.encode(PROMPT))
    error = float(jnp.linalg.norm(found - wanted) / jnp.linalg.norm(wanted))
    assert 0 < error < 0.05


def test_a_setting_without_effect_is_refused_from_python_too(model, tmp_path):
    with pytest.raises(flashjax.InputError, match="--title is for --format comfy-int8"):
        model.quantize(tmp_path / "x.gguf", format="gguf-q8_0", title="a title")


def test_the_velocity_is_that_of_diffusers(model):
    oracle = SD3Transformer2DModel.from_pretrained(
        model.source / "transformer", torch_dtype=torch.float32
    ).eval()
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 16)).astype(np.float32)
    sigma, cond = np.array([0.25, 0.9], np.float32), model.encode([PROMPT, "a pink eight"])
    with torch.no_grad():
        wanted = oracle(
            hidden_states=torch.tensor(x.transpose(0, 3, 1, 2)),
            encoder_hidden_states=torch.tensor(np.asarray(cond.text)),
            pooled_projections=torch.tensor(np.asarray(cond.pooled)),
            timestep=torch.tensor(1000 * sigma),
        ).sample.numpy()
    found = np.asarray(model.velocity(x, sigma, cond)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_stage_s_folder_is_a_model_that_is_drawn_saved_and_quantised(model, picture, tmp_path):
    """Of `import`, whose student is the teacher itself."""
    flags = [f"--config.teacher.source={model.source}", "--config.simulate_devices=1"]
    run = ["--config", "configs/nano.py", "--workdir", str(tmp_path / "run"), *flags]
    assert main(["import", *run]) == 0
    stage = tmp_path / "run" / "guide"
    shutil.copytree(tmp_path / "run" / "import" / "params" / "transformer", stage / "params")
    student = flashjax.load(stage)
    drawn = {"steps": 2, "seed": 3, "guidance_scale": 4.0}
    saved = flashjax.load(student.save(tmp_path / "saved", format="diffusers"))
    for found in (student.sample(PROMPT, **drawn)[0], saved.sample(PROMPT, **drawn)[0]):
        assert np.abs(found.astype(int) - picture).max() <= 1
    (path,) = student.quantize(tmp_path / "q", format="gguf-f16")
    assert path.stat().st_size > 1e5
    teacher = flashjax.load(tmp_path / "run" / "import").sample(PROMPT, **drawn)[0]
    assert np.abs(teacher.astype(int) - picture).max() <= 1
    prepared = tmp_path / "run" / "prepare"
    prepared.mkdir()
    Cache({}, {"side": 128}, (), {}).write(prepared)  # the size that the run has learnt
    assert flashjax.load(stage).sample(PROMPT, **drawn)[0].shape == (128, 128, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: flashjax.load("/nowhere"), "/nowhere does not exist"),
        (lambda model: flashjax.load(model.source / "transformer"), "has no tokenizers"),
        (lambda model: flashjax.load(model.source, base="/no"), "--base: /no does not exist"),
        (lambda model: model.sample([]), "prompts is empty"),
        (lambda model: model.sample("a", steps=0), "steps 0: give one or more"),
        (lambda model: model.sample("a", grid="x"), "grid x: choose of sampler, student"),
        (lambda model: model.sample("a", size="60x64"), "size 60x64: give HEIGHTxWIDTH"),
        (lambda model: model.sample("a", negative_prompt="b"), "acts through guidance"),
        (lambda model: model.save("x", dtype="int8"), "dtype int8: choose of float16"),
        (lambda model: model.save("x", format="png"), "format png is unknown"),
        (lambda model: model.quantize("x", format="gguf-q9"), "gguf-q9 is unknown"),
        (lambda model: model.quantize("x", format="gguf-q8_0", speed=1), "speed is no setting"),
        (
            lambda model: model.velocity(np.ones((1, 16, 8, 8)), [0.5], model.encode("a")),
            "give b h w 16, channels last",
        ),
        (
            lambda model: model.velocity(np.ones((2, 8, 8, 16)), [1, 1], model.encode("a")),
            "cond has 1 rows and x 2",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(call, message, model):
    with pytest.raises(flashjax.InputError) as error:
        call(model)
    assert message in str(error.value) and "\n" not in str(error.value)

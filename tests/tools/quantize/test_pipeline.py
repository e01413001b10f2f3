"""`quantize --format pipeline-…`: every network of a folder, run by the runtime that it is for."""

import json
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from flashjax.cli import main
from flashjax.convert.folder import read_parts, read_pipeline
from flashjax.convert.table import AS_STORED
from flashjax.convert.tensors import in_memory
from flashjax.convert.text import TWIN, t5_to
from flashjax.convert.transformer import transformer_to
from flashjax.convert.writing import write_safetensors
from flashjax.data.tokenizers import load_tokenizers
from flashjax.evaluate.sample import Sampler, draw_noise, make_sample
from flashjax.flow.schedule import sampler_sigmas
from flashjax.models import vae
from flashjax.models.clip import CLIPText
from flashjax.models.layers import apply
from flashjax.models.t5 import T5Encoder
from flashjax.quantize.formats import open_format

PROMPTS = ["a red seven left of a blue three on white", "a pink eight"]
ONNX, OPENVINO, TORCHAO = "pipeline-onnx-int8", "pipeline-openvino-fp16", "pipeline-torchao-int8"
GRAPHS = ("text_encoder", "text_encoder_2", "text_encoder_3", "vae_decoder")


@pytest.fixture(scope="module")
def written(tiny_teacher, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pipelines")
    names = ",".join((ONNX, OPENVINO, TORCHAO))
    flags = ["--in", tiny_teacher, "--out", out, "--format", names]
    assert main(["quantize", *map(str, flags)]) == 0
    return out


@pytest.fixture(scope="module")
def ours(tiny_teacher) -> dict[str, tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """For each network: what it is given, and what it makes of it by our own model."""
    pipeline, tokens = read_pipeline(tiny_teacher), load_tokenizers(tiny_teacher)(PROMPTS)
    text, found = pipeline.text_config, {}
    for folder, name in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        config, ids = getattr(text, name), getattr(tokens, name)
        run = jax.jit(lambda params, ids, config=config: apply(CLIPText(config), params, ids))
        hidden, pooled = run(pipeline.text[name], ids)
        made = {"text_embeds": pooled, f"hidden_states.{config.depth - 1}": hidden}
        found[folder] = ({"input_ids": ids.astype(np.int64)}, made)
    run = jax.jit(lambda params, ids: apply(T5Encoder(text.t5), params, ids))
    made = {"last_hidden_state": run(pipeline.text["t5"], tokens.t5)}
    found["text_encoder_3"] = ({"input_ids": tokens.t5.astype(np.int64)}, made)
    config = pipeline.vae_config
    latents = np.random.default_rng(0).normal(size=(2, 4, 2, config.latent_channels))
    picture = jax.jit(lambda params, x: apply(vae.VAE(config), params, x, method="decode_raw"))
    made = {"sample": picture(pipeline.vae, latents.astype(np.float32)).transpose(0, 3, 1, 2)}
    given = {"latent_sample": latents.astype(np.float32).transpose(0, 3, 1, 2)}
    found["vae_decoder"] = (given, made)
    return found


def snr_db(clean: np.ndarray, other: np.ndarray) -> float:
    error = np.asarray(other, np.float64) - np.asarray(clean, np.float64)
    return 10 * math.log10(np.square(clean).sum() / np.square(error).sum())


def onnx_runtime(folder: Path, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = runtime.InferenceSession(folder / "model.onnx", options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, given), strict=True))


def openvino_runtime(folder: Path, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    openvino = pytest.importorskip("openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    model = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", settings)
    made = model(given)
    return {name: made[output] for output in model.outputs for name in output.names}


# The tiny teacher's weights are float16 already: only eight bits of T5 change anything.
@pytest.mark.parametrize(
    ("name", "run", "least_of_t5"), [(ONNX, onnx_runtime, 30), (OPENVINO, openvino_runtime, 55)]
)
def test_text_encoders_and_decoder_are_computed_without_us(
    name: str, run, least_of_t5: float, written, ours
) -> None:
    for folder in GRAPHS:
        given, expected = ours[folder]
        made = run(written / name / folder, given)
        least = least_of_t5 if folder == "text_encoder_3" else 55
        for key, value in expected.items():
            assert snr_db(value, made[key]) > least, (folder, key)


def test_the_pooled_vector_comes_first_as_openvino_genai_reads_it(written, tiny_teacher) -> None:
    """It counts outputs: the penultimate hidden state is number depth + 1."""
    openvino = pytest.importorskip("openvino")
    for folder in GRAPHS[:2]:
        model = openvino.Core().read_model(written / OPENVINO / folder / "openvino_model.xml")
        depth = json.loads((tiny_teacher / folder / "config.json").read_text())["num_hidden_layers"]
        names = [output.any_name for output in model.outputs]
        assert names[0] == "text_embeds"
        assert names[depth + 1] == f"hidden_states.{depth - 1}"


def test_diffusers_draws_from_a_torchao_folder_alone(written, ours) -> None:
    pytest.importorskip("torchao")
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(
        written / TORCHAO, torch_dtype=torch.bfloat16
    )
    weight = pipe.text_encoder_3.encoder.block[0].layer[1].DenseReluDense.wo.weight
    assert type(weight).__name__ == "Int8Tensor"
    given, expected = ours["text_encoder_3"]
    with torch.no_grad():
        made = pipe.text_encoder_3(torch.tensor(given["input_ids"]))[0].float().numpy()
    assert snr_db(expected["last_hidden_state"], made) > 30  # activations are bfloat16
    drawn = pipe(
        PROMPTS[0], num_inference_steps=2, guidance_scale=1.0, max_sequence_length=12,
        output_type="np",
    ).images  # fmt: skip
    assert drawn.shape[0] == 1
    assert np.isfinite(drawn).all()


def test_a_torchao_folder_is_read_back_as_torchao_and_transformers_have_it(written):
    """Every network of it: eight bits in the transformer and T5, sixteen in the others."""
    pytest.importorskip("torchao")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.T5EncoderModel.from_pretrained(written / TORCHAO / "text_encoder_3")
    parts = read_parts(written / TORCHAO)
    assert parts.keys() == {"transformer", "vae", "clip_l", "clip_g", "t5"}
    ours = t5_to(*parts["t5"])
    assert "Int8Tensor" in {type(value).__name__ for value in theirs.state_dict().values()}
    for name, value in theirs.state_dict().items():
        if name in ours:
            whole = value.dequantize() if hasattr(value, "qdata") else value
            np.testing.assert_allclose(
                ours[name], whole.float().numpy(), rtol=2e-2, atol=1e-3, err_msg=name
            )


def test_networks_of_different_models_are_no_pipeline(shallow_teacher, tmp_path, capsys) -> None:
    tensors = dict(transformer_to(*read_parts(shallow_teacher)["transformer"], "sai"))
    tensors["context_embedder.weight"] = np.tile(tensors["context_embedder.weight"], 2)
    write_safetensors(source := tmp_path / "wide.safetensors", in_memory(tensors))
    flags = ["--source", source, "--base", shallow_teacher, "--out", tmp_path / "out"]
    assert main(["quantize", "--format", TORCHAO, *map(str, flags)]) == 2
    told = "T5's tokens have 64 numbers, the transformer takes 128; they are of different models"
    assert f"{source} with {shallow_teacher}: {told}" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))


def test_tokenizers_of_another_model_are_no_pipelines(shallow_teacher, tmp_path, capsys) -> None:
    shutil.copytree(shallow_teacher, source := tmp_path / "other")
    home = source / "text_encoder_3"
    tensors = dict(t5_to(*read_parts(source)["t5"]))
    for name in ("shared.weight", TWIN):
        tensors[name] = tensors[name][:9]
    write_safetensors(home / "model.safetensors", in_memory(tensors))
    config = json.loads((home / "config.json").read_text())
    (home / "config.json").write_text(json.dumps(config | {"vocab_size": 9}))
    flags = ["--source", source, "--out", tmp_path / "out", "--format", TORCHAO]
    assert main(["quantize", *map(str, flags)]) == 2
    assert f"{source}: the tokenizer of t5 has" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))


def test_openvino_genai_draws_our_picture(written, tiny_teacher) -> None:
    """The same noise down the same grid: SD3's own, of which five steps are four of a student."""
    openvino, genai = pytest.importorskip("openvino"), pytest.importorskip("openvino_genai")
    noise = draw_noise(0, 1, (8, 8, 16))

    class Given(genai.Generator):
        def __init__(self) -> None:
            genai.Generator.__init__(self)

        def randn_tensor(self, shape):
            channels_first = noise.transpose(0, 3, 1, 2).reshape(shape)
            return openvino.Tensor(np.ascontiguousarray(channels_first))

    pipe = genai.Text2ImagePipeline(written / OPENVINO, "CPU", INFERENCE_PRECISION_HINT="f32")
    drawn = pipe.generate(
        PROMPTS[0], num_inference_steps=5, guidance_scale=1.0, max_sequence_length=12,
        generator=Given(),
    ).data  # fmt: skip
    pipeline, tokens = read_pipeline(tiny_teacher), load_tokenizers(tiny_teacher)([PROMPTS[0]])
    grid = Sampler(tuple(sampler_sigmas(5, pipeline.shift).tolist()))
    frozen = {"transformer": pipeline.transformer, "vae": pipeline.vae, "text": pipeline.text}
    ours = 127.5 * (1 + np.asarray(make_sample(pipeline, grid)(frozen, tokens, None, noise)))
    assert np.abs(drawn - ours).max() < 2


def test_a_lora_of_the_transformer_alone_is_in_the_pipelines_transformer_alone(
    tiny_teacher, tmp_path
):
    """It is nothing of the other networks, which are read apart."""
    teacher = read_pipeline(tiny_teacher)
    tensors = transformer_to(teacher.transformer, teacher.transformer_config, "sai")
    module = "joint_blocks.0.x_block.mlp.fc1"
    rows, columns = tensors.shapes[f"{module}.weight"]
    name = f"lora_unet_{module.replace('.', '_')}"
    halves = {f"{name}.lora_down.weight": np.ones((1, columns), np.float32)}
    save_file(halves | {f"{name}.lora_up.weight": np.ones((rows, 1), np.float32)}, tmp_path / "l")
    (tmp_path / "l").rename(tmp_path / "l.safetensors")
    flags = ["--source", tiny_teacher, "--out", tmp_path / "q", "--format", "pipeline-torchao-int8"]
    assert main(["quantize", *map(str, flags), "--lora", str(tmp_path / "l.safetensors")]) == 0
    written = tmp_path / "q" / "pipeline-torchao-int8"
    found = open_format(written / "transformer", teacher.transformer_config)
    wanted = tensors[f"{module}.weight"] + np.float32(1)
    assert snr_db(wanted, found[f"{module}.weight"]) > 30
    clip = read_parts(written, place=lambda _: AS_STORED, names=["clip_l"])["clip_l"][0]
    base = read_parts(tiny_teacher, place=lambda _: AS_STORED, names=["clip_l"])["clip_l"][0]
    jax.tree.map(np.testing.assert_array_equal, clip, base)

"""`export`: what a LoRA makes of float16, titles, and the stages of a run as sources."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flashjax.checkpoint import save_params
from flashjax.cli import main
from flashjax.convert.folder import read_pipeline
from flashjax.convert.reading import open_safetensors
from flashjax.convert.sai import PREFIXES
from flashjax.convert.table import AS_STORED
from flashjax.convert.tensors import in_memory
from flashjax.convert.transformer import transformer_from, transformer_to
from flashjax.data.cache import Cache
from flashjax.stages.model import keep_model

CHANGED, KEPT = "joint_blocks.0.x_block.mlp.fc1.weight", "joint_blocks.0.x_block.mlp.fc2.weight"


@pytest.fixture(scope="module")
def pipeline(shallow_teacher):
    return read_pipeline(shallow_teacher)


@pytest.fixture(scope="module")
def lora(pipeline, tmp_path_factory):
    """A LoRA of one weight, and the weight's product."""
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    shape = transformer_to(pipeline.transformer, pipeline.transformer_config, "sai").shapes[CHANGED]
    random = np.random.default_rng(0)
    down, up = (
        random.normal(size=size).astype(np.float32) for size in ((1, shape[1]), (shape[0], 1))
    )
    name = f"lora_unet_{CHANGED.removesuffix('.weight').replace('.', '_')}"
    save_file({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, path)
    return str(path), up @ down


@pytest.fixture
def model(pipeline, shallow_teacher, tmp_path):
    """`model(kind, factor)`: a model whose weight KEPT is so much larger, as a file or a stage."""

    def make(kind, factor):
        config = pipeline.transformer_config
        tensors = dict(transformer_to(pipeline.transformer, config, "sai"))
        tensors[KEPT] = tensors[KEPT] * np.float32(factor)
        tensors = {name: array.astype(ml_dtypes.bfloat16) for name, array in tensors.items()}
        if kind == "file":
            path = tmp_path / "source.safetensors"
            save_file({PREFIXES["transformer"] + n: a for n, a in tensors.items()}, path)
            return path
        params = transformer_from(in_memory(tensors), config, "sai", AS_STORED)
        return stage(tmp_path / "run", pipeline, shallow_teacher, params)

    return make


def stage(run, pipeline, teacher, params):
    """A stage's folder in a run."""
    (run / "import").mkdir(parents=True)
    keep_model(run / "import", pipeline, tokenizers=teacher)
    save_params(run / "guide" / "params", params)
    return run / "guide"


def export(source, out, *flags):
    return main(["export", "--source", str(source), "--out", str(out), *flags])


@pytest.mark.parametrize("kind", ["file", "stage"])
def test_beside_a_lora_too_what_float16_leaves_nothing_of_keeps_its_dtype(
    kind, model, lora, tmp_path
):
    source, out = model(kind, 1e-6), tmp_path / "out.safetensors"
    assert export(source, out, "--dtype", "float16", "--lora", lora[0]) == 0
    found, prefix = load_file(out), PREFIXES["transformer"]
    assert found[prefix + CHANGED].dtype == np.float16
    kept = found[prefix + KEPT]
    assert kept.dtype == np.float32 and 0 < np.abs(kept).max() < 1e-5


@pytest.mark.parametrize("kind", ["file", "stage"])
def test_beside_a_lora_too_what_is_beyond_float16_is_named(kind, model, lora, tmp_path, capsys):
    source, out = model(kind, 1e6), tmp_path / "out.safetensors"
    assert export(source, out, "--dtype", "float16", "--lora", lora[0]) == 2
    said = capsys.readouterr().err
    assert "attn" not in said and "ff.net.2.weight" in said and "--dtype bfloat16" in said
    assert not out.exists()


def test_a_weight_with_its_lora_is_rounded_once(model, lora, tmp_path):
    source, out, name = model("file", 1), tmp_path / "out.safetensors", PREFIXES["transformer"]
    assert export(source, out, "--dtype", "float32", "--lora", lora[0]) == 0
    given = load_file(source)[name + CHANGED].astype(np.float32)
    np.testing.assert_allclose(load_file(out)[name + CHANGED], given + lora[1], rtol=1e-6)


def title(path):
    return open_safetensors(path).metadata["modelspec.title"]


def test_a_title_that_is_given_is_the_files_else_its_own_stays(shallow_teacher, tmp_path, capsys):
    first, second, third = (tmp_path / f"{name}.safetensors" for name in "abc")
    assert (
        export(shallow_teacher / "transformer", first) == 0
        and title(first) == "converted by flashjax"
    )
    assert export(first, second, "--title", "mine") == 0 and title(second) == "mine"
    assert export(second, third) == 0 and title(third) == "mine"
    assert export(first, tmp_path / "d", "--format", "diffusers", "--title", "x") == 2
    assert "--title is for --format sai" in capsys.readouterr().err
    assert export(first, tmp_path / "d.safetensors", "--shard_gb", "1") == 2
    assert "--shard_gb is for --format diffusers" in capsys.readouterr().err
    for size in ("0", "1e303", "nan"):
        assert export(first, tmp_path / "d", "--shard_gb", size) == 2
        assert "--shard_gb" in capsys.readouterr().err


def test_a_hash_is_of_the_tensors_that_it_was_made_of(model, lora, tmp_path):
    source, same, other = model("file", 1.0), tmp_path / "same.st", tmp_path / "other.safetensors"
    same = same.with_suffix(".safetensors")
    tensors = dict(open_safetensors(source))
    save_file(tensors, source, metadata={"modelspec.hash_sha256": "0x1", "sshs_model_hash": "2"})
    assert export(source, same) == 0
    assert export(source, other, "--lora", lora[0]) == 0
    assert open_safetensors(same).metadata.keys() >= {"modelspec.hash_sha256", "sshs_model_hash"}
    assert not any("hash" in key for key in open_safetensors(other).metadata)


def test_a_title_that_is_no_text_is_refused_before_anything_is_read(
    shallow_teacher, tmp_path, capsys
):
    title = b"caf\xe9".decode(errors="surrogateescape")
    assert export(shallow_teacher, tmp_path / "a.safetensors", "--title", title) == 2
    assert r"--title 'caf\udce9' is no text in UTF-8" in capsys.readouterr().err
    flags = ["--source", str(shallow_teacher), "--out", str(tmp_path), "--format", "comfy-fp8"]
    assert main(["quantize", *flags, "--title", title]) == 2
    assert r"--title 'caf\udce9' is no text in UTF-8" in capsys.readouterr().err


def test_a_base_that_would_not_be_used_is_said(tiny_teacher, tmp_path, capsys):
    """A whole pipeline takes nothing of it, not even the T5 that it lacks."""
    bare = tmp_path / "bare"
    shutil.copytree(tiny_teacher, bare)
    for name in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(bare / name)
    index = json.loads((bare / "model_index.json").read_text())
    index |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    (bare / "model_index.json").write_text(json.dumps(index))
    base = ["--base", str(tiny_teacher)]
    assert export(bare, tmp_path / "out", "--format", "diffusers", *base) == 2
    told = capsys.readouterr().err
    assert f"give --source {bare / 'transformer'} to have all else of --base" in told
    assert export(bare / "transformer", tmp_path / "out", "--format", "diffusers", *base) == 0
    assert export(bare, tmp_path / "bare_out", "--format", "diffusers") == 0


def test_the_stage_import_is_the_teacher_at_its_own_size(pipeline, shallow_teacher, tmp_path):
    """A student beside it has the size that its run has learnt."""
    student = stage(tmp_path / "run", pipeline, shallow_teacher, pipeline.transformer)
    (tmp_path / "run" / "prepare").mkdir()
    Cache({}, {"side": 128}, (), {}).write(tmp_path / "run" / "prepare")
    for source, size in ((student, 16), (student.parent / "import", 8)):
        out = tmp_path / source.name
        assert export(source, out, "--format", "diffusers") == 0
        told = json.loads((out / "diffusers/transformer/config.json").read_text())
        assert told["sample_size"] == size
        flags = [
            "--source",
            str(source),
            "--format",
            "comfy-int8",
            "--out",
            str(out / "x.safetensors"),
        ]
        assert main(["quantize", *flags]) == 0
        metadata = open_safetensors(out / "x.safetensors").metadata
        assert metadata["modelspec.resolution"] == f"{8 * size}x{8 * size}"

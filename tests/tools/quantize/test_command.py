"""`quantize` without a config: measured, calibrated, mixed, reported."""

import json
import logging
import re

import jax
import numpy as np
import pytest

from flashjax.cli import main
from flashjax.convert.pipeline import in_float32
from flashjax.convert.reading import open_safetensors
from flashjax.quantize.calibrate import second_moments, velocity_errors
from flashjax.tools.quantize import command, student
from flashjax.tools.quantize.student import open_student

PROMPTS = ("a red seven left of a blue three on white", "a pink eight at the top on brown")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS * 4) + "\n")
    return str(path)


def quantize(*flags):
    return main(["quantize", *map(str, flags)])


def test_every_way_to_six_bits_is_written_measured_and_reported(
    tiny_teacher, prompts, tmp_path, caplog
):
    """Rounding for outputs costs no byte, more bits move the output less, and one page says so."""
    names = "gguf-q6_k,gguf-q6_k-calibrated,gguf-mixed"
    flags = ["--source", tiny_teacher, "--out", tmp_path, "--format", names, "--steps", 2]
    flags += ["--calibrate", prompts, "--size_mb", 5.2, "--report", "--samples", 4]
    with caplog.at_level(logging.INFO):
        assert quantize(*flags) == 0
    found = re.findall(r"(gguf-\S+): output (\S+) dB, by step", caplog.text)
    output = {name: float(ratio) for name, ratio in found}
    size = {name: (tmp_path / f"transformer-{name[5:]}.gguf").stat().st_size for name in output}
    assert list(output) == names.split(",")
    assert output["gguf-q6_k"] < output["gguf-q6_k-calibrated"] <= output["gguf-mixed"]
    assert size["gguf-q6_k"] == size["gguf-q6_k-calibrated"] <= size["gguf-mixed"] <= 5.2e6
    table = json.loads((tmp_path / "transformer-mixed.gguf.json").read_text())
    assert {row["type"] for row in table.values()} >= {"F32", "F16", "Q6_K"}
    page = (tmp_path / "report.html").read_text()
    for text in ("Alignment of gguf-q6_k from", "Output gained by calibrating", "real scenes"):
        assert text in page


def test_a_file_says_what_of_it_has_more_bits_than_its_name(
    tiny_teacher, tmp_path, caplog, monkeypatch
):
    flags = ["--source", tiny_teacher, "--format", "gguf-q6_k"]
    assert quantize(*flags, "--out", tmp_path / "whole.gguf") == 0
    assert "weights are in" not in caplog.text
    monkeypatch.setattr(command, "wider", lambda config, name: {"Q8_0": 0.8})
    assert quantize(*flags, "--out", tmp_path / "odd.gguf") == 0
    assert "gguf-q6_k: 80 % of its weights are in Q8_0" in caplog.text


def test_captions_by_chunks_give_the_numbers_of_one_batch(shallow_teacher, compiled, monkeypatch):
    """Memory is that of a chunk, however many captions there are; a smaller last one compiles."""
    opened = open_student(shallow_teacher, base=None, steps=2)
    other = jax.tree.map(lambda leaf: 1.01 * leaf, opened.pipeline.transformer)

    def numbers(chunk):
        monkeypatch.setattr(student, "CHUNK", chunk)
        config, params, chunks, sigmas = opened.way(PROMPTS * 4, seed=3)
        chunks = list(chunks)
        errors = velocity_errors(config, params, chunks, sigmas)(other)
        moments = second_moments(config, params, chunks, sigmas)
        return [len(noise) for _, noise in chunks], errors, moments

    sizes, whole, moments = numbers(8)
    assert sizes == [8]
    compiled.clear()
    sizes, errors, parted = numbers(3)
    assert sizes == [3, 3, 2]
    assert [compiled.count(f"jit({name})") for name in ("velocity", "moments")] == [2, 2]
    assert len(errors) == 2 and errors == pytest.approx(whole, abs=1e-3)
    assert moments.keys() == parted.keys() and len(moments) > 5
    for name, moment in moments.items():
        np.testing.assert_allclose(parted[name], moment, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give --source, --out and --format"),
        (("--format", "gguf-q8_0,gguf-q2_k"), "gguf-q2_k is unknown: choose of gguf-f16"),
        (("--format", "gguf-mixed"), "--format gguf-mixed needs --calibrate"),
        (("--format", "gguf-q8_0", "--tune", "3"), "--tune is for --format gguf-q6_k-tuned"),
        (("--format", "gguf-q8_0", "--report", "--position", "4"), "no --position"),
        (("--format", "t5-gguf-q8_0", "--report"), "--report is for --format gguf-f16, gguf-bf16"),
        (("--format", "t5-comfy-fp8", "--measure", "p"), "--measure is for --format gguf-f16"),
        (("--format", "pipeline-onnx-int8", "--measure", "p"), "--measure is for --format gguf"),
        (("--format", "t5-gguf-q8_0", "--position", "4"), "--position is for --format gguf-f16"),
        (
            ("--format", "gguf-mixed", "--calibrate", "p", "--size_mb", "inf"),
            "--size_mb inf: give 0 or more",
        ),
        (
            ("--format", "gguf-mixed", "--calibrate", "p", "--size_mb", "1e303"),
            "--size_mb 1e+303: give 0 or more, below",
        ),
        (("--format", "gguf-q8_0", "--title", "mine"), "--title is for --format comfy"),
        (("--format", "t5-gguf-q8_0", "--title", "mine"), "--title is for --format comfy"),
        (("--memory", "sd4"), "--memory sd4: choose of nano"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(flags, message, tiny_teacher, tmp_path, capsys):
    assert quantize("--source", tiny_teacher, "--out", tmp_path, *flags) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "file", "types"),
    [
        ("t5-gguf-q8_0", "T5.GGUF", {"Q8_0", "F32"}),
        ("t5-comfy-fp8", "t5.safetensors", None),
        ("gguf-q8_0", "X.GGUF", {"Q8_0", "F16", "F32"}),
    ],
)
def test_every_file_is_read_back_however_its_end_is_spelt(
    name, file, types, shallow_teacher, tmp_path
):
    path = tmp_path / file
    assert quantize("--source", shallow_teacher, "--out", path, "--format", name) == 0
    table = json.loads((tmp_path / f"{file}.json").read_text())
    ratios = [row["snr_db"] for row in table.values() if row["snr_db"] is not None]
    assert len(table) > 10 and ratios and min(ratios) > 25
    assert types is None or {row["type"] for row in table.values()} == types


def test_a_pipelines_table_of_positions_may_be_cropped(tiny_teacher, tmp_path):
    name = "pipeline-torchao-int8"
    flags = ["--source", tiny_teacher, "--out", tmp_path, "--format", name, "--position", 8]
    assert quantize(*flags) == 0
    told = json.loads((tmp_path / name / "transformer" / "config.json").read_text())
    assert told["pos_embed_max_size"] == 8


def test_a_table_cropped_below_the_models_own_pictures_makes_them_smaller(
    shallow_teacher, tmp_path, caplog
):
    """Every reader draws the size that a file says: the table has to span it."""
    whole, file, graph = "pipeline-torchao-int8", "comfy-int8", "coreml-int8"
    names = f"{whole},{file},torchao-int8,{graph}"
    flags = ["--source", shallow_teacher, "--out", tmp_path, "--format", names, "--position", 2]
    with caplog.at_level(logging.INFO):
        assert quantize(*flags) == 0
    for folder in (tmp_path / whole / "transformer", tmp_path / "transformer-torchao-int8"):
        told = json.loads((folder / "config.json").read_text())
        assert (told["pos_embed_max_size"], told["patch_size"], told["sample_size"]) == (2, 2, 4)
    metadata = open_safetensors(tmp_path / f"transformer-{file}.safetensors").metadata
    assert metadata["modelspec.resolution"] == "32x32"
    line = "--position 2 spans pictures of 32 pixels, the model's own have 64"
    assert sum(line in message for message in caplog.messages) == 1
    assert open_student(tmp_path / whole, base=None, steps=1).pipeline.sample_size == 4


def test_what_is_measured_is_kept_as_it_is_stored(tiny_teacher):
    """Half the memory of float32: a T5 of 4.8 billion weights has 19 GB in that."""
    pipeline = open_student(tiny_teacher, base=None, steps=2).pipeline
    for name, (params, _) in pipeline.parts.items():
        assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float16"}, name
    whole = open_student(tiny_teacher, base=None, steps=2, place=in_float32).pipeline.transformer
    assert {leaf.dtype.name for leaf in jax.tree.leaves(whole)} == {"float32"}

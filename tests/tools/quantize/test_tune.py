"""Fine-tuning on the grid as `quantize --tune` does it, on a model of one block."""

import shutil
import signal
from dataclasses import replace

import jax
import numpy as np
import pytest

from flashjax.convert.folder import read_pipeline
from flashjax.convert.tensors import Tensors
from flashjax.convert.transformer import abstract_transformer, transformer_to
from flashjax.data.tokenizers import load_tokenizers
from flashjax.tools.quantize import tune as verb
from flashjax.tools.quantize.student import Student
from flashjax.tools.quantize.tune import BATCH, OPTIMISER, tuned
from flashjax.train.loop import Interrupted
from flashjax.types import InputError

CAPTIONS = ["a red seven on the left on white"] * BATCH
STEPS = 4


@pytest.fixture(scope="module")
def student(tiny_teacher, random_params) -> Student:
    pipeline = read_pipeline(tiny_teacher)
    config = replace(pipeline.transformer_config, depth=1, dual=0)
    params = jax.tree.map(jax.numpy.asarray, random_params(abstract_transformer(config)))
    smaller = replace(pipeline, transformer=params, transformer_config=config)
    return Student(smaller, load_tokenizers(tiny_teacher), tiny_teacher, (1.0, 0.5, 0.0))


@pytest.fixture(scope="module")
def given(student) -> Tensors:
    return transformer_to(student.pipeline.transformer, student.pipeline.transformer_config, "sai")


@pytest.fixture(scope="module")
def tune(student, given, tmp_path_factory):
    """A tuning in a folder of its own, or in one that is there already."""
    whole = tmp_path_factory.mktemp("whole")

    def run(out=whole, seed=0, student=student) -> Tensors:
        return tuned(student, given, CAPTIONS, scheme="q6_k", steps=STEPS, seed=seed, out=out)

    return run


def test_weights_move_as_far_as_the_rate_lets_them_and_the_position_table_stays(
    given, tune
) -> None:
    found = tune()
    assert found.shapes == given.shapes
    np.testing.assert_allclose(found["pos_embed"], given["pos_embed"], rtol=1e-6)  # its average
    name = "joint_blocks.0.x_block.mlp.fc1.weight"
    moved = np.abs(found[name] - given[name]).max()
    assert 0 < moved < 1.5 * STEPS * OPTIMISER.learning_rate


def test_a_tuning_that_was_stopped_goes_on_to_the_same_weights(
    tune, tmp_path, monkeypatch, tell_myself
) -> None:
    """SIGTERM after the second step; what follows from the checkpoint is what would have been."""
    batches = verb.Drawn.__next__

    def stopping(self):
        if self.get_state()["step"] == 1:
            tell_myself(signal.SIGTERM)
        return batches(self)

    monkeypatch.setattr(verb.Drawn, "__next__", stopping)
    with pytest.raises(Interrupted):
        tune(tmp_path)
    monkeypatch.undo()
    stopped, whole = tune(tmp_path), tune()
    for name in whole:
        np.testing.assert_array_equal(stopped[name], whole[name])
    with pytest.raises(InputError, match="stage 'tune' of another config"):
        tune(tmp_path, seed=1)


def test_a_tuning_is_not_that_of_other_conditions_or_noise(tune, student, tmp_path) -> None:
    """Text encoders and tokenizers make the conditions, the size the noise."""
    tune()
    pipeline = student.pipeline
    text = jax.tree.map(lambda leaf: 2 * leaf, pipeline.text)
    shutil.copytree(student.tokenizers / "tokenizer", tmp_path / "tokenizer")
    for key, other in {
        "text": replace(student, pipeline=replace(pipeline, text=text)),
        "tokenizers": replace(student, tokenizers=tmp_path),
        "sample_size": replace(student, pipeline=replace(pipeline, sample_size=4)),
    }.items():
        with pytest.raises(InputError, match=f"stage 'tune' of another config.*{key}"):
            tune(student=other)


def test_a_batch_needs_its_captions(student, tmp_path) -> None:
    with pytest.raises(InputError, match="8 captions a step: --calibrate has 1"):
        tuned(student, None, CAPTIONS[:1], scheme="q6_k", steps=1, seed=0, out=tmp_path)

"""Fine-tuning on the grid as `quantize --tune` does it, on a model of one block."""

import dataclasses

import jax
import numpy as np
import pytest

from flashjax.convert.folder import read_pipeline
from flashjax.convert.transformer import abstract_transformer, transformer_to
from flashjax.data.tokenizers import load_tokenizers
from flashjax.stages.quantize_student import Student
from flashjax.stages.quantize_tune import BATCH, OPTIMISER, tuned
from flashjax.types import InputError

CAPTIONS = ["a red seven on the left on white"] * BATCH
STEPS = 4


@pytest.fixture(scope="module")
def student(tiny_teacher, random_params) -> Student:
    pipeline = read_pipeline(tiny_teacher)
    config = dataclasses.replace(pipeline.transformer_config, depth=1, dual=0)
    params = jax.tree.map(jax.numpy.asarray, random_params(abstract_transformer(config)))
    smaller = dataclasses.replace(pipeline, transformer=params, transformer_config=config)
    return Student(smaller, load_tokenizers(tiny_teacher), (1.0, 0.5, 0.0))


def test_weights_move_as_far_as_the_rate_lets_them_and_the_position_table_stays(student) -> None:
    pipeline = student.pipeline
    given = transformer_to(pipeline.transformer, pipeline.transformer_config, "sai")
    found = tuned(student, given, CAPTIONS, scheme="q6_k", steps=STEPS, seed=0)
    assert found.shapes == given.shapes
    np.testing.assert_allclose(found["pos_embed"], given["pos_embed"], rtol=1e-6)  # its average
    name = "joint_blocks.0.x_block.mlp.fc1.weight"
    moved = np.abs(found[name] - given[name]).max()
    assert 0 < moved < 1.5 * STEPS * OPTIMISER.learning_rate


def test_a_batch_needs_its_captions(student) -> None:
    with pytest.raises(InputError, match="8 captions a step: --calibrate has 1"):
        tuned(student, None, CAPTIONS[:1], scheme="q6_k", steps=1, seed=0)

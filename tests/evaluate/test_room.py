"""Pictures are drawn as many at a time as devices have room for."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flashjax.convert.folder import read_pipeline
from flashjax.convert.transformer import abstract_transformer
from flashjax.data.tokenizers import load_tokenizers
from flashjax.evaluate import room
from flashjax.evaluate.room import fitting, free_bytes, picture_bytes
from flashjax.evaluate.sample import Sampler, sampling


@pytest.mark.parametrize(
    ("most", "rows", "of_one", "chosen"),
    [(50, 1, 1, 50), (50, 4, 1, 52), (50, 1, 40, 2), (8, 2, 40, 4), (8, 8, 1e9, 8), (3, 1, 30, 2)],
)
def test_as_many_as_fit_and_never_less_than_one_for_each_device(
    most, rows, of_one, chosen, monkeypatch
):
    monkeypatch.setattr(room, "free_bytes", lambda: 100)
    assert fitting(most, rows, of_one) == chosen


def test_of_a_cpu_it_is_the_machines_memory_that_counts(monkeypatch):
    (line,) = [text for text in open("/proc/meminfo") if text.startswith("MemTotal:")]
    assert 0 < free_bytes() < 1024 * int(line.split()[1])
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    monkeypatch.setattr(room, "_available", lambda: 400)
    assert free_bytes() == 100


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_picture_takes_about_what_the_compiler_says(tiny_teacher, guidance):
    """The least of a program is what each picture more adds to it."""
    pipeline, tokenizer = read_pipeline(tiny_teacher), load_tokenizers(tiny_teacher)
    size = (32, 32)  # scores of 16 x 16 tokens are most of it
    sizes = dataclasses.replace(pipeline.transformer_config, position_size=16)
    table = jnp.zeros(abstract_transformer(sizes)["position"].shape)
    pipeline = dataclasses.replace(
        pipeline,
        transformer_config=sizes,
        transformer=pipeline.transformer | {"position": table},
    )
    sample = sampling(pipeline, Sampler((1.0, 0.5, 0.0), guidance))
    params = {name: getattr(pipeline, name) for name in ("transformer", "vae", "text")}

    def temporary(count):
        noise = np.zeros((count, *size, 16), np.float32)
        tokens, empty = tokenizer(["a red one"] * count), tokenizer([""])
        compiled = jax.jit(functools.partial(sample)).lower(params, tokens, empty, noise).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    told = picture_bytes(pipeline, tokenizer([""]), size, guided=guidance > 1)
    slope = (temporary(12) - temporary(4)) / 8
    assert 0.4 < told / slope < 2.5, (told, slope)

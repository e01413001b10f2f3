"""Your own teacher: SD3.5's architecture at another width and depth, imported and guided.

    python docs/examples/own_teacher.py WORKDIR

The file is the run's recipe too: `get_config` is nano's smallest one with this teacher.
"""

import dataclasses
import runpy
import sys
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

import flashjax
from flashjax.cli import main
from flashjax.convert.folder import write_pipeline
from flashjax.convert.transformer import abstract_transformer

RECIPE = Path(__file__).parents[2] / "configs" / "nano_tiny.py"
PROMPT = "green two above pink eight on brown"


def get_config() -> ConfigDict:
    config = runpy.run_path(str(RECIPE))["get_config"]()
    config.simulate_devices = 1
    config.guide.job.update(steps=4, checkpoint_steps=4)
    config.match.heads.taps = (0, 1)  # blocks of the transformer that the heads read
    return config


def make(folder: Path) -> Path:
    """A pipeline in diffusers' layout: two blocks of 128, with nano's encoders around them."""
    nano = flashjax.load("nano")
    sizes = dataclasses.replace(nano.pipeline.transformer_config, depth=2, heads=2)
    random = np.random.default_rng(0)
    weights = jax.tree.map(  # here yours would come, from a training of your own
        lambda leaf: random.normal(0, 0.05, leaf.shape).astype(np.float32),
        abstract_transformer(sizes),
    )
    own = dataclasses.replace(nano.pipeline, transformer=weights, transformer_config=sizes)
    write_pipeline(folder, own, tokenizers_from=nano.source)
    return folder


def run(workdir: Path) -> Path:
    """Makes the teacher, imports it, guides a student for a few steps, draws with the student."""
    teacher = make(workdir / "teacher")
    place = ["--config", __file__, "--workdir", str(workdir / "run")]
    for verb in ("import", "prepare", "guide"):
        if code := main([verb, *place, f"--config.teacher.source={teacher}"]):
            raise SystemExit(code)
    student = flashjax.load(workdir / "run" / "guide")
    picture = student.sample(PROMPT, steps=4, grid="student")[0]
    Image.fromarray(picture).save(workdir / "picture.png")
    return workdir / "picture.png"


if __name__ == "__main__":
    print(run(Path(sys.argv[1])))

"""The judge without a network: it needs nothing, and says what it can."""

from pathlib import Path

import numpy as np

from flashjax.data.samples import images_of
from flashjax.evaluate.judge import Compared
from flashjax.evaluate.judges import WEIGHTLESS
from flashjax.stages.registry import open_judges
from flashjax.tasks import open_task


def test_it_is_opened_by_its_name_alone_and_has_diversity_where_prompts_repeat():
    (judge,) = open_judges(["detail"], Path(), Compared(), ["a", "b"])
    assert judge.name == "detail" in WEIGHTLESS
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    assert [f.name for f in judge.judge(images[:2], ["a", "b"])] == ["sharpness"]
    assert [f.name for f in judge.judge(images, list("aba"))] == ["sharpness", "pixel diversity"]


def test_real_scenes_are_as_sharp_as_their_grain():
    judge = WEIGHTLESS["detail"].open(Path(), Compared())
    (figure,) = judge.judge(
        images_of(open_task("digit_scenes").unseen(16, 3)), [*map(str, range(16))]
    )
    assert 5 < figure.value < 40

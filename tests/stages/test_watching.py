"""What a student draws while it trains."""

import numpy as np
import pytest
from PIL import Image

from flashjax import config as configs
from flashjax.stages.registry import open_samples
from flashjax.stages.watching import fixed_prompts
from flashjax.types import InputError


@pytest.fixture
def config(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(np.full((64, 64, 3), number, np.uint8)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture {number}")
    return configs.load("configs/nano.py", [f"data.source={folder}", "data.validation=6"])


def test_a_broken_picture_is_left_out_of_the_captions_that_are_shown(config, tmp_path):
    held = open_samples(config, tmp_path / "data")["validation"]
    broken, *sound = [held[index].caption for index in range(len(held))]
    assert fixed_prompts(config, tmp_path, 2) == [broken, sound[0]]
    number = broken.removeprefix("picture ")
    (tmp_path / "pictures" / f"{number}.png").write_bytes(b"no picture")
    assert fixed_prompts(config, tmp_path, len(sound) + 1) == [*sound, sound[0]]
    for path in (tmp_path / "pictures").glob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"no caption is held back; give evaluate\.prompts=FILE"):
        fixed_prompts(config, tmp_path, 2)

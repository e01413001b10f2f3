"""What `data.source` names is opened, whatever it is, and several are one."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from flashjax.data.samples import captions_of
from flashjax.evaluate.judge import Compared
from flashjax.stages.registry import (
    check_data,
    check_judged,
    check_judges,
    open_judges,
    open_samples,
)
from flashjax.tasks.digit_scenes.scenes import compose
from flashjax.types import InputError


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Twenty pictures with captions, and five prompts."""
    home = tmp_path_factory.mktemp("home")
    (home / "pictures").mkdir()
    for number in range(20):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(home / "pictures" / f"{number:02}.png")
        (home / "pictures" / f"{number:02}.txt").write_text(f"picture {number}")
    (home / "prompts.txt").write_text("".join(f"prompt {number}\n" for number in range(5)))
    return home


def config(**data) -> ConfigDict:
    return ConfigDict({"data": data})


def test_scenes_are_those_of_the_seed(home):
    found = open_samples(config(source="digit_scenes", seed=3, train=2, validation=1), home)
    assert list(map(len, found.values())) == [2, 1]
    for name, samples in found.items():
        scene = compose(3, 0, name)
        np.testing.assert_array_equal(samples[0].image, scene.image)
        assert samples[0].caption == scene.caption


def test_several_sources_of_any_kind_are_one_by_their_weights(home):
    sources = (str(home / "pictures"), "digit_scenes", str(home / "prompts.txt"))
    data = {"source": sources, "weights": (2.0, 1.0, 1.0), "seed": 1, "train": 12, "validation": 3}
    found = open_samples(config(**data), home)
    train = [found["train"][index] for index in range(len(found["train"]))]
    kinds = ["a" if s.image is None else ("p", "s")[len(s.image) == 64] for s in train]
    assert [kinds.count(kind) for kind in "psa"] == [24, 12, 12]
    assert {s.caption for s in train if s.image is None} < {f"prompt {n}" for n in range(5)}
    held = captions_of(found["validation"])
    assert len(held) == len(set(held)) == 3 + 3 + 1  # a fifth of 20, of 3, of 5
    assert not {s.caption for s in train if s.caption[0] == "p"} & set(held)


def test_pictures_are_learnt_without_their_captions_whatever_they_are_of(home):
    sources = ("digit_scenes", str(home / "pictures"))
    data = {"source": sources, "seed": 3, "train": 2, "validation": 2}
    told, alone = (open_samples(config(**data, captions=c), home) for c in ("first", "none"))
    for name, samples in alone.items():
        assert captions_of(samples) == [""] * len(told[name]) and samples.size(0) == (64, 64)
        np.testing.assert_array_equal(samples[1].image, told[name][1].image)
        assert samples.digest != told[name].digest
    prompts = config(source=str(home / "prompts.txt"), captions="none")
    for look in (check_data, lambda config: open_samples(config, home)):
        with pytest.raises(InputError, match=r"data\.captions=none, and .*prompts\.txt has capti"):
            look(prompts)


def test_nothing_held_out_of_several_sources_is_nothing(home):
    sources = (str(home / "pictures"), str(home / "prompts.txt"))
    found = open_samples(config(source=sources, validation=0), home)
    assert len(found["train"]) == 25 and len(found["validation"]) == 0


def test_what_is_wrong_with_a_source_is_said_before_anything_is_made(home):
    with pytest.raises(InputError, match=r"nowhere does not exist: give a folder of pictures .*; "):
        check_data(config(source=("digit_scenes", "nowhere")))
    with pytest.raises(InputError, match="sauce"):
        check_data(config(source="digit_scenes", sauce=1))


def test_judges_of_ones_own_code_are_named_by_their_path(tmp_path, monkeypatch):
    (tmp_path / "someones_judges.py").write_text(
        "from flashjax.evaluate.judge import JudgeKind, Needs\n"
        "class Mine:\n"
        "    def __init__(self, weights): self.name = str(weights)\n"
        "    def check(self, prompts): pass\n"
        "free = JudgeKind(Needs(), lambda weights, compared: Mine(weights))\n"
        "weighed = JudgeKind(Needs('a folder'), lambda weights, compared: Mine(weights))\n"
        "number = 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    named = ["someones_judges:free", f"someones_judges:weighed={tmp_path}"]
    found = open_judges([*named, "someones_judges:weighed=/nowhere"], tmp_path, Compared(), ["a"])
    assert [judge.name for judge in found] == [".", str(tmp_path)]
    for name, message in (
        ("weighed", "has no weights, give someones_judges:weighed=PATH: a folder"),
        ("number", "is 7: give a JudgeKind"),
        ("absent", "evaluate.judges: someones_judges:absent: module"),
    ):
        with pytest.raises(InputError, match=message):
            check_judges([f"someones_judges:{name}"])


def judged(home, *judges, source="pictures", **evaluate) -> ConfigDict:
    told = {"judges": judges, "samples": 4, "prompts": ""} | evaluate
    path = source if source == "digit_scenes" else str(home / source)
    data = {"source": path, "validation": 5}
    return ConfigDict({"data": data, "evaluate": told})


def test_what_a_judge_cannot_judge_is_said_before_anything_is_made(home, tmp_path):
    check_judged(judged(home, "detail"))
    check_judged(judged(home, "digit_scenes", source="digit_scenes"))
    with pytest.raises(InputError, match=r"digit_scenes judges its own world alone .caption 'pict"):
        check_judged(judged(home, "detail", "digit_scenes"))
    blank = judged(home, "digit_scenes")
    blank.data.captions = "none"
    with pytest.raises(InputError, match=r"judges its own world alone .an empty caption"):
        check_judged(blank)
    for unsaid in ({"captions": "none"}, {"empty_caption": ""}):
        scored = judged(home, "clip=folder")
        scored.data.update(unsaid)
        with pytest.raises(InputError, match=r"clip=folder scores pictures by what captions say"):
            check_judged(scored)
    few = "judges: digit_scenes needs 4 pictures, 3 are to be draw"
    with pytest.raises(InputError, match=few):  # real pictures are judged, too, and come once
        check_judged(judged(home, "digit_scenes", source="digit_scenes", samples=3, twice=3))
    (tmp_path / "mine.txt").write_text("a red seven at the top on white\nsomething else\n" * 3)
    listed = {"source": "digit_scenes", "prompts": str(tmp_path / "mine.txt")}
    with pytest.raises(InputError, match=r"judges its own world alone .caption 'something else'"):
        check_judged(judged(home, "digit_scenes", **listed))
    with pytest.raises(InputError, match=r"needs real pictures, and data\.source has none"):
        check_judged(judged(home, "digit_scenes", source="prompts.txt"))

"""Parts of samples share nothing, and a mixture has the shares that its weights say."""

from collections import Counter

import numpy as np
import pytest
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.data.config import DataConfig
from flashjax.data.samples import Sample, captions_of
from flashjax.data.selection import Mixed, split
from flashjax.types import InputError


class Named(list):
    """Captions as samples."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(Sample(None, f"{name}{n}") for n in range(count))
        self.name = self.digest = name

    def size(self, index):
        return None


def test_what_is_held_out_is_never_learnt_from_and_at_most_a_fifth():
    parts = split(Named("a", 24), seed=0, train=0, validation=1000)
    held, learnt = (set(captions_of(parts[name])) for name in ("validation", "train"))
    assert len(held) == 4 and len(learnt) == 20 and not held & learnt
    again = split(Named("a", 24), seed=0, train=0, validation=1000)
    assert captions_of(again["validation"]) == captions_of(parts["validation"])
    assert again["train"].digest == parts["train"].digest
    other = split(Named("a", 24), seed=1, train=7, validation=2)
    assert len(other["train"]) == 7 and len(other["validation"]) == 2
    assert set(captions_of(other["validation"])) != held


@pytest.mark.parametrize("weights", [(), (3.0, 1.0), (1.0, 9.0)])
def test_a_mixture_has_every_sample_and_the_shares_of_its_weights(weights):
    mixed = Mixed([Named("a", 40), Named("b", 10)], weights)
    captions = captions_of(mixed)
    assert set(captions) == {f"a{n}" for n in range(40)} | {f"b{n}" for n in range(10)}
    share = np.mean([caption[0] == "a" for caption in captions])
    wanted = weights[0] / sum(weights) if weights else 0.8
    assert abs(share - wanted) < 0.02
    first = Counter(caption[0] for caption in captions[: len(captions) // 2])
    assert abs(first["a"] / first.total() - wanted) < 0.06  # spread, not one after the other


def test_parts_without_samples_have_no_share():
    none = Mixed([Named("a", 0), Named("b", 0)], (3.0, 1.0))
    assert len(none) == 0 and captions_of(none) == []
    some = Mixed([Named("a", 0), Named("b", 4)], (3.0, 1.0))
    assert captions_of(some) == captions_of(Named("b", 4))
    assert some.name == "a + b"


def test_weights_that_no_epoch_can_have_are_refused():
    with pytest.raises(InputError, match=r"see every sample of a \+ b once in 10000010: give "):
        Mixed([Named("a", 10), Named("b", 10)], (1e6, 1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": (1.0,)}, "give one for each of 2"),
        ({"weights": (1.0, 0.0)}, r"weights\[1\]=0.0: give more than 0"),
        ({"size": 100}, "multiple of 64"),
        ({"upscale": 0.5}, "upscale=0.5"),
        ({"validation": -1}, "validation=-1"),
        ({"source": ()}, "source is empty"),
    ],
)
def test_a_section_out_of_range_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        section = ConfigDict({"data": {"source": ("a", "b")} | change})
        configs.section(section, "data", DataConfig)

"""Precision, recall and diversity: sklearn and loops over pairs are the oracles."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_distances
from sklearn.neighbors import NearestNeighbors

from flashjax.evaluate import kernels
from flashjax.evaluate.neighbours import diversity, precision_recall


def covered(points, centres, k):
    """The share of points that lie in a ball of a centre, by sklearn's neighbours."""
    away, _ = NearestNeighbors(n_neighbors=k + 1).fit(centres).kneighbors(centres)
    radii = away[:, -1]  # the first neighbour is the point itself
    apart = np.linalg.norm(points[:, None] - centres[None], axis=-1)
    return (apart <= radii).any(1).mean()


@pytest.mark.parametrize("k", [1, 3, 5])
def test_they_are_those_of_sklearns_neighbours(k):
    random = np.random.default_rng(k)
    drawn, real = random.normal(size=(40, 4)), random.normal(1.5, 1.3, size=(55, 4))
    precision, recall = precision_recall(drawn, real, k=k)
    assert precision.value == pytest.approx(covered(drawn, real, k))
    assert recall.value == pytest.approx(covered(real, drawn, k))
    assert 0 < precision.value < 1 and 0 < recall.value < 1


def test_a_set_covers_itself_and_nothing_far_away():
    points = np.random.default_rng(0).normal(size=(30, 5))
    assert [found.value for found in precision_recall(points, points)] == [1, 1]
    assert [found.value for found in precision_recall(points, points + 100)] == [0, 0]


def test_one_picture_again_and_again_is_precise_and_recalls_little():
    real = np.random.default_rng(0).normal(size=(60, 3))
    precision, recall = precision_recall(np.repeat(real[:1], 20, axis=0), real)
    assert precision.value == 1 and recall.value == pytest.approx(1 / 60)


def test_blocks_change_nothing(monkeypatch):
    random = np.random.default_rng(0)
    drawn, real = random.normal(size=(23, 4)), random.normal(size=(31, 4))
    whole = [found.value for found in precision_recall(drawn, real)]
    monkeypatch.setattr(kernels, "ELEMENTS", 70)
    assert [found.value for found in precision_recall(drawn, real)] == whole


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="3 and 9 points; need above 3"):
        precision_recall(np.ones((3, 2)), np.ones((9, 2)))


def test_diversity_is_the_mean_cosine_distance_within_prompts():
    features = np.random.default_rng(0).normal(size=(6, 8))
    prompts = ["a", "b", "a", "a", "b", "alone"]
    apart = cosine_distances(features)
    of_a = np.mean([apart[0, 2], apart[0, 3], apart[2, 3]])
    assert diversity(features, prompts).value == pytest.approx((of_a + apart[1, 4]) / 2)
    assert len(diversity(features, prompts).influence) == 2


def test_without_a_prompt_that_comes_twice_there_is_no_diversity():
    assert diversity(np.ones((3, 2)), ["a", "b", "c"]) is None

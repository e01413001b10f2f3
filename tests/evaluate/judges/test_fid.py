"""FID and KID of features; the network behind them is compared in tests/convert."""

import pytest

from flashjax.evaluate.frechet import frechet_distance
from flashjax.evaluate.judges.features import Reference
from flashjax.evaluate.judges.fid import FidJudge, open_fid
from flashjax.evaluate.kernels import cubic, mmd
from flashjax.types import InputError


def extract(images):
    """Three features of a picture: its mean colours."""
    return images.mean((1, 2)) / 255


def test_it_measures_from_real_pictures_and_from_the_teachers(pictures):
    real, teacher, images = pictures(30, seed=1), pictures(20, seed=2) // 2, pictures(25)
    compared = (Reference("", extract(real)), Reference("-T", extract(teacher)))
    judge = FidJudge(extract, compared, "clean")
    judge.check(["a"] * 25)
    figures = judge.judge(images, ["a"] * 25)
    assert [figure.name for figure in figures] == ["FID", "KID", "FID-T", "KID-T"]
    assert all(figure.better == "less" and figure.error > 0 for figure in figures)
    for index, others in ((0, real), (2, teacher)):
        fid, kid = figures[index : index + 2]
        assert fid.value == frechet_distance(extract(images), extract(others))
        assert kid.value == 1000 * mmd(extract(images), extract(others), cubic).value
    assert "clean resize" in judge.note and "30 real pictures and 20 pictures of" in judge.note


def test_what_it_lacks_is_said_before_weights_are_read(pictures, tmp_path):
    with pytest.raises(InputError, match="judge fid has nothing to compare with"):
        open_fid(tmp_path, None)
    with pytest.raises(
        InputError, match=r"fid needs inception.safetensors.*w.safetensors does not"
    ):
        open_fid(tmp_path / "w.safetensors", pictures(3))
    with pytest.raises(InputError, match=r"inception.safetensors does not exist"):
        open_fid(tmp_path, pictures(3))
    with pytest.raises(InputError, match="fid resize=bilinear: choose clean or tensorflow"):
        open_fid(tmp_path, pictures(3), resize="bilinear")
    with pytest.raises(InputError, match="judge fid needs 2 pictures, 1 are to be drawn"):
        FidJudge(extract, (), "clean").check(["a"])

"""What tensorflow-datasets built is read as it reads it, without TensorFlow."""

import io
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import constants

from flashjax.data.kinds.listed import Wording
from flashjax.data.kinds.recognise import open_kind
from flashjax.data.samples import captions_of
from flashjax.types import InputError

FEATURES = tfds.features
TEXTS = {
    "texts": FEATURES.Text(),
    "several": FEATURES.Sequence(FEATURES.Text()),
    "nested": FEATURES.Sequence({"text": FEATURES.Text(), "id": np.int64}),
}
NO_TEXTS = {"numbers": FEATURES.Scalar(np.int64), "latin": FEATURES.Text()}


class Tiny(tfds.core.GeneratorBasedBuilder):
    """Three pictures of several sizes, EXIF in the last; captions as a config says."""

    VERSION = tfds.core.Version("1.0.0")
    name = "tiny"
    code_path = None
    BUILDER_CONFIGS = tuple(
        tfds.core.BuilderConfig(name=name) for name in (*TEXTS, *NO_TEXTS, "labels", "arrays")
    )

    def _info(self):
        kind = self.builder_config.name
        label = FEATURES.ClassLabel(names=["tabby_cat", "dog"])
        image = FEATURES.Tensor(shape=(8, 6, 3), dtype=np.uint8, encoding="bytes")
        found = {
            "id": np.int64,
            "image": image if kind == "arrays" else FEATURES.Image(),
            "caption": (TEXTS | NO_TEXTS).get(kind, FEATURES.Text()),
            "label": label,
        }
        if kind == "labels":
            del found["caption"]
        return tfds.core.DatasetInfo(
            builder=self, features=FEATURES.FeaturesDict(found), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(3), "test": self._generate_examples(1)}

    def _generate_examples(self, count):
        kind = self.builder_config.name
        for n in range(count):
            text = f"caption\n {n}"
            caption = {
                "several": [text, "other"],
                "numbers": n,
                "latin": b"caf\xe9",
                "nested": [{"text": text, "id": 1}, {"text": "other", "id": 2}],
            }
            example = {"id": n, "image": self._picture(n), "label": n % 2}
            if kind != "labels":
                example["caption"] = caption.get(kind, text)
            yield n, example

    def _picture(self, n):
        if self.builder_config.name == "arrays":
            return np.full((8, 6, 3), n, np.uint8)
        file, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = 6 if n == 2 else 1
        Image.new("RGB", (8 + n, 8), (n, 0, 0)).save(file, "png", exif=exif)
        file.seek(0)
        return file


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("tfds")
    for config in Tiny.BUILDER_CONFIGS:
        builder = Tiny(data_dir=str(home), config=config.name, file_format="array_record")
        builder.download_and_prepare()
    return home


@pytest.fixture
def named(home, monkeypatch):
    monkeypatch.setattr(constants, "DATA_DIR", str(home))


CAPTIONS = ["caption 0", "caption 1", "caption 2"]


@pytest.mark.parametrize("kind", [*TEXTS, "labels"])
def test_pictures_and_captions_are_found_whatever_they_are(kind, home):
    samples = open_kind(str(home / "tiny" / kind / "1.0.0"), Wording())
    expected = ["tabby cat", "dog", "tabby cat"] if kind == "labels" else CAPTIONS
    assert captions_of(samples) == expected
    for number, size in enumerate([(8, 8), (8, 9), (10, 8)]):
        assert samples.size(number) == size
        image = samples[number].image
        assert image.shape == (*size, 3) and tuple(image[0, 0]) == (number, 0, 0)
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("kind", [*TEXTS, "labels"])
def test_nothing_is_learnt_of_captions_that_nobody_reads(kind, home):
    samples = open_kind(str(home / "tiny" / kind / "1.0.0"), Wording(several="none"))
    assert captions_of(samples) == [""] * 3 and samples[2].image[0, 0, 0] == 2


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("numbers", r"\[0\]: its caption is .*0.*, no text"),
        ("latin", r"\[0\] is no UTF-8: save it"),
    ],
)
def test_captions_that_are_no_texts_are_refused_with_their_place(kind, message, home):
    samples = open_kind(str(home / "tiny" / kind / "1.0.0"), Wording())
    with pytest.raises(InputError, match=rf"tfds:tiny/{kind}/1\.0\.0:train{message}"):
        captions_of(samples)


def test_pictures_may_be_arrays(home):
    samples = open_kind(str(home / "tiny" / "arrays" / "1.0.0"), Wording())
    np.testing.assert_array_equal(samples[2].image, np.full((8, 6, 3), 2))
    assert samples.size(2) == (8, 6) and samples[2].caption == "caption 2"


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("tfds:tiny/texts", 3),
        ("tiny/texts", 3),
        ("tfds:tiny/texts:test", 1),
        ("tiny/texts:1.0.0", 3),
        ("tiny/texts:1.0.0:train[1:]", 2),
    ],
)
def test_a_name_is_found_where_datasets_lie(source, count):
    samples = open_kind(source, Wording())
    assert len(samples) == count
    assert captions_of(samples)[-1] == f"caption {0 if count == 1 else 2}"


@pytest.mark.usefixtures("named")
def test_splits_differ_in_their_digest_and_random_captions_are_of_the_seed():
    digests = {open_kind(f"tiny/texts:{split}", Wording()).digest for split in ("train", "test")}
    assert len(digests) == 2
    drawn = {
        caption
        for seed in range(8)
        for caption in captions_of(open_kind("tiny/several", Wording("refuse", "random", seed)))
    }
    assert drawn == {*CAPTIONS, "other"}


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("tfds:nothing", r"^tfds:nothing is not in .*tfds0 \(TFDS_DATA_DIR\): build it with"),
        ("tfds:not a name", "is not in"),
        ("nothing", r"^nothing does not exist: give a folder .*tfds:NAME/CONFIG:SPLIT"),
        ("tiny/texts:dev", "tiny/texts/1.0.0: 'dev' is no split: choose of train, test"),
        ("tiny/texts:train[", r"'train\[' is no split"),
    ],
)
def test_a_name_that_is_not_there_is_said_in_one_line(source, message):
    with pytest.raises(InputError, match=message) as caught:
        open_kind(source, Wording())
    assert "\n" not in str(caught.value)


def test_another_file_format_is_refused_with_what_to_do(home, tmp_path):
    folder = tmp_path / "1.0.0"
    folder.mkdir()
    for file in (home / "tiny" / "texts" / "1.0.0").glob("*.json"):
        text = file.read_text().replace("array_record", "tfrecord")
        (folder / file.name).write_text(text)
    with pytest.raises(InputError, match=r"is kept as .*tfrecord: build it anew with file_format="):
        open_kind(str(folder), Wording())

"""What a section `data` says, as people write it."""

import pytest

from flashjax.data.config import DataConfig
from flashjax.types import InputError


@pytest.mark.parametrize(
    ("source", "sources"),
    [
        ("pictures", ("pictures",)),
        ("a,b/c", ("a", "b/c")),
        ("shards/{a,b}.tar,x/{000..127}.tar", ("shards/{a,b}.tar", "x/{000..127}.tar")),
        (("a,b", "c"), ("a,b", "c")),
    ],
)
def test_several_sources_have_commas_between(source, sources):
    assert DataConfig(source).sources == sources
    weighed = DataConfig(source, weights=(1.0,) * len(sources))
    assert weighed.sources == sources


def test_a_list_may_be_longer_than_a_path():
    shards = tuple(f"/data/shard-{number:05}.tar" for number in range(400))
    assert DataConfig(",".join(shards)).sources == shards


def test_a_path_with_a_comma_that_is_there_is_one(tmp_path):
    (tmp_path / "a,b").mkdir()
    assert DataConfig(str(tmp_path / "a,b")).sources == (str(tmp_path / "a,b"),)


@pytest.mark.parametrize("source", ["", "a,", ",a", ()])
def test_a_source_without_a_name_is_refused(source):
    with pytest.raises(InputError, match="source is empty: name what to learn from"):
        DataConfig(source)

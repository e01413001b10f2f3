"""Lists that a verb goes through, as people write them."""

from flashjax.tools.axes import sources_of


def test_a_list_of_sources_may_be_longer_than_a_path():
    paths = [f"/models/run-{number:05}/export" for number in range(400)]
    assert list(map(str, sources_of(",".join(paths), known=()).values())) == paths

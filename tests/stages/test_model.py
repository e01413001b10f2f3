"""What `import` leaves: nothing that is left out, or changed, is taken for the usual."""

import json

import pytest

from flashjax.convert.folder import read_pipeline
from flashjax.stages.model import MODEL, abstract_networks, keep_model, open_model, read_model
from flashjax.types import InputError


@pytest.fixture(scope="module")
def workdir(shallow_teacher, tmp_path_factory):
    found = tmp_path_factory.mktemp("run")
    (found / "import").mkdir()
    keep_model(found / "import", read_pipeline(shallow_teacher), tokenizers=shallow_teacher)
    return found


@pytest.fixture
def changed(workdir):
    """`changed(change)`: model.json after `change(content)`, until the test ends."""
    path = workdir / "import" / MODEL
    whole = path.read_text()

    def make(change):
        content = json.loads(whole)
        change(content)
        path.write_text(json.dumps(content))
        return workdir

    yield make
    path.write_text(whole)


def test_what_was_kept_is_what_is_read(workdir, shallow_teacher):
    pipeline, found = read_pipeline(shallow_teacher), read_model(workdir)
    assert found.transformer == pipeline.transformer_config and found.vae == pipeline.vae_config
    assert found.text == pipeline.text_config and found.schedule == pipeline.schedule
    assert found.sample_size == pipeline.sample_size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["sizes"]["transformer"].pop("channels"), "transformer lacks channels"),
        (lambda m: m["sizes"]["vae"].pop("latent_channels"), "vae lacks latent_channels"),
        (lambda m: m["sizes"]["t5"].pop("hidden"), "t5 lacks hidden"),
        (lambda m: m["sizes"].pop("clip_g"), "clip_g lacks activation, depth"),
        (lambda m: m.pop("sizes"), "has no sizes"),
        (lambda m: m.pop("shift"), "lacks shift"),
        (lambda m: m.pop("sample_size"), "lacks sample_size"),
        (lambda m: m["digests"].pop("vae"), r"lacks digests\.vae"),
        (lambda m: m["sizes"]["vae"].update(channels=8), "channels takes"),
        (lambda m: m["sizes"]["vae"].update(scaling_factor="1"), "scaling_factor takes float"),
        (lambda m: m["sizes"]["transformer"].update(depth=0), "depth=0: give 1 or more"),
        (lambda m: m["sizes"]["transformer"].update(dual=9), "dual=9 blocks do not fit"),
        (lambda m: m["sizes"]["clip_l"].update(activation="relu"), "activation='relu'"),
        (lambda m: m.update(sample_size=True), "sample_size takes int, not True"),
        (lambda m: m.update(colour=1), "no key colour"),
    ],
)
def test_what_is_missing_or_of_another_kind_is_one_line(changed, change, message):
    with pytest.raises(InputError, match=message) as caught:
        read_model(changed(change))
    assert MODEL in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("network", "size", "value"), [("transformer", "heads", 8), ("vae", "layers", 2)]
)
def test_sizes_that_are_not_the_weights_own_are_refused(changed, network, size, value):
    workdir = changed(lambda model: model["sizes"][network].update({size: value}))
    with pytest.raises(InputError, match=rf"params/{network} does not fit the model"):
        open_model(workdir, names=(network,))


def test_an_opened_model_knows_how_many_tokens_its_tokenizer_gives_both_clips(workdir):
    path = workdir / "import" / "tokenizers" / "tokenizer" / "tokenizer_config.json"
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | {"model_max_length": 9}))
    assert abstract_networks(workdir).text_config.clip_tokens == 9
    path.write_text(whole)

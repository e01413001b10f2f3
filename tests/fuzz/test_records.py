"""Mutants of configs, and of what we write of ourselves: stage.json, model.json, manifests."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.convert.folder import read_pipeline
from flashjax.convert.outputs import MANIFEST, check_free, keep_record
from flashjax.stages import model as models
from flashjax.stages.stage import run_stage
from flashjax.tools import sections
from flashjax.types import InputError

NANO = Path(__file__).parents[2] / "configs" / "nano.py"


@given(data=st.data())
def test_the_sections_of_a_config(data, mutants, outcome):
    """What passes is read by every stage: each section becomes what it annotates."""
    plain = configs.to_dict(configs.load(NANO))
    drawn = data.draw(mutants.objects_of(plain))
    try:
        config = ConfigDict(drawn if isinstance(drawn, dict) else {})
    except (TypeError, ValueError):  # what ml_collections itself refuses
        return

    if outcome(lambda: sections.check(config, "run") or True):
        for name in config:
            configs.section(config, name, sections.DISTIL[name])


@given(data=st.data())
def test_the_text_of_a_config(data, mutants, place, outcome):
    text = NANO.read_bytes()
    path = place / "nano.py"
    changed = data.draw(mutants.bytes_of(text[-2500:]))
    path.write_bytes(text[:-2500] + changed)
    outcome(lambda: configs.load(path))


@given(data=st.data())
def test_overrides_of_a_config(data, outcome):
    keys = "guide.job.steps match.heads.taps data.weights teacher.base mesh.data export.title seed"
    key = data.draw(st.sampled_from([*keys.split(), "guide", "guide.jb", "a.b.c", ""]))
    values = [
        "1",
        "-1",
        "()",
        "(1,2",
        "1e999",
        "nan",
        "None",
        "[[1]]",
        "'",
        "9" * 5000,
        "{}",
        "((" * 500,
    ]
    value = data.draw(st.one_of(st.sampled_from(values), st.text(max_size=8)))
    outcome(lambda: configs.load(NANO, [f"{key}={value}"]))


@pytest.fixture(scope="module")
def stage(place):
    run_stage("guide", {"a": 1}, place / "run", lambda folder: {"loss": 1}, inputs={}, seed=0)
    return place / "run"


@given(data=st.data())
def test_the_record_of_a_stage(data, mutants, stage, outcome):
    path = stage / "guide" / "stage.json"
    whole = path.read_bytes()
    body = lambda folder: {"loss": 2}
    try:
        path.write_bytes(data.draw(mutants.json_of(json.loads(whole))))
        outcome(lambda: run_stage("guide", {"a": 1}, stage, body, inputs={}, seed=0))
        outcome(lambda: run_stage("n", {}, stage, body, inputs={"guide": stage / "guide"}, seed=0))
    finally:
        path.write_bytes(whole)
        shutil.rmtree(stage / "n", ignore_errors=True)


@pytest.fixture(scope="module")
def imported(shallow_teacher, place):
    (place / "work" / "import").mkdir(parents=True)
    models.keep_model(
        place / "work" / "import", read_pipeline(shallow_teacher), tokenizers=shallow_teacher
    )
    return place / "work", models.read_model(place / "work")


@given(data=st.data())
def test_what_import_says_of_its_model(data, mutants, imported, outcome):
    """Nothing that is left out is taken for the usual."""
    workdir, whole = imported
    path = workdir / "import" / models.MODEL
    content = path.read_bytes()
    try:
        path.write_bytes(data.draw(mutants.json_of(json.loads(content))))
        found = outcome(lambda: models.read_model(workdir))
        written = path.read_bytes()
    finally:
        path.write_bytes(content)
    if found is not None and json.loads(written) == json.loads(content):
        assert found == whole


@given(data=st.data())
def test_a_manifest_of_what_was_written(data, mutants, place, outcome):
    """Whatever it says, a file that it does not describe is never given away."""
    folder = place / "out"
    folder.mkdir(exist_ok=True)
    ours, theirs = folder / "ours.gguf", folder / "theirs.gguf"
    for path in (ours, theirs):
        path.write_text(path.name)
    keep_record(ours)
    manifest = folder / MANIFEST
    whole = json.loads(manifest.read_bytes())
    manifest.write_bytes(data.draw(mutants.json_of(whole)))
    outcome(lambda: check_free([ours], force=False) or True)
    with pytest.raises(InputError):
        check_free([theirs], force=False)
    manifest.unlink()

"""Sections: every value has its type and its range, in every stage, before it begins."""

from pathlib import Path

import pytest
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.cli import main
from flashjax.tools import sections
from flashjax.types import InputError

CONFIGS = Path(__file__).parents[2] / "configs"
NANO = CONFIGS / "nano.py"
VERBS = {"nano_teacher": "teach", "nano_slim": "slim"}


def changed(**values):
    """The demo's config with values at dotted paths, of any type; "a__b" is a.b."""
    plain = configs.to_dict(configs.load(NANO))
    for name, value in values.items():
        *parents, last = name.split("__")
        node = plain
        for key in parents:
            node = node[key]
        node[last] = value
    return ConfigDict(plain)


def lines(config, verb="run"):
    return [line for error in sections.problems(config, verb) for line in error.args]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_packaged_config_is_within_its_ranges(path):
    verb = VERBS.get(path.stem, "run")
    assert lines(configs.load(path), verb) == []


NAN = float("nan")
WRONG = [
    ("guide__job__steps", 0, "guide.job.steps=0: give 1 or more"),
    ("guide__job__steps", -3, "guide.job.steps=-3: give 1 or more"),
    ("guide__job__steps", 2**31, "guide.job.steps=2147483648: give at most 2147483647"),
    ("match__job__batch_size", 0, "match.job.batch_size=0: give 1 or more"),
    ("match__job__batch_size", True, "match.job.batch_size takes int, not True"),
    ("match__job__batch_size", "32", "match.job.batch_size takes int, not '32'"),
    ("match__job__batch_size", 32.0, "match.job.batch_size takes int, not 32.0"),
    ("split__job__checkpoint_steps", -1, "split.job.checkpoint_steps=-1: give 1 or more"),
    ("guide__job__log_steps", 0, "guide.job.log_steps=0: give 1 or more"),
    ("guide__job__stall_seconds", 0, "guide.job.stall_seconds=0.0: give more than 0"),
    ("guide__job__stall_seconds", NAN, "guide.job.stall_seconds=nan: give a finite number"),
    ("guide__guide__parts", 0, "guide.guide.parts=0: give 1 or more"),
    ("match__match__parts", -1, "match.match.parts=-1: give 1 or more"),
    ("guide__optimiser__learning_rate", 0, "guide.optimiser.learning_rate=0.0: give more than 0"),
    ("guide__optimiser__learning_rate", -1e-3, "learning_rate=-0.001: give more than 0"),
    ("guide__optimiser__learning_rate", NAN, "learning_rate=nan: give a finite number"),
    ("guide__optimiser__learning_rate", float("inf"), "learning_rate=inf: give a finite number"),
    ("guide__optimiser__learning_rate", 10**5000, "learning_rate=a huge number: give a finite"),
    ("split__heads_optimiser__warmup_steps", -1, "warmup_steps=-1: give 0 or more"),
    ("match__student_optimiser__beta1", 1.0, "beta1=1.0: give 0 or more, less than 1"),
    ("match__average__decay", 1.0, "match.average.decay=1.0: give 0 or more, less than 1"),
    ("match__match__eta", 1.5, "match.match.eta=1.5: give 0 or more, at most 1"),
    ("match__match__adversarial_weight", -1.0, "adversarial_weight=-1.0: give 0 or more"),
    ("match__match__density__std", 0.0, "density.std=0.0: give more than 0"),
    ("match__critic_updates", 0, "match.critic_updates=0: give 1 or more"),
    ("match__heads__width", 0, "match.heads.width=0: give 1 or more"),
    ("match__heads__taps", [0, -1], "match.heads.taps[1]=-1: give 0 or more"),
    ("student__steps", 0, "student.steps=0: give 1 or more"),
    ("student__steps", None, "student.steps takes int, not None"),
    ("data__weights", [0.0], "data.weights[0]=0.0: give more than 0"),
    ("data__size", -64, "data.size=-64: give 0 or more"),
    ("data__size", 65, "data: size=65: give a multiple of 64"),
    ("data__draw__batch_size", 0, "data.draw.batch_size=0: give 1 or more"),
    ("data__upscale", 0.5, "data.upscale=0.5: give 1 or more"),
    ("data__text", "words", "data.text takes 'tokens' or 'embeddings', not 'words'"),
    ("mesh__data", "2", "mesh.data takes int, not '2'"),
    ("mesh__data", -2, "mesh.data=-2: give -1 or more"),
    ("mesh__dta", 2, "config has no key mesh.dta; did you mean mesh.data?"),
    ("split__branches__lo", [0.0, 5000.0], "split.branches.lo[1]=5000.0: give 0 or more, at most"),
    ("split__branches__lo", [0.0], "split.branches.lo takes"),
    ("merge__weights__lo", NAN, "merge.weights.lo=nan: give a finite number"),
    ("merge__weights__lo", -0.3, "merge.weights.lo=-0.3: give 0 or more, at most 1"),
    ("evaluate__samples", 0, "evaluate.samples=0: give 1 or more"),
    ("evaluate__chunk", 0, "evaluate.chunk=0: give 1 or more"),
    ("evaluate__teacher_steps", 0, "evaluate.teacher_steps=0: give 1 or more"),
    ("evaluate__judges", "digit_scenes", "evaluate.judges takes tuple[str, ...], not 'digit"),
    ("export__title", None, "export.title takes str, not None"),
    ("quantize__schemes", [8], "quantize.schemes[0] takes str, not 8"),
    ("teacher__absent_t5", -1, "teacher.absent_t5=-1: give 0 or more"),
    ("teacher__source", 3, "teacher.source takes str, not 3"),
    ("simulate_devices", "two", "simulate_devices takes int, not 'two'"),
    ("seed", 1.5, "seed takes int, not 1.5"),
    ("report__bars__kept", "most", "report.bars.kept takes float | None, not 'most'"),
    ("compute", {"attention": "flash"}, "compute.attention=flash: choose of xla, splash, cudnn"),
    ("compute", {"remat": "some"}, "compute.remat=some: choose of none, block"),
    ("evalute", {}, "config has no key evalute; did you mean evaluate?"),
    ("guide__guide__drop_t6", 0.1, "no key guide.guide.drop_t6; did you mean guide.guide.drop_t5?"),
]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    WRONG,
    ids=lambda value: value[:60] if isinstance(value, str) else "value",
)
def test_a_value_that_cannot_be_is_one_line_with_its_key(name, value, message):
    (line,) = lines(changed(**{name: value}))
    assert message in line and "\n" not in line


def test_everything_that_is_wrong_with_a_section_is_said():
    wrong = changed(guide__job__steps=0, guide__job__log_steps=0, guide__guide__parts=0)
    assert [line.partition("=")[0] for line in lines(wrong)] == [
        "guide.guide.parts",
        "guide.job.log_steps",
        "guide.job.steps",
    ]


def test_a_section_that_a_verb_reads_must_be_there():
    config = changed()
    del config["guide"]
    (line,) = lines(config, "guide")
    assert line == "config lacks guide, which `flashjax guide` reads"
    assert lines(config, "match") == []
    (line,) = lines(configs.load(CONFIGS / "nano_teacher.py"))
    assert "config lacks student, guide, match" in line


@pytest.mark.parametrize("verb", ["import", "prepare", "guide", "match", "split", "merge", "run"])
@pytest.mark.parametrize("dry", [[], ["--dry_run"]])
def test_no_stage_begins_with_a_value_out_of_its_range(verb, dry, tmp_path, capsys):
    place = ["--config", str(NANO), "--workdir", str(tmp_path / "run"), *dry]
    override = ["--config.guide.job.steps=-3", "--config.simulate_devices=1"]
    assert main([verb, *place, *override]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"flashjax {verb}: guide.job.steps=-3: give 1 or more"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "section"), [("teacher", "vae"), ("teacher", "flow"), ("slim",) * 2]
)
def test_no_pictures_of_a_teacher_that_is_trained_are_promised(recipe, section):
    for key in ("sample_steps", "judge_steps"):
        path = f"{section}.job.{key}"
        config = sections.load(f"nano_{recipe}", [f"{path}=500"])
        (line,) = lines(config, VERBS[f"nano_{recipe}"])
        assert line == f"{section}: job.{key} is of guide and match: set it to 0"


@pytest.mark.parametrize("verb", ["teach", "slim"])
def test_neither_does_a_teacher(verb, tmp_path, capsys):
    section = {"teach": "flow", "slim": "slim"}[verb]
    config = {"teach": "nano_teacher", "slim": "nano_slim"}[verb]
    place = ["--config", str(CONFIGS / f"{config}.py"), "--workdir", str(tmp_path / "run")]
    assert main([verb, *place, f"--config.{section}.job.batch_size=0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"flashjax {verb}: {section}.job.batch_size=0: give 1 or more"


def test_ranges_alone_are_told_apart_from_what_nothing_can_be_done_with():
    with pytest.raises(configs.OutOfRange):
        configs.section(changed(student__steps=0), "student", sections.Student)
    with pytest.raises(InputError) as caught:
        configs.section(changed(student__steps="4"), "student", sections.Student)
    assert not isinstance(caught.value, configs.OutOfRange)


def test_an_override_may_name_a_key_that_the_recipe_leaves_out():
    words = ["guide.job.keep=5", "compute.dtype=bfloat16", 'match.job.trackers=("wandb",)']
    config = sections.load("nano", words)
    assert "keep" not in sections.load("nano").guide.job
    assert (config.guide.job.keep, config.compute.dtype) == (5, "bfloat16")
    assert config.match.job.trackers == ("wandb",)
    with pytest.raises(InputError, match=r"guide.job.keep.*five"):
        sections.load("nano", ["guide.job.keep=five"])
    with pytest.raises(InputError, match=r"no key guide.job.keeep; did you mean guide.job.keep"):
        sections.load("nano", ["guide.job.keeep=5"])

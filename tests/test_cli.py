"""The command line: every mistake of a user is one line that says what to do, and exit code 2."""

import errno
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import flashjax
from flashjax import cli
from flashjax.cli import main, split_overrides
from flashjax.evaluate.sample import SOLVERS
from flashjax.stages import run as stages
from flashjax.tools import drawing, export, front, probe
from flashjax.tools.axes import AXES
from flashjax.tools.bench import command as bench
from flashjax.tools.flags import checkpoints, instruments
from flashjax.tools.quantize import command as quantize
from flashjax.tools.verbs import ROAD, VERBS
from flashjax.types import InputError

CONFIG = str(Path(__file__).parents[1] / "configs" / "nano.py")
PLACE = ["--config", CONFIG, "--workdir", "/nowhere"]


def answer(capsys, *arguments):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert not captured.out
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_log_on_a_full_disk_changes_no_code():
    endings = {"from flashjax.cli import main; sys.exit(main(['sampel']))": 2}
    endings["from flashjax.parallel import signals; signals.end('told')"] = 75
    for code, wanted in endings.items():
        with open("/dev/full", "w") as full:
            words = [sys.executable, "-c", f"import sys; {code}"]
            assert subprocess.run(words, stderr=full, stdout=full, check=False).returncode == wanted


def test_the_version_is_said_before_anything_heavy_is_read():
    code = "import sys; from flashjax.__main__ import main; sys.argv[1:] = ['--version']; main()"
    code += "; print('jax' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == [f"flashjax {flashjax.__version__}", "False"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sampel",), "flashjax: verb sampel is unknown; did you mean sample?"),
        (("xyzzy",), "verb xyzzy is unknown; choose of run, import, prepare"),
        (("guide",), "flashjax guide: the following arguments are required: --config, --workdir"),
        (("guide", *PLACE, "--dryrun"), "flag --dryrun is unknown; did you mean --dry_run?"),
        (("sample", "--prompt", "a", "--out", "x", "--steps", "x"), "invalid int value: 'x'"),
        (("sample", "--prompt", "a", "b", "--out", "x"), "unrecognized arguments: b"),
        (("bench", "steps", "--programs=guide", "--programs=match"), "--programs is given twice"),
        (("evaluate", "--source", "a", "--source=b"), "flag --source is given twice: give it once"),
        (("sample", "--prompt", "a", "--out", "x", "--step=3"), "did you mean --steps?"),
        (("export", "--source", "a", "--out", "b", "--config.seed=1"), "give --config FILE too"),
        (("guide", *PLACE, "--config.seed"), "--config.seed has no value: write --config.seed="),
        (("guide", *PLACE, "--config.seed", "--dry_run"), "--config.seed has no value"),
        (("guide", *PLACE, "--config.seed=-1"), "seed=-1: give a seed from 0 to 4294967295"),
        (("guide", *PLACE, "--config.seed=4294967296"), "give a seed from 0 to 4294967295"),
        (("status", "gs://b/run"), "--workdir gs://b/run is an address, no folder: mount what is"),
        (
            ("import", *PLACE[:3], "gs://b/run", "--config.simulate_devices=1"),
            "gs:// needs another package: pip install gcsfs",
        ),
        (("sample", "--prompt", "a", "--out", "s3://b/x"), "s3:// needs another package: pip"),
        (
            ("sample", "--prompt", "a", "--out", "x", "--source", "gs://b/x"),
            "gs:// needs another package: pip install gcsfs",
        ),
        (("run", *PLACE, "--from", "match", "--to", "guide"), "match comes after --to guide"),
        (("run", *PLACE, "--to", "splitt"), "invalid choice: 'splitt'"),
        (("guide", *PLACE, "--config.xyzzy=1"), "config has no key xyzzy; choose of data, "),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys):
    assert message in answer(capsys, *arguments)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free some room"),
        (errno.EACCES, "change its permissions"),
        (errno.EROFS, "choose another place"),
        (errno.ENAMETOOLONG, "choose a shorter name"),
    ],
)
def test_what_a_disk_refuses_is_one_line_wherever_it_happens(code, advice, monkeypatch, capsys):
    def refuse(options):
        raise OSError(code, os.strerror(code), "some/file")

    module = type(sys)("module")
    module.run = refuse
    monkeypatch.setattr(cli, "_module", lambda name: module)
    line = answer(capsys, "explain")
    assert line == f"flashjax explain: some/file: {os.strerror(code)}: {cli.MENDABLE[code]}"
    assert advice in line


def test_a_locale_that_is_not_utf_8_is_refused_before_it_spoils_a_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    line = answer(capsys, "sample", "--source", "Bär")
    assert line.startswith("flashjax sample: this shell's locale makes Python read names as iso")


def test_a_message_is_no_longer_than_a_screen(monkeypatch, capsys):
    def refuse(options):
        raise InputError("tensor " + "w" * 100_000 + "\nis none")

    monkeypatch.setattr(cli, "run", refuse)
    assert len(answer(capsys, "export")) < 2100


def test_an_error_that_no_user_can_mend_is_not_hidden(monkeypatch):
    def fail(options):
        raise OSError("a tensor reads back other than it was written")

    module = type(sys)("module")
    module.run = fail
    monkeypatch.setattr(cli, "_module", lambda name: module)
    with pytest.raises(OSError, match="reads back other"):
        main(["explain"])


def test_a_folder_that_is_a_file_is_named(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("a user's")
    place = ("--config", CONFIG, "--workdir", str(file))
    line = answer(capsys, "import", *place, "--config.simulate_devices=1")
    assert f"{file}/import: Not a directory" in line
    assert file.read_text() == "a user's"


def test_flags_and_overrides_are_understood_with_and_without_an_equals_sign():
    words = ["guide", "--config=FILE", "--config.a.b=1", "--workdir", "DIR", "--config.c", "-1e-5"]
    assert split_overrides([*words, "--config.d==x"]) == (
        ["guide", "--config=FILE", "--workdir", "DIR"],
        ["a.b=1", "c=-1e-5", "d==x"],
    )


@pytest.mark.parametrize("flag", ["--source", "--lora", "--workdir"])
def test_a_home_folder_that_the_shell_leaves_is_found(flag, monkeypatch):
    """After an equals sign a shell leaves `~` alone; texts may begin with it."""
    monkeypatch.setenv("HOME", "/home/me")
    seen = []
    monkeypatch.setattr(cli, "run", lambda words: seen.append(words) or 0)
    assert main(["sample", f"{flag}=~/x.safetensors:1", "--prompt=~/art", "~", "a=~"]) == 0
    assert main(["sample", f"{flag}=~nobody-is-called-so/x"]) == 0
    assert seen.pop() == ["sample", f"{flag}=~nobody-is-called-so/x"]
    assert seen == [["sample", f"{flag}=/home/me/x.safetensors:1", "--prompt=~/art", "~", "a=~"]]


@pytest.mark.parametrize("verb", ["export", "quantize", "guide"])
@pytest.mark.parametrize("joined", [True, False])
def test_a_verb_with_a_config_is_a_stage(verb, joined, capsys, monkeypatch):
    """`export` and `quantize` are tools without one."""
    monkeypatch.setattr(cli, "check", lambda *arguments, **settings: None)
    place = [f"--config={CONFIG}", "--workdir=DIR"] if joined else PLACE
    assert (
        main(
            [
                verb,
                *place,
                "--dry_run",
                "--config.export.dtype",
                "float32",
                "--config.simulate_devices=1",
            ]
        )
        == 0
    )
    assert '"dtype": "float32"' in capsys.readouterr().out


def heard(*words):
    """What a fresh process says, and whether it has read JAX."""
    code = "import sys; from flashjax.__main__ import main; main()"
    code += "; print('jax' in sys.modules)"
    command = [sys.executable, "-c", code, *words]
    *said, heavy = subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return said, heavy == "True"


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_all_verbs_are_listed_in_their_groups_before_anything_heavy_is_read(words):
    said, heavy = heard(*words)
    listed = [
        line.split()[0] for line in said if line.startswith("  ") and line.split()[0] in VERBS
    ]
    assert listed == list(VERBS) and not heavy
    assert ROAD == list(stages.ROAD)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("configured", [False, True])
def test_help_of_a_verb_has_two_lines_an_example_and_all_defaults(verb, configured):
    found = front.parser(verb, configured=configured)
    text = found.format_help()
    first, second = (found.description or "").splitlines()[:2]
    assert first and second and "example:\n  " in text and f"flashjax {verb} " in text
    assert all(action.help for action in found._actions)
    for action in found._actions:
        if action.default and not action.required and action.dest != "help":
            assert f"(default: {action.default})" in " ".join(text.split())


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_of_a_verb_is_understood(verb):
    words = shlex.split(VERBS[verb].example.removeprefix('eval "$(').removesuffix(')"'))
    assert words[:2] == ["flashjax", verb]
    flags, _ = split_overrides(words[2:])
    front.parser(verb, configured=front.is_configured(flags)).parse_args(flags)


def test_help_of_a_verb_reads_nothing_heavy():
    said, heavy = heard("quantize", "--help")
    assert said[0].startswith("usage: flashjax quantize") and not heavy


def test_choices_in_flags_are_those_of_the_tools():
    assert checkpoints.SOLVERS == tuple(SOLVERS)
    assert checkpoints.COMPUTED == tuple(drawing.DTYPES)
    assert checkpoints.WRITTEN == tuple(export.DTYPES)
    assert checkpoints.FORMATS == ", ".join(quantize.NAMES)
    assert set(checkpoints.AXES.split(", ")) == set(AXES) - {"guidance"}
    assert instruments.ARMS == tuple(probe.ARMS)
    assert instruments.BENCHES == list(bench.BENCHES)


@pytest.mark.parametrize("key", ["computte", "quantise"])
def test_a_near_key_is_guessed(key, capsys):
    meant = {"computte": "config has no key computte; choose of", "quantise": "mean quantize?"}
    assert meant[key] in answer(capsys, "guide", *PLACE, f"--config.{key}.dtype=1")


def test_a_completion_script_knows_verbs_and_flags():
    pytest.importorskip("shtab")
    for shell in ("bash", "zsh"):
        said, _ = heard("completion", shell)
        text = "\n".join(said)
        assert "--guidance_scale" in text and "verify" in text


@pytest.mark.parametrize("told", ["configs", "--version", "run --help"])
def test_a_reader_that_goes_away_is_no_failure(told):
    """As `flashjax configs | head -1`; a shell calls both codes 141."""
    words = [sys.executable, "-m", "flashjax", *told.split()]
    job = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    job.stdout.close()
    assert job.wait() in (128 + signal.SIGPIPE, -signal.SIGPIPE)
    assert job.stderr.read() == ""

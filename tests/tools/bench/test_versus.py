"""`bench torch`: both sides compute the same numbers, what is asked is checked, tables add up."""

import importlib

import pytest

from flashjax.cli import main
from flashjax.tools.bench import versus
from flashjax.tools.bench.matched import case_of
from flashjax.types import InputError


@pytest.mark.parametrize("part", ["student", "critic"])
def test_loss_and_gradients_are_those_of_torch_on_diffusers_network(part) -> None:
    assert versus.difference(case_of("64/2/4+3/2"), part) < versus.TOLERANCE


def test_another_maths_is_not_compared(monkeypatch) -> None:
    monkeypatch.setattr(versus, "difference", lambda case, part: {"critic": 2e-4}.get(part, 1e-6))
    with pytest.raises(InputError, match=r"the critic's gradients differ by 2\.0e-04"):
        versus.agreement(case_of("64/3/4+3/2"))


def test_numbers_that_are_none_are_not_compared(monkeypatch) -> None:
    told = {"student": 1e-6, "critic": float("nan")}
    monkeypatch.setattr(versus, "difference", lambda case, part: told[part])
    with pytest.raises(InputError, match="the critic's gradients differ by nan"):
        versus.agreement(case_of("64/3/4+3/2"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "100/3/16+8/2"], "--size 100/3/16+8/2: give NAME/PIXELS/BATCH"),
        (["--size", "64/3/15+8/2"], "a square of image tokens"),
        (["--size", "sd9/512/1"], "with a name of nano, sd3_medium"),
        (["--size", "nano/60/1"], "give NAME/PIXELS/BATCH"),
        (["--size", "nano/4096/1"], "give NAME/PIXELS/BATCH"),
        (["--sides", "ours,fast"], "choose of ours, eager, compiled, blocks"),
        (["--parts", ""], "--parts (none): choose of forward"),
        (["--rounds", "0"], "--rounds 0: give 1 or more"),
        (["--json", "/nowhere/at/all.json"], "there is no folder /nowhere/at"),
        (["--chip", "abacus"], "--chip abacus is unknown"),
    ],
)
def test_bad_flags_end_in_one_line(flags, message, capsys) -> None:
    assert main(["bench", "torch", *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_absent_torch_is_told_in_one_line(monkeypatch, capsys) -> None:
    real = importlib.import_module

    def without(name: str, *rest):
        if name.startswith("diffusers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="diffusers")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    assert main(["bench", "torch", "--size", "nano/64/2"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "diffusers is not installed: pip install -r requirements-test.txt" in line


def test_a_named_size_has_the_models_own_tokens() -> None:
    medium = case_of("sd35_medium/1024/4")
    assert (medium.latents, medium.text) == ((4, 128, 128, 16), 333)
    assert case_of("sd35_medium/1024+334/4").text == 334
    assert case_of("256/6/64+24/32").sizes.dual == 3


def test_an_iteration_is_a_student_step_and_five_of_the_critic() -> None:
    case = case_of("nano/64/2")
    seconds = {
        "student": {"ours": [3.0, 1.0, 2.0], "eager": [4.0, 4.0, 5.0]},
        "critic": {"ours": [1.0, 1.0, 9.0], "eager": [2.0, 2.0, 2.0]},
    }
    found = versus.figures(case, seconds)
    assert found["seconds"]["iteration"] == {"ours": 7.0, "eager": 14.0}
    flops = found["flops"]
    assert flops["iteration"] == flops["student"] + 5 * flops["critic"]
    # Roll-out of 1, student forward and backward, teacher twice, fake score; roll-out of 4, fake.
    assert flops["student"] == flops["critic"] == 7 * case.flops()["forward"]
    lines = versus.table(found | {"peak": 1e12}).splitlines()
    assert "2.00 x" in lines[-1] and lines[-1].split()[0] == "iteration"

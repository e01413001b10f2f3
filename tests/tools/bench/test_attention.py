"""`bench attention`: what computes something else is not timed; shares are of a product."""

import json

import jax
import pytest

from flashjax.cli import main
from flashjax.models.layers import attend
from flashjax.tools.bench import attention
from flashjax.tools.bench.matched import case_of
from flashjax.tools.bench.measuring import Spent
from flashjax.types import InputError

SIZE = "128/3/4+3/2"
WRONG = {
    "scaled": lambda q, k, v: attend(2 * q, k, v),
    "of other values": lambda q, k, v: attend(q, k, v + 1e-3),
    "none": lambda q, k, v: attend(q, k, v) * float("nan"),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_our_attention_is_the_definition(dtype) -> None:
    errors = attention.agreement({"xla": attend}, case_of(SIZE), dtype)
    assert errors["xla"] <= attention.TOLERANCE[dtype]


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_another_maths_is_refused(wrong) -> None:
    with pytest.raises(InputError, match="fast differs from the definition by"):
        attention.agreement({"xla": attend, "fast": wrong}, case_of(SIZE), "float32")


def test_a_wrong_gradient_of_a_right_output_is_refused() -> None:
    half = lambda q, k, v: attend(q, k, (v + jax.lax.stop_gradient(v)) / 2)
    with pytest.raises(InputError, match="fast differs"):
        attention.agreement({"fast": half}, case_of(SIZE), "float32")


def test_every_kernel_and_sequence_is_timed_and_kept(tmp_path, capsys) -> None:
    out = tmp_path / "attention.json"
    flags = ["--size", SIZE, "--rounds", "2", "--json", str(out)]
    assert main(["bench", "attention", *flags]) == 0
    told = json.loads(out.read_text())
    rows = [(row["sequence"], row["tokens"], row["kernel"], row["part"]) for row in told["rows"]]
    parts = (attention.FORWARD, attention.GRADIENT)
    tokens = {"joint": 7, "image": 4}
    assert rows == [(name, n, "xla", part) for name, n in tokens.items() for part in parts]
    assert told["product"] > 0 and told["errors"]["xla"] < 1e-5
    for row in told["rows"]:
        assert row["seconds"] > 0 and row["times_as_fast_as_xla"] == 1
        assert row["share_of_product"] == pytest.approx(row["flops_per_second"] / told["product"])
    assert "product" in capsys.readouterr().out


def test_operations_are_those_of_two_products_and_three_times_with_the_gradient() -> None:
    case = case_of("128/3/16+8/2")
    spent = {
        attention.PRODUCT: Spent([0.5]),
        ("joint", "xla", attention.FORWARD): Spent([1.0]),
        ("joint", "xla", attention.GRADIENT): Spent([1.0]),
    }
    told = attention.figures(case, spent, product_flops=1e6)
    forward, gradient = (row["flops_per_second"] for row in told["rows"])
    assert told["product"] == 2e6
    assert forward == 2 * (2 * 24 * 24 * 64 * 2 * 2) and gradient == 3 * forward


def test_no_rounds_end_in_one_line(capsys) -> None:
    assert main(["bench", "attention", "--rounds", "0"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--rounds 0: give 1 or more" in line

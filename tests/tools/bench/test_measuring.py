"""What benches share: turns, tables, memory, and files of figures that say where they are from."""

import argparse
import json
import mmap

import pytest

from flashjax.tools import front
from flashjax.tools.bench import command, measuring
from flashjax.types import InputError


def test_calls_take_turns_after_one_that_is_not_measured() -> None:
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    spent = measuring.take_turns(calls, 3)
    assert order == ["a", "b"] * 4
    assert [len(spent["a"].wall), len(spent["b"].user)] == [3, 3]
    assert spent["a"].median >= 0


def test_columns_of_a_table_are_as_wide_as_their_cells() -> None:
    lines = measuring.table(["part", "ms"], [["forward", "1.5"], ["b", "100.25"]]).splitlines()
    assert lines == ["  part         ms", "  forward     1.5", "  b        100.25"]


def test_memory_that_a_block_takes_is_counted() -> None:
    size = 2**27
    with measuring.growing() as grown, mmap.mmap(-1, size) as fresh:  # a heap may have it already
        for start in range(0, size, mmap.PAGESIZE):
            fresh[start] = 1
    assert grown.nbytes is None or size / 2 < grown.nbytes < 4 * size


def test_a_file_says_what_was_measured_where_and_how_and_may_be_written_again(tmp_path) -> None:
    path = tmp_path / "figures.json"
    for rows in ([1], [2]):
        measuring.check_file(str(path))
        measuring.write_figures(str(path), "sample", "flashjax bench sample", {"rows": rows})
    told = json.loads(path.read_text())
    assert told["rows"] == [2] and told["command"] == "flashjax bench sample"
    assert told["device"] == "cpu" and {"jax", "flashjax"} <= set(told["versions"])
    assert told["date"].endswith("+00:00")


def test_a_file_that_is_not_ours_stays(tmp_path) -> None:
    path = tmp_path / "figures.json"
    path.write_text("mine")
    with pytest.raises(InputError, match="flashjax did not write it so"):
        measuring.check_file(str(path))
    with pytest.raises(InputError, match="is a folder"):
        measuring.check_file(str(tmp_path))
    assert path.read_text() == "mine"


def test_the_command_has_what_was_asked_for_and_can_be_given_again() -> None:
    words = ["input", "--size", "nano/64/8", "--step_seconds", "0.5", "--profile"]
    parse = lambda words: front.parser("bench", configured=False).parse_args(words)
    options: argparse.Namespace = parse(words)
    said = command.told(options, ["seed=3"]).split()
    assert said[:2] == ["flashjax", "bench"] and said[-1] == "--config.seed=3"
    assert parse(said[2:-1]) == options

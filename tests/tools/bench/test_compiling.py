"""`bench compile`: cold and from what was kept; JAX's own settings are as they were after it."""

import json

import jax
import jax.numpy as jnp
import pytest

from flashjax.cli import main
from flashjax.parallel.mesh import make_mesh
from flashjax.tools.bench import compiling
from flashjax.tools.plan.programs import Planned


def planned(config, devices, names):
    """A program of some operations in the place of those of a config."""
    x = jax.ShapeDtypeStruct((16, 16), jnp.float32)
    step = jax.jit(lambda x: jnp.tanh(x @ x) + 1.0)
    return [Planned(name, make_mesh({}), step, (x,), 1, {}, 0.0, 1.0, 1) for name in names]


def test_a_program_is_compiled_cold_and_read_again(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(compiling, "programs", planned)
    names = [*compiling.CACHE, "jax_compilation_cache_dir"]
    before = [getattr(jax.config, name) for name in names]
    out = tmp_path / "compile.json"
    flags = ["--config", "nano_tiny", "--config.simulate_devices=0", "--json", str(out)]
    assert main(["bench", "compile", "--programs", "guide,student", *flags]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["program"], row["start"]) for row in rows] == [
        (name, start) for name in ("guide", "student") for start in ("cold", "again")
    ]
    assert [rows[0]["read_from_cache"], rows[1]["read_from_cache"]] == [False, True]
    for row in rows:
        parts = [row[f"{phase}_seconds"] for phase in compiling.PHASES]
        assert min(parts) > 0 and row["seconds"] == pytest.approx(sum(parts))
        assert row["operations"] > 2
    assert rows[0]["kept_bytes"] > 0 and rows[1]["kept_bytes"] == 0
    assert [getattr(jax.config, name) for name in names] == before
    assert "guide" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give --config FILE"),
        (["--config", "nano_tiny", "--programs", "dream"], "--programs dream: choose of text"),
        (["--config", "/nowhere.py"], "/nowhere.py does not exist"),
    ],
)
def test_bad_flags_end_in_one_line(flags, message, capsys) -> None:
    if "nano_tiny" in flags:
        flags = [*flags, "--config.simulate_devices=0"]
    assert main(["bench", "compile", *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line

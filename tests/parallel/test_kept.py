"""What a step was traced to is kept: the next start reads it, traces nothing, and trains alike."""

import importlib.metadata
import logging
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec

from flashjax.parallel import compiling, hosts, kept
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.prepared import Prepared
from flashjax.types import InputError

STARTED = time.monotonic()


@struct.dataclass
class State:
    """A tree of a type of ours, with what is no array."""

    weight: jax.Array
    step: jax.Array
    name: str = struct.field(pytree_node=False, default="toy")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Programs are kept there, of code that is as it was; JAX remembers no trace."""
    monkeypatch.setattr(kept, "code_digest", lambda *_: "code")
    kept.keep_in(tmp_path)
    jax.clear_caches()
    yield tmp_path
    kept.keep_in(None)


@pytest.fixture
def traced():
    """The names of functions that JAX traces from now on."""
    names = []

    def hear(event, value, **said):
        if event == compiling.TRACE:
            names.append(str(said["fun_name"]))

    jax.monitoring.register_scalar_listener(hear)
    yield names
    jax.monitoring.unregister_scalar_listener(hear)


def a_kept_step(state, frozen, batch, key):
    noise = jax.random.normal(key, state.weight.shape)
    weight = state.weight + frozen["teacher"] * batch.mean() + 0.1 * noise
    return state.replace(weight=weight, step=state.step + 1), {"b/loss": weight.sum(), "a/x": noise}


def arguments(size=3):
    weight = jnp.arange(size, dtype=jnp.float32)
    state = State(weight=weight, step=jnp.int32(4))
    return state, {"teacher": jnp.float32(2)}, jnp.arange(4.0), jax.random.key(1)


def start(step=a_kept_step, origin="toy", **more):
    """What a process does that knows of no other."""
    jax.clear_caches()
    prepared = Prepared(jax.jit(step, donate_argnums=0), **more)
    prepared.comes_from(origin)
    return prepared


def same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_second_start_traces_nothing_and_trains_to_the_bit(folder, traced):
    want = jax.jit(a_kept_step)(*arguments())
    same(start()(*arguments()), want)
    assert "a_kept_step" in traced
    (file,) = folder.iterdir()
    assert file.name.startswith("a_kept_step-") and file.suffix == kept.SUFFIX

    def a_kept_step_again(*_):
        raise AssertionError("it is traced")

    a_kept_step_again.__name__ = "a_kept_step"
    given, again = arguments(), start(a_kept_step_again)
    traced.clear()
    same(again(*given), want)
    assert given[0].weight.is_deleted() and given[0].step.is_deleted()  # donated as before
    assert not given[1]["teacher"].is_deleted() and not given[2].is_deleted()
    assert [*folder.iterdir()] == [file]


def test_a_start_that_finds_nothing_runs_the_program_that_is_kept(folder, monkeypatch):
    """Or a run that is interrupted would go on with another program than an unbroken one's."""
    read, lower = [], kept.lower
    monkeypatch.setattr(kept, "lower", lambda *given: read.append(given[0]) or lower(*given))
    start()(*arguments())
    start()(*arguments())
    cold, warm = (found.exported for found in read)
    assert cold.mlir_module_serialized == warm.mlir_module_serialized


def test_a_program_on_a_mesh_keeps_its_layout_and_may_be_refused(folder):
    mesh = make_mesh(dict(branch=1, data=2, fsdp=2, context=1, tensor=1))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["fsdp"], []))
    layout = State(weight=split, step=whole)
    jitted = jax.jit(a_kept_step, donate_argnums=0, out_shardings=(layout, None))

    def given():
        state, *others = arguments(8)
        return jax.device_put(state, layout), *jax.device_put(others, whole)

    want, seen = jitted(*given()), []
    for _ in range(2):
        jax.clear_caches()
        prepared = Prepared(jitted, check=seen.append)
        prepared.comes_from("toy")
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), given()
        )
        prepared.prepare(*shapes)  # as stages do, before there is a weight
        first = given()
        got = prepared(*first)
        same(got, want)
        assert got[0].weight.sharding == split and first[0].weight.is_deleted()
    assert len([*folder.iterdir()]) == 1 and len(seen) == 2
    assert all(text.startswith("HloModule") for text in seen)


def test_another_origin_shape_or_step_has_a_program_of_its_own(folder):
    start()(*arguments())
    start(origin="toy, at another rate")(*arguments())
    start()(*arguments(5))
    assert len([*folder.iterdir()]) == 3


def other_code(monkeypatch):
    return {"code": "another"}


def other_origin(monkeypatch):
    return {"origin": "another"}


def other_dtype(monkeypatch):
    return {"arguments": (jnp.ones(3, jnp.bfloat16),)}


def other_tree(monkeypatch):
    return {"arguments": ({"weight": jnp.ones(3)},)}


def other_device(monkeypatch):
    return {"arguments": (jax.device_put(jnp.ones(3), jax.devices()[1]),)}


def other_mesh(monkeypatch):
    mesh = make_mesh(dict(branch=1, data=1, fsdp=2, context=1, tensor=1))
    return {"arguments": (jax.device_put(jnp.ones(3), NamedSharding(mesh, PartitionSpec())),)}


def other_version(monkeypatch):
    own = importlib.metadata.version
    told = lambda name: "0.0.1" if name == "optax" else own(name)
    monkeypatch.setattr(importlib.metadata, "version", told)
    return {}


def other_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"] + " --xla_cpu_enable_fast_math=true")
    return {}


CHANGES = [
    other_code,
    other_origin,
    other_dtype,
    other_tree,
    other_device,
    other_mesh,
    other_version,
    other_flags,
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_key_knows_all_that_a_program_comes_from(change, monkeypatch):
    told = {"code": "code", "origin": "toy", "arguments": (jnp.ones(3),)}
    before = kept.digest(**told)
    assert kept.digest(**told) == before
    with jax.default_matmul_precision("highest"):  # one of JAX's own settings
        assert kept.digest(**told) != before
    assert kept.digest(**told | change(monkeypatch)) != before


def test_a_changed_file_is_other_code_and_one_that_is_younger_than_the_process_is_not_known(
    tmp_path,
):
    file, late = tmp_path / "losses" / "matching.py", time.monotonic() + 60
    file.parent.mkdir()
    file.write_text("weight = 1\n")
    before = kept.code_digest(tmp_path, late)
    file.write_text("weight = 2\n")
    after = kept.code_digest(tmp_path, late)
    file.rename(tmp_path / "matching.py")
    assert before and len({before, after, kept.code_digest(tmp_path, late)}) == 3
    os.utime(tmp_path / "matching.py", (0, 0))  # as what unpacks an archive does
    assert kept.code_digest(tmp_path, STARTED) == ""


def test_of_code_that_has_changed_since_nothing_is_kept(folder, monkeypatch, caplog):
    monkeypatch.setattr(kept, "code_digest", lambda *_: "")
    with caplog.at_level(logging.INFO):
        same(start()(*arguments()), jax.jit(a_kept_step)(*arguments()))
    assert not [*folder.iterdir()] and "our code has changed" in caplog.text


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:-1] + b"~", None])
def test_a_damaged_program_is_made_again(damage, folder, caplog):
    want = start()(*arguments())
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole) if damage else b"")
    with caplog.at_level(logging.INFO):
        same(start()(*arguments()), want)
    assert f"{file} is made again" in caplog.text
    assert kept.Traced.from_bytes(file.read_bytes()).donated == (0, 1)


def calls_back(state, frozen, batch, key):
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return state, {"loss": jax.pure_callback(lambda x: np.float32(x.sum()), shape, batch)}


def changes_its_form(state, frozen, batch, key):
    return {"weight": state.weight}, {"loss": batch.sum()}


@pytest.mark.parametrize("step", [calls_back, changes_its_form])
def test_what_has_no_portable_form_is_said_and_traced_at_every_start(step, folder, caplog):
    for _ in range(2):
        with caplog.at_level(logging.INFO):
            _, metrics = start(step)(*arguments())
        assert metrics["loss"] == 6
        assert f"{step.__name__} is traced at every start" in caplog.text
        caplog.clear()


def test_a_disk_that_refuses_costs_no_step(folder, caplog):
    kept.keep_in(folder / "file" / "below")
    (folder / "file").touch()
    with caplog.at_level(logging.INFO):
        same(start()(*arguments()), jax.jit(a_kept_step)(*arguments()))
    assert "is not kept" in caplog.text or "is made again" in caplog.text


def test_what_a_trace_refuses_is_raised_as_it_is_and_nothing_is_kept(folder):
    def refuses(*_):
        raise InputError("match.heads.taps=9: the model has 2 blocks")

    with pytest.raises(InputError, match="taps=9"):
        start(refuses)(*arguments())
    assert not [*folder.iterdir()]


@pytest.mark.parametrize(("origin", "there"), [("", True), ("toy", False)])
def test_without_an_origin_or_a_folder_nothing_is_kept(origin, there, folder):
    kept.keep_in(folder if there else None)
    same(start(origin=origin)(*arguments()), jax.jit(a_kept_step)(*arguments()))
    assert not [*folder.iterdir()]


def test_a_folder_of_jax_s_own_variable_gets_none_of_ours(folder, monkeypatch):
    before = jax.config.jax_compilation_cache_dir, hosts.KEPT_SECONDS
    hosts.keep_programs(folder / "ours")
    assert kept._Where.folder is None  # of a folder that many programs may have
    assert (jax.config.jax_compilation_cache_dir, hosts.KEPT_SECONDS) == before


def test_a_folder_of_a_run_gets_what_is_traced(folder, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # this process has a cache
    hosts.keep_programs(folder / "ours")
    start()(*arguments())
    (file,) = (folder / "ours").iterdir()
    assert file.suffix == kept.SUFFIX

"""Checkpoints: onto another mesh, asynchronous under donation, deaf to unfinished saves."""

import errno
import shutil
import subprocess
import sys
import time

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import PartitionSpec as P

from flashjax.checkpoint import Checkpoints, load_params, save_params
from flashjax.parallel.mesh import make_mesh
from flashjax.parallel.sharding import Rules, state_shardings
from flashjax.types import InputError

RULES = Rules(params=((".*kernel", P("fsdp", "tensor")), (".*", P())), activations={})


@flax.struct.dataclass
class State:
    params: dict
    opt: optax.OptState
    step: jax.Array


def _state(key):
    params = {"up": {"kernel": jax.random.normal(key, (8, 4)), "bias": jnp.ones(4, jnp.bfloat16)}}
    return State(params, optax.adam(1e-3).init(params), jnp.int32(3))


def _abstract(state, sizes):
    shapes = jax.eval_shape(lambda: state)
    shardings = state_shardings(shapes, RULES, make_mesh(sizes))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def test_state_comes_back_on_another_mesh(key, tmp_path):
    state = _state(key)
    on_two = jax.tree.map(lambda a: a.sharding, _abstract(state, {"fsdp": 2}))
    first = Checkpoints(tmp_path)
    first.save(3, jax.device_put(state, on_two), {"next_index": 7})
    first.close()
    second = Checkpoints(tmp_path)
    assert second.latest_step() == 3
    got, data_state = second.restore(3, _abstract(state, {"fsdp": 4, "tensor": 2}))
    assert data_state == {"next_index": 7}
    assert got.opt[0].mu["up"]["kernel"].sharding.spec == P("fsdp", "tensor")
    jax.tree.map(np.testing.assert_array_equal, got, state)
    assert jax.tree.structure(got) == jax.tree.structure(state)
    assert jax.tree.map(lambda a: a.dtype, got) == jax.tree.map(lambda a: a.dtype, state)
    second.close()


def test_only_the_last_ones_stay_and_a_step_is_saved_once(key, tmp_path):
    state = _state(key)
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3, 3):
        checkpoints.save(step, state, {}, wait=True)
    checkpoints.close()
    assert {path.name for path in tmp_path.iterdir()} == {"2", "3"}


def test_donation_does_not_reach_a_save_in_flight(tmp_path):
    state = {"w": jnp.zeros(2_000_000)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {})
    grow = jax.jit(lambda tree: jax.tree.map(lambda w: w + 1, tree), donate_argnums=0)
    abstract = jax.eval_shape(lambda: state)
    for _ in range(3):
        state = grow(state)
    jax.block_until_ready(state)
    checkpoints.close()
    got, _ = Checkpoints(tmp_path).restore(1, abstract)
    assert float(jnp.abs(got["w"]).max()) == 0


def test_a_save_cut_by_kill_is_ignored(tmp_path):
    code = (
        "import os, jax.numpy as jnp; from flashjax.checkpoint import Checkpoints\n"
        f"checkpoints = Checkpoints({str(tmp_path)!r})\n"
        "checkpoints.save(1, {'w': jnp.ones(3)}, {}, wait=True)\n"
        "checkpoints.save(2, {'w': jnp.ones(20_000_000)}, {})\n"
        "os.kill(os.getpid(), 9)\n"
    )
    env = {"PYTHONPATH": ":".join(sys.path), "JAX_PLATFORMS": "cpu"}
    killed = subprocess.run([sys.executable, "-c", code], env=env, check=False, capture_output=True)
    assert killed.returncode == -9 and any("tmp" in path.name for path in tmp_path.iterdir())
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest_step() == 1
    got, _ = checkpoints.restore(1, {"w": jax.ShapeDtypeStruct((3,), jnp.float32)})
    np.testing.assert_array_equal(got["w"], np.ones(3))
    checkpoints.close()
    deadline = time.monotonic() + 60  # unfinished saves are swept away in the background
    while {path.name for path in tmp_path.iterdir()} != {"1"}:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_params_come_back_with_and_without_a_layout(key, tmp_path):
    params = _state(key).params
    save_params(tmp_path / "params", jax.tree.map(jnp.zeros_like, params))
    save_params(tmp_path / "params", params)
    plain = load_params(tmp_path / "params")
    laid_out = load_params(tmp_path / "params", _abstract(params, {"fsdp": 8}))
    assert laid_out["up"]["kernel"].sharding.spec == P("fsdp", "tensor")
    assert plain["up"]["bias"].dtype == jnp.bfloat16
    for got in (plain, laid_out):
        jax.tree.map(np.testing.assert_array_equal, got, params)


def _truncate(folder):
    for path in (*folder.glob("d/*"), *folder.glob("ocdbt.process_0/d/*")):
        path.write_bytes(path.read_bytes()[:10])


def _zero(folder):
    for path in (*folder.glob("d/*"), *folder.glob("ocdbt.process_0/d/*")):
        path.write_bytes(bytes(path.stat().st_size))


def _cut_metadata(folder):
    (folder / "_METADATA").write_text("{")


def _remove_manifest(folder):
    (folder / "manifest.ocdbt").unlink()


@pytest.mark.parametrize("damage", [_truncate, _zero, _cut_metadata, _remove_manifest])
def test_damage_names_the_folder(damage, key, tmp_path):
    state = {"w": jax.random.normal(key, (64,))}
    abstract = jax.eval_shape(lambda: state)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, state, {}, wait=True)
    save_params(tmp_path / "params", state)
    damage(tmp_path / "checkpoints" / "1" / "state")
    damage(tmp_path / "params")
    with pytest.raises(InputError, match=r"checkpoints/1 is no complete checkpoint"):
        checkpoints.restore(1, abstract)
    with pytest.raises(InputError, match=r"params is no complete checkpoint"):
        load_params(tmp_path / "params", abstract)
    with pytest.raises(InputError, match=r"params is no complete checkpoint"):
        load_params(tmp_path / "params")


def _flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


def test_no_flipped_bit_of_the_data_is_read(key, tmp_path):
    """Floats of a network hardly compress: most bits of the file are theirs, and no codec's."""
    state = {"w": jax.random.normal(key, (64, 64)), "b": jnp.arange(64, dtype=jnp.bfloat16)}
    abstract = jax.eval_shape(lambda: state)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        checkpoints.save(step, state, {}, wait=True)
    save_params(tmp_path / "params", state)
    read = {
        tmp_path / "checkpoints" / "2": lambda: checkpoints.restore(2, abstract)[0],
        tmp_path / "params": lambda: load_params(tmp_path / "params"),
    }
    for folder, load in read.items():
        data = max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)
        bits = np.random.default_rng(0).integers(8 * data.stat().st_size, size=20).tolist()
        refused = 0
        for bit in bits:
            _flip(data, bit)
            try:
                jax.tree.map(np.testing.assert_array_equal, load(), state)
            except InputError as error:
                refused += 1
                assert str(folder) in str(error)
            _flip(data, bit)
        assert refused >= 18, refused
        jax.tree.map(np.testing.assert_array_equal, load(), state)


def test_a_damaged_checkpoint_names_the_one_before(tmp_path):
    state = {"w": jnp.ones(3)}
    checkpoints = Checkpoints(tmp_path)
    for step in (10, 20):
        checkpoints.save(step, state, {}, wait=True)
        (tmp_path / str(step) / "checksums" / "metadata").write_text('{"w": 7}')
    with pytest.raises(InputError, match=r"20 is .*move it away, .* goes on from step 10"):
        checkpoints.restore(20, jax.eval_shape(lambda: state))
    with pytest.raises(InputError, match=r"10 is .*what was saved: w\): .*the stage begins anew"):
        checkpoints.restore(10, jax.eval_shape(lambda: state))


def test_milestones_stay_for_good(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, milestone=4)
    for step in range(1, 8):
        checkpoints.save(step, {"w": jnp.ones(3)}, {}, wait=True)
    assert {path.name for path in tmp_path.iterdir()} == {"4", "6", "7"}
    checkpoints.keep_newest()
    checkpoints.close()
    assert {path.name for path in tmp_path.iterdir()} == {"4", "7"}


def test_the_best_stay_for_good_and_are_known_after_a_restart(tmp_path):
    folder, state = tmp_path / "checkpoints", {"w": jnp.ones(3)}
    merits = {1: float("nan"), 2: 0.9, 3: 0.1, 4: 0.5, 5: 0.3, 6: 0.4}
    for start, stop in ((1, 4), (4, 7)):  # two starts of a job
        checkpoints = Checkpoints(folder, keep=1, best=2)
        for step in range(start, stop):
            checkpoints.judge(step, merits[step])
            checkpoints.save(step, state, {}, wait=True)
        checkpoints.close()
    assert _steps(folder) == [2, 4, 6]
    checkpoints = Checkpoints(folder, keep=1, best=1)
    checkpoints.keep_newest()
    checkpoints.close()
    assert _steps(folder) == [2, 6]
    (tmp_path / "judged.json").write_text("[1, 2")
    with pytest.raises(InputError, match=r"judged.json is damaged"):
        Checkpoints(folder, best=1)


def _steps(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO])
def test_a_disk_that_fails_says_nothing_of_the_files(code, tmp_path, monkeypatch):
    save_params(tmp_path / "params", {"w": jnp.ones(3)})

    def fail(*_, **__):
        raise ValueError(f"NOT_FOUND: Error reading file [os_error_code='{code}']")

    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.Checkpointer, "restore", fail)
        with pytest.raises(OSError) as failed:
            load_params(tmp_path / "params")
    assert failed.value.errno == code and waited == [1.0, 4.0, 16.0]


def test_a_disk_that_comes_back_is_asked_again(tmp_path, monkeypatch):
    save_params(tmp_path / "params", {"w": jnp.ones(3)})
    read, calls = ocp.Checkpointer.restore, []

    def fail_once(*arguments, **named):
        calls.append(1)
        if len(calls) == 1:
            raise ValueError(f"NOT_FOUND: Error [os_error_code='{errno.ESTALE}']")
        return read(*arguments, **named)

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(ocp.Checkpointer, "restore", fail_once)
    np.testing.assert_array_equal(load_params(tmp_path / "params")["w"], np.ones(3))
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["runs [1]", "a\\b"])
def test_a_place_where_nothing_is_found_again_is_refused_and_read(name, tmp_path):
    params, folder, said = {"w": jnp.arange(4.0)}, tmp_path / name, "cannot be kept below a name"
    with pytest.raises(InputError, match=said):
        save_params(folder / "params", params)
    with pytest.raises(InputError, match=said):
        Checkpoints(folder / "checkpoints")
    assert not list(tmp_path.iterdir())
    (tmp_path / "plain").mkdir()
    (tmp_path / name).symlink_to("plain")
    save_params(tmp_path / "plain" / "params", params)
    if "[" in name:  # what was moved there is read
        assert load_params(folder / "params")["w"].tolist() == [0, 1, 2, 3]


def test_another_shape_or_a_missing_folder_is_named(tmp_path):
    save_params(tmp_path / "params", {"w": jnp.ones(3)})
    with pytest.raises(InputError, match=r"params does not fit.* w has shape \(3,\), not \(4,\)"):
        load_params(tmp_path / "params", {"w": jax.ShapeDtypeStruct((4,), jnp.float32)})
    with pytest.raises(InputError, match=r"absent does not exist"):
        load_params(tmp_path / "absent")


def test_a_full_disk_is_found_out_before_and_while_something_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=11))
        with pytest.raises(OSError, match="No space left on device") as caught:
            save_params(tmp_path / "params", {"w": jnp.ones(3)})
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(tmp_path / "params")
    assert not list(tmp_path.iterdir())

    def fail(*_, **__):  # as tensorstore says it
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write: No space [os_error_code='28']")

    monkeypatch.setattr(ocp.StandardCheckpointer, "save", fail)
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_params(tmp_path / "params", {"w": jnp.ones(3)})
    assert caught.value.errno == errno.ENOSPC


def test_a_read_that_ends_after_it_was_given_up_says_nothing(tmp_path):
    """A file of data that is cut is one line, whatever TensorStore's threads still do."""
    save_params(tmp_path / "p", {"k": np.ones((64, 64), np.float32), "b": np.ones(5, np.float32)})
    for path in sorted(file for file in (tmp_path / "p").glob("d/*")):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code = f"from flashjax.checkpoint import load_params; load_params({str(tmp_path / 'p')!r})"
    code = f"import time\ntry:\n    {code}\nexcept ValueError as error:\n    print(error)"
    done = subprocess.run(
        [sys.executable, "-c", code + "\ntime.sleep(0.3)"], capture_output=True, text=True
    )
    assert "is no complete checkpoint" in done.stdout and not done.stderr

"""Meshes: sizes, the free axis, and errors that say what to do."""

import dataclasses
import subprocess
import sys

import jax
import pytest
from jax.sharding import AxisType

from flashjax.parallel.mesh import AXES, make_mesh, simulate_devices
from flashjax.types import InputError


def test_mesh_has_all_axes_and_auto_types():
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    assert mesh.axis_names == AXES and mesh.axis_types == (AxisType.Auto,) * 5
    assert dict(mesh.shape) == {"branch": 1, "data": 2, "fsdp": 2, "context": 1, "tensor": 2}


def test_free_axis_takes_the_rest():
    assert make_mesh({"branch": 2, "fsdp": -1}).shape["fsdp"] == 4


def test_mesh_uses_the_first_devices():
    mesh = make_mesh({"data": 2}, jax.devices()[4:])
    assert {device.id for device in mesh.devices.flat} == {4, 5}


def test_devices_without_work_are_an_error_unless_a_cpu_simulates_them():
    """A pod's chips cost money, and a process that has none of the mesh could not take part."""
    fake = dataclasses.make_dataclass("Device", ["id", "platform", "process_index"])
    pod = [fake(number, "tpu", 0) for number in range(4)]
    hosts = [fake(number, "cpu", number // 2) for number in range(4)]
    for devices in (pod, hosts):
        with pytest.raises(InputError, match=r"data=1 fsdp=2 .* 4 device.* leaves 2 without work"):
            make_mesh({"fsdp": 2}, devices)


def test_slices_are_the_outer_part_of_an_axis():
    mesh = make_mesh({"data": 2, "fsdp": 2, "dcn": {"branch": 2}})
    assert (mesh.shape["branch"], mesh.shape["data"], mesh.shape["fsdp"]) == (2, 2, 2)
    assert [device.id for device in mesh.devices[0].flat] == [0, 1, 2, 3]
    mesh = make_mesh({"fsdp": 2, "data": 2, "dcn": {"data": -1}})
    ids = [[device.id for device in row.flat] for row in mesh.devices[0]]
    assert ids == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 16}, "data=16 .* 8 device.*simulate_devices=16"),
        ({"data": 3, "fsdp": -1}, "8 is not a multiple of 3"),
        ({"data": -1, "fsdp": -1}, "at most one is -1"),
        ({"data": 0}, "at least 1"),
        ({"dta": 2}, "no axis dta.*branch, data"),
        ({"dcn": {"fsdp": 2}}, "fsdp=1x2 .*only branch and data may cross slices, not fsdp"),
        ({"data": -1, "dcn": {"branch": -1}}, "branch=1x-1 data=-1 .*at most one is -1"),
        ({"fsdp": 8, "dcn": {"data": 2}}, "data=1x2 fsdp=8 .* needs 16"),
    ],
)
def test_wrong_sizes_are_named(sizes, message):
    with pytest.raises(InputError, match=message):
        make_mesh(sizes)


def test_simulation_too_late_is_an_error():
    jax.devices()
    with pytest.raises(RuntimeError, match="before JAX touches"):
        simulate_devices(4)
    simulate_devices(1)


def test_simulation_splits_the_cpu():
    code = (
        "from flashjax.parallel.mesh import simulate_devices; simulate_devices(3);"
        "import jax; print(jax.device_count())"
    )
    env = {"PYTHONPATH": ":".join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert run.stdout.strip() == b"3"

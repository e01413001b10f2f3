"""Meshes: sizes, the free axis, and errors that say what to do."""

import dataclasses
import os
import shutil
import socket
import subprocess
import sys

import jax
import pytest
from jax.sharding import AxisType

from flashjax.parallel.mesh import AXES, make_mesh, simulate_devices, slice_of
from flashjax.parallel.target import parse_target
from flashjax.types import InputError

BOOT_ID = "/proc/sys/kernel/random/boot_id"


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


@dataclasses.dataclass(frozen=True)
class Device:
    id: int
    platform: str
    process_index: int
    slice_index: int
    device_kind: str = "known to nobody"


def hosts(platform, number, each=2):
    """The devices of so many hosts, in the order in which a cyclic launcher starts processes.

    XLA numbers the devices of a host one after the other.
    """
    return [Device(i * each + j, platform, i, i) for j in range(each) for i in range(number)]


def test_hosts_of_cpus_are_one_island_whatever_they_call_themselves():
    """Each host has a boot id, and XLA gives each of these a slice of its own."""
    mesh = make_mesh({"data": -1}, hosts("cpu", 2))
    assert mesh.shape["data"] == 4 and slice_of(mesh) == [0] * 4
    mesh = make_mesh({"data": 2, "dcn": {"branch": 2}}, hosts("cpu", 2))  # where it is said
    assert (mesh.shape["branch"], mesh.shape["data"]) == (2, 2)


def test_hosts_of_gpus_are_islands_that_the_last_axes_do_not_leave():
    mesh = make_mesh({"data": -1, "fsdp": 2}, hosts("gpu", 8))
    assert (mesh.shape["data"], mesh.shape["fsdp"]) == (8, 2)
    assert slice_of(mesh) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]
    said = make_mesh({"fsdp": 2, "dcn": {"branch": 2, "data": 4}}, hosts("gpu", 8))
    assert slice_of(said) == slice_of(mesh) and said.shape["branch"] == 2
    with pytest.raises(InputError, match="hosts: 8, but the sizes under dcn make 2"):
        make_mesh({"data": -1, "dcn": {"branch": 2}}, hosts("gpu", 8))


def test_slices_of_tpus_are_said():
    for number in (1, 2):
        with pytest.raises(InputError, match=f"slices: {number}, but the sizes under dcn make"):
            make_mesh({"data": -1, "dcn": {"data": 3 - number}}, hosts("tpu", number))


@pytest.mark.parametrize(
    ("target", "slices", "kind"),
    [("v6e:8x8", 2, ("slices", 2)), ("h100:64", 1, ("hosts", 8)), ("h100:4", 1, ("hosts", 1))],
)
def test_a_target_counts_the_islands_that_its_devices_will(target, slices, kind):
    islands = parse_target(target, slices=slices).islands
    assert (islands.kind, islands.number) == kind
    assert parse_target("cpu:8", slices=2).islands is None


def processes_with_boot_ids(folder, code):
    """The output of `code` in two processes of one job, each in a namespace with its boot id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for number in range(2):
        (folder / f"boot{number}").write_text(f"00000000-0000-4000-8000-00000000000{number}\n")
        mounted = (
            f"mount --bind {folder}/boot{number} {BOOT_ID} && exec {sys.executable} -c '{code}'"
        )
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",
            "PYTHONPATH": ":".join(path for path in sys.path if path),
            "FLASHJAX_COORDINATOR": f"127.0.0.1:{port}",
            "FLASHJAX_PROCESSES": "2",
            "FLASHJAX_PROCESS": str(number),
        }
        words = ["unshare", "--mount", "bash", "-c", mounted]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(words, env=environment, **pipes))
    said = [process.communicate(timeout=100) for process in running]
    assert not any(process.returncode for process in running), said
    return [out.splitlines()[-1] for out, _ in said]


def test_two_real_hosts_of_cpus_make_a_mesh_of_both(tmp_path):
    """What XLA reads to tell hosts apart is another file for each process."""
    (tmp_path / "probe").write_text("x")
    probe = ["unshare", "--mount", "mount", "--bind", str(tmp_path / "probe"), BOOT_ID]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no mount namespaces here: two boot ids cannot be imitated")
    code = (
        "import os, jax; from flashjax.parallel.hosts import initialise; initialise(os.environ);"
        'from flashjax.parallel.mesh import make_mesh; mesh = make_mesh({"data": -1});'
        'print(sorted(d.slice_index for d in jax.devices()), mesh.shape["data"])'
    )
    assert processes_with_boot_ids(tmp_path, code) == ["[0, 1] 2"] * 2

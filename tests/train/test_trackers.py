"""Trackers of others get what our own curves get; what is not installed is said in one line."""

import sys
import types

import numpy as np
import pytest

from flashjax.train.metrics import MultiWriter
from flashjax.train.trackers import check_known, open_trackers
from flashjax.types import InputError


class Fake(types.ModuleType):
    """A module that notes its calls."""

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = types.SimpleNamespace(name=name)
        self.calls = []
        self.config = self

    def __getattr__(self, name):
        def call(*arguments, **more):
            self.calls.append((name, arguments, more))
            return self

        return call


@pytest.fixture
def fakes(monkeypatch):
    found = {name: Fake(name) for name in ("wandb", "mlflow")}
    for name, module in found.items():
        monkeypatch.setitem(sys.modules, name, module)
    return found


def test_each_is_told_scalars_images_and_hyper_parameters_and_its_end(fakes, tmp_path):
    writer = MultiWriter(open_trackers(("wandb", "mlflow"), "runs/guide", tmp_path))
    writer.write_hparams({"steps": 4})
    writer.write_scalars(5, {"student/loss": np.float32(0.5)})
    writer.write_images(5, {"samples": np.zeros((2, 2, 3), np.uint8)})
    writer.close()
    wandb, mlflow = (fakes[name].calls for name in ("wandb", "mlflow"))
    assert [name for name, *_ in wandb] == ["init", "update", "log", "Image", "log", "finish"]
    assert wandb[0][2]["name"] == "runs/guide"
    assert wandb[2] == ("log", ({"student/loss": 0.5},), {"step": 5})
    names = ["set_experiment", "start_run", "log_params", "log_metrics", "log_image", "end_run"]
    assert [name for name, *_ in mlflow] == names
    assert mlflow[3] == ("log_metrics", ({"student/loss": 0.5},), {"step": 5})
    assert mlflow[4][2] == {"key": "samples", "step": 5}


def test_one_that_is_not_installed_is_said_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="wandb is not installed; pip install wandb"):
        open_trackers(("wandb",), "runs/guide", tmp_path)


def test_one_that_nobody_knows_is_refused():
    with pytest.raises(InputError, match="'wand' is unknown; choose of wandb, mlflow"):
        check_known(("wand",))

"""Other people's trackers as writers of metrics: Weights & Biases and MLflow, where installed."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from flashjax.train.metrics import MetricWriter
from flashjax.types import InputError

PROJECT = "flashjax"


class WandbWriter(MetricWriter):
    """A run of Weights & Biases; what it keeps here lies in `folder`."""

    def __init__(self, wandb: ModuleType, name: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._wandb = wandb
        self._run = wandb.init(project=PROJECT, name=name, dir=str(folder))

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        self._run.log({name: float(value) for name, value in scalars.items()}, step=step)

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        shown = {name: self._wandb.Image(np.asarray(image)) for name, image in images.items()}
        self._run.log(shown, step=step)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        self._run.config.update(dict(hparams))

    def close(self) -> None:
        self._run.finish()


class MlflowWriter(MetricWriter):
    """A run of MLflow, at the address that its own environment variables give."""

    def __init__(self, mlflow: ModuleType, name: str, folder: Path) -> None:
        self._mlflow = mlflow
        mlflow.set_experiment(PROJECT)
        mlflow.start_run(run_name=name)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        values = {name: float(value) for name, value in scalars.items()}
        self._mlflow.log_metrics(values, step=step)

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        for name, image in images.items():
            self._mlflow.log_image(np.asarray(image), key=name, step=step)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        self._mlflow.log_params(dict(hparams))

    def close(self) -> None:
        self._mlflow.end_run()


TRACKERS: dict[str, Callable[[ModuleType, str, Path], MetricWriter]] = {
    "wandb": WandbWriter,
    "mlflow": MlflowWriter,
}


def check_known(names: Sequence[str]) -> None:
    """InputError for a tracker that nobody knows."""
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"trackers: {name!r} is unknown; choose of {', '.join(TRACKERS)}")


def check_trackers(names: Sequence[str]) -> None:
    """InputError for a tracker that nobody knows, or that is not installed here."""
    check_known(names)
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"job.trackers: {name} is not installed; pip install {name} "
                "(the extra flashjax[trackers] has the versions that were run), or ()"
            )


def open_trackers(names: Sequence[str], title: str, folder: Path) -> list[MetricWriter]:
    """The writers of these trackers, for a job called `title`. InputError as `check_trackers`."""
    check_trackers(names)
    return [TRACKERS[name](importlib.import_module(name), title, folder) for name in names]

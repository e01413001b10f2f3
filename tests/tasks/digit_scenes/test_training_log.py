"""The log of a training reads what the training of the reader says."""

import logging
import re

import pytest

from flashjax.tasks.digit_scenes.reading import log_reader, train_reader


def test_the_log_shows_the_readers_loss_which_is_the_sum_of_its_parts(caplog):
    parts = []

    def log(step, metrics):
        parts.append({name: float(value) for name, value in metrics.items()})
        log_reader(step, metrics)

    with caplog.at_level(logging.INFO, "flashjax.tasks.digit_scenes.reading"):
        train_reader(2, 2, seed=0, log=log)
    (shown,) = re.findall(r"reader 0  loss ([0-9.]+)", caplog.text)
    assert float(shown) == pytest.approx(sum(parts[0].values()), abs=1e-4)
    assert len(parts[0]) == 5

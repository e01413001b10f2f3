"""Tasks that come with the package, by the name that a config gives them."""

import importlib
from collections.abc import Set

from flashjax.tasks.task import Task

NAMES = ("digit_scenes",)


def open_task(name: str) -> Task:
    """The task of one of NAMES; it is imported when it is asked for."""
    return importlib.import_module(f"flashjax.tasks.{name}").TASK


def task_of(side: int, words: Set[str]) -> Task | None:
    """The task whose pictures have this side in pixels and whose captions these words.

    Words of one letter do not count: every tokenizer has them.
    """
    for task in map(open_task, NAMES):
        if task.side == side and words == {word for word in task.words if len(word) > 1}:
            return task
    return None

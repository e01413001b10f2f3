"""Scenes of handwritten digits: the world of the embedded miniature, its captions and its reader.

A guest in the house: it enters by `TASK` alone.
"""

from flashjax.evaluate.judge import JudgeKind
from flashjax.tasks.digit_scenes.builder import open_samples, unseen
from flashjax.tasks.digit_scenes.captions import vocabulary
from flashjax.tasks.digit_scenes.judge import NEEDS, open_judge
from flashjax.tasks.digit_scenes.reading import teach_reader
from flashjax.tasks.digit_scenes.scenes import SIDE
from flashjax.tasks.task import Task

TASK = Task(
    name="digit_scenes",
    side=SIDE,
    words=vocabulary(),
    open=open_samples,
    unseen=unseen,
    judge=JudgeKind(NEEDS, lambda weights, compared: open_judge(weights, compared.real)),
    judge_folder="reader",
    pipeline="nano",
    teach_judge=teach_reader,
)

"""A task: a small world of pictures, captions and a judge of its own, that comes with the package.

It enters through the seams `Samples` and `Judge`; what it needs to be taught stands here, too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flashjax.data.samples import Samples
from flashjax.evaluate.judge import JudgeKind


@dataclass(frozen=True)
class Task:
    """What stages and tools may ask of a task.

    Attributes:
      side: pixels along each side of its pictures.
      words: every word of its captions.
      open: `open(folder, seed=, train=, validation=)`: so many samples by split.
      unseen: `unseen(count, seed)`: samples of no training split, made as they are asked for.
      judge: its judge; the weights lie in a pipeline's folder, in `judge_folder`.
      pipeline: the packaged pipeline that was made for it, such weights within.
      teach_judge: `teach_judge(folder, **settings, command=…)`: trains it, returns its figures.
    """

    name: str
    side: int
    words: tuple[str, ...]
    open: Callable[..., dict[str, Samples]]
    unseen: Callable[[int, int], Samples]
    judge: JudgeKind
    judge_folder: str
    pipeline: str
    teach_judge: Callable[..., dict[str, float]]

    def weights(self, pipeline: Path) -> Path:
        """Where the weights of its judge lie in a pipeline's folder."""
        return pipeline / self.judge_folder

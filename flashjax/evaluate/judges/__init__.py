"""Judges of any pictures, by name: those of KINDS need weights that are here already."""

from collections.abc import Callable
from pathlib import Path

from flashjax.evaluate.judge import Compared, Judge, JudgeKind, Needs
from flashjax.evaluate.judges import clip, detail, dino, fid, pick


def _kind(needs: Needs, open_judge: Callable[..., Judge]) -> JudgeKind:
    """Of `open_judge(weights, real, teacher=…, cache=…)`."""

    def open_compared(weights: Path, compared: Compared) -> Judge:
        others = {"teacher": compared.teacher, "cache": compared.cache}
        return open_judge(weights, compared.real, **others)

    return JudgeKind(needs, open_compared)


KINDS = {
    "clip": _kind(clip.NEEDS, clip.open_clip),
    "pick": JudgeKind(pick.NEEDS, lambda weights, _: pick.open_pick(weights)),
    "dino": _kind(dino.NEEDS, dino.open_dino),
    "fid": _kind(fid.NEEDS, fid.open_fid),
}
WEIGHTLESS = {"detail": JudgeKind(Needs(), lambda weights, compared: detail.DetailJudge())}

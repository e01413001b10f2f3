"""Judges of any pictures, by name; each needs weights that are here already."""

from flashjax.evaluate.judge import JudgeKind
from flashjax.evaluate.judges import clip, dino, fid, pick

KINDS = {
    "clip": JudgeKind(clip.NEEDS, clip.open_clip),
    "pick": JudgeKind(pick.NEEDS, pick.open_pick),
    "dino": JudgeKind(dino.NEEDS, dino.open_dino),
    "fid": JudgeKind(fid.NEEDS, fid.open_fid),
}

"""What a training step costs by the method, from a setting's sizes: nothing is compiled."""

import math
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.models.flops import heads_flops, mmdit_flops, text_flops
from flashjax.models.heads import HeadsConfig
from flashjax.stages.setting import Setting
from flashjax.train.flops import Span, critic_flops, guide_flops, steps_before, student_flops
from flashjax.train.guide import GuideConfig
from flashjax.train.match import MatchConfig
from flashjax.types import Batch, Tokens


def pass_flops(
    config: ConfigDict, setting: Setting, *, batch_size: int
) -> tuple[float, float, dict[str, float]]:
    """Operations per sample of one pass of the transformer and the heads, and of the captions.

    Of several buckets it is their mean. The empty caption is encoded once for a batch.
    """
    sizes, texts = setting.pipeline.transformer_config, setting.pipeline.text_config
    empty = setting.frozen.empty
    captions = {}
    if isinstance(empty, Tokens):
        t5 = empty.t5.shape[1]
        text = empty.clip_l.shape[1] + t5
        captions = {"text": (1 + 1 / batch_size) * text_flops(texts, t5_tokens=t5)}
    else:
        text = empty.text.shape[1]
    image = mean_tokens(setting.samples, sizes.patch)
    forward = mmdit_flops(sizes, image=image, text=text)
    heads = configs.section(config, "match.heads", HeadsConfig)
    return forward, heads_flops(heads, width=sizes.width, image=image), captions


def mean_tokens(buckets: tuple[Batch, ...], patch: int) -> int:
    """Image tokens of a sample, over all buckets."""
    counts = [len(bucket.latents) for bucket in buckets]
    tokens = [math.prod(bucket.latents.shape[1:3]) // patch**2 for bucket in buckets]
    return round(sum(n * t for n, t in zip(counts, tokens, strict=True)) / sum(counts))


def guide_step_flops(config: ConfigDict, setting: Setting) -> float:
    """Operations of a step of guidance, of all its samples."""
    size = config.guide.job.batch_size
    forward, _, captions = pass_flops(config, setting, batch_size=size)
    before = blank_share(setting.samples) * steps_before((0, config.student.steps), halved=0.0)
    guiding = configs.section(config, "guide.guide", GuideConfig)
    return size * total(guide_flops(guiding, forward, before=before) | captions)


def blank_share(buckets: tuple[Batch, ...]) -> float:
    """The share of samples that are captions without pictures."""
    counts = [len(bucket.latents) for bucket in buckets]
    blank = (n for n, bucket in zip(counts, buckets, strict=True) if not bucket.pictures)
    return sum(blank) / sum(counts)


def match_step_flops(
    config: ConfigDict, section: str, setting: Setting, spans: Sequence[Span]
) -> float:
    """Operations of an outer step of matching: the critic's steps and the student's one.

    `spans` are those of the branches that are trained together: the later ones roll out further.
    """
    size = config[section].job.batch_size
    forward, heads, captions = pass_flops(config, setting, batch_size=size)
    matching = configs.section(config, "match.match", MatchConfig)
    before = rolled_out(matching, spans)
    student, critic = (
        total(count(matching, forward, heads, before=before) | captions)
        for count in (student_flops, critic_flops)
    )
    updates = config.match.critic_updates
    return size * len(spans) * (student + updates * critic)


def rolled_out(matching: MatchConfig, spans: Sequence[Span]) -> float:
    """The mean number of steps before the one that is matched, over branches that own `spans`.

    All but one where the last sample is matched.
    """
    if matching.through:
        return float(sum(spans[-1]) - 1)
    return sum(steps_before(span, halved=matching.halved) for span in spans) / len(spans)


def encoded_samples(config: ConfigDict) -> int:
    """How many captions a run's training encodes; every update of a critic draws its own."""
    jobs = [(1, config.guide.job)]
    jobs += [(1 + config.match.critic_updates, config[name].job) for name in ("match", "split")]
    return sum(each * job.steps * job.batch_size for each, job in jobs)


def total(flops: Mapping[str, float]) -> float:
    """Of all networks together."""
    return sum(flops.values())

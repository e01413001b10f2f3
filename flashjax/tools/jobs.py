"""What jobs ask for beside their steps, looked at before the first of them begins.

A later one would refuse it after all of the training before.
"""

from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.stages.registry import JUDGES, check_data, held_out
from flashjax.stages.training import JobConfig
from flashjax.tools.sections import refused
from flashjax.train.trackers import check_trackers
from flashjax.types import InputError

WATCHED = ("guide", "match")  # jobs that draw what they learn


def asked(config: ConfigDict, stages: Sequence[str]) -> Iterator[str]:
    """Jobs have the trackers, the captions and the judge that they ask for."""
    for name in (*WATCHED, "split"):
        path = (config, f"{name}.job", JobConfig)
        if name in stages and name in config and not refused(configs.section, *path):
            job = configs.section(*path)
            errors = refused(check_trackers, job.trackers)
            errors += refused(check_looks, config, job) if name in WATCHED else []
            yield from (f"{name}.{line}" for error in errors for line in error.args)


def check_looks(config: ConfigDict, job: JobConfig) -> None:
    """InputError where a job is to draw or to be judged and there is nothing to do it with."""
    for key in ("sample_steps", "judge_steps"):
        if getattr(job, key) and "evaluate" not in config:
            raise InputError(f"job.{key}: the config has no section evaluate; set it to 0")
    if job.judge_steps and not config.evaluate.judges:
        raise InputError(f"job.judge_steps: {JUDGES} names nobody; name a judge, or set it to 0")
    drawn = job.sample_steps and not config.evaluate.get("prompts")
    if not (drawn or job.judge_steps) or refused(check_data, config):
        return
    found, reported = held_out(config)[0], config.evaluate.samples
    if drawn and not found:
        raise InputError("job.sample_steps: no caption is held back; give evaluate.prompts=FILE")
    if job.judge_steps and found - reported < job.judged:
        raise InputError(
            f"job.judged={job.judged}: {max(0, found - reported)} captions are held back beside "
            f"the {reported} that are reported: lower it, or raise data.validation"
        )

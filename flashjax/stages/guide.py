"""`guide`: trajectory guidance, from the teacher to a student that can be matched."""

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.checkpoint import save_params
from flashjax.data.pipeline import batches, to_mesh
from flashjax.parallel.sharding import state_shardings
from flashjax.stages.setting import RULES, abstract_on, open_setting
from flashjax.stages.stage import run_stage
from flashjax.stages.training import JobConfig, run_job, show_parameters
from flashjax.train.guide import GuideConfig, make_guide_step
from flashjax.train.optim import OptimiserConfig, make_optimiser
from flashjax.train.state import init_state


def run(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains the student on the teacher's multi-step integrals; keeps its averaged weights."""

    def body(folder: Path) -> dict[str, Any]:
        job = configs.section(config, "guide.job", JobConfig)
        tx = make_optimiser(configs.section(config, "guide.optimiser", OptimiserConfig), job.steps)
        setting = open_setting(config, workdir, mesh=config.mesh)
        step = make_guide_step(
            setting.nets.velocity,
            setting.nets.text,
            tx,
            configs.section(config, "guide.guide", GuideConfig),
            setting.sigmas,
        )
        key = jax.random.key(config.seed)

        def init(teacher: Any) -> Any:
            return init_state(teacher, tx)

        abstract = jax.eval_shape(init, setting.frozen.teacher)
        shardings = state_shardings(abstract, RULES, setting.mesh)
        advance = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
        show_parameters(abstract.learner.params)
        state = run_job(
            "guide",
            folder,
            job,
            step=lambda state, batch: advance(
                state, setting.frozen, to_mesh(batch, setting.mesh), key
            ),
            init=lambda: jax.jit(init, out_shardings=shardings)(setting.frozen.teacher),
            abstract=abstract_on(abstract, shardings),
            data=batches(setting.samples, batch_size=job.batch_size, seed=config.seed),
        )
        save_params(folder / "params", state.learner.ema)
        return {"steps": job.steps, "samples": job.steps * job.batch_size}

    return run_stage(
        "guide",
        {**config.guide, "mesh": config.mesh, "student": config.student},
        workdir,
        body,
        inputs={"prepare": workdir / "prepare"},
        seed=config.seed,
    )

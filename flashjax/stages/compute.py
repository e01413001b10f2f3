"""How networks are computed: a run's section `compute`."""

import dataclasses

import jax.numpy as jnp
from ml_collections import ConfigDict

from flashjax import config as configs
from flashjax.models.attention import BACKENDS
from flashjax.models.mmdit import MMDiTConfig
from flashjax.models.remat import REMAT
from flashjax.types import Count, InputError

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Compute:
    """How networks are computed: what they are does not depend on it."""

    dtype: str = "float32"  # of activations, and of weights where they are used
    residual: str = "float32"  # of the stream that blocks add to, and of what they add
    teacher_dtype: str = "float32"  # of the teacher's weights where they are stored
    teacher_whole: bool = False  # not split over fsdp: more memory, and no pass gathers them
    text_dtype: str = "float32"  # of the text encoders' weights
    gradient_dtype: str = ""  # that gradients of weights are summed in, over devices; "" as dtype
    remat: str = "none"  # a name of models/remat.REMAT
    fake_remat: str = ""  # of the fake score where it is trained; "" as the student's
    unroll: Count = 1  # blocks of a round of the scan: longer programs that move less memory
    attention: str = "xla"  # xla, splash (TPU), cudnn (GPU)
    encode_apart: bool = False  # captions are encoded once a batch, by a program of its own

    def __post_init__(self) -> None:
        dtypes = dict.fromkeys(("dtype", "residual", "teacher_dtype", "text_dtype"), tuple(DTYPES))
        more = {"remat": tuple(REMAT), "fake_remat": ("", *REMAT), "attention": BACKENDS}
        more["gradient_dtype"] = ("", *DTYPES)
        for name, known in (dtypes | more).items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"compute.{name}={getattr(self, name)}: choose of {', '.join(known)}"
                )

    @property
    def teacher_role(self) -> str:
        """How the teacher is laid out: a name of parallel/layout.ROLES."""
        return "whole_teacher" if self.teacher_whole else "teacher"

    def applied(self, sizes: MMDiTConfig) -> MMDiTConfig:
        """A transformer of these sizes, computed so."""
        own = self.gradient_dtype if self.gradient_dtype != self.dtype else ""
        return dataclasses.replace(
            sizes,
            dtype=DTYPES[self.dtype],
            residual=DTYPES[self.residual],
            gradients=DTYPES[own] if own else None,
            remat=self.remat,
            unroll=self.unroll,
        )


def compute_of(config: ConfigDict) -> Compute:
    """The section `compute`, or its defaults."""
    return configs.section(config, "compute", Compute) if "compute" in config else Compute()

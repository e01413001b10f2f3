"""The verbs of the command line, in the order and the groups in which a user meets them.

Nothing heavy is imported here: what verbs there are is said at once.
"""

import dataclasses

ROAD_GROUP = "the road: each takes --config and --workdir, and `run` does them all"
MAKERS_GROUP = "teachers of your own"
TOOLS_GROUP = "tools: any checkpoint, no config"
INSTRUMENTS_GROUP = "instruments: before a run, beside it and after it"


@dataclasses.dataclass(frozen=True)
class Verb:
    """A verb: where it stands, what it does in two lines, an example, and which module runs it.

    One with a `stage` and a `tool` is the stage where it is given --config.
    """

    group: str
    about: str
    more: str
    example: str
    stage: str = ""
    tool: str = ""
    configured: bool = False  # a tool that reads a config


def _stage(name: str, about: str, more: str, module: str = "") -> Verb:
    example = f"flashjax {name} --config nano --workdir runs/nano"
    return Verb(ROAD_GROUP, about, more, example, stage=f"stages.{module or name}")


VERBS = {
    "run": _stage(
        "run",
        "all stages of a config, in order",
        "What is done is skipped, what was interrupted goes on; --from and --to take a part.",
    ),
    "import": _stage(
        "import",
        "the PyTorch teacher to sharded JAX parameters",
        "A folder, a single file or a GGUF, recognised by what it holds.",
        "import_teacher",
    ),
    "prepare": _stage(
        "prepare",
        "pictures and captions to caches of latents and tokens",
        "Buckets by shape; what cannot be used is listed.",
    ),
    "guide": _stage(
        "guide",
        "trajectory guidance: the student learns the teacher's long steps",
        "It ends where the guided teacher's small steps end.",
    ),
    "match": _stage(
        "match",
        "distribution matching with timestep sharing and adversarial heads",
        "A fake score learns what the student draws, and heads see real pictures.",
    ),
    "split": _stage(
        "split",
        "one branch per timestep range, on parallel sub-meshes",
        "split.only trains one branch in a job of its own.",
    ),
    "merge": _stage(
        "merge", "the branches to one student", "A weighted mean of their weights: merge.weights."
    ),
    "export": dataclasses.replace(
        _stage(
            "export",
            "any checkpoint to PyTorch formats (with --config, the student of a run)",
            "diffusers' folder and Stability AI's single file, each proved by reading it back.",
        ),
        tool="tools.export",
        example="flashjax export --source sd3.5_medium.safetensors --format diffusers --out folder",
    ),
    "quantize": dataclasses.replace(
        _stage(
            "quantize",
            "any checkpoint to 8 and 6 bits (with --config, the student of a run)",
            "GGUF, ComfyUI, MLX, torchao, ONNX, OpenVINO, Core ML, each read back and measured.",
        ),
        tool="tools.quantize.command",
        example="flashjax quantize --source runs/nano/merge --format gguf-q6_k --out q",
    ),
    "evaluate": dataclasses.replace(
        _stage(
            "evaluate",
            "checkpoints drawn and measured side by side (with --config, those of a run)",
            "The same prompts from the same noise, judged by whoever is named.",
        ),
        tool="tools.evaluate",
        example="flashjax evaluate --source A,B --prompts prompts.txt --steps 50,4 --out compared",
    ),
    "report": _stage("report", "one HTML file about the run", "Pictures, figures, what was met."),
    "teach": Verb(
        MAKERS_GROUP,
        "train a complete small teacher from data",
        "Autoencoder, transformer, text encoders and tokenizers.",
        "flashjax teach --config nano_teacher --workdir runs/nano_teacher",
        stage="stages.teach",
    ),
    "slim": Verb(
        MAKERS_GROUP,
        "a cheaper autoencoder for the same latents",
        "The transformer stays as it is.",
        "flashjax slim --config nano_slim --workdir runs/nano_slim",
        stage="stages.slim",
    ),
    "sample": Verb(
        TOOLS_GROUP,
        "prompts to PNG files with any checkpoint",
        "Without --source the packaged nano draws; settings are inside the files.",
        'flashjax sample --prompt "green two above pink eight on brown" --out pictures',
        tool="tools.sample",
    ),
    "configs": Verb(
        TOOLS_GROUP,
        "the packaged recipes: lists them, or copies one",
        "`--config NAME` takes one as it is; a copy is yours to change.",
        "flashjax configs --copy nano .",
        tool="tools.configs",
    ),
    "explain": Verb(
        TOOLS_GROUP,
        "the keys of a config: type, range, default, meaning",
        "A key, a section, or all of them.",
        "flashjax explain match.job",
        tool="tools.explain",
    ),
    "launch": Verb(
        TOOLS_GROUP,
        "starts a run: processes of this machine, SLURM, GKE, TPU VMs",
        "--dry_run checks config and meshes, and prints what would be submitted.",
        "flashjax launch local --config nano --workdir runs/two --processes 2 "
        "--set mesh.data=-1 --set split.mesh.data=-1 --verbs run --dry_run",
        tool="launch.launch",
        configured=True,
    ),
    "completion": Verb(
        TOOLS_GROUP,
        "completes verbs and flags in bash, zsh or tcsh",
        "Put what it prints where your shell reads it, or eval it; needs flashjax[completion].",
        'eval "$(flashjax completion bash)"',
        tool="tools.completion",
    ),
    "plan": Verb(
        INSTRUMENTS_GROUP,
        "compile a config's steps for a machine, and say what they cost",
        "Of machines that are not here, too: bytes, collectives, hours, price.",
        "flashjax plan --config nano --target cpu:8 --config.mesh.data=8 --programs guide",
        tool="tools.plan.command",
        configured=True,
    ),
    "bench": Verb(
        INSTRUMENTS_GROUP,
        "measure speed and memory on this machine",
        "Steps, drawing, attention, input, compiling, starts, checkpoints, conversion, codecs.",
        "flashjax bench steps --config nano --programs guide",
        tool="tools.bench.command",
        configured=True,
    ),
    "status": Verb(
        INSTRUMENTS_GROUP,
        "how far a run is: stages, steps, pace, saves, processes",
        "From another shell, while it runs or afterwards.",
        "flashjax status runs/nano",
        tool="tools.status",
    ),
    "verify": Verb(
        INSTRUMENTS_GROUP,
        "read every byte that a workdir keeps, and say what has changed",
        "Against the digests that its stages wrote.",
        "flashjax verify runs/nano",
        tool="tools.verify",
    ),
    "chaos": Verb(
        INSTRUMENTS_GROUP,
        "kill, stop and damage a run again and again",
        "It must end as an unbroken one.",
        "flashjax chaos --config nano_tiny --workdir runs/chaos --kills 20",
        tool="tools.chaos.command",
        configured=True,
    ),
    "probe": Verb(
        INSTRUMENTS_GROUP,
        "the gradient of matching: signal, noise, bias, by arm and step",
        "Of a kept checkpoint of `match`; nothing is trained.",
        "flashjax probe --workdir runs/nano --arms shared,renoised",
        tool="tools.probe",
        configured=True,
    ),
    "ablate": Verb(
        INSTRUMENTS_GROUP,
        "a grid of arms, steps and seeds: trained, judged, one table with intervals",
        "What is done is skipped; it may be stopped at any time.",
        "flashjax ablate --config ablation_nano --workdir runs/ablation --dry_run",
        tool="tools.ablate.command",
        configured=True,
    ),
}
ROAD = [name for name, verb in VERBS.items() if verb.group == ROAD_GROUP and name != "run"]
# The sections of the jobs that a verb trains.
JOBS = {name: (name,) for name in ("guide", "match", "split")} | {
    "run": ("guide", "match", "split")
}


def overview() -> str:
    """All verbs by group, and how to begin."""
    lines = ["flashjax VERB [flags]; `flashjax VERB --help` shows its flags, defaults, an example"]
    groups: dict[str, list[str]] = {}
    for name, verb in VERBS.items():
        groups.setdefault(verb.group, []).append(f"  {name:10} {verb.about}")
    for group, told in groups.items():
        lines += ["", group, *told]
    begin = ["begin with the packaged miniature (minutes on two cores), or see its teacher draw"]
    begin += [f"  {VERBS[name].example}" for name in ("run", "sample")]
    change = "--config FILE or the NAME of a packaged recipe; --config.a.b=v changes a value of it"
    return "\n".join([*lines, "", *begin, "", change])

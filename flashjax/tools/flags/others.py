"""The flags of what needs neither a checkpoint nor a run."""

import argparse

SHELLS = ("bash", "zsh", "tcsh")
WAYS = ("local", "slurm", "jobset", "xpk", "tpu-vm")


def configs(verb: argparse.ArgumentParser) -> None:
    """Of `configs`."""
    verb.add_argument(
        "--copy",
        nargs="+",
        metavar=("NAME", "DIR"),
        help="copies a recipe, and those that it changes, to a folder; the one that you are in",
    )


def explain(verb: argparse.ArgumentParser) -> None:
    """Of `explain`."""
    verb.add_argument(
        "key", nargs="?", default="", metavar="KEY", help="match, match.job, match.job.steps; all"
    )


def completion(verb: argparse.ArgumentParser) -> None:
    """Of `completion`."""
    verb.add_argument("shell", choices=SHELLS, help="that reads it")


def launch(verb: argparse.ArgumentParser) -> None:
    """Of `launch`."""
    verb.add_argument("how", choices=WAYS, help="what starts the processes")
    verb.add_argument("--config", required=True, metavar="FILE", help="as the hosts see it")
    verb.add_argument(
        "--workdir", required=True, metavar="DIR", help="on a file system that all hosts see"
    )
    verbs = "guide,match,split"
    verb.add_argument("--verbs", default=verbs, metavar="A,B", help="stages, one after the other")
    verb.add_argument("--target", default="cpu:1", help="CHIP:TOPOLOGY, as for `flashjax plan`")
    verb.add_argument("--slices", type=int, default=1, help="TPU slices joined by the network")
    verb.add_argument("--separate", action="store_true", help="a job for each branch of split")
    verb.add_argument("--processes", type=int, default=2, help="of `local`")
    verb.add_argument("--set", action="append", default=[], metavar="a.b=v", help="an override")
    verb.add_argument("--name", default="flashjax", help="of the job")
    verb.add_argument("--image", default="", help="container image, from launch/Dockerfile")
    verb.add_argument("--claim", default="", help="PersistentVolumeClaim that pods share (jobset)")
    verb.add_argument("--mount", default="", help="where pods see it; the folder above the workdir")
    verb.add_argument("--storage", default="", help="name of an `xpk storage` with the workdir")
    verb.add_argument("--cluster", default="", help="of xpk")
    verb.add_argument("--zone", default="", help="of xpk and tpu-vm")
    verb.add_argument("--repository", default="", help="what TPU VMs clone and install")
    verb.add_argument("--setup", default="", help="what a VM, or SLURM's script, runs before")
    verb.add_argument("--restarts", type=int, default=10, help="after crashes, at most")
    verb.add_argument("--hours", type=int, default=24, help="of SLURM's time limit")
    verb.add_argument("--dry_run", action="store_true", help="check, and print what would start")

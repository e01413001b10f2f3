"""The flags of what looks at a run before it, beside it and after it."""

import argparse

from flashjax.tools.flags.road import CONFIG

BENCHES = ("attention checkpoint compile convert input quantize sample startup steps torch").split()
CACHE = "~/.cache/flashjax/plan"
ARMS = ("own", "shared", "shared_all", "next", "grid", "renoised", "line")  # of `probe`
PROBED = "shared,grid,renoised"


def plan(verb: argparse.ArgumentParser) -> None:
    """Of `plan`."""
    verb.add_argument("--config", required=True, metavar="FILE", help=CONFIG)
    verb.add_argument("--target", required=True, help="CHIP:TOPOLOGY: v6e:8x8, h100:64, cpu:8")
    verb.add_argument("--slices", type=int, default=1, help="TPU slices joined by the network")
    verb.add_argument("--programs", default="", metavar="A,B", help="all by default")
    verb.add_argument("--price", type=float, help="dollars per chip and hour")
    verb.add_argument(
        "--large_tiles", action="store_true", help="TPU code as it would run: ten times as long"
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.add_argument("--cache", default=CACHE, metavar="DIR", help="where compiled results are")
    verb.add_argument("--hlo", metavar="DIR", help="write each program's HLO text there")


def bench(verb: argparse.ArgumentParser) -> None:
    """Of `bench`."""
    verb.add_argument("what", choices=BENCHES, help="what is measured")
    verb.add_argument(
        "--workdir",
        metavar="DIR",
        help="`convert`, `startup`, `checkpoint` write there; a run that `input` reads",
    )
    verb.add_argument("--model", default="sd35_medium", help="a name of models/variants.py")
    verb.add_argument("--ggml", metavar="LIB", help="a ggml library to compare `quantize` with")
    verb.add_argument(
        "--config",
        metavar="FILE",
        help="of `steps`, `compile`, `startup`, `input`; of `torch`, `sample` and `attention` its "
        "section `compute`",
    )
    verb.add_argument(
        "--programs", default="", metavar="A,B", help="of `steps` and `compile`: not all"
    )
    verb.add_argument("--profile", action="store_true", help="of `steps`: the longest operations")
    verb.add_argument("--chip", help="what this machine has, where its own name does not say it")
    verb.add_argument(
        "--size",
        default="nano/64/32",
        help="of `sample`, `attention`, `input`, `checkpoint` and `torch`: NAME/PIXELS/BATCH or "
        "WIDTH/DEPTH/IMAGE+TEXT/BATCH, as 256/6/64+24/32",
    )
    sides, parts = "ours,eager,compiled", "forward,gradient,student,critic"
    verb.add_argument("--sides", default=sides, metavar="A,B", help="of `torch`; and blocks")
    verb.add_argument("--parts", default=parts, metavar="A,B", help="of `torch`")
    verb.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="of what takes turns: medians are told"
    )
    verb.add_argument(
        "--step_seconds", type=float, metavar="X", help="of a step that waits for `input`"
    )
    verb.add_argument(
        "--checkpointing", action="store_true", help="of `torch`: its blocks are computed again"
    )
    verb.add_argument("--json", metavar="FILE", help="where the figures are written, too")


def status(verb: argparse.ArgumentParser) -> None:
    """Of `status`."""
    verb.add_argument("workdir", metavar="WORKDIR", help="of a run")
    verb.add_argument("--json", action="store_true", help="for programs")


def verify(verb: argparse.ArgumentParser) -> None:
    """Of `verify`."""
    verb.add_argument("workdir", metavar="WORKDIR", help="that a run wrote")


def chaos(verb: argparse.ArgumentParser) -> None:
    """Of `chaos`."""
    verb.add_argument("--config", required=True, metavar="FILE", help="a run of seconds a stage")
    verb.add_argument("--workdir", required=True, metavar="DIR", help="a folder of its own")
    verb.add_argument("--kills", type=int, default=20, metavar="N", help="faults in all")
    verb.add_argument("--seed", type=int, default=0, metavar="S", help="of faults and times")
    verb.add_argument("--processes", type=int, default=1, metavar="P", help="of one job")
    verb.add_argument(
        "--stages", default="", metavar="STAGE[,STAGE…]", help="that faults are to meet, not all"
    )
    verb.add_argument(
        "--layouts", action="store_true", help="no faults: on from one mesh onto each other one"
    )
    verb.add_argument(
        "--own_disk",
        action="store_true",
        help="nothing else is on the workdir's disk: fill it, too",
    )


def ablate(verb: argparse.ArgumentParser) -> None:
    """Of `ablate`."""
    verb.add_argument("--config", required=True, metavar="FILE", help="with a section `ablate`")
    verb.add_argument("--workdir", required=True, metavar="DIR", help="where results go")
    verb.add_argument("--jobs", type=int, default=1, metavar="N", help="processes beside this one")
    verb.add_argument(
        "--devices",
        default="",
        metavar="N,N,…",
        help="GPUs or TPU chips that cells take turns on, one each; needed where there are several",
    )
    verb.add_argument("--most", type=int, default=0, metavar="N", help="cells; 0 is all of them")
    verb.add_argument("--only", default="", metavar="CELL", help="one cell and what it needs")
    verb.add_argument("--table", action="store_true", help="of what is done; nothing is trained")
    verb.add_argument(
        "--others",
        default="",
        metavar="FILE,FILE,…",
        help="ablation.json of other workdirs: their cells are told, and not run again",
    )
    verb.add_argument("--dry_run", action="store_true", help="check the grid, list its cells")


def probe(verb: argparse.ArgumentParser) -> None:
    """Of `probe`."""
    verb.add_argument("--workdir", required=True, metavar="DIR", help="of a run with `match` in it")
    verb.add_argument("--config", metavar="FILE", help="of the run; what its workdir keeps")
    verb.add_argument(
        "--step", type=int, metavar="N", help="a kept one; 0 is before it, the newest"
    )
    verb.add_argument("--arms", default=PROBED, metavar="A,B", help=", ".join(ARMS))
    verb.add_argument("--inputs", type=int, default=6, metavar="K", help="batches with their noise")
    verb.add_argument("--draws", type=int, default=5, metavar="D", help="of matching at each input")
    verb.add_argument("--batch", type=int, default=16, metavar="N", help="samples of an input")
    verb.add_argument("--seed", type=int, default=0, help="of samples and noise")
    verb.add_argument("--out", metavar="FILE", help="where the JSON goes, too")
    verb.add_argument("--json", action="store_true", help="for programs")

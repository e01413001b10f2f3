"""The flags of the stages of a run."""

import argparse

from flashjax.tools.verbs import JOBS, ROAD

CONFIG = "a configs/*.py file, or the name of a packaged recipe"


def stage(verb: argparse.ArgumentParser, name: str) -> None:
    """The flags that all verbs of a config share; `run` takes a part of the road, too."""
    verb.add_argument("--config", required=True, metavar="FILE", help=CONFIG)
    verb.add_argument("--workdir", required=True, metavar="DIR", help="where results go")
    verb.add_argument("--dry_run", action="store_true", help="check it all, print the config")
    verb.add_argument(
        "--fork", metavar="STAGE", help="begin with the checkpoint of another workdir's stage"
    )
    verb.add_argument(
        "--compilation_cache",
        default="",
        metavar="DIR",
        help="what is compiled is kept here; off for nowhere; WORKDIR/compiled by default",
    )
    if name in JOBS:
        verb.add_argument(
            "--profile", default="", metavar="A:B", help="a trace of the steps A to B, for XProf"
        )
    if name == "run":
        for flag, end, default in (("--from", "first", ROAD[0]), ("--to", "last", ROAD[-1])):
            verb.add_argument(
                flag, dest=end, default=default, choices=ROAD, help=f"the {end} stage"
            )

"""The console script, and `python -m flashjax`: signals are heard before anything heavy is read."""

import sys

from flashjax.parallel import signals
from flashjax.tools import front


def main() -> int:
    """Runs one verb of the command line; returns its exit code."""
    if told := front.said(sys.argv[1:]):
        print(told)
        return 0
    signals.listen()
    from flashjax import cli

    code = cli.main()
    signals.done()
    return code


if __name__ == "__main__":
    sys.exit(main())

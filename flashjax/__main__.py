"""The console script, and `python -m flashjax`: signals are heard before anything heavy is read."""

import signal
import sys

from flashjax.parallel import signals
from flashjax.tools import front


def main() -> int:
    """Runs one verb of the command line; returns its exit code."""
    if told := front.said(sys.argv[1:]):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it, as it ends any program
        print(told, flush=True)
        return 0
    signals.listen()
    from flashjax import cli

    code = cli.main()
    signals.done()
    return code


if __name__ == "__main__":
    sys.exit(main())

"""The console script, and `python -m flashjax`: signals are heard before anything heavy is read."""

import sys

from flashjax.parallel import signals


def main() -> int:
    """Runs one verb of the command line; returns its exit code."""
    signals.listen()
    from flashjax import cli

    code = cli.main()
    signals.done()
    return code


if __name__ == "__main__":
    sys.exit(main())

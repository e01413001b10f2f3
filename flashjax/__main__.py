"""The console script, and `python -m flashjax`: signals are heard before anything heavy is read."""

import sys

import flashjax
from flashjax.parallel import signals


def main() -> int:
    """Runs one verb of the command line; returns its exit code."""
    if sys.argv[1:] == ["--version"]:
        print(f"flashjax {flashjax.__version__}")
        return 0
    signals.listen()
    from flashjax import cli

    code = cli.main()
    signals.done()
    return code


if __name__ == "__main__":
    sys.exit(main())

"""`python -m flashjax` is the console script."""

import sys

from flashjax.cli import main

sys.exit(main())

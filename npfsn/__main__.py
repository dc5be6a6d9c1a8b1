"""Run `npfsn` as `python -m npfsn`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m npfsn` is `npfsn`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())

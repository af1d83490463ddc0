"""`python -m envgym`: the same as the command `envgym`."""

import sys

from envgym.commands import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m grains_eval.cli`, which launchers of several processes need."""

import sys

from grains_eval.cli import main

if __name__ == "__main__":
    sys.exit(main())

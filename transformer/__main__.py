"""`python -m transformer <stage>`; see `python -m transformer --help`."""

import sys

from transformer.cli import main

sys.exit(main())

"""The command line as `python -m cutout_client`."""

import sys

from cutout_client.cli import main

sys.exit(main())

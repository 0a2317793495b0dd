"""`python -m appliance.cli`, for where the console script is not on the PATH."""

import sys

from appliance.cli import main

sys.exit(main())

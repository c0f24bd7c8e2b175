# SPDX-License-Identifier: Apache-2.0
"""`python -m diffiso` is the `diffiso` command."""

import sys

from diffiso.cli import main

sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""How fast the ops are, beside their peers: `python -m bench --help`, and README.md."""

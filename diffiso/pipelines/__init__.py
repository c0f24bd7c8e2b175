# SPDX-License-Identifier: Apache-2.0
"""Whole jobs composed from the ops. They need the extra `pipelines`."""

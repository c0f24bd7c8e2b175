# SPDX-License-Identifier: Apache-2.0
"""What must not go unseen: failures, wrong outputs, and what cannot be compared."""

import torch

from bench import ops, results
from bench.cases import Settings

SMOKE = Settings(torch.device("cpu"), threads=2, runs=1, smoke=True)


def test_our_own_lines_are_named_after_us():
    names = {each.name for case in ops.cases("overhead", SMOKE) for each in case.contenders}
    broken = {"case": "a case", "left_out": dict.fromkeys(names, "OSError: no")}
    record = {"op": "overhead", "cases": [broken], "left_out": {}, "growth": []}
    failed = {line.split(", ", 2)[2] for line in results.failed([record])}
    yardsticks = {name for name in names if name.startswith(("torch.exp", "grid_sample"))}
    assert failed == {f"{name}: OSError: no" for name in names - yardsticks}
    assert len(failed) == 11

# SPDX-License-Identifier: Apache-2.0
"""Seeds, what a machine must have, and the only place where tolerances stand."""

import re
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """Bounds for `torch.testing.assert_close`."""

    rtol: float
    atol: float


# Sums of a few products, each rounded to the dtype: eight corners times three weights in
# sample_grid, at most six edges a node in the backward of marching_cubes. Sixteen roundings, with
# values of the order of one to ten. Half types round once more, when the sum is stored.
TOLERANCES = {
    torch.float64: Tolerance(rtol=16 * 2.0**-52, atol=160 * 2.0**-52),
    torch.float32: Tolerance(rtol=16 * 2.0**-23, atol=160 * 2.0**-23),
    torch.float16: Tolerance(rtol=2 * 2.0**-10, atol=2.0**-14),
    torch.bfloat16: Tolerance(rtol=2 * 2.0**-7, atol=2.0**-14),
}

# Positions are computed in double and rounded once; a second ulp for another order of operations.
VERTEX_ULPS = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let machines without the extras run what needs none of them, such as most CUDA tests."""
    parser.addoption("--bare", action="store_true", help="skip files that import missing packages")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.failed and collector.config.getoption("bare"):
        missing = re.search(r"ModuleNotFoundError: No module named '(\w+)", report.longreprtext)
        if missing and missing[1] not in ("diffiso", "bench", "tools"):
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), 0, f"Skipped: {missing[1]} is not installed")
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a browser where there is none."""
    if shutil.which("chromium") is None:
        left = [item for item in items if item.get_closest_marker("browser")]
        items[:] = [item for item in items if item not in left]
        config.hook.pytest_deselected(items=left)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    """A generator that depends on nothing but the test."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set the number of threads for the rest of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def one_thread(threads: Callable[[int], None]) -> None:
    """Use one: those of ops on little data would wait for each other most of the time."""
    threads(1)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Ask torch for deterministic algorithms during the test."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def assert_close(actual: Tensor, expected: Tensor, factor: float = 1.0) -> None:
    """Compare within the tolerance of `actual`'s dtype, times a factor the caller justifies."""
    tolerance = TOLERANCES[actual.dtype]
    torch.testing.assert_close(
        actual,
        expected.to(actual.dtype),
        rtol=factor * tolerance.rtol,
        atol=factor * tolerance.atol,
        equal_nan=True,
    )


def assert_within_ulps(actual: Tensor, expected: Tensor, ulps: int = VERTEX_ULPS) -> None:
    """Compare finite positions: at most `ulps` representable numbers apart."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert actual.isfinite().all()
    whole = torch.int64 if actual.dtype == torch.float64 else torch.int32

    def rank(numbers: Tensor) -> Tensor:
        # Adding 0 turns -0 into +0; mirrored negatives make the bit patterns one ordered line.
        bits = (numbers + 0.0).contiguous().view(whole).long()
        return torch.where(bits < 0, torch.iinfo(whole).min - bits, bits)

    apart = (rank(actual) - rank(expected)).abs()
    assert apart.numel() == 0 or apart.max() <= ulps, f"{apart.max()} ulps apart"


def assert_same_on_cuda(
    function: Callable[..., Sequence[Tensor]],
    *arguments: object,
    exact: Sequence[bool],
    factor: float = 1.0,
) -> None:
    """Run a function on the CPU and on the GPU: outputs equal where `exact`, else within ulps.

    The gradients of the first output in every floating tensor argument are compared too, with the
    tolerance of their dtype times `factor`: sums may run in another order.
    """
    results = []
    for device in ("cpu", "cuda"):
        moved = [
            a.detach().to(device).requires_grad_(a.is_floating_point())
            if isinstance(a, Tensor)
            else a
            for a in arguments
        ]
        outputs = function(*moved)
        inputs = [a for a in moved if isinstance(a, Tensor) and a.requires_grad]
        gradients: Sequence[Tensor | None] = [None] * len(inputs)
        if outputs[0].requires_grad:
            weights = torch.linspace(-1, 1, outputs[0].numel()).view(outputs[0].shape)
            loss = (outputs[0] * weights.to(outputs[0])).sum()
            gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        results.append(([o.detach().cpu() for o in outputs], gradients))
    (on_cpu, cpu_gradients), (on_cuda, cuda_gradients) = results
    for same, expected, actual in zip(exact, on_cpu, on_cuda, strict=True):
        if same:
            assert torch.equal(actual, expected)
        else:
            assert_within_ulps(actual, expected)
    for expected_gradient, actual_gradient in zip(cpu_gradients, cuda_gradients, strict=True):
        assert (actual_gradient is None) == (expected_gradient is None)
        if actual_gradient is not None and expected_gradient is not None:
            assert_close(actual_gradient.cpu(), expected_gradient, factor)

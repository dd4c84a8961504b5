"""Every case of `fastnet bench` under pytest-benchmark.

One benchmark a (case, library, thread count). pytest-benchmark times a round trip to the worker
process; ``extra_info`` holds the seconds that the worker measured itself, and the table at the
end is made of those. `fastnet bench` interleaves the libraries, so its ratios are better ones.
"""

import pytest

from fastnet import bench
from fastnet._peers import CLUSTERING, NETWORKS

CASES = [
    (case, library)
    for case in bench.CASES
    if case.kind != "import"
    for library in (CLUSTERING if case.clusters else NETWORKS)
]
ROUNDS = 3


@pytest.mark.parametrize("threads", bench.thread_counts(""))
@pytest.mark.parametrize(
    ("case", "library"), CASES, ids=[f"{case.name}-{library}" for case, library in CASES]
)
def test_case(benchmark, request, pool, page, case, threads, library):
    if not request.config.getoption("--full"):
        case = case.smaller()
    benchmark.group = f"{case.name}, {threads} threads"
    m = bench.Measurement(library, threads)
    ask = pool.prepare(case, m)
    if m.error:
        if library == "fastnet":
            pytest.fail(m.error)
        pytest.skip(m.error)
    benchmark.pedantic(lambda: pool.time(case, m, ask), rounds=ROUNDS)
    pool.finish(m, ask)
    benchmark.extra_info.update(seconds=m.best, loss=m.loss, flops=case.flops)
    result = page.result(case)
    result.measurements.append(m)
    assert not m.error
    assert not result.odd_losses(), "the library's result differs from the others'"

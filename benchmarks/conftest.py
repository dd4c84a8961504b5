"""What the benchmarks share: one pool of worker processes, and the table at the end."""

import pytest

from fastnet import bench
from fastnet._bench_report import Page
from fastnet._peers import LABELS


def pytest_addoption(parser):
    group = parser.getgroup("fastnet")
    group.addoption("--full", action="store_true", help="whole epochs instead of a twentieth")
    group.addoption("--synthetic", action="store_true", help="synthetic rows instead of MNIST")


@pytest.fixture(scope="session")
def pool(request):
    """The worker processes."""
    with bench.Pool(request.config.getoption("--synthetic")) as pool:
        request.config.fastnet_page.peak, request.config.fastnet_page.gemm = pool.peak()
        yield pool


def pytest_configure(config):
    config.fastnet_page = Page(list(LABELS), bench.thread_counts(""))


@pytest.fixture(scope="session")
def page(request):
    """The page that collects every result."""
    return request.config.fastnet_page


def pytest_terminal_summary(terminalreporter, config):
    """Print ratios and the share of the measured peak."""
    if config.fastnet_page.results:
        terminalreporter.write_line("")
        terminalreporter.write_line(config.fastnet_page.text())

"""Fixtures that several test files share."""

import os
import signal
from pathlib import Path

import pytest
from commands import bad, digits, flowers, prices, run  # noqa: F401 (fixtures)
from course import regression  # noqa: F401
from servers import cache, server  # noqa: F401

from fastnet import _core

# A shell that starts the tests in the background lets them ignore interrupts: Ctrl-C has to work.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


BY_NAME = os.environ.get("FASTNET_SIMD")


@pytest.fixture(params=[BY_NAME] if BY_NAME else _core.simd_levels())
def level(request):
    """The SIMD level of the test: each one that this processor has, or the one named outside."""
    before = _core.simd_level()
    assert _core.choose_simd(request.param)
    yield request.param
    assert _core.choose_simd(before)


@pytest.fixture
def always_thread(monkeypatch):
    """No cost model, no sitting out: whatever may run on several threads does."""
    monkeypatch.setenv("FASTNET_ALWAYS_THREAD", "1")


@pytest.fixture(scope="session")
def fastnet_data():
    """The folder with real data sets that FASTNET_DATA names."""
    folder = Path(os.environ.get("FASTNET_DATA") or os.devnull)
    if not folder.is_dir():
        pytest.skip("FASTNET_DATA names no folder")
    return folder


@pytest.fixture(autouse=True)
def _engine_as_found():
    """No test leaves a thread count or an allocation failure behind."""
    yield
    _core.set_threads(0)
    _core.fail_allocation(-1)

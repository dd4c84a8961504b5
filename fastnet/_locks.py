"""Locks of networks. Whatever another thread held when a process forked, its child finds free."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

#: Several threads may ask for the first prediction, and networks share layers: one builds, others
#: wait. So does a fork: its child finds no network half built.
building = threading.RLock()

_networks: weakref.WeakSet[Any] = weakref.WeakSet()


def fit_lock(network: Any) -> threading.RLock:
    """For the network's ``_training``: one fit at a time, others wait."""
    _networks.add(network)
    return threading.RLock()


def _in_child() -> None:
    building.release()
    for network in list(_networks):  # whoever was training them stayed with the parent
        network._training = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=building.acquire, after_in_parent=building.release, after_in_child=_in_child
    )

"""Pages on a terminal, turned by single keys."""

from __future__ import annotations

import os
import shutil
import sys
import termios
import tty
from collections.abc import Callable

_CLEAR = "\x1b[2J\x1b[H"
_NEXT = ("n", " ", "\r", "\n", "j", "\x1b[C", "\x1b[B", "\x1b[6~")
_BACK = ("p", "b", "k", "\x7f", "\x1b[D", "\x1b[A", "\x1b[5~")
_QUIT = ("q", "Q", "\x1b", "\x04", "")


class Pager:
    """Shows pages until q.

    Parameters
    ----------
    page : function (first, terminal size) -> (lines, how many items they show)
    total : int
        Items there are.
    start : int
        The first item of the first page.
    """

    def __init__(
        self,
        page: Callable[[int, os.terminal_size], tuple[list[str], int]],
        total: int,
        start: int = 0,
    ):
        self.page, self.total, self.first = page, total, start
        self.before: list[int] = []

    def run(self) -> None:
        """Until a key ends it; the terminal is as it was afterwards."""
        fd = sys.stdin.fileno()
        saved = termios.tcgetattr(fd)
        try:
            tty.setcbreak(fd)
            while self._turn(self._show(), _key(fd)):
                pass
        finally:
            termios.tcsetattr(fd, termios.TCSADRAIN, saved)
            print()

    def _show(self) -> int:
        """Draw the page; the number of items on it."""
        lines, shown = self.page(self.first, shutil.get_terminal_size())
        last = self.first + shown
        where = f"{self.first} to {last - 1} of {self.total:,}"
        text = "\n".join(lines)
        print(f"{_CLEAR}{text}\n{where}   n next   p back   q quit", end="", flush=True)
        return shown

    def _turn(self, shown: int, key: str) -> bool:
        """Go where a key leads; False to end."""
        if key in _QUIT:
            return False
        if key in _NEXT and self.first + shown < self.total:
            self.before.append(self.first)
            self.first += shown
        elif key in _BACK:
            self.first = self.before.pop() if self.before else max(0, self.first - shown)
        elif key == "g":
            self.first, self.before = 0, []
        return True


def _key(fd: int) -> str:
    """One key, with the letters that a cursor key sends."""
    data = os.read(fd, 1)
    if data == b"\x1b":
        import select

        if select.select([fd], [], [], 0.05)[0]:
            data += os.read(fd, 8)
    return data.decode("utf-8", "replace")

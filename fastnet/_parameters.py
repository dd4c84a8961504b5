"""Objects that are their parameters."""

from __future__ import annotations


class Parameters:
    """Attributes are the constructor's arguments: what `repr` shows, and `==` and `hash` compare.

    (Plain classes: importing a module of dataclasses would take ten times as long.)
    """

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({arguments})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), tuple(vars(self).values())))

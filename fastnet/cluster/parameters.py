"""Parameters as scikit-learn has them: arguments of the constructor, kept as they came."""

from __future__ import annotations

import inspect
from typing import Any


class Parameters:
    """get_params, set_params and a repr for classes whose constructor only keeps its arguments."""

    @classmethod
    def _parameter_defaults(cls) -> dict[str, Any]:
        arguments = list(inspect.signature(cls.__init__).parameters.values())[1:]
        return {argument.name: argument.default for argument in arguments}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name; `deep` is there for scikit-learn."""
        return {name: getattr(self, name) for name in self._parameter_defaults()}

    def set_params(self, **params: Any) -> Any:
        """Change parameters; returns the model.

        Raises
        ------
        ValueError
            If there is no parameter of that name.
        """
        known = self._parameter_defaults()
        for name in params:
            if name not in known:
                raise ValueError(
                    f"Invalid parameter {name!r} for {type(self).__name__}; "
                    f"valid are {', '.join(known)}"
                )
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        changed = []
        for name, default in self._parameter_defaults().items():
            value = getattr(self, name)
            if value is not default and repr(value) != repr(default):
                text = " ".join(repr(value).split())
                changed.append(f"{name}={text if len(text) <= 60 else text[:57] + '...'}")
        return f"{type(self).__name__}({', '.join(changed)})"

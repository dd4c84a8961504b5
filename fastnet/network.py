"""What all networks share: layers with weights. A network predicts; a `Trainer` trains it."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from . import _core, check
from ._locks import building, fit_lock
from .first_weights import first_weights
from .graph import MOST_CALLS, Graph, Nested, Tensor, as_tensor, chain, leaves, replay
from .layers import Input, Layer
from .layers.base import build_layer
from .lowering import Lowered, Request, lower, prediction
from .predicting import inputs_of, one_row, outputs_of

_PLAIN = (np.dtype(np.float32), np.dtype(np.uint8))


class Network:
    """What `Sequential` and `Model` share: layers, their weights, and plans for the engine."""

    def __init__(self, seed: int | None = None, name: str | None = None):
        self.name = name or type(self).__name__.lower()
        self.seed = check.seed(seed)
        self.layers: list[Layer] = []
        self._graph: Graph = None  # type: ignore[assignment] # once the shape of rows is known
        self._nested: Nested | None = None  # itself as a layer of others
        self._tensors: list[Tensor] | None = None  # of each value of the graph
        self._leaf_list: list[tuple[str, Layer]] | None = None
        #: Where other networks have trained layers that this one shares, the two differ.
        self._wanted = self._taken = object()
        self._plans: dict[Request, Lowered] = {}
        self._forget()
        self._single: tuple[Any, ...] | None = None
        self._training = fit_lock(self)
        self._slots_owner: weakref.ref[Any] | None = None  # the trainer whose slots params hold

    # ---- building -------------------------------------------------------------------------------

    @property
    def built(self) -> bool:
        """Whether the shape of rows is known and weights are drawn."""
        return self.params is not None

    def build(self, input_shape: int | tuple[int, ...]) -> None:
        """Fix the shape of a row (without the batch axis) and draw the weights.

        Raises
        ------
        ValueError
            If a layer cannot take its input's shape; the message names the layer.
        """
        shape = check.shape("input_shape", input_shape)
        with building:
            if self._graph is not None and shape != self.input_shape:
                raise ValueError(
                    f"{self.name} is built for rows of shape {self.input_shape}, not {shape}"
                )
            if self.built:
                return
            try:
                self._infer(shape)
                self._fill(first_weights(self))
            except BaseException:
                self._forget()
                raise

    def _forget(self) -> None:
        """Not built, as before: what was wrong leaves no trace."""
        self.params: _core.Params = None  # type: ignore[assignment]
        self._plans.clear()
        if self._nested is not None or self._fixed:
            return  # its shapes were known before
        self._graph = None  # type: ignore[assignment]
        self.input_shape: Any = None  # a tuple; of several inputs a list of them
        self.output_shape: Any = None
        for layer in self.layers:
            if layer.network is self:
                layer._forget()

    def _infer(self, shape: tuple[int, ...]) -> None:
        """Name the layers and give each its shapes; nothing large is allocated."""
        self._name_layers()
        for layer in self.layers:
            if layer.network not in (None, self) and not (layer._called or self._nested):
                raise ValueError(f"{layer!r} belongs to another network; make a second one")
        x = shape
        for layer in self.layers:
            if layer.network is None:
                layer._network = weakref.ref(self)
            try:
                y = build_layer(layer, x)
            except ValueError as error:
                raise ValueError(f"layer {layer.name!r}: {error}") from None
            if layer.several or isinstance(y, list):
                raise ValueError(
                    f"layer {layer.name!r} has several inputs or outputs; use fn.Model"
                )
            x = y
        self._take_graph(chain(self.layers, shape))

    def _take_graph(self, graph: Graph) -> None:
        if graph.size() > MOST_CALLS:
            raise ValueError(
                f"the network calls layers {graph.size():,} times, at most {MOST_CALLS:,} go"
            )
        shapes: Any = graph.input_shapes
        self.input_shape = shapes if len(shapes) > 1 else shapes[0]
        shapes = graph.output_shapes
        self.output_shape = shapes if len(shapes) > 1 else shapes[0]
        self._graph, self._leaf_list = graph, None  # last: whoever sees it may ask for the shapes

    def _fill(self, values: Iterable[tuple[int, np.ndarray]]) -> None:
        """Allocate the weights and give them their first values, flat and by number."""
        params = _core.Params(self._plan(prediction(1)).plan)
        for number, flat in values:
            params.set(number, flat)
        for _, layer in self._leaves():
            layer._users.add(self)
            if layer.network is None or not layer.network.built:
                layer._network = weakref.ref(self)
            layer._keeper = layer.network if len(layer._users) > 1 else None
        self.params = params  # last: it says that the network is built

    def _leaves(self) -> list[tuple[str, Layer]]:
        """(path, layer) of every layer, those inside nested networks too, each once."""
        if self._leaf_list is None:
            found: dict[int, tuple[str, Layer]] = {}
            for path, layer in leaves(self._graph.calls):
                found.setdefault(id(layer), (path, layer))
            self._leaf_list = list(found.values())
        return self._leaf_list

    def _name_layers(self) -> None:
        taken: set[str] = set()
        for layer in self.layers:
            if layer.name is not None and layer.name in taken:
                raise ValueError(f"two layers are named {layer.name!r}")
            if layer.name:
                taken.add(layer.name)
        for layer in self.layers:
            if layer.name is None:
                base, i = layer.default_name(), 0
                while (name := base if i == 0 else f"{base}_{i}") in taken:
                    i += 1
                layer.name = name
                taken.add(name)

    def _plan(self, request: Request) -> Lowered:
        lowered = self._plans.get(request)
        if lowered is None:
            if len(self._plans) > 32:  # batch sizes that came by once
                self._plans.clear()
            lowered = self._plans[request] = lower(self, request)
        return lowered

    def _need_built(self, what: str, x: np.ndarray | None = None) -> None:
        if self.built:
            return
        with building:
            if self._graph is not None:
                self.build(self.input_shape)
                return
            if x is None or x.ndim < 1:
                raise ValueError(
                    f"{what}: the shape of rows is not known yet; begin the layers with "
                    "Input(shape), call build(input_shape), or fit first"
                )
            self.build(x.shape[1:] or (1,))

    # ---- weights --------------------------------------------------------------------------------

    def _weight_list(self) -> list[tuple[Layer, Any]]:
        return [(layer, weight) for _, layer in self._leaves() for weight in layer.weights()]

    def _weight_names(self) -> list[str]:
        """ "layer.weight" of each weight; layers of nested networks are "network/layer"."""
        return [f"{path}.{w.name}" for path, layer in self._leaves() for w in layer.weights()]

    def _numbers(self, layer: Layer) -> list[int]:
        """The engine's numbers of a layer's weights."""
        return [i for i, (owner, _) in enumerate(self._weight_list()) if owner is layer]

    def _refresh(self) -> None:
        """Take over what other networks have made of layers that this one shares with them: all of
        it at once, so that a prediction beside this one has the old weights or the new ones."""
        if self._wanted is self._taken:
            return
        with building:
            wanted = self._wanted  # before anything is read: what changes later is wanted again
            mine: dict[Network, list[int]] = {}
            theirs: dict[Network, list[int]] = {}
            for _, layer in self._leaves():
                home = layer.network
                if home is not None and home is not self and home.built:
                    mine.setdefault(home, []).extend(self._numbers(layer))
                    theirs.setdefault(home, []).extend(home._numbers(layer))
            values = [v for home, part in theirs.items() for v in home._flat(part)]
            numbers = [i for part in mine.values() for i in part]
            self.params.set_many(zip(numbers, values, strict=True))
            self._taken = wanted

    def _changed(self) -> None:
        """The weights are others now: networks that share layers with this one will take them."""
        for _, layer in self._leaves() if self._shares() else ():
            layer._network = weakref.ref(self)
            layer._keeper = self
            for other in list(layer._users):
                if other is not self:
                    other._wanted, other._single = object(), None

    def _shares(self) -> bool:
        return any(layer._keeper is not None for _, layer in self._leaves())

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all weights, float32, in Keras's shapes and order: kernel, bias, kernel, ..."""
        self._need_built("get_weights")
        self._refresh()
        weights = [weight for _, weight in self._weight_list()]
        values = self._flat(range(len(weights)))
        return [v.reshape(weight.shape) for v, weight in zip(values, weights, strict=True)]

    def _flat(self, numbers: Iterable[int]) -> list[np.ndarray]:
        """Weights by number, as they are at one moment."""
        weights = self._weight_list()
        pairs = [(i, np.empty(math.prod(weights[i][1].shape), np.float32)) for i in numbers]
        self.params.get_many(pairs)
        return [values for _, values in pairs]

    def _read(self, number: int, part: int = 0) -> np.ndarray:
        """A weight (part 0), its optimizer slot (1, 2) or its gradient (3)."""
        shape = self._weight_list()[number][1].shape
        values = np.empty(math.prod(shape), np.float32)
        self.params.get(number, values, part)
        return values.reshape(shape)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set all weights from a list like that of `get_weights`.

        Raises
        ------
        ValueError
            If the number of arrays or a shape is wrong, or a value is NaN or infinite in float32;
            then nothing has changed.
        """
        self._need_built("set_weights")
        arrays, wanted = self._as_weights("weights", weights), self._wanted
        self.params.set_many(enumerate(arrays))
        self._taken = wanted
        self._changed()

    def _as_weights(self, what: str, values: Sequence[Any]) -> list[np.ndarray]:
        """Arrays like the weights (the weights, their gradients), checked: flat, float32."""
        wanted = self._weight_list()
        if not isinstance(values, Iterable):
            raise TypeError(f"{what} must be a list of {len(wanted)} arrays, got {values!r:.60}")
        values = list(values)
        if len(values) != len(wanted):
            raise ValueError(f"{self.name} has {len(wanted)} weights, got {len(values)} {what}")
        arrays = []
        for i, (value, (layer, weight)) in enumerate(zip(values, wanted, strict=True)):
            name = f"{what}[{i}] ({layer.name}.{weight.name})"
            array = check.array(name, value)
            if array.shape != weight.shape:
                raise ValueError(f"{name} must have shape {weight.shape}, got {array.shape}")
            array = check.float32(array)
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds NaN or infinity")
            arrays.append(array.reshape(-1))
        return arrays

    def refresh(self, layer: Layer) -> None:
        """Take over what a layer's own statistics have become (`Normalization.adapt`)."""
        self._need_built("refresh")
        self._refresh()
        for i, (owner, weight) in enumerate(self._weight_list()):
            if owner is layer and not weight.trainable:
                values = weight.initializer(weight.shape, np.random.default_rng(0))
                self.params.set(i, values.reshape(-1))
        self._changed()

    def count_params(self) -> int:
        """Number of weights, trained or not."""
        self._need_built("count_params")
        return sum(math.prod(weight.shape) for _, weight in self._weight_list())

    # ---- predicting -----------------------------------------------------------------------------

    _fixed = False  # its shapes are known from the start
    #: Names of inputs and outputs: keys of a dict of arrays.
    input_names: Sequence[str] = ("x",)
    output_names: Sequence[str] = ("y",)

    def predict(self, x: Any, batch_size: int | None = None) -> Any:
        """Outputs for rows of x.

        Parameters
        ----------
        x : array (n, *input_shape)
            float32 in C order, uint8, int8 and bool are read in place; anything else is converted
            once. Sparse matrices of SciPy, (n, features), are not made dense. Where there are
            several inputs: a list of arrays, or a dict of them by name.
        batch_size : int, optional
            Rows computed at a time; changes memory, never results: a row gives the same bits alone
            and in any batch.

        Returns
        -------
        float32 array (n, *output_shape); where there are several outputs, a list of them

        Raises
        ------
        ValueError, TypeError
            For a wrong shape or dtype, and for NaN or infinity (with row and column).
        """
        single = self._single
        if (
            single is not None
            and type(x) is np.ndarray
            and x.shape == single[0]
            and x.dtype in _PLAIN
            and x.flags.c_contiguous
        ):
            return one_row(self, x, single)
        answers = outputs_of(self, inputs_of(self, "x", x), batch_size)
        return answers if len(answers) > 1 else answers[0]

    def _source_name(self, i: int) -> str:
        """What source i of a plan is called in messages; targets and weights follow the inputs."""
        return check.part_name("x", self.input_names, i)

    def predict_classes(
        self, x: Any, batch_size: int | None = None, *, threshold: float = 0.5
    ) -> np.ndarray:
        """The most probable class of each row, int64 (n,); with one output, 1 where it is > 0.5.

        Parameters
        ----------
        x, batch_size
            As for `predict`.
        threshold : float, default 0.5
            For one output; 0 for logits (`Trainer.predict_classes` knows).
        """
        if len(self.output_names) > 1:
            raise ValueError(
                f"{self.name} has the outputs {', '.join(self.output_names)}; "
                "take the classes of those you want from predict(x)"
            )
        threshold = check.number("threshold", threshold)
        outputs = self.predict(x, batch_size)
        if outputs.shape[-1] == 1:
            return (outputs[..., 0] > threshold).astype(np.int64)
        return outputs.argmax(axis=-1).astype(np.int64)

    # ---- training, files, text ------------------------------------------------------------------

    def fit(self, x: Any, y: Any = None, *, loss: Any = "cross_entropy", optimizer: Any = "adam",
            metrics: Sequence[Any] = (), **options: Any):  # fmt: skip
        """``Trainer(net, loss, optimizer, metrics).fit(x, y, **options)``; returns the history.

        Parameters
        ----------
        loss, optimizer, metrics
            As for `Trainer`.
        x, y, options
            As for `Trainer.fit`.
        """
        from .trainer import Trainer

        return Trainer(self, loss=loss, optimizer=optimizer, metrics=metrics).fit(x, y, **options)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """There is no compile: a `Trainer` takes its arguments."""
        raise AttributeError(
            'fastnet has no compile(); write trainer = fn.Trainer(net, loss="cross_entropy", '
            'optimizer="adam", metrics=["accuracy"]) and then trainer.fit(x, y)'
        )

    def save(self, path: str | os.PathLike[str], extra: dict[str, Any] | None = None) -> None:
        """Write the network to one .safetensors file, all of it or nothing (`storage.save`).

        Parameters
        ----------
        path : str or path-like
        extra : dict, optional
            What JSON can hold, kept beside the network; `storage.read_extra` returns it.
        """
        from .storage import save

        save(self, path, extra)

    def summary(self, batch_size: int = 32, print_fn: Any = print) -> None:
        """Print layers, shapes, parameters, multiply-adds, and memory for a batch size.

        Parameters
        ----------
        batch_size : int, default 32
        print_fn : callable(str), default print
        """
        from .summary import summary

        print_fn(summary(self, batch_size))

    def diagram(self) -> str:
        """The graph as text: a line a layer, with lines from who gives rows to who reads them."""
        from .drawing import diagram

        return diagram(self)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the graph with graphviz into a file (.svg, .png, .pdf; .dot wants no graphviz).

        Parameters
        ----------
        path : str or path-like

        Raises
        ------
        ImportError, RuntimeError
            If the Python package or the program is missing; they say how to get them.
        """
        from .drawing import plot

        plot(self, path)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: description and weights, no plans."""
        state = vars(self) | {"_plans": {}, "_single": None, "_slots_owner": None}
        state |= {"_tensors": None, "_wanted": None, "_taken": None}
        del state["_training"]
        return state | {"params": self.get_weights() if self.built else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, params=None, _training=fit_lock(self))
        for layer in self.layers:
            if state["params"] is None:
                layer._network = None
        if state["params"] is not None:
            self._fill(enumerate(map(np.ravel, state["params"])))

    # ---- as a part of other networks ------------------------------------------------------------

    def __call__(self, x: Any) -> Any:
        """This network as a layer on symbolic values: both share their weights.

        Raises
        ------
        TypeError, ValueError
            For anything but symbolic values, and for shapes that do not fit.
        """
        if not self.layers:
            raise ValueError(f"{self.name} has no layers yet")
        return self._as_layer()(x)

    def _as_layer(self) -> Nested:
        if self._nested is None:
            named = self.name if self.name != type(self).__name__.lower() else None
            return Nested(self, name=named)
        return self._nested

    def _symbolic(self) -> list[Tensor]:
        """The symbolic value of each value of the graph."""
        if self._tensors is None:
            if self._graph is None:
                self._need_built("outputs")
            inputs = [
                as_tensor(self.name, layer if isinstance(layer, Input) else Input(shape))
                for layer, shape in zip(self.layers, self._graph.input_shapes, strict=False)
            ]
            self._tensors = replay(self._graph, inputs)
        return self._tensors

    @property
    def inputs(self) -> list[Tensor]:
        """Symbolic values that stand for its inputs: ``Model(net.inputs, ...)``."""
        return self._symbolic()[: self._graph.n_inputs]

    @property
    def outputs(self) -> list[Tensor]:
        """Symbolic values of its outputs, to go on from."""
        return [self._symbolic()[v] for v in self._graph.outputs]

    def __repr__(self) -> str:
        inside = ", ".join(map(repr, self.layers))
        size = f", {self.count_params():,} parameters" if self.built else ", not built"
        return f"<{type(self).__name__} [{inside}]{size}>"

"""The trainer: epochs, validation, callbacks, progress around the engine's runs."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from . import _core, check, losses, metrics, optimizers
from .callbacks import CallbackList
from .errors import DivergenceError
from .fit import SOURCE_NAMES, ArrayEpochs, Fit, call_loss, diverged_layer, metric_results
from .history import History
from .layers import Activation, Dense, Dropout, Flatten, Reshape
from .losses import Custom, Loss
from .lowering import Lowered, Request
from .network import Network, raise_bad_input
from .progress import Progress
from .targets import Data, targets, with_class_weights

_EVALUATE_ROWS = 1024


class Trainer:
    """Trains a network: loss, optimizer and metrics in one object.

    Parameters
    ----------
    network : Network
    loss : str, Loss or callable, default "cross_entropy"
        A name or object of `fastnet.losses`, or a function ``(y, y_hat) -> (value, gradient)``;
        it gets y as float32 of the output's shape (classes as one-hot rows).
    optimizer : str or Optimizer, default "adam"
    metrics : sequence of str or Metric, default ()
        accuracy, top_k_accuracy, binary_accuracy, mse, mae, r2, precision, recall, f1.
    gemm : "auto", "tiles" or "sgemm", default "auto"
        Who multiplies matrices: chosen by shape, or forced.
    lanes : int >= 1, default 1
        Gradients are summed in so many fixed parts of the batch and then in a tree, so that as many
        workers on those parts can equal this process bit for bit.

    Attributes
    ----------
    history : History
        Of all fits so far; a second fit continues.
    steps : int
        Minibatches trained so far.
    stop_training : bool
        Set by callbacks to end a fit.

    Raises
    ------
    ValueError, TypeError
        For unknown names, and a last activation that the loss cannot use.
    """

    def __init__(
        self,
        network: Network,
        loss: Any = "cross_entropy",
        optimizer: Any = "adam",
        metrics: Sequence[Any] | str = (),
        *,
        gemm: str = "auto",
        lanes: int = 1,
    ):
        if not isinstance(network, Network):
            raise TypeError(f"network must be a fastnet network, got {network!r}")
        self.network = network
        self.loss: Loss = losses.get(loss)
        self.optimizer = optimizers.get(optimizer)
        self.metrics = _metrics(metrics)
        self.gemm = check.choice("gemm", gemm, ("auto", "tiles", "sgemm"))
        self.lanes = check.integer("lanes", lanes, low=1)
        self.history = History()
        self.steps = 0
        self.epochs = 0
        self.stop_training = False
        self._lowered_optimizer: tuple[_core.Optimizer, int] | None = None
        self._kept_slots: list[list[np.ndarray]] | None = None
        self._snapshot: _core.Params | None = None
        self._start: _core.Params | None = None
        self._checked = False

    # ---- data -----------------------------------------------------------------------------------

    def _prepare(self, x: Any, y: Any, sample_weight: Any = None) -> Data:
        """Arrays checked, converted where needed, in the engine's order."""
        if y is None:
            raise ValueError("y is missing: training and evaluation want targets")
        x = check.features("x", x)
        net = self.network
        if net.built:
            return self._checked_data(x, y, sample_weight)
        net._need_built("fit", x)
        try:
            return self._checked_data(x, y, sample_weight)
        except (TypeError, ValueError):
            net._forget()  # data that was wrong does not fix the shape
            raise

    def _checked_data(self, x: np.ndarray, y: Any, sample_weight: Any) -> Data:
        net, loss = self.network, self.loss
        if not self._checked:
            _check_last_activation(net, loss)
            self._checked = True
        x = check.rows("x", x, net.input_shape)
        shape = net.output_shape
        y = targets(y, len(x), shape, loss, self.metrics)
        classes = loss.classes and y.dtype.kind in "iu" and y.shape[1:] == shape[:-1]
        if sample_weight is None:
            return Data((x, y), classes, False)
        if isinstance(loss, Custom):
            raise ValueError("a loss function takes no weights; use one of fastnet.losses")
        return Data((x, y, check.weights("sample_weight", sample_weight, len(x))), classes, True)

    def _plan(self, data: Data, mode: str, rows: int, update: str = "fused") -> Lowered:
        return self.network._plan(
            Request(mode, rows, self.loss, self.metrics, data.classes, data.weighted, update,
                    self.gemm, self.lanes)
        )  # fmt: skip

    # ---- fit ------------------------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int | str = 32,
        epochs: int = 1,
        validation_data: Any = None,
        validation_split: float = 0.0,
        shuffle: bool = True,
        seed: int | None = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        callbacks: Any = (),
        progress: bool | str = "auto",
        steps_per_epoch: int | None = None,
    ) -> History:
        """Train for a number of epochs; a second fit continues where the first ended.

        Parameters
        ----------
        x : array (n, *input_shape), or an iterable of batches (x, y) or (x, y, sample_weight)
            Arrays and memmaps of float32, uint8, int8 and bool are read in place. A generator is
            consumed; ``steps_per_epoch`` cuts it into epochs.
        y : array
            Of the output's shape (n, *output_shape), or integer classes without its last axis.
        batch_size : int or "full", default 32
        epochs : int >= 0, default 1
        validation_data : (x, y) or (x, y, sample_weight), optional
            Evaluated after every epoch; numbers appear as "val_...".
        validation_split : float in [0, 1), default 0
            Take the last so many rows for validation instead; class_weight leaves them alone.
        shuffle : bool, default True
            Rows in a new order every epoch, from `seed` and the epoch alone.
        seed : int, optional
            Of the order and of dropout; the network's seed by default.
        sample_weight : array (n,), optional
            The loss is sum(w * l) / sum(w): weight 0 is a row removed.
        class_weight : dict or "balanced", optional
        callbacks : Callback or list of Callback
        progress : bool or "auto", default "auto"
            "auto" shows a bar once a second has passed, on a terminal or in a notebook.
        steps_per_epoch : int, optional
            For iterables of batches.

        Returns
        -------
        History
            Of this fit: history["loss"], history["val_accuracy"], ... one number an epoch.

        Raises
        ------
        ValueError, TypeError
            Before anything starts, for what cannot be trained; while it runs for NaN or infinity
            in x (with row and column) and for batches that do not fit: weights are then as before
            the fit, and the optimizer starts afresh.
        DivergenceError
            When the loss or a weight becomes NaN or infinite; the last good weights are kept, the
            optimizer starts afresh.
        """
        epochs = check.integer("epochs", epochs, low=0)
        if y is None and _is_batches(x):
            if sample_weight is not None or class_weight is not None or validation_split:
                raise ValueError(
                    "an iterable of batches brings its own weights and validation data"
                )
            from .streaming import BatchEpochs

            held_out = None
            work: Any = BatchEpochs(self, x, epochs, steps_per_epoch)
        else:
            if steps_per_epoch is not None:
                raise ValueError("steps_per_epoch is for an iterable of batches")
            data, held_out = _split(self._prepare(x, y, sample_weight), validation_split)
            if class_weight is not None:
                data = with_class_weights(data, class_weight, self.network.output_shape, self.loss)
            work = ArrayEpochs(self, data, batch_size, bool(shuffle))
        validation = self._validation(validation_data, held_out)
        callbacks = CallbackList(callbacks, self)
        bar = Progress(progress, epochs, work.rows)
        seed = self.network.seed if seed is None else check.seed(seed)
        with self.network._training:
            return Fit(self, work, epochs, seed).run(validation, callbacks, bar)

    def _validation(self, given: Any, held_out: Data | None) -> Data | None:
        if given is None:
            return held_out
        if held_out is not None:
            raise ValueError("give validation_data or validation_split, not both")
        if not isinstance(given, tuple | list) or len(given) not in (2, 3):
            raise ValueError("validation_data must be (x, y) or (x, y, sample_weight)")
        try:
            data = self._prepare(*given)
        except (TypeError, ValueError) as error:
            raise type(error)(f"validation_data: {error}") from None
        if not len(data):
            raise ValueError("validation_data has no rows")
        return data

    def _begin(self) -> tuple[_core.Optimizer, _core.Params]:
        """The engine's optimizer, and the params with this trainer's slots."""
        net = self.network
        owner = net._slots_owner() if net._slots_owner is not None else None
        if owner is not self:
            self._take_slots(owner)
        return self._engine_optimizer()[0], net.params

    def _engine_optimizer(self) -> tuple[_core.Optimizer, int]:
        """The engine's optimizer, and the number of slots a weight has."""
        if self._lowered_optimizer is None:
            self._lowered_optimizer = self.optimizer.lower()
        return self._lowered_optimizer

    def _take_slots(self, before: Trainer | None) -> None:
        """Params hold the slots of one trainer at a time; the one before takes its own along."""
        net = self.network
        numbers = range(len(net._weight_list()))
        if before is not None:
            before._kept_slots = [
                [net._read(i, part) for i in numbers]
                for part in range(1, before._engine_optimizer()[1] + 1)
            ]
        net.params.need_slots(self._engine_optimizer()[1], self.optimizer.initial_slot)
        for part, slots in enumerate(self._kept_slots or (), 1):
            for i in numbers:
                net.params.set(i, slots[i].reshape(-1), part)
        self._kept_slots = None
        net._slots_owner = weakref.ref(self)

    def _keep_start(self) -> _core.Params:
        """The weights as they are now, which bad input falls back to."""
        if self._start is None:
            self._start = _core.Params(self.network._plan(Request("predict", 1)).plan)
        self._start.copy_weights(self.network.params)
        return self._start

    def _restart(self, weights: _core.Params | None = None) -> None:
        """Fall back to good weights (of the start) and fresh slots: they may hold anything."""
        if weights is None:
            weights = self._start
        if weights is not None:
            self.network.params.copy_weights(weights)
        self.network._slots_owner = None
        self.steps = 0

    def _update_kind(self) -> str:
        """Gradients are kept where all of them are needed before any is applied."""
        return "flat" if self.optimizer.global_clipnorm else "fused"

    def train_on_batch(self, x: Any, y: Any, sample_weight: Any = None) -> dict[str, float]:
        """One step on one batch; returns its loss and metrics (before the step)."""
        data = self._prepare(x, y, sample_weight)
        if not len(data):
            raise ValueError("the batch has no rows")
        work = ArrayEpochs(self, data, "full", False)
        with self.network._training:
            return Fit(self, work, 1, self.network.seed).one_batch()

    # ---- evaluate, predict ----------------------------------------------------------------------

    def evaluate(self, x: Any, y: Any = None, sample_weight: Any = None) -> dict[str, float]:
        """Loss and metrics on data, as {"loss": ..., "accuracy": ...}. Dropout is off.

        Raises
        ------
        ValueError, TypeError
            As `fit`; also for 0 rows.
        """
        data = self._prepare(x, y, sample_weight)
        if not len(data):
            raise ValueError("there are no rows to evaluate")
        return self._evaluate(data)

    def _evaluate(self, data: Data) -> dict[str, float]:
        if isinstance(self.loss, Custom):
            return self._evaluate_custom(self.loss, data)
        rows = min(len(data), _EVALUATE_ROWS)
        lowered = self._plan(data, "evaluate", rows)
        chunk = rows * lowered.steps_a_run(rows)
        work = lowered.take_work()
        try:
            work.reset_metrics()
            loss = weight = 0.0
            for first in range(0, len(data), chunk):
                result = _core.run(
                    lowered.plan, self.network.params, work, data.sources, first=first,
                    n_rows=min(chunk, len(data) - first), batch_size=rows,
                )  # fmt: skip
                if result.status == "input":
                    raise_bad_input(result, SOURCE_NAMES[result.bad_source])
                loss, weight = loss + result.loss, weight + result.weight
                if result.status == "diverged":
                    loss = math.nan
                    break
            return {"loss": loss / weight if weight else 0.0} | metric_results(lowered, work)
        finally:
            lowered.works.append(work)

    def _evaluate_custom(self, loss: Custom, data: Data) -> dict[str, float]:
        y_hat = self.network._predict(data.sources[0], None)
        value, _ = call_loss(loss, data.sources[1], y_hat)
        logs = Trainer(self.network, "mse", metrics=self.metrics)._evaluate(data)
        return logs | {"loss": value}

    def predict(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """The network's `predict`."""
        return self.network.predict(x, batch_size)

    def predict_classes(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """The network's `predict_classes`; one output that is a logit means 1 where it is > 0."""
        logits = _last_activation(self.network)[0] != self.loss.fused
        threshold = self.loss.threshold(logits)
        return self.network.predict_classes(x, batch_size, threshold=threshold)

    # ---- gradients ------------------------------------------------------------------------------

    def gradients(self, x: Any, y: Any, sample_weight: Any = None) -> list[np.ndarray]:
        """Gradients of the mean loss of a batch by all weights; nothing is changed.

        Returns
        -------
        list of float32 arrays in the order of ``network.get_weights()``; zeros for weights that are
        not trained.

        Raises
        ------
        ValueError, TypeError
            As `fit`; also for a loss written in Python.
        DivergenceError
            If the loss is NaN or infinite.
        """
        data = self._prepare(x, y, sample_weight)
        if not len(data):
            raise ValueError("the batch has no rows")
        if isinstance(self.loss, Custom):
            raise ValueError("gradients wants one of fastnet's losses")
        net = self.network
        with net._training:
            lowered = self._plan(data, "train", len(data), "none")
            optimizer, params = self._begin()
            params.need_gradient()
            work = lowered.take_work()
            result = _core.run(
                lowered.plan, params, work, data.sources, n_rows=len(data), batch_size=len(data),
                rates=np.zeros(1), optimizer=optimizer, step=self.steps, seed=net.seed,
            )  # fmt: skip
            lowered.works.append(work)
            if result.status == "input":
                raise_bad_input(result, SOURCE_NAMES[result.bad_source])
            if result.status == "diverged":
                layer = diverged_layer(net, data.sources[0])
                raise DivergenceError(
                    f"the loss of this batch is not finite; layer {layer!r}", layer, 0, 0
                )
            return [
                net._read(i, 3) if weight.trainable else np.zeros(weight.shape, np.float32)
                for i, (_, weight) in enumerate(net._weight_list())
            ]

    def apply_gradients(self, gradients: Sequence[Any]) -> None:
        """One optimizer step with given gradients, in the order of ``network.get_weights()``.

        Raises
        ------
        ValueError, TypeError
            For a wrong number, shape or dtype, and for NaN or infinity.
        DivergenceError
            If a weight becomes infinite; the weights are then as before.
        """
        net = self.network
        net._need_built("apply_gradients")
        arrays = net._as_weights("gradients", gradients)
        rates = np.array([self.optimizer.schedule(self.steps)])
        with net._training:
            optimizer, params = self._begin()
            params.need_gradient()
            for i, array in enumerate(arrays):
                params.set(i, array, 3)
            lowered = net._plan(Request("train", 1, self.loss, update="flat"))
            start, work = self._keep_start(), lowered.take_work()
            _core.run(
                lowered.plan, params, work, (), n_rows=0, batch_size=1, rates=rates,
                optimizer=optimizer, step=self.steps, seed=net.seed, apply_only=True,
            )  # fmt: skip
            lowered.works.append(work)
            number = params.nonfinite()
            if number >= 0:
                layer, step = net._weight_list()[number][0].label, self.steps
                self._restart(start)
                raise DivergenceError(
                    f"the step made weights of layer {layer!r} infinite", layer, 0, step
                )
            self.steps += 1

    def __repr__(self) -> str:
        names = f", metrics={[m.name for m in self.metrics]}" if self.metrics else ""
        return f"Trainer({self.network!r}, loss={self.loss!r}, optimizer={self.optimizer!r}{names})"


# ---- pieces -------------------------------------------------------------------------------------


def _metrics(value: Any) -> tuple[metrics.Metric, ...]:
    values = [value] if isinstance(value, str | metrics.Metric) else list(value or ())
    result = tuple(metrics.get(v) for v in values)
    names = [m.name for m in result]
    if len(set(names)) < len(names):
        raise ValueError(f"metrics must have different names, got {names}")
    return result


def _split(data: Data, fraction: float) -> tuple[Data, Data | None]:
    """The last `fraction` of the rows apart."""
    fraction = check.number("validation_split", fraction, low=0, below=1)
    if fraction == 0:
        return data, None
    n = int(len(data) * (1 - fraction))
    if n == 0 or n == len(data):
        raise ValueError(f"validation_split {fraction} of {len(data)} rows leaves one side empty")
    parts = [
        Data(tuple(s[rows] for s in data.sources), data.classes, data.weighted)
        for rows in (slice(None, n), slice(n, None))
    ]
    return parts[0], parts[1]


def _is_batches(x: Any) -> bool:
    """An iterable of batches, and no array, table or text."""
    return isinstance(x, Iterable) and not isinstance(x, str) and not hasattr(x, "shape")


def _last_activation(network: Network) -> tuple[str, bool]:
    """The activation that the outputs come from, and whether its layer is the last."""
    for layer in reversed(network.layers):
        activation = getattr(layer, "activation", None)
        if isinstance(layer, Dense) or activation not in (None, "linear"):
            return activation or "linear", layer is network.layers[-1]
        if not isinstance(layer, Activation | Dropout | Flatten | Reshape):
            break
    return "linear", True


def _check_last_activation(network: Network, loss: Loss) -> None:
    """A fused loss wants its own activation last, or a linear layer (logits)."""
    if loss.fused is None:
        return
    activation, is_last = _last_activation(network)
    units = network.output_shape[-1]
    if activation not in (loss.fused, "linear"):
        raise ValueError(
            f"loss {loss.name!r} wants a last layer with activation {loss.fused!r} or a linear one "
            f"(logits), got {activation!r}; write Dense({units}, activation={loss.fused!r})"
        )
    if activation == loss.fused and not is_last:
        raise ValueError(
            f"loss {loss.name!r} wants its {loss.fused} in the last layer, "
            f"got {network.layers[-1]!r} behind it; leave the activation out there and end with "
            f"Activation({loss.fused!r})"
        )
    if loss.name == "cross_entropy" and units == 1:
        raise ValueError(
            "cross_entropy over 1 output is always 0; for two classes write "
            'Dense(1, activation="sigmoid") with loss="binary_cross_entropy", '
            'or Dense(2, activation="softmax")'
        )

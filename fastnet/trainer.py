"""The trainer: epochs, validation, callbacks, progress around the engine's runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from . import _core, check, losses, metrics, optimizers
from .callbacks import CallbackList
from .fit import SOURCE_NAMES, ArrayEpochs, Fit, metric_results
from .history import History
from .losses import Custom, Loss
from .lowering import Lowered, Request
from .network import Network, raise_bad_input
from .progress import Progress
from .targets import Data, class_weights, targets

_EVALUATE_ROWS = 1024


class Trainer:
    """Trains a network: loss, optimizer and metrics in one object.

    Parameters
    ----------
    network : Network
    loss : str, Loss or callable, default "cross_entropy"
        A name or object of `fastnet.losses`, or a function ``(y, y_hat) -> (value, gradient)``.
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

    def __init__(self, network: Network, loss: Any = "cross_entropy", optimizer: Any = "adam",
                 metrics: Sequence[Any] | str = (), *, gemm: str = "auto", lanes: int = 1):  # fmt: skip
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
        self._slots_ready = False
        self._lowered_optimizer: Any = None
        self._snapshot: _core.Params | None = None
        self._first: _core.Params | None = None
        self._checked = False

    # ---- data -------------------------------------------------------------------------------------

    def _prepare(self, x: Any, y: Any, sample_weight: Any = None, class_weight: Any = None) -> Data:
        """Arrays checked, converted where needed, in the engine's order."""
        if y is None:
            raise ValueError("y is missing: training and evaluation want targets")
        x = check.features("x", x)
        net = self.network
        if not net.built:
            net._need_built("fit", x)
        if not self._checked:
            _check_last_activation(net, self.loss)
            self._checked = True
        x = check.rows("x", x, net.input_shape)
        y = targets(y, len(x), net.output_shape, self.loss, self.metrics)
        sources = [x, y]
        weight = None if sample_weight is None else check.weights("sample_weight", sample_weight, len(x))
        if class_weight is not None:
            by_class = class_weights(class_weight, y, net.output_shape[-1])
            weight = by_class if weight is None else weight * by_class
        if weight is not None:
            sources.append(weight)
        shape = net.output_shape
        classes = y.dtype.kind in "iu" and y.shape == (len(x), *shape[:-1]) and self.loss.classes
        return Data(tuple(sources), classes, weight is not None)

    def _plan(self, data: Data, mode: str, rows: int, update: str = "fused") -> Lowered:
        return self.network._plan(
            Request(mode, rows, self.loss, self.metrics, data.classes, data.weighted, update,
                    self.gemm, self.lanes)
        )  # fmt: skip

    # ---- fit --------------------------------------------------------------------------------------

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
            Take the last so many rows for validation instead.
        shuffle : bool, default True
            Rows in a new order every epoch, from `seed` and the epoch alone.
        seed : int, optional
            Of the order and of dropout; the network's seed by default.
        sample_weight : array (n,), optional
            The loss is sum(w * l) / sum(w): weight 0 is a row removed.
        class_weight : dict or "balanced", optional
        callbacks : Callback or list of Callback
        progress : bool or "auto", default "auto"
            "auto" shows a bar once a second has passed.
        steps_per_epoch : int, optional
            For iterables of batches.

        Returns
        -------
        History
            Of this fit: history["loss"], history["val_accuracy"], ... one number an epoch.

        Raises
        ------
        ValueError, TypeError
            Before anything starts, for what cannot be trained; while it runs for NaN or infinity in x
            (row and column; weights are then as before the fit).
        DivergenceError
            When the loss or a weight becomes NaN or infinite; the last good weights are kept.
        """
        epochs = check.integer("epochs", epochs, low=0)
        if y is None and not isinstance(x, np.ndarray) and isinstance(x, Iterable):
            if sample_weight is not None or class_weight is not None or validation_split:
                raise ValueError("an iterable of batches brings its own weights and validation data")
            from .streaming import BatchEpochs

            work: Any = BatchEpochs(self, x, steps_per_epoch)
            validation = validation_data
        else:
            data = self._prepare(x, y, sample_weight, class_weight)
            data, held_out = _split(data, validation_split)
            validation = held_out or validation_data
            work = ArrayEpochs(self, data, batch_size, bool(shuffle))
        if validation is not None and not isinstance(validation, Data):
            if not isinstance(validation, tuple | list) or len(validation) not in (2, 3):
                raise ValueError("validation_data must be (x, y) or (x, y, sample_weight)")
            validation = self._prepare(*validation)
            if not len(validation):
                raise ValueError("validation_data has no rows")
        run = Fit(self, work, epochs, self.network.seed if seed is None else check.seed(seed))
        return run.run(validation, CallbackList(callbacks, self), Progress(progress, epochs, work.rows))

    def _begin(self) -> tuple[_core.Optimizer, _core.Params]:
        """Optimizer and params, with slots and a snapshot."""
        net = self.network
        if self._lowered_optimizer is None:
            self._lowered_optimizer = self.optimizer.lower()
        optimizer, n_slots = self._lowered_optimizer
        if not self._slots_ready:
            net.params.need_slots(n_slots, self.optimizer.initial_slot)
            self._slots_ready = True
        return optimizer, net.params

    def _update_kind(self) -> str:
        """Gradients are kept where all of them are needed before any is applied."""
        return "flat" if self.optimizer.global_clipnorm else "fused"

    def train_on_batch(self, x: Any, y: Any, sample_weight: Any = None) -> dict[str, float]:
        """One step on one batch; returns its loss and metrics (before the step)."""
        data = self._prepare(x, y, sample_weight)
        if not len(data):
            raise ValueError("the batch has no rows")
        work = ArrayEpochs(self, data, "full", False)
        return Fit(self, work, 1, self.network.seed).one_batch()

    # ---- evaluate, predict ------------------------------------------------------------------------

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
            return self._evaluate_custom(data)
        rows = min(len(data), _EVALUATE_ROWS)
        lowered = self._plan(data, "evaluate", rows)
        work = lowered.take_work()
        try:
            work.reset_metrics()
            loss = weight = 0.0
            chunk, first = _EVALUATE_ROWS * 8, 0
            while first < len(data):
                n = min(chunk, len(data) - first)
                result = _core.run(
                    lowered.plan, self.network.params, work, data.sources, first=first, n_rows=n, batch_size=rows
                )
                if result.status == "input":
                    raise_bad_input(result, SOURCE_NAMES[result.bad_source])
                if result.status == "diverged":
                    return {"loss": float("nan")} | metric_results(lowered, work)
                loss, weight, first = loss + result.loss, weight + result.weight, first + n
            return {"loss": loss / weight if weight else 0.0} | metric_results(lowered, work)
        finally:
            lowered.works.append(work)

    def _evaluate_custom(self, data: Data) -> dict[str, float]:
        if self.metrics:
            inner = Trainer(self.network, "mse", metrics=self.metrics)
            logs = inner._evaluate(Data(data.sources, False, data.weighted))
        else:
            logs = {}
        y_hat = self.network._predict(data.sources[0], None)
        value, _ = self.loss.function(data.sources[1], y_hat)
        return {"loss": float(value)} | {k: v for k, v in logs.items() if k != "loss"}

    def predict(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """The network's `predict`."""
        return self.network.predict(x, batch_size)

    def predict_classes(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """The network's `predict_classes`."""
        return self.network.predict_classes(x, batch_size)

    # ---- gradients --------------------------------------------------------------------------------

    def gradients(self, x: Any, y: Any, sample_weight: Any = None) -> list[np.ndarray]:
        """Gradients of the mean loss of a batch by all weights; nothing is changed.

        Returns
        -------
        list of float32 arrays in the order of ``network.get_weights()``; zeros for weights that are
        not trained.
        """
        data = self._prepare(x, y, sample_weight)
        if not len(data):
            raise ValueError("the batch has no rows")
        if isinstance(self.loss, Custom):
            raise ValueError("gradients wants one of fastnet's losses")
        lowered = self._plan(data, "train", len(data), "none")
        params, work = self.network.params, lowered.take_work()
        params.need_gradient()
        optimizer, _ = self._begin()
        rates = np.zeros(1)
        result = _core.run(lowered.plan, params, work, data.sources, n_rows=len(data), batch_size=len(data),
                           rates=rates, optimizer=optimizer, step=self.steps, seed=self.network.seed)  # fmt: skip
        lowered.works.append(work)
        if result.status == "input":
            raise_bad_input(result, SOURCE_NAMES[result.bad_source])
        return [
            self.network._read(i, weight.shape, part=3) if weight.trainable else np.zeros(weight.shape, np.float32)
            for i, (_, weight) in enumerate(self.network._weight_list())
        ]

    def apply_gradients(self, gradients: Sequence[Any]) -> None:
        """One optimizer step with given gradients, in the order of ``network.get_weights()``."""
        net = self.network
        net._need_built("apply_gradients")
        wanted = net._weight_list()
        if len(gradients) != len(wanted):
            raise ValueError(f"the network has {len(wanted)} weights, got {len(gradients)} gradients")
        optimizer, params = self._begin()
        params.need_gradient()
        for i, (value, (layer, weight)) in enumerate(zip(gradients, wanted, strict=True)):
            array = np.ascontiguousarray(check.array(f"gradients[{i}]", value), dtype=np.float32)
            if array.shape != weight.shape or not np.isfinite(array).all():
                raise ValueError(
                    f"gradients[{i}] ({layer.name}.{weight.name}) must be finite of shape {weight.shape}, "
                    f"got {array.shape}"
                )
            params.set(i, array.reshape(-1), 3)
        lowered = net._plan(Request("train", 1, self.loss, (), False, False, "flat"))
        work = lowered.take_work()
        rates = np.array([self.optimizer.schedule(self.steps)])
        _core.run(lowered.plan, params, work, (), n_rows=0, batch_size=1, rates=rates,
                  optimizer=optimizer, step=self.steps, seed=net.seed, apply_only=True)  # fmt: skip
        lowered.works.append(work)
        self.steps += 1

    def __repr__(self) -> str:
        names = f", metrics={[m.name for m in self.metrics]}" if self.metrics else ""
        return f"Trainer({self.network!r}, loss={self.loss!r}, optimizer={self.optimizer!r}{names})"


# ---- pieces ---------------------------------------------------------------------------------------


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


def _check_last_activation(network: Network, loss: Loss) -> None:
    """A fused loss wants its own activation last, or a linear layer (logits)."""
    if loss.fused is None:
        return
    last = getattr(network.layers[-1], "activation", "linear")
    units = network.output_shape[-1]
    if last not in (loss.fused, "linear"):
        raise ValueError(
            f"loss {loss.name!r} wants a last layer with activation {loss.fused!r} or a linear one "
            f"(logits), got {last!r}; write Dense({units}, activation={loss.fused!r})"
        )
    if loss.name == "cross_entropy" and units == 1:
        raise ValueError(
            "cross_entropy over 1 output is always 0; for two classes write "
            'Dense(1, activation="sigmoid") with loss="binary_cross_entropy", or Dense(2, activation="softmax")'
        )

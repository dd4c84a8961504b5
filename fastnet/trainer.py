"""The trainer: epochs, validation, callbacks, progress around the engine's runs."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import _core, check, losses, optimizers
from .callbacks import CallbackList
from .evaluation import evaluate
from .fit import ArrayEpochs, Fit
from .gradients import apply_gradients, gradients_of
from .history import History
from .losses import Custom, Loss
from .lowering import Lowered, Request, prediction
from .network import Network
from .outputs import (
    check_last_activation,
    each,
    last_activation,
    metrics_of_outputs,
    weights_of_losses,
)
from .predicting import inputs_of
from .progress import Progress
from .targets import Data, is_batches, targets, with_class_weights

_BATCH_SIZE = 32
#: Arguments of Keras's fit that have another name, or another place, here.
_KERAS = {
    "verbose": "progress=True, False or 'auto' says whether a bar is shown",
    "validation_batch_size": "validation runs in batches of its own choice",
    "initial_epoch": "a second fit goes on where the first ended",
}


class Trainer:
    """Trains a network: loss, optimizer and metrics in one object.

    Parameters
    ----------
    network : Network
    loss : str, Loss or callable, default "cross_entropy"
        A name or object of `fastnet.losses`, or a function ``(y, y_hat) -> (value, gradient)``;
        it gets y as float32 of the output's shape (classes as one-hot rows). Of a network with
        several outputs: one for all of them, a list, or a dict by the output's name.
    optimizer : str or Optimizer, default "adam"
    metrics : sequence of str or Metric, default ()
        accuracy, top_k_accuracy, binary_accuracy, mse, mae, r2, precision, recall, f1. With
        several outputs: for all of them, or a list of lists, or a dict by the output's name.
    loss_weights : list or dict of float, optional
        With several outputs: the loss is the sum of each output's, so many times.
    mixup : float >= 0, default 0
        While fitting, each row becomes a mixture of itself and another row of its minibatch, its
        target and weight as well; the share is drawn from Beta(mixup, mixup). 0.2 is usual for
        images. Metrics of training are of such rows. Zhang et al., mixup, ICLR 2018.
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
        loss_weights: Any = None,
        mixup: float = 0.0,
        gemm: str = "auto",
        lanes: int = 1,
    ):
        if not isinstance(network, Network):
            raise TypeError(f"network must be a fastnet network, got {network!r}")
        self.network = network
        names = network.output_names
        #: Of each output.
        self.losses: tuple[Loss, ...] = tuple(losses.get(one) for one in each("loss", loss, names))
        if len(names) > 1 and any(isinstance(one, Custom) for one in self.losses):
            raise ValueError("with several outputs, losses must be fastnet's, not functions")
        self.optimizer = optimizers.get(optimizer)
        self._metrics = metrics_of_outputs(metrics, names)
        self.loss_weights = weights_of_losses(loss_weights, names)
        self.mixup = check.number("mixup", mixup, low=0)
        if self.mixup and any(isinstance(one, Custom) for one in self.losses):
            raise ValueError("mixup mixes targets: the loss must be one of fastnet's, no function")
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
        self._requests: dict[tuple[Any, ...], Request] = {}

    @property
    def loss(self) -> Any:
        """The loss; of several outputs a tuple of theirs."""
        return self.losses[0] if len(self.losses) == 1 else self.losses

    @property
    def metrics(self) -> Any:
        """The metrics; of several outputs a tuple of theirs."""
        return self._metrics[0] if len(self._metrics) == 1 else self._metrics

    def _larger_is_better(self) -> set[str]:
        """Keys of logs that are better when larger."""
        names = self.network.output_names
        prefixes = [f"{name}_" for name in names] if len(names) > 1 else [""]
        return {
            prefix + metric.name
            for prefix, own in zip(prefixes, self._metrics, strict=True)
            for metric in own
            if metric.larger_is_better
        }

    # ---- data -----------------------------------------------------------------------------------

    def _prepare(self, x: Any, y: Any, sample_weight: Any = None) -> Data:
        """Arrays checked, converted where needed, in the engine's order."""
        if y is None:
            raise ValueError("y is missing: training and evaluation want targets")
        net = self.network
        if net.built:
            return self._checked_data(x, y, sample_weight)
        try:
            return self._checked_data(x, y, sample_weight)
        except (TypeError, ValueError):
            net._forget()  # data that was wrong does not fix the shape
            raise

    def _checked_data(self, x: Any, y: Any, sample_weight: Any) -> Data:
        net = self.network
        inputs = inputs_of(net, "x", x)
        if not self._checked:
            for i, loss in enumerate(self.losses):
                check_last_activation(net, i, loss)
            self._checked = True
        n, shapes = len(inputs[0]), net._graph.output_shapes
        ys = [
            targets(part, n, shapes[i], self.losses[i], self._metrics[i], name)
            for i, (name, part) in enumerate(check.parts("y", y, net.output_names))
        ]
        classes = tuple(
            loss.classes and y.dtype.kind in "iu" and y.shape[1:] == shape[:-1]
            for loss, y, shape in zip(self.losses, ys, shapes, strict=True)
        )
        return Data(inputs, tuple(ys), classes, self._weights(sample_weight, n))

    def _weights(self, sample_weight: Any, n: int) -> tuple[np.ndarray | None, ...]:
        """Weights of each output; one array, or none, is for all of them."""
        names = self.network.output_names
        if sample_weight is not None and isinstance(self.losses[0], Custom):
            raise ValueError("a loss function takes no weights; use one of fastnet.losses")
        if not isinstance(sample_weight, dict) and (
            len(names) == 1
            or not isinstance(sample_weight, list | tuple)
            or not any(w is None or isinstance(w, list | np.ndarray) for w in sample_weight)
        ):
            sample_weight = dict.fromkeys(names, sample_weight)
        return tuple(
            None if part is None else check.weights(name, part, n)
            for name, part in check.parts("sample_weight", sample_weight, names)
        )

    def _plan(self, data: Data, mode: str, rows: int, update: str = "fused") -> Lowered:
        mixup = self.mixup if mode == "train" and update != "none" else 0.0
        key = (mode, rows, data.classes, data.weighted, update, mixup)
        request = self._requests.get(key)
        if request is None:
            request = self._requests[key] = Request(
                mode, rows, self.losses, self._metrics, data.classes, data.weighted,
                self.loss_weights, update, self.gemm, self.lanes, mixup,
            )  # fmt: skip
        return self.network._plan(request)

    # ---- fit ------------------------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int | str = _BATCH_SIZE,
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
        **unknown: Any,
    ) -> History:
        """Train for a number of epochs; a second fit continues where the first ended.

        Parameters
        ----------
        x : array (n, *input_shape), or an iterable of batches (x, y) or (x, y, sample_weight)
            Of several inputs a list of arrays, or a dict of them by the inputs' names. Arrays and
            memmaps of float32, uint8, int8 and bool are read in place: nothing else may write to
            them meanwhile. Sparse matrices of SciPy count as arrays (n, features): CSR of float32
            or float64 is read in place, and no other is made dense either. A generator is
            consumed; ``steps_per_epoch`` cuts it into epochs.
        y : array
            Of the output's shape (n, *output_shape), or integer classes without its last axis.
            Of several outputs a list of arrays, or a dict of them by the outputs' names.
        batch_size : int or "full", default 32
            Of arrays.
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
            The loss is sum(w * l) / sum(w): weight 0 is a row removed. With several outputs: for
            all of them, or a list or dict of arrays and None.
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
        if unknown:
            raise check.unknown_argument("fit", next(iter(unknown)), self.fit, _KERAS)
        epochs = check.integer("epochs", epochs, low=0)
        shuffle = check.flag("shuffle", shuffle)
        if y is None and is_batches(x):
            if sample_weight is not None or class_weight is not None or validation_split:
                raise ValueError(
                    "an iterable of batches brings its own weights and validation data"
                )
            if batch_size != _BATCH_SIZE:
                raise ValueError("batch_size is for arrays; an iterable's batches have their sizes")
            from .streaming import BatchEpochs

            held_out = None
            work: Any = BatchEpochs(self, x, epochs, steps_per_epoch)
        else:
            if steps_per_epoch is not None:
                raise ValueError("steps_per_epoch is for an iterable of batches")
            data, held_out = self._prepare(x, y, sample_weight).split(validation_split)
            if class_weight is not None:
                if len(self.losses) > 1:
                    raise ValueError("class_weight is for one output; use sample_weight")
                shape = self.network.output_shape
                data = with_class_weights(data, class_weight, shape, self.losses[0])
            work = ArrayEpochs(self, data, batch_size, shuffle)
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
        net._refresh()
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
            self._start = _core.Params(self.network._plan(prediction(1)).plan)
        self._start.copy_weights(self.network.params)
        return self._start

    def _restart(self, weights: _core.Params | None = None) -> None:
        """Fall back to good weights (of the start) and fresh slots: they may hold anything."""
        if weights is None:
            weights = self._start
        if weights is not None:
            self.network.params.copy_weights(weights)
            self.network._changed()
        self.network._slots_owner = None
        self.steps = 0

    def _update_kind(self) -> str:
        """Gradients are kept where all of them are needed before any is applied."""
        return "flat" if self.optimizer.global_clipnorm else "fused"

    def train_on_batch(self, x: Any, y: Any, sample_weight: Any = None) -> dict[str, float]:
        """One step of the optimizer on one batch.

        Parameters
        ----------
        x, y, sample_weight
            As for `fit`: all rows are one minibatch.

        Returns
        -------
        dict of float
            Its loss and metrics before the step, as `evaluate` names them.

        Raises
        ------
        ValueError, TypeError
            As `fit`; also for 0 rows.
        DivergenceError
            If the loss or a weight is no longer finite; the weights are those from before the step.
        """
        data = self._prepare(x, y, sample_weight)
        if not len(data):
            raise ValueError("the batch has no rows")
        work = ArrayEpochs(self, data, "full", False)
        with self.network._training:
            return Fit(self, work, 1, self.network.seed).one_batch()

    # ---- evaluate, predict ----------------------------------------------------------------------

    def evaluate(self, x: Any, y: Any = None, sample_weight: Any = None) -> dict[str, float]:
        """Loss and metrics on data. Dropout is off.

        Parameters
        ----------
        x, y, sample_weight
            As for `fit`.

        Returns
        -------
        dict of float
            {"loss": ..., "accuracy": ...}; with several outputs {"loss": ..., "first_loss": ...,
            "first_accuracy": ..., ...}. The loss is NaN where it is not finite.

        Raises
        ------
        ValueError, TypeError
            As `fit`; also for 0 rows.
        """
        data = self._prepare(x, y, sample_weight)
        if not len(data):
            raise ValueError("there are no rows to evaluate")
        return evaluate(self, data)

    def predict(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """The network's `predict`: outputs for rows of x.

        Parameters
        ----------
        x, batch_size
            As for `Network.predict`.

        Returns
        -------
        float32 array (n, *output_shape), or a list of them
        """
        return self.network.predict(x, batch_size)

    def predict_classes(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """The network's `predict_classes`; one output that is a logit means 1 where it is > 0.

        Parameters
        ----------
        x, batch_size
            As for `Network.predict`.

        Returns
        -------
        int64 array (n,)
        """
        logits = last_activation(self.network, 0)[0] != self.losses[0].fused
        threshold = self.losses[0].threshold(logits)
        return self.network.predict_classes(x, batch_size, threshold=threshold)

    # ---- gradients ------------------------------------------------------------------------------

    def gradients(self, x: Any, y: Any, sample_weight: Any = None) -> list[np.ndarray]:
        """Gradients of the mean loss of a batch by all weights; nothing is changed.

        Parameters
        ----------
        x, y, sample_weight
            As for `fit`: all rows are one minibatch.

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
        return gradients_of(self, self._prepare(x, y, sample_weight))

    def apply_gradients(self, gradients: Sequence[Any]) -> None:
        """One optimizer step with given gradients, in the order of ``network.get_weights()``.

        Raises
        ------
        ValueError, TypeError
            For a wrong number, shape or dtype, and for NaN or infinity.
        DivergenceError
            If a weight becomes infinite; the weights are then as before.
        """
        apply_gradients(self, gradients)

    def __repr__(self) -> str:
        all_names = [[m.name for m in own] for own in self._metrics]
        shown = all_names[0] if len(all_names) == 1 else all_names
        names = f", metrics={shown}" if any(all_names) else ""
        return f"Trainer({self.network!r}, loss={self.loss!r}, optimizer={self.optimizer!r}{names})"

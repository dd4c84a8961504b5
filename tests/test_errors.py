"""What goes wrong: errors that name it and change nothing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training import classifier, digest, labels, rows

import fastnet as fn
from fastnet import layers, losses, metrics, optimizers

X, Y = rows(), labels()


def fit(x=X, y=Y, net=None, **options):
    return (net or classifier()).fit(x, y, **options)


FIT = [
    # targets
    (
        lambda net: fit(y=Y + 1, net=net),
        ValueError,
        r"labels for 3 outputs must be 0..2, got 1..3; subtract 1",
    ),
    (lambda net: fit(y=Y - 1, net=net), ValueError, r"must be 0..2, got -1..1$"),
    (lambda net: fit(y=Y + 0.5, net=net), ValueError, "must hold whole class numbers"),
    (lambda net: fit(y=np.where(Y > 0, np.nan, Y), net=net), ValueError, "whole class numbers"),
    (
        lambda net: fit(y=np.array(list("abc"))[Y], net=net),
        TypeError,
        r"y must hold numbers, got dtype <U1; names, y = np.unique\(y, return_inverse=True\)",
    ),
    (lambda net: fit(y=np.array(list("abc"), object)[Y], net=net), TypeError, r"np.unique"),
    (lambda net: fit(y=np.array([b"a", b"b", b"c"])[Y].tolist(), net=net), TypeError, "np.unique"),
    (lambda net: fit(y=Y[:5], net=net), ValueError, "x has 37 rows and y has 5"),
    (
        lambda net: fit(y=np.zeros((37, 4)), net=net),
        ValueError,
        r"y must have shape \(n, 3\) or \(n,\) with classes, got \(37, 4\)",
    ),
    (lambda net: fit(y=3, net=net), ValueError, r"got \(\)"),
    (lambda net: fit(y=None, net=net), ValueError, "y is missing"),
    (lambda net: fit(y=[[1], [1, 2]], net=net), ValueError, "y cannot be made an array"),
    (lambda net: fit(y=np.full((37, 3), -1.0), net=net), ValueError, "targets in"),
    (
        lambda net: fit(y=np.full((37, 3), np.inf), net=net),
        ValueError,
        "y holds NaN or infinity in row 0",
    ),
    (lambda net: fit(y=np.full((37, 3), 1e300), net=net), ValueError, "y holds NaN or infinity"),
    (lambda net: fit(y=Y + 0j, net=net), TypeError, "y must hold real numbers"),
    # x
    (lambda net: fit(X[0], Y[:1], net=net), ValueError, r"pass x\[None\]"),
    (lambda net: fit(X[:, :4], net=net), ValueError, r"x must have shape \(n, 5\), got \(37, 4\)"),
    (
        lambda net: fit(X[:0], Y[:0], net=net),
        ValueError,
        "x has no rows: there is nothing to train on",
    ),
    (lambda net: fit("abc", net=net), TypeError, "x must hold numbers"),
    # options
    (
        lambda net: fit(net=net, batch_size=0),
        ValueError,
        "batch_size must be an integer >= 1, got 0",
    ),
    (lambda net: fit(net=net, batch_size=-8), ValueError, "batch_size .*-8"),
    (lambda net: fit(net=net, batch_size=2.0), TypeError, "batch_size must be an integer, got 2.0"),
    (lambda net: fit(net=net, batch_size="all"), ValueError, "an integer or 'full', got 'all'"),
    (lambda net: fit(net=net, epochs=-1), ValueError, "epochs must be an integer >= 0"),
    (lambda net: fit(net=net, epochs=1.5), TypeError, "epochs must be an integer"),
    (lambda net: fit(net=net, shuffle="batch"), TypeError, "shuffle must be True or False"),
    (lambda net: fit(np.ma.masked_greater(X, 1), net=net), ValueError, "x is masked in places"),
    (lambda net: fit(y=np.ma.masked_equal(Y, 1), net=net), ValueError, "y is masked in places"),
    (lambda net: fit(net=net, seed="x"), TypeError, "seed must be an integer"),
    (lambda net: fit(net=net, seed=-2), ValueError, "seed"),
    (lambda net: fit(net=net, validation_split=1), ValueError, "validation_split .*< 1"),
    (lambda net: fit(net=net, validation_split=0.999), ValueError, "leaves one side empty"),
    (
        lambda net: fit(net=net, validation_split=0.2, validation_data=(X, Y)),
        ValueError,
        "not both",
    ),
    (lambda net: fit(net=net, validation_data=X), ValueError, r"must be \(x, y\)"),
    (
        lambda net: fit(net=net, validation_data=(X, Y[:3])),
        ValueError,
        "validation_data: x has 37 rows and y has 3",
    ),
    (
        lambda net: fit(net=net, validation_data=(X[:0], Y[:0])),
        ValueError,
        "validation_data has no rows",
    ),
    (lambda net: fit(net=net, steps_per_epoch=3), ValueError, "is for an iterable of batches"),
    (
        lambda net: fit(net=net, sample_weight=np.ones(36)),
        ValueError,
        r"sample_weight must have shape \(37,\), got \(36,\)",
    ),
    (lambda net: fit(net=net, sample_weight=-np.ones(37)), ValueError, "finite and >= 0, got -1"),
    (lambda net: fit(net=net, sample_weight=np.full(37, np.nan)), ValueError, "got nan"),
    (lambda net: fit(net=net, sample_weight=np.full(37, 1e300)), ValueError, "got inf"),
    (lambda net: fit(net=net, sample_weight=np.zeros(37)), ValueError, "all zero"),
    (
        lambda net: fit(net=net, sample_weight=["a"] * 37),
        TypeError,
        "sample_weight must hold numbers",
    ),
    (lambda net: fit(net=net, class_weight={3: 1}), ValueError, "names class 3, there are 0..2"),
    (lambda net: fit(net=net, class_weight={-1: 1}), ValueError, "class must be an integer >= 0"),
    (lambda net: fit(net=net, class_weight={"a": 1}), TypeError, "class must be an integer"),
    (lambda net: fit(net=net, class_weight={1: -1}), ValueError, r"class_weight\[1\]"),
    (lambda net: fit(net=net, class_weight={0: 0, 1: 0, 2: 0}), ValueError, "all weights zero"),
    (lambda net: fit(net=net, class_weight={1: 1e300}), ValueError, "class_weight .* too large"),
    (lambda net: fit(net=net, class_weight="balance"), ValueError, "did you mean 'balanced'"),
    (lambda net: fit(net=net, class_weight=[1, 2, 3]), TypeError, "'balanced' or a dict"),
    (
        lambda net: fit(net=net, class_weight="balanced", loss="mse", y=rows(37, 3) + 9),
        ValueError,
        "targets that are one class a row",
    ),
    # names and objects
    (
        lambda net: fit(net=net, loss="crossentropi"),
        ValueError,
        "did you mean 'cross_entropy'.*mse",
    ),
    (lambda net: fit(net=net, loss=3), TypeError, "loss must be a name such as"),
    (lambda net: fit(net=net, optimizer="adm"), ValueError, "did you mean 'adam'.*known are .*sgd"),
    (lambda net: fit(net=net, optimizer=0.1), TypeError, "optimizer must be a name"),
    (lambda net: fit(net=net, metrics=["acuracy"]), ValueError, "did you mean 'accuracy'"),
    (lambda net: fit(net=net, metrics=["accuracy", "acc"]), ValueError, "different names"),
    (lambda net: fit(net=net, metrics=[len]), TypeError, "metric must be a name"),
    (lambda net: fit(net=net, optimizer=optimizers.SGD(lambda step: -1.0)), ValueError, "-1"),
    (
        lambda net: fit(net=net, optimizer=optimizers.SGD(lambda step: "x")),
        (TypeError, ValueError),
        "x",
    ),
    # losses in Python
    (
        lambda net: fit(net=net, loss=lambda y, p: 3.0),
        TypeError,
        r"return \(value, gradient\), got float",
    ),
    (
        lambda net: fit(net=net, loss=lambda y, p: (None, p)),
        TypeError,
        "the loss's value must be a number, got None",
    ),
    (
        lambda net: fit(net=net, loss=lambda y, p: ("much", p)),
        TypeError,
        "the loss's value must be a number, got 'much'",
    ),
    (
        lambda net: fit(net=net, loss=lambda y, p: (3.0, p[:2])),
        ValueError,
        r"gradient must have shape \(32, 3\), got \(2, 3\)",
    ),
    (
        lambda net: fit(net=net, loss=lambda y, p: (0.0, p), sample_weight=np.ones(37)),
        ValueError,
        "takes no weights",
    ),
    (
        lambda net: fit(net=net, loss=lambda y, p: (0.0, p), class_weight="balanced"),
        ValueError,
        "takes no weights",
    ),
    # batches
    (lambda net: net.fit([X]), ValueError, r"batches must be \(x, y\) or"),
    (lambda net: net.fit([(X, Y), (X, Y + 1)]), ValueError, "subtract 1"),
    (lambda net: net.fit([(X, Y), (X[:, :2], Y)]), ValueError, r"must have shape \(n, 5\)"),
    (lambda net: net.fit([(X, Y), 7]), ValueError, "batches must be"),
    (lambda net: net.fit([(X, Y)], validation_split=0.5), ValueError, "brings its own"),
    (lambda net: net.fit([(X, Y)], steps_per_epoch=0), ValueError, "steps_per_epoch"),
    (lambda net: net.fit([(X, Y)], batch_size=8), ValueError, "batch_size is for arrays"),
]


@pytest.mark.parametrize("call, error, message", FIT, ids=range(len(FIT)))
def test_bad_fits_change_nothing(call, error, message):
    net = classifier()
    before = digest(net)
    with pytest.raises(error, match=message):
        call(net)
    assert digest(net) == before
    assert len(fit(net=net)["loss"]) == 1  # and it can be trained


TRAINER = [
    (lambda: fn.Trainer([layers.Dense(1)]), TypeError, "network must be a fastnet network"),
    (lambda: fn.Trainer(classifier(), gemm="blas"), ValueError, "unknown gemm 'blas'"),
    (lambda: fn.Trainer(classifier(), lanes=0), ValueError, "lanes must be an integer >= 1"),
    (lambda: optimizers.SGD(-1), ValueError, "learning_rate"),
    (lambda: optimizers.SGD("fast"), TypeError, "learning_rate"),
    (lambda: optimizers.SGD(np.nan), ValueError, "learning_rate"),
    (lambda: optimizers.SGD(momentum=1), ValueError, "momentum must be .*>= 0 and < 1"),
    (lambda: optimizers.SGD(weight_decay=-1), ValueError, "weight_decay"),
    (lambda: optimizers.SGD(clipvalue=0), ValueError, "clipvalue must be a finite number > 0"),
    (lambda: optimizers.SGD(global_clipnorm=-1), ValueError, "global_clipnorm"),
    (lambda: optimizers.SGD(l1="a"), TypeError, "l1 must be a number"),
    (lambda: optimizers.SGD(nesterov="no"), TypeError, "nesterov must be True or False, got 'no'"),
    (lambda: optimizers.SGD(lr=1), TypeError, r"^SGD\(\) got .* 'lr'; it is called learning_rate"),
    (lambda: optimizers.SGD(momentm=1), TypeError, "'momentm'; did you mean 'momentum'?"),
    (lambda: optimizers.Adam(weight_deca=1), TypeError, "did you mean 'weight_decay'?"),
    (lambda: optimizers.Adam(beta_1=1), ValueError, "beta_1"),
    (lambda: optimizers.Adam(beta_2=0), ValueError, "beta_2"),
    (lambda: optimizers.Adam(epsilon=0), ValueError, "epsilon"),
    (lambda: optimizers.RMSprop(rho=1.2), ValueError, "rho"),
    (lambda: optimizers.Adagrad(initial_accumulator_value=-1), ValueError, "initial_accumulator"),
    (lambda: losses.Huber(0), ValueError, "delta"),
    (lambda: losses.CrossEntropy(1), ValueError, "label_smoothing must be .*< 1"),
    (lambda: metrics.TopKAccuracy(0), ValueError, "k must be an integer >= 1"),
    (lambda: fn.set_num_threads(-1), ValueError, "n must be an integer >= 0"),
    (lambda: fn.set_num_threads(1.5), TypeError, "n must be an integer"),
    (lambda: fn.threads("2"), TypeError, "n must be an integer"),
    (lambda: fn.nothing, AttributeError, "has no attribute 'nothing'"),
]


@pytest.mark.parametrize("call, error, message", TRAINER, ids=range(len(TRAINER)))
def test_bad_parameters(call, error, message):
    with pytest.raises(error, match=message):
        call()


OTHER = [
    (lambda t: t.train_on_batch(X[:0], Y[:0]), ValueError, "the batch has no rows"),
    (lambda t: t.train_on_batch(X, Y + 1), ValueError, "subtract 1"),
    (lambda t: t.evaluate(X[:0], Y[:0]), ValueError, "no rows to evaluate"),
    (lambda t: t.evaluate(X), ValueError, "y is missing"),
    (lambda t: t.evaluate(X * np.nan, Y), ValueError, "x holds NaN or infinity in row 0, column 0"),
    (lambda t: t.gradients(X[:0], Y[:0]), ValueError, "the batch has no rows"),
    (lambda t: t.gradients(X * np.inf, Y), ValueError, "x holds NaN or infinity"),
    (lambda t: t.apply_gradients([1]), ValueError, "has 4 weights, got 1 gradients"),
    (lambda t: t.apply_gradients(None), TypeError, "gradients must be a list of 4 arrays"),
    (lambda t: t.network.set_weights(3), TypeError, "weights must be a list of 4 arrays, got 3"),
    (lambda t: t.network.predict_classes(X, threshold="a"), TypeError, "threshold must be a num"),
    (
        lambda t: t.network.summary(2**31),
        ValueError,
        "batch_size must be below 2\\*\\*31, got 2147",
    ),
    (
        lambda t: t.apply_gradients([w[:1] for w in t.network.get_weights()]),
        ValueError,
        r"gradients\[0\] \(dense.kernel\) must have shape \(5, 7\), got \(1, 7\)",
    ),
    (
        lambda t: t.apply_gradients([w * np.nan for w in t.network.get_weights()]),
        ValueError,
        "holds NaN or infinity",
    ),
    (
        lambda t: fn.Trainer(t.network, lambda y, p: (0, p)).gradients(X, Y),
        ValueError,
        "one of fastnet's losses",
    ),
]


@pytest.mark.parametrize("call, error, message", OTHER, ids=range(len(OTHER)))
def test_other_calls_change_nothing(call, error, message):
    trainer = fn.Trainer(classifier())
    before = digest(trainer.network)
    with pytest.raises(error, match=message):
        call(trainer)
    assert digest(trainer.network) == before


LAST = [
    (
        "cross_entropy",
        [layers.Dense(3, "relu")],
        r"wants a last layer with activation 'softmax' or a linear one \(logits\), got 'relu'; "
        r"write Dense\(3, activation='softmax'\)",
    ),
    ("cross_entropy", [layers.Dense(3, "sigmoid")], "activation 'softmax'"),
    ("binary_cross_entropy", [layers.Dense(3, "softmax")], r"Dense\(3, activation='sigmoid'\)"),
    ("cross_entropy", [layers.Dense(1)], "over 1 output is always 0.*binary_cross_entropy"),
    (
        "cross_entropy",
        [layers.Dense(3, "softmax"), layers.Flatten()],
        "in the last layer, got Flatten",
    ),
    ("cross_entropy", [layers.Dense(3, "relu"), layers.Dropout(0.5)], "got 'relu'"),
    (
        "cross_entropy",
        [layers.Dense(3, "softmax"), layers.Activation("linear")],
        "last layer, got Act",
    ),
]


@pytest.mark.parametrize("loss, stack, message", LAST, ids=range(len(LAST)))
def test_last_activations_that_the_loss_cannot_use(loss, stack, message):
    with pytest.raises(ValueError, match=message):
        fn.Sequential(stack).fit(X, np.zeros(37, int), loss=loss)


def test_data_that_was_wrong_does_not_fix_the_shape():
    net = fn.Sequential([layers.Dense(3)], seed=0)
    trainer = fn.Trainer(net)
    with pytest.raises(ValueError, match="x has 5 rows and y has 37"):
        trainer.fit(X.T, Y)
    assert not net.built
    assert len(trainer.fit(X, Y)["loss"]) == 1
    other = fn.Sequential([layers.Dense(3)], seed=0)
    other.fit(X, Y)
    assert digest(net) == digest(other)


# ----------------------------------------------------------------------------- values inside x


@pytest.mark.parametrize(
    "argument, hint",
    [
        ("verbose", "; progress=True, False or 'auto' says whether a bar is shown"),
        ("initial_epoch", "; a second fit goes on where the first ended"),
        ("batchsize", "; did you mean 'batch_size'?"),
        ("xyz123", ""),
    ],
)
def test_arguments_that_fit_does_not_have(argument, hint):
    net = classifier()
    before = digest(net)
    for fit in (net.fit, fn.Trainer(net).fit):
        with pytest.raises(TypeError) as error:
            fit(X, Y, **{argument: 1})
        assert str(error.value) == f"fit() got an unexpected argument {argument!r}{hint}"
    assert digest(net) == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"epochs": 3}, {"shuffle": False}, {"batch_size": 1}])
def test_nan_in_x_names_the_row_and_falls_back(value, dtype, options):
    x = rows(300).astype(dtype)
    x[201, 3] = value
    net = classifier()
    trainer = fn.Trainer(net)
    trainer.fit(rows(300), labels(300))  # slots hold something
    before = digest(net)
    with pytest.raises(ValueError, match=r"x holds NaN or infinity in row 201, column 3"):
        trainer.fit(x, labels(300), **options)
    assert digest(net) == before
    assert np.isnan(x[201, 3]) or np.isinf(x[201, 3])
    assert np.isfinite(trainer.fit(rows(300), labels(300))["loss"]).all()


@pytest.mark.parametrize("units", [1, 3, 7, 9, 20])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_training_goes_on_after_nan_as_if_it_had_not_been(level, units, loss):
    """NaN meets the zeros that rows and weights are padded with; none of it may stay there."""

    def digest_after(bad):
        last = "softmax" if loss == "cross_entropy" else "tanh"
        stack = [layers.Input(5), layers.Dense(units, "tanh"), layers.Dense(3, last)]
        net = fn.Sequential(stack, seed=0)
        x, y = rows(300), labels(300) if loss == "cross_entropy" else rows(300, 3)
        trainer = fn.Trainer(net, loss, "adam")
        trainer.fit(x, y, shuffle=False)
        if bad:
            x[201, 3] = np.nan
            with pytest.raises(ValueError, match="row 201, column 3"):
                trainer.fit(x, y, shuffle=False)
        x[201, 3] = 0.5
        fn.Trainer(net, loss, "adam").fit(x, y, shuffle=False)
        return digest(net)

    assert digest_after(bad=True) == digest_after(bad=False)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_bad_row_takes_no_memory_of_threads_that_never_ran():
    """Each thread's share is 3 MB here, mapped when it is first used."""
    code = """
import re, sys
from pathlib import Path
import numpy as np
import fastnet as fn
from fastnet import layers
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))
wide = layers.Conv2D(128, 3, activation="relu"), layers.MaxPool2D(2), layers.Conv2D(128, 2)
net = fn.Sequential([layers.Input((8, 8, 64)), *wide, layers.Flatten(), layers.Dense(10)], seed=0)
x, y = np.ones((64, 8, 8, 64), np.float32), np.zeros(64, int)
trainer = fn.Trainer(net)
trainer.fit(x, y)
before = resident()
x[3, 2, 1, 0] = np.nan
for _ in range(3):
    try:
        trainer.fit(x, y)
    except ValueError:
        continue
    sys.exit("not noticed")
print(resident() - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 20_000  # KB


def test_a_first_fit_that_failed_never_happened():
    x = rows(300)
    x[299, 0] = np.nan
    net, other = classifier(), classifier()
    trainer = fn.Trainer(net, optimizer=optimizers.Adam(lambda step: 0.01 / (1 + step)))
    with pytest.raises(ValueError, match="row 299"):
        trainer.fit(x, labels(300), shuffle=False)
    assert trainer.steps == 0 and trainer.history == {}
    trainer.fit(X, Y, epochs=2)
    fn.Trainer(other, optimizer=optimizers.Adam(lambda step: 0.01 / (1 + step))).fit(X, Y, epochs=2)
    assert digest(net) == digest(other)


@pytest.mark.parametrize(
    "loss", ["cross_entropy", lambda y, p: (0.0, p - y)], ids=["name", "function"]
)
def test_nan_in_validation_and_later_batches(loss):
    bad = X.copy()
    bad[7, 1] = np.nan
    net = classifier()
    before = digest(net)
    for data, options, message in (
        ((X, Y), {"validation_data": (bad, Y)}, "validation_data: x holds NaN"),
        (([(X, Y), (bad, Y)],), {}, "^x holds NaN"),
        ((bad, Y), {"batch_size": 5, "shuffle": False}, "^x holds NaN"),
    ):
        with pytest.raises(ValueError, match=message + r" or infinity in row 7, column 1"):
            net.fit(*data, epochs=2, loss=loss, **options)
        assert digest(net) == before

"""Graphs, data and trainers that make no sense: what is said about them."""

import numpy as np
import pytest
from graphs import LOSSES, data, two_by_two

import fastnet as fn
from fastnet import _core, layers

pytestmark = pytest.mark.usefixtures("always_thread")


def other_input():
    x = fn.Input(5, name="here")
    y = fn.Input(5, name="there")
    return fn.Model(x, layers.Dense(2)(x + y))


def unused_input():
    x = fn.Input(5, name="here")
    return fn.Model([x, fn.Input(3, name="idle")], layers.Dense(2)(x))


def twice_a_name():
    x = fn.Input(5)
    return fn.Model(x, layers.Dense(2, name="a")(layers.Dense(2, name="a")(x)))


def wrong_shapes():
    x = fn.Input(5)
    a, b = layers.Dense(3, name="three")(x), layers.Dense(4, name="four")(x)
    return layers.Add(name="sum")([a, b])


def wrong_axes():
    a, b = fn.Input((2, 3), name="p"), fn.Input((3, 3), name="q")
    return layers.Concatenate(name="join")([a, b])


def another_shape():
    shared = layers.Dense(3, name="shared")
    shared(fn.Input(5))
    return shared(fn.Input(4, name="short"))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (other_input, ValueError, "depends on Input 'there' of shape .5,., which is not among"),
        (unused_input, ValueError, "input 'idle' of shape .3,. leads to no output"),
        (twice_a_name, ValueError, "two layers are named 'a'"),
        (wrong_shapes, ValueError, "'sum' on 'three' and 'four': Add wants inputs of one shape"),
        (
            lambda: fn.Input((4, 3, 5)) * layers.Reshape((1, 1, 5))(fn.Input(5)),
            ValueError,
            r"one shape, .*UpSampling2D\(\(4, 3\)\) makes one of the other",
        ),
        (wrong_axes, ValueError, "'join' on 'p' and 'q': Concatenate wants inputs that differ in"),
        (another_shape, ValueError, "'shared' has rows of shape .5,. and cannot share .*'short'"),
        (lambda: layers.Dense(3)(np.zeros((2, 5))), TypeError, "dense.* wants symbolic values"),
        (lambda: layers.Dense(3)([fn.Input(5), fn.Input(5)]), TypeError, "dense takes one input"),
        (lambda: layers.Add()([fn.Input(5)]), ValueError, "at least two inputs"),
        (lambda: layers.Add()(fn.Input(5)), ValueError, "at least two inputs"),
        (lambda: layers.Subtract()([fn.Input(5)] * 3), ValueError, "exactly two inputs"),
        (lambda: layers.Concatenate(axis=0), ValueError, "axis 0 is the batch"),
        (lambda: layers.Concatenate(3)([fn.Input(5)] * 2), ValueError, "have no axis 3"),
        (lambda: layers.Dense(3, name="d")(fn.Input((2, 5))), ValueError, "'d' on 'input': .*Flat"),
        (lambda: fn.Model([], []), ValueError, "at least one symbolic value"),
        (lambda: fn.Model(np.zeros(3), fn.Input(5)), TypeError, "inputs wants symbolic values"),
        (lambda: fn.Input(5)(fn.Input(5)), TypeError, "Input is where rows come in"),
        (lambda: list(layers.Dense(3)(fn.Input(5))), TypeError, "one symbolic value"),
        (lambda: np.asarray(layers.Dense(3)(fn.Input(5))), TypeError, "not there yet"),
        (lambda: layers.Dense(3).output, ValueError, "was not called"),
        (lambda: fn.Sequential()(fn.Input(5)), ValueError, "has no layers yet"),
        (lambda: fn.Sequential([layers.Input(5), layers.Add()]).build(), ValueError, "'add': Add"),
    ],
)  # fmt: skip
def test_graphs_that_make_no_sense(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_an_input_must_be_an_input():
    x = fn.Input(5)
    h = layers.Dense(3, name="middle")(x)
    with pytest.raises(ValueError, match="'middle' is what a layer gives; begin with a new"):
        fn.Model(h, layers.Dense(2)(h))
    with pytest.raises(ValueError, match="the same symbolic value twice"):
        fn.Model(x, [h, h])


def test_a_graph_that_grows_without_end_is_refused():
    """Networks inside networks: 2 ** 12 calls are more than go."""
    net = fn.Sequential([layers.Rescale(0.5)])
    for _ in range(12):
        x = fn.Input(3)
        net = fn.Model(x, net(net(x))) if net._graph is not None else fn.Model(x, net(x))
        if net._graph.size() * 2 > 2000:
            break
    y = fn.Input(3)
    with pytest.raises(ValueError, match="calls layers 2,048 times"):
        fn.Model(y, net(net(y)))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ("one", "both", r"x must be a list of 2 arrays or a dict of them \(left, right\)"),
        ("three", "both", "x must hold 2 arrays"),
        ("named", "both", "x must have the keys left, right, got left, up"),
        ("both", "one", r"y must be a list of 2 arrays or a dict of them \(kind, size\)"),
        ("both", "swapped", r"y\['kind'\]"),
        ("uneven", "both", r"x\['left'\] has 37 rows and x\['right'\] has 36"),
        ("both", "short", r"x has 37 rows and y\['size'\] has 36"),
        ("narrow", "both", r"x\['right'\] must have shape \(n, 5\), got \(37, 4\)"),
    ],
)
def test_data_that_does_not_fit(x, y, message):
    net, (xs, ys) = two_by_two(), data()
    x = {
        "one": xs[0], "three": [*xs, xs[0]], "named": {"left": xs[0], "up": xs[1]}, "both": xs,
        "uneven": [xs[0], xs[1][1:]], "narrow": [xs[0], xs[1][:, 1:]],
    }[x]  # fmt: skip
    y = {"one": ys[0], "both": ys, "swapped": ys[::-1], "short": [ys[0], ys[1][1:]]}[y]
    with pytest.raises((TypeError, ValueError), match=message):
        fn.Trainer(net, LOSSES).fit(x, y)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": {"kind": "mse"}}, ValueError, "loss must name the outputs kind, size, got kind"),
        ({"loss": ["mse"]}, ValueError, "loss must hold one for each of 2 outputs"),
        ({"loss": "cross_entropy"}, ValueError, "over 1 output is always 0 in output 'size'"),
        ({"loss": LOSSES, "loss_weights": 3}, TypeError, "loss_weights must be a list or dict"),
        ({"loss": LOSSES, "loss_weights": [1, -1]}, ValueError, r"loss_weights\['size'\]"),
        ({"loss": LOSSES, "metrics": {"up": "mae"}}, ValueError, "metrics must name outputs"),
        ({"loss": LOSSES, "metrics": [["mae"]]}, ValueError, "metrics must hold one for each"),
    ],
)
def test_trainers_that_make_no_sense(options, error, message):
    xs, ys = data()
    with pytest.raises(error, match=message):
        fn.Trainer(two_by_two(), **options).fit(xs, ys)


def test_what_is_for_one_output_says_so():
    net, (xs, ys) = two_by_two(), data()
    with pytest.raises(ValueError, match="has the outputs kind, size"):
        net.predict_classes(xs)
    with pytest.raises(ValueError, match="class_weight is for one output"):
        fn.Trainer(net, LOSSES).fit(xs, ys, class_weight="balanced")


def test_more_arrays_than_go_are_counted():
    xs = [fn.Input(2) for _ in range(32)]
    net = fn.Model(xs, layers.Dense(1)(layers.Add()(xs)), seed=0, name="wide")
    x, y = [np.ones((3, 2))] * 32, np.ones((3, 1))
    assert net.predict(x).shape == (3, 1)
    with pytest.raises(ValueError, match="wide would read 32 inputs, 1 targets and 0 sample wei"):
        fn.Trainer(net, "mse").fit(x, y)
    few = fn.Model(xs[:2], [layers.Dense(1)(xs[0] + xs[1]) for _ in range(16)], seed=0)
    fn.Trainer(few, "mse").fit(x[:2], [y] * 16)
    with pytest.raises(ValueError, match="2 inputs, 16 targets and 16 sample weights: at most 32"):
        fn.Trainer(few, "mse").fit(x[:2], [y] * 16, sample_weight=np.ones(3))
    with pytest.raises(ValueError, match="has 17 outputs: at most 16"):
        fn.Model(xs[0], [layers.Dense(1)(xs[0]) for _ in range(17)]).build()


def test_engine_limits_are_errors():
    assert "fork" in _core.table("op")
    x = fn.Input(2)
    y = x
    for _ in range(2001):
        y = layers.Rescale(1.0)(y)
    with pytest.raises(ValueError, match="calls layers 2,001 times, at most 2,000"):
        fn.Model(x, y)

"""The float64 reference is itself checked: its gradients by central differences, its values
against numbers worked out by hand and against torch and scikit-learn where those are installed."""

import itertools
import math
import zlib

import numpy as np
import pytest
import reference as ref

OP_CASES = [(name, case) for name, op in ref.OPS.items() for case in op.cases]
LOSS_OPTIONS = [(name, o) for name, loss in ref.LOSSES.items() for o in loss.options]
op_cases = pytest.mark.parametrize(
    ("name", "case"), OP_CASES, ids=[f"{name}-{case}" for name, case in OP_CASES]
)
loss_options = pytest.mark.parametrize(
    ("name", "options"), LOSS_OPTIONS, ids=[f"{n}-{o or 'default'}" for n, o in LOSS_OPTIONS]
)


def generator(*key):
    """Random numbers that depend on the name of the case only."""
    return np.random.default_rng(zlib.crc32(" ".join(map(str, key)).encode()))


def central_differences(f, x, indices, eps=1e-5):
    """d f / d x at each flat index, f being a function of x with a scalar value."""
    slopes = []
    for i in indices:
        up, down = x.copy(), x.copy()
        up.flat[i] += eps
        down.flat[i] -= eps
        slopes.append((f(up) - f(down)) / (up.flat[i] - down.flat[i]))
    return np.array(slopes)


def some_indices(rng, size, count=25):
    return rng.permutation(size)[:count]


# ----------------------------------------------------------------------------- operations


@op_cases
def test_op_gradient_is_the_slope_of_its_forward(name, case):
    op, rng = ref.OPS[name], generator(name, case)
    arrays = op.sample(case, rng)
    y = np.asarray(op.forward(**arrays, **case.attributes))
    dy = rng.uniform(0.5, 1.5, y.shape) * rng.choice([-1.0, 1.0], y.shape)
    gradients = op.backward(**arrays, dy=dy, **case.attributes)
    assert len(gradients) == len(op.wrt)
    for argument, gradient in zip(op.wrt, gradients, strict=True):
        if argument not in arrays:
            assert gradient is None
            continue
        x = arrays[argument]
        assert gradient.shape == x.shape
        if 0 in arrays[op.wrt[0]].shape:
            assert not gradient.any()
            continue

        def forward(value, argument=argument):  # the sum of y*dy, less a constant near to it
            moved = op.forward(**{**arrays, argument: value}, **case.attributes)
            return ((moved - y) * dy).sum()

        indices = some_indices(rng, x.size)
        want = central_differences(forward, x, indices)
        got = gradient.flat[indices]
        assert np.abs(gradient).max() > 1e-3
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


def test_dense_by_hand():
    x, w, b = np.array([[1.0, 2.0]]), np.array([[3.0, 5.0, 7.0], [11.0, 13.0, 17.0]]), np.ones(3)
    op = ref.OPS["dense"]
    np.testing.assert_array_equal(op.forward(x, w, b), [[26, 32, 42]])
    dx, dw, db = op.backward(x, w, b, np.array([[1.0, 0.0, -1.0]]))
    np.testing.assert_array_equal(dx, [[-4, -6]])
    np.testing.assert_array_equal(dw, [[1, 0, -1], [2, 0, -2]])
    np.testing.assert_array_equal(db, [1, 0, -1])


def test_other_ops_by_hand():
    x = np.array([[2.0, 4.0]])
    mask = np.array([[0.0, 1.0]])
    np.testing.assert_allclose(ref.OPS["dropout"].forward(x, mask, rate=0.2), [[0, 5]])
    np.testing.assert_array_equal(ref.OPS["rescale"].forward(x, scale=0.5, offset=1), [[2, 3]])
    mean, var = np.array([2.0, 1.0]), np.array([0.0, 9.0])
    np.testing.assert_allclose(ref.OPS["normalization"].forward(x, mean, var), [[0, 1]])
    np.testing.assert_allclose(ref.OPS["softmax"].forward(np.log(x)), [[1 / 3, 2 / 3]])


def test_cases_cover_one_row_no_rows_and_every_name():
    for name, op in ref.OPS.items():
        rows = {next(iter(case.shapes.values()))[0] for case in op.cases}
        wanted = {0, 1, 7} - ({0} if name == "batch_norm" else set())  # no statistics of no rows
        assert wanted <= rows, name
    kinds = {case.attributes["kind"] for case in ref.OPS["activation"].cases}
    assert kinds | {"softmax"} == set(ref.ACTIVATIONS)
    assert {case.attributes["kind"] for case in ref.OPS["loss"].cases} == set(ref.LOSSES)


# ----------------------------------------------------------------------------- activations


@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("linear", -2.0, -2.0),
        ("relu", -2.0, 0.0),
        ("leaky_relu", -2.0, -0.4),
        ("elu", -1.0, math.exp(-1) - 1),
        ("selu", -1.0, 1.0507009873554805 * 1.6732632423543772 * (math.exp(-1) - 1)),
        ("selu", 2.0, 2.101401974710961),
        ("gelu", 1.0, 0.8413447460685429),
        ("gelu", -10.0, -7.619853024160526e-23),
        ("silu", 1.0, 0.7310585786300049),
        ("mish", 1.0, 0.8650983882673103),
        ("softplus", 0.0, math.log(2)),
        ("softsign", -3.0, -0.75),
        ("hard_sigmoid", 1.5, 0.75),
        ("hard_swish", 1.5, 1.125),
        ("tanh", 0.5, 0.46211715726000973),
        ("sigmoid", -40.0, 4.248354255291589e-18),
    ],
)
def test_activation_by_hand(name, x, y):
    np.testing.assert_allclose(ref.ACTIVATIONS[name].forward(np.array([x])), [y], rtol=1e-13)


@pytest.mark.parametrize("name", ref.ACTIVATIONS)
def test_activation_far_out_is_finite_and_keeps_nan(name):
    activation = ref.ACTIVATIONS[name]
    x = np.array([[-1000.0, -30.0, -0.0, 0.0, 30.0, 1000.0]])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        y = activation.forward(x)
        dx = activation.backward(x, y, np.ones_like(x))
    assert np.isfinite(y).all()
    assert np.isfinite(dx).all()
    assert np.isnan(activation.forward(np.array([[1.0, np.nan]]))[0, 1])


@pytest.mark.parametrize("name", ref.ACTIVATIONS)
def test_activation_against_torch(name):
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    theirs = {
        "linear": lambda x: x,
        "relu": f.relu,
        "leaky_relu": lambda x: f.leaky_relu(x, 0.2),
        "elu": f.elu,
        "selu": f.selu,
        "gelu": f.gelu,
        "silu": f.silu,
        "mish": f.mish,
        "softplus": lambda x: f.softplus(x, threshold=1000),
        "softsign": f.softsign,
        "hard_sigmoid": f.hardsigmoid,
        "hard_swish": f.hardswish,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "softmax": lambda x: torch.softmax(x, -1),
    }[name]
    rng = generator("torch", name)
    x = ref.away_from(3 * rng.standard_normal((7, 5)), ref.ACTIVATIONS[name].kinks)
    dy = rng.standard_normal(x.shape)
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = theirs(x_torch)
    y_torch.backward(torch.tensor(dy))
    y = ref.ACTIVATIONS[name].forward(x)
    np.testing.assert_allclose(y, y_torch.detach().numpy(), rtol=1e-11, atol=1e-13)
    dx = ref.ACTIVATIONS[name].backward(x, y, dy)
    # torch's hard_sigmoid has its 1/6 in single precision
    np.testing.assert_allclose(dx, x_torch.grad.numpy(), rtol=1e-7, atol=1e-13)


# ----------------------------------------------------------------------------- losses


@pytest.mark.parametrize(
    ("name", "p", "t", "options", "want"),
    [
        ("cross_entropy", [0.0, math.log(3)], [0.0, 1.0], {}, math.log(4 / 3)),
        ("cross_entropy", [0.0, math.log(3)], 1, {}, math.log(4 / 3)),
        (
            "cross_entropy",
            [0.0, math.log(3)],
            1,
            {"label_smoothing": 0.2},
            0.9 * math.log(4 / 3) + 0.1 * math.log(4),
        ),
        ("binary_cross_entropy", [math.log(3), 0.0], [1.0, 0.0], {}, math.log(8 / 3) / 2),
        (
            "binary_cross_entropy",
            [math.log(3)],
            [1.0],
            {"label_smoothing": 0.2},
            0.9 * math.log(4 / 3) + 0.1 * math.log(4),
        ),
        ("mse", [1.0, 5.0], [2.0, 3.0], {}, 2.5),
        ("mae", [1.0, 5.0], [2.0, 3.0], {}, 1.5),
        ("huber", [0.5, 5.0], [0.0, 2.0], {}, (0.125 + 2.5) / 2),
        ("huber", [0.5, 5.0], [0.0, 2.0], {"delta": 2.0}, (0.125 + 4.0) / 2),
        ("log_cosh", [1.0, 0.0], [0.0, 0.0], {}, math.log(math.cosh(1)) / 2),
        ("hinge", [0.5, 0.5], [1.0, -1.0], {}, 1.0),
        ("poisson", [1.0 - 1e-7, 2.0], [3.0, 0.0], {}, (3.0 - 1e-7) / 2),
        ("kl_divergence", [0.25, 0.75], [0.5, 0.5], {}, 0.5 * math.log(2) + 0.5 * math.log(2 / 3)),
    ],
)
def test_loss_by_hand(name, p, t, options, want):
    p, t = np.array([p]), np.array([t])
    assert ref.LOSSES[name].value(p, t, **options) == pytest.approx(want, rel=1e-12)


@loss_options
def test_weight_zero_is_a_row_removed_and_weights_scale_freely(name, options):
    loss, rng = ref.LOSSES[name], generator("weights", name, options)
    p, t = loss.sample(rng, (7, 5), **options)
    w = np.array([1.0, 0.0, 2.0, 0.5, 0.0, 3.0, 1.5])
    kept = w > 0
    value, gradient = loss.value(p, t, w, **options), loss.gradient(p, t, w, **options)
    assert value == pytest.approx(loss.value(p[kept], t[kept], w[kept], **options), rel=1e-13)
    assert value == pytest.approx(loss.value(p, t, 10 * w, **options), rel=1e-13)
    assert value != pytest.approx(loss.value(p, t, **options), rel=1e-3)
    assert not gradient[~kept].any()
    broken = p.copy()
    broken[~kept] = np.nan  # what is not there cannot spoil the rest
    assert loss.value(broken, t, w, **options) == value
    np.testing.assert_array_equal(loss.gradient(broken, t, w, **options), gradient)


@loss_options
def test_equal_weights_are_the_mean_of_the_rows(name, options):
    loss, rng = ref.LOSSES[name], generator("rows", name, options)
    p, t = loss.sample(rng, (2, 3, 5), **options)
    rows = loss.per_row(p, t, **options)
    assert rows.shape == (2, 3)
    assert loss.value(p, t, **options) == pytest.approx(rows.mean(), rel=1e-13)
    per_sample = loss.value(p, t, np.array([1.0, 3.0]), **options)
    assert per_sample == pytest.approx((rows[0].mean() + 3 * rows[1].mean()) / 4, rel=1e-13)


@loss_options
def test_no_weight_at_all_gives_zero(name, options):
    loss, rng = ref.LOSSES[name], generator("none", name, options)
    p, t = loss.sample(rng, (3, 5), **options)
    assert loss.value(p, t, np.zeros(3), **options) == 0
    assert not loss.gradient(p, t, np.zeros(3), **options).any()


def test_integer_and_one_hot_targets_agree():
    z, t = ref.LOSSES["cross_entropy"].sample(generator("one hot"), (7, 5))
    hot = ref.one_hot(t, 5)
    assert hot.shape == (7, 5)
    for loss_of in (ref.LOSSES["cross_entropy"].value, ref.LOSSES["cross_entropy"].gradient):
        np.testing.assert_array_equal(loss_of(z, t), loss_of(z, hot))
        np.testing.assert_array_equal(loss_of(z, t), loss_of(z, t[:, None]))


def test_cross_entropy_of_soft_targets_whose_sum_is_not_one():
    loss, rng = ref.LOSSES["cross_entropy"], generator("soft targets")
    z, t = rng.standard_normal((3, 5)), rng.uniform(0, 1, (3, 5))
    want = central_differences(lambda v: loss.value(v, t), z, range(z.size))
    np.testing.assert_allclose(loss.gradient(z, t).ravel(), want, rtol=1e-6, atol=1e-9)
    assert np.abs(want).max() > 1e-3


def test_losses_far_out_are_finite():
    z = np.array([[1000.0, -1000.0, 0.0]])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        for name, t in {
            "cross_entropy": [[0, 1, 0]],
            "binary_cross_entropy": [[0, 1, 1]],
            "log_cosh": [[0, 0, 0]],
            "kl_divergence": [[0, 1, 0]],
        }.items():
            loss = ref.LOSSES[name]
            assert math.isfinite(loss.value(z, np.array(t)))
            assert np.isfinite(loss.gradient(z, np.array(t))).all()
    assert ref.LOSSES["cross_entropy"].value(z, np.array([1])) == 2000


def torch_loss(torch, name, z, t, options):
    f = torch.nn.functional
    smoothing = options.get("label_smoothing", 0.0)
    if name == "cross_entropy":
        return f.cross_entropy(z, t, label_smoothing=smoothing)
    if name == "binary_cross_entropy":
        smooth = t * (1 - smoothing) + smoothing / 2
        return f.binary_cross_entropy_with_logits(z, smooth)
    if name == "huber":
        return f.huber_loss(z, t, **options)
    if name == "poisson":
        return f.poisson_nll_loss(z, t, log_input=False, eps=1e-7)
    if name == "kl_divergence":
        return f.kl_div(z.log(), t, reduction="batchmean")
    if name == "log_cosh":
        return torch.log(torch.cosh(z - t)).mean()
    if name == "hinge":
        return torch.clamp(1 - t * z, min=0).mean()
    return {"mse": f.mse_loss, "mae": f.l1_loss}[name](z, t)


@loss_options
def test_loss_against_torch(name, options):
    torch = pytest.importorskip("torch")
    loss = ref.LOSSES[name]
    p, t = loss.sample(generator("torch", name, options), (7, 5), **options)
    z = torch.tensor(p, requires_grad=True)
    value = torch_loss(torch, name, z, torch.tensor(t), options)
    value.backward()
    assert loss.value(p, t, **options) == pytest.approx(value.item(), rel=1e-12)
    np.testing.assert_allclose(
        loss.gradient(p, t, **options), z.grad.numpy(), rtol=1e-10, atol=1e-13
    )


def test_cross_entropy_against_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = generator("log_loss")
    loss, w = ref.LOSSES["cross_entropy"], rng.uniform(0.5, 2, 7)
    z, t = loss.sample(rng, (7, 5))
    want = metrics.log_loss(t, ref.softmax(z), sample_weight=w, labels=range(5))
    assert loss.value(z, t, w) == pytest.approx(want, rel=1e-9)


# ----------------------------------------------------------------------------- optimizers


def walk(name, steps=10, is_kernel=True, **hyper):
    """Weights after each of some steps with gradients that depend on the weights."""
    rng = generator("walk")
    w, pull = rng.standard_normal((3, 5)), rng.standard_normal((3, 5))
    optimizer = ref.OPTIMIZERS[name]
    state, path = optimizer.init(w, **hyper), [w]
    for t in range(1, steps + 1):
        w = optimizer.step(w, np.sin(w) + pull, state, t, is_kernel, **hyper)
        path.append(w)
    return path, pull


TINY = 1e-30  # torch adds epsilon in another place; with this one the two agree
TORCH_OPTIMIZERS = [
    ("sgd", {"learning_rate": 0.1}, "SGD", {"lr": 0.1}),
    ("sgd", {"learning_rate": 0.1, "momentum": 0.9}, "SGD", {"lr": 0.1, "momentum": 0.9}),
    (
        "sgd",
        {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    ),
    (
        "sgd",
        {"learning_rate": 0.1, "momentum": 0.9, "l2": 0.05},
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
    ),
    ("adam", {"learning_rate": 0.01, "epsilon": TINY}, "Adam", {"lr": 0.01, "eps": TINY}),
    (
        "adamw",
        {"learning_rate": 0.01, "weight_decay": 0.3, "epsilon": TINY},
        "AdamW",
        {"lr": 0.01, "weight_decay": 0.3, "eps": TINY},
    ),
    (
        "rmsprop",
        {"learning_rate": 0.01, "rho": 0.8, "epsilon": TINY},
        "RMSprop",
        {"lr": 0.01, "alpha": 0.8, "eps": TINY},
    ),
    (
        "rmsprop",
        {"learning_rate": 0.01, "rho": 0.8, "momentum": 0.7, "epsilon": TINY},
        "RMSprop",
        {"lr": 0.01, "alpha": 0.8, "momentum": 0.7, "eps": TINY},
    ),
    (
        "adagrad",
        {"learning_rate": 0.1, "epsilon": TINY},
        "Adagrad",
        {"lr": 0.1, "initial_accumulator_value": 0.1, "eps": TINY},
    ),
]


@pytest.mark.parametrize(("name", "hyper", "theirs", "their_hyper"), TORCH_OPTIMIZERS)
def test_optimizer_against_torch(name, hyper, theirs, their_hyper):
    torch = pytest.importorskip("torch")
    path, pull = walk(name, **hyper)
    w = torch.tensor(path[0], requires_grad=True)
    optimizer = getattr(torch.optim, theirs)([w], **their_hyper)
    for ours in path[1:]:
        w.grad = torch.sin(w.detach()) + torch.tensor(pull)
        optimizer.step()
        np.testing.assert_allclose(ours, w.detach().numpy(), rtol=1e-11, atol=1e-13)
    assert np.abs(path[-1] - path[0]).max() > 0.01


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("sgd", -0.01 * 2),
        ("adam", -0.001 * math.sqrt(0.001) / 0.1 * 0.2 / (math.sqrt(0.004) + 1e-7)),
        ("adamw", -0.001 * 0.004 * 3 - 0.001 * 2 / (2 + 1e-7 / math.sqrt(0.001))),
        ("rmsprop", -0.001 * 2 / math.sqrt(0.4 + 1e-7)),
        ("adagrad", -0.001 * 2 / math.sqrt(4.1 + 1e-7)),
    ],
)
def test_first_step_with_the_defaults_by_hand(name, change):
    w, optimizer = np.array([[3.0]]), ref.OPTIMIZERS[name]
    new = optimizer.step(w, np.array([[2.0]]), optimizer.init(w), 1)
    assert new[0, 0] - 3 == pytest.approx(change, rel=1e-11)
    assert w[0, 0] == 3


def test_second_steps_by_hand():
    def two_steps(name, **hyper):
        optimizer, w = ref.OPTIMIZERS[name], np.array([1.0])
        state = optimizer.init(w, **hyper)
        for t, g in enumerate((1.0, 3.0), start=1):
            w = optimizer.step(w, np.array([g]), state, t, **hyper)
        return w[0]

    assert two_steps("sgd", learning_rate=0.1, momentum=0.5) == pytest.approx(0.55)
    nesterov = two_steps("sgd", learning_rate=0.1, momentum=0.5, nesterov=True)
    assert nesterov == pytest.approx(1 - 0.15 - 0.175 - 0.3)
    # momentum on RMSprop's own step, epsilon large enough to see that it is under the root
    first = 0.1 * 1 / math.sqrt(0.5 + 0.25)
    second = 0.5 * first + 0.1 * 3 / math.sqrt(0.25 + 4.5 + 0.25)
    got = two_steps("rmsprop", learning_rate=0.1, rho=0.5, momentum=0.5, epsilon=0.25)
    assert got == pytest.approx(1 - first - second)


def test_penalties_and_decay_touch_kernels_only():
    w, g = np.array([-2.0, 0.0, 4.0]), np.array([1.0, 1.0, 1.0])
    sgd = ref.OPTIMIZERS["sgd"]
    hyper = {"learning_rate": 0.1, "l1": 0.5, "l2": 0.25, "weight_decay": 0.2}
    bias = sgd.step(w, g, sgd.init(w), 1, is_kernel=False, **hyper)
    np.testing.assert_allclose(bias, w - 0.1)
    kernel = sgd.step(w, g, sgd.init(w), 1, is_kernel=True, **hyper)
    penalty = [-0.5 - 1.0, 0.0, 0.5 + 2.0]
    np.testing.assert_allclose(kernel, w - 0.02 * w - 0.1 * (g + penalty))


def test_clipping():
    sgd, w = ref.OPTIMIZERS["sgd"], np.zeros(3)
    g = np.array([-5.0, 0.25, 5.0])
    clipped = sgd.step(w, g, sgd.init(w), 1, learning_rate=1.0, clipvalue=0.5)
    np.testing.assert_array_equal(clipped, [0.5, -0.25, -0.5])
    parts = ref.global_clip([np.array([3.0]), np.array([[4.0]])], 1.0)
    np.testing.assert_allclose([parts[0][0], parts[1][0, 0]], [0.6, 0.8])
    small = ref.global_clip([np.array([0.3]), np.zeros(2)], 1.0)
    np.testing.assert_array_equal(small[0], [0.3])
    np.testing.assert_array_equal(ref.global_clip([np.zeros(2)], 1.0)[0], [0, 0])


# ----------------------------------------------------------------------------- metrics

BINARY_TRUE = np.array([1, 0, 1, 1, 0, 0, 1])
BINARY_PRED = np.array([0.9, 0.8, 0.3, 0.7, 0.1, 0.5, 0.51])  # 0.5 itself counts as "no"
WEIGHT = np.array([1.0, 2.0, 0.0, 3.0, 1.0, 0.5, 2.5])


def multiclass(rng, n=41, classes=7):
    """Labels, scores that often find them, weights; the last class never occurs."""
    t = rng.integers(classes - 1, size=n)
    scores = rng.standard_normal((n, classes)) + 1.5 * ref.one_hot(t, classes)
    scores[:, -1] -= 10
    return t, scores, rng.uniform(0, 2, n)


def test_binary_metrics_by_hand():
    # answers: yes yes no yes no no yes -> true positives 3, false positives 1, negatives 1
    m, t, p = ref.METRICS, BINARY_TRUE, BINARY_PRED
    for name, want in {
        "accuracy": 5 / 7,
        "binary_accuracy": 5 / 7,
        "precision": 3 / 4,
        "recall": 3 / 4,
        "f1": 3 / 4,
    }.items():
        assert m[name](t, p) == pytest.approx(want), name
        assert m[name](t[:, None], p[:, None]) == pytest.approx(want), name
    assert m["accuracy"](t, p, WEIGHT) == pytest.approx(8 / 10)
    assert m["precision"](t, p, WEIGHT) == pytest.approx(6.5 / 8.5)
    assert m["recall"](t, p, WEIGHT) == pytest.approx(1.0)
    assert m["accuracy"](t, p, threshold=0.75) == pytest.approx(3 / 7)


def test_nothing_found_is_zero_not_an_error():
    t, p = np.array([0, 0, 0]), np.array([0.1, 0.2, 0.3])
    for name in ("precision", "recall", "f1"):
        assert ref.METRICS[name](t, p) == 0.0
    assert ref.METRICS["accuracy"](t, p) == 1.0


def test_ties_go_to_the_lowest_index():
    scores = np.array([[1.0, 2.0, 2.0, 0.0]])
    hit = [ref.METRICS["accuracy"]([c], scores) for c in range(4)]
    assert hit == [0, 1, 0, 0]
    assert [ref.METRICS["top_k_accuracy"]([c], scores, k=1) for c in range(4)] == hit
    assert [ref.METRICS["top_k_accuracy"]([c], scores, k=2) for c in range(4)] == [0, 1, 1, 0]
    assert [ref.METRICS["top_k_accuracy"]([c], scores, k=3) for c in range(4)] == [1, 1, 1, 0]
    assert ref.METRICS["top_k_accuracy"]([3], scores) == 1


def test_one_hot_labels_are_the_same_as_integers():
    t, scores, w = multiclass(generator("one-hot labels"))
    for name in ("accuracy", "top_k_accuracy", "precision", "recall", "f1"):
        metric = ref.METRICS[name]
        assert metric(t, scores, w) == metric(ref.one_hot(t, 7), scores, w), name


def test_binary_accuracy_counts_each_output():
    t = np.array([[1, 0, 1], [0, 0, 0]])
    p = np.array([[0.9, 0.9, 0.9], [0.1, 0.9, 0.1]])
    assert ref.METRICS["binary_accuracy"](t, p) == pytest.approx(2 / 3)


@pytest.mark.parametrize("weighted", [False, True])
def test_class_metrics_against_scikit_learn(weighted):
    metrics = pytest.importorskip("sklearn.metrics")
    t, scores, w = multiclass(generator("sklearn classes"))
    w = w if weighted else None
    guess = scores.argmax(axis=1)
    macro = {
        "labels": range(7),
        "average": "macro",
        "zero_division": 0,
        "sample_weight": w,
    }
    wants = {
        "accuracy": metrics.accuracy_score(t, guess, sample_weight=w),
        "top_k_accuracy": metrics.top_k_accuracy_score(
            t, scores, k=2, sample_weight=w, labels=range(7)
        ),
        "precision": metrics.precision_score(t, guess, **macro),
        "recall": metrics.recall_score(t, guess, **macro),
        "f1": metrics.f1_score(t, guess, **macro),
    }
    for name, want in wants.items():
        assert 0.1 < want < 1
        options = {"k": 2} if name == "top_k_accuracy" else {}
        got = ref.METRICS[name](t, scores, w, **options)
        assert got == pytest.approx(want, rel=1e-12), name


@pytest.mark.parametrize("weighted", [False, True])
def test_regression_metrics_against_scikit_learn(weighted):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = generator("sklearn regression")
    t = rng.standard_normal((11, 3))
    t[:, 2] = 1.5  # an output that does not vary
    p = t + 0.5 * rng.standard_normal((11, 3))
    w = rng.uniform(0, 2, 11) if weighted else None
    for name, theirs in {
        "mse": metrics.mean_squared_error,
        "mae": metrics.mean_absolute_error,
        "r2": metrics.r2_score,
    }.items():
        want = theirs(t, p, sample_weight=w)
        assert ref.METRICS[name](t, p, w) == pytest.approx(want, rel=1e-12), name
        want = theirs(t[:, 0], p[:, 0], sample_weight=w)
        assert ref.METRICS[name](t[:, 0], p[:, :1], w) == pytest.approx(want, rel=1e-12), name


def test_r2_at_its_edges():
    r2 = ref.METRICS["r2"]
    assert r2([1, 2, 3], [1, 2, 3]) == 1
    assert r2([1, 2, 3], [2, 2, 2]) == 0
    assert r2([2, 2, 2], [2, 2, 2]) == 1
    assert r2([2, 2, 2], [2, 2, 3]) == 0
    assert math.isnan(r2([2], [2]))


# ----------------------------------------------------------------------------- a dense chain


def small_chain(rng, sizes=(3, 7, 5)):
    weights = []
    for d_in, units in itertools.pairwise(sizes):
        weights += [rng.standard_normal((d_in, units)), rng.standard_normal(units)]
    return weights


@pytest.mark.parametrize("last", ["softmax", "linear"])
def test_chain_gradient_is_the_slope_of_the_loss(last):
    rng = generator("chain")
    weights, activations = small_chain(rng), ["tanh", last]
    x, t, w = rng.standard_normal((9, 3)), rng.integers(5, size=9), rng.uniform(0.5, 2, 9)
    value, grads = ref.gradients(weights, activations, "cross_entropy", x, t, w)
    if last == "softmax":  # what is fused is the loss of the probabilities
        chosen = ref.predict(weights, activations, x)[np.arange(9), t]
        assert value == pytest.approx(-(w * np.log(chosen)).sum() / w.sum(), rel=1e-12)
    for i, gradient in enumerate(grads):
        indices = some_indices(rng, gradient.size, 7)

        def loss(v, i=i):
            changed = [*weights[:i], v, *weights[i + 1 :]]
            return ref.gradients(changed, activations, "cross_entropy", x, t, w)[0]

        assert np.abs(gradient).max() > 1e-3
        want = central_differences(loss, weights[i], indices)
        np.testing.assert_allclose(gradient.flat[indices], want, rtol=1e-6, atol=1e-9)


def chain_batches(rng, count=10):
    return [(rng.standard_normal((9, 3)), rng.integers(5, size=9)) for _ in range(count)]


def test_train_against_torch():
    torch = pytest.importorskip("torch")
    rng = generator("train")
    weights, batches = small_chain(rng), chain_batches(rng)
    got, losses = ref.train(
        weights, ["tanh", "softmax"], "cross_entropy", "sgd", batches,
        learning_rate=0.1, momentum=0.9, global_clipnorm=0.5,
    )  # fmt: skip
    theirs = [torch.tensor(v, requires_grad=True) for v in weights]
    w1, b1, w2, b2 = theirs
    optimizer = torch.optim.SGD(theirs, lr=0.1, momentum=0.9)
    for (x, t), loss in zip(batches, losses, strict=True):
        optimizer.zero_grad()
        z = torch.tanh(torch.tensor(x) @ w1 + b1) @ w2 + b2
        value = torch.nn.functional.cross_entropy(z, torch.tensor(t))
        value.backward()
        torch.nn.utils.clip_grad_norm_(theirs, 0.5)
        optimizer.step()
        assert loss == pytest.approx(value.item(), rel=1e-5)  # torch clips by c / (norm + 1e-6)
    for ours, other in zip(got, theirs, strict=True):
        np.testing.assert_allclose(ours, other.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_train_learns_and_leaves_the_given_weights_alone():
    rng = generator("learns")
    weights = small_chain(rng)
    before = [v.copy() for v in weights]
    x, t = chain_batches(rng, 1)[0]
    after, losses = ref.train(
        weights, ["tanh", "softmax"], "cross_entropy", "adam", [(x, t)] * 200, learning_rate=0.05
    )
    assert losses[-1] < 0.1 * losses[0]
    for v, old, new in zip(weights, before, after, strict=True):
        np.testing.assert_array_equal(v, old)
        assert (v != new).any()


def test_train_takes_a_schedule_weights_and_penalties():
    rng = generator("schedule")
    weights, batches = small_chain(rng), chain_batches(rng, 2)
    rates = []

    def schedule(step):
        rates.append(step)
        return (0.5, 0.0)[step]

    one, _ = ref.train(weights, ["relu", "linear"], "cross_entropy", "sgd", batches[:1],
                       learning_rate=0.5, l2=0.1)  # fmt: skip
    two, _ = ref.train(weights, ["relu", "linear"], "cross_entropy", "sgd",
                       [(*batches[0], np.ones(9)), batches[1]],
                       learning_rate=schedule, l2=0.1)  # fmt: skip
    assert rates == [0, 1]
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    _, grads = ref.gradients(weights, ["relu", "linear"], "cross_entropy", *batches[0])
    np.testing.assert_allclose(one[0], weights[0] - 0.5 * (grads[0] + 0.2 * weights[0]))
    np.testing.assert_allclose(one[1], weights[1] - 0.5 * grads[1])

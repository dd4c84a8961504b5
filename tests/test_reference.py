"""The float64 reference is itself checked: its gradients by central differences, its values
against numbers worked out by hand and against torch and scikit-learn where those are installed."""

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

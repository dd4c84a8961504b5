"""Optimizers, metrics and the training loop of the float64 reference are themselves checked, as
test_reference.py does it for ops and losses."""

import itertools
import math

import numpy as np
import pytest
import reference as ref
from test_reference import central_differences, generator, some_indices

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

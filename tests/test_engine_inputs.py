"""What the engine reads: it stays as it is, however it lies; what is not finite is found."""

import numpy as np
import pytest
from course import fit
from engine import Net, activation, dense, start_weights

from fastnet import _core


def test_inputs_are_never_changed_and_may_be_read_only(level, regression):
    x, t, net = regression
    before = x.tobytes(), t.tobytes()
    x.flags.writeable = t.flags.writeable = False
    order = np.arange(50)[::-1].astype(np.int64)
    order.flags.writeable = False
    assert fit(net, x, t, order=order, threads=2).status == "ok"
    predictor = Net(9, [activation("relu"), ("rescale", {"scale": 3})], mode="predict", max_rows=8,
                    source={"scale": 2, "offset": 1})  # fmt: skip
    assert np.array_equal(predictor.predict(x), 3 * np.maximum(2 * x + 1, 0))
    assert (x.tobytes(), t.tobytes()) == before


def test_activations_in_place_spare_a_source_read_in_place(level):
    """A predicted float32 source is used where it lies; no op may write there."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((20, 16)).astype(np.float32)
    before = x.copy()
    layers = [[dense(16), activation("relu")], [activation("tanh"), dense(16)],
              [("rescale", {"scale": 2}), activation("relu")], []]  # fmt: skip
    for chain in layers:
        net = Net(16, chain, mode="predict", max_rows=20)
        net.set_weights([np.ones(s) for s in net.param_shapes])
        net.predict(x)
        assert np.array_equal(x, before)


def test_sources_however_they_lie_give_the_same_bits(level, regression, tmp_path):
    """Memory maps, rows apart, odd addresses, float64: used in place or converted."""
    x, t, net = regression
    start = net.weights()
    fit(net, x, t)
    want = net.digest()
    stored = np.memmap(tmp_path / "x", np.float32, "w+", shape=x.shape)
    stored[:] = x
    stored.flush()
    mapped = np.memmap(tmp_path / "x", np.float32, "r", shape=x.shape)
    spread = np.full((100, 30), np.nan, np.float32)
    spread[::2, :9] = x
    odd = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    odd[:] = x
    for source in (mapped, spread[::2, :9], odd, x.astype(np.float64), x):
        net.set_weights(start)
        fit(net, source, t)
        assert net.digest() == want


def raw_run(net, *sources, **options):
    return _core.run(net.plan, net.params, net.work, sources, **options)


def test_sources_that_cannot_be_read(regression):
    x, t, net = regression
    optimizer = _core.Optimizer("sgd")
    call = {"n_rows": 8, "batch_size": 8, "optimizer": optimizer, "rates": np.ones(1)}
    before = net.digest()
    for bad, error, message in (
        (np.asfortranarray(x), ValueError, "contiguous"),
        (x[:, ::2], ValueError, "contiguous"),
        (x[::-1], ValueError, "ascending"),
        (x[:5], ValueError, "5 rows, 8 are wanted"),
        (x.astype(np.float16), TypeError, "'e' cannot be read"),
        (x.astype(complex), TypeError, "cannot be read"),
        (x.astype(">f4"), TypeError, "cannot be read"),
        (x.tolist(), TypeError, "not 'list'"),
    ):
        with pytest.raises(error, match=message):
            raw_run(net, bad, t, **call)
    for change, message in (
        ({"batch_size": 9}, "do not fit"),
        ({"batch_size": 0}, "do not fit|batches of 0"),
        ({"n_rows": -1}, "do not fit"),
        ({"first": -1}, "do not fit"),
        ({"rates": None}, "do not fit"),
        ({"optimizer": None}, "do not fit"),
        ({"n_rows": 17}, "1 learning rates for 17 rows"),
        ({"order": np.arange(7)}, "order has 7 rows, 8 are wanted"),
    ):
        with pytest.raises(ValueError, match=message):
            raw_run(net, x, t, **(call | change))
    with pytest.raises(ValueError, match="do not fit"):
        raw_run(net, x, **call)
    assert net.digest() == before


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.usefixtures("always_thread")
def test_a_value_that_is_not_finite_is_found(level, regression, value, dtype, threads):
    x, t, net = regression
    x = x.astype(dtype)
    before = net.digest()
    x[5, 8] = x[7, 2] = x[30, 1] = value
    result = fit(net, x, t, threads=threads)
    assert result.status == "input"
    assert (result.bad_source, result.bad_row, result.bad_column) == (0, 5, 8)
    assert net.digest() == before  # it is in the first minibatch
    order = np.roll(np.arange(50), -6).astype(np.int64)
    result = fit(net, x, t, order=order, threads=threads)
    assert (result.bad_row, result.bad_column) == (7, 2)
    x[5, 8] = x[7, 2] = 0
    result = fit(net, x, t, threads=threads)
    assert (result.status, result.bad_row, result.bad_column) == ("input", 30, 1)
    x[30, 1], t[49, 0] = 0, np.nan
    result = fit(net, x, t, threads=threads)
    assert (result.bad_source, result.bad_row, result.bad_column) == (1, 49, 0)
    t[49, 0] = 0
    assert fit(net, x, t, threads=threads).status == "ok"


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("update", ["fused", "flat"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])  # read where they lie, or a step ahead
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.usefixtures("always_thread")
def test_bad_input_ends_the_run_between_two_steps(level, batch, dtype, update, threads):
    rng = np.random.default_rng(6)
    x, t = rng.standard_normal((50, 9)).astype(dtype), rng.random((50, 3)).astype(np.float32)
    x[rng.random(x.shape) < 0.5] = 0  # with a batch of one, rows of weights are made up for
    x[30, 1] = np.nan
    good = 30 // batch * batch
    net = Net(9, [dense(17), activation("relu"), dense(3)], loss="mse", max_rows=batch,
              update=update)  # fmt: skip
    start = start_weights(net, rng)
    ends = []
    for rows in (50, good):
        net.set_weights(start)
        net.need("momentum")
        optimizer = _core.Optimizer("momentum", momentum=0.9)
        result = net.run(x, t, rows=rows, batch=batch, optimizer=optimizer, threads=threads)
        assert result.steps == good // batch
        ends.append((net.digest(), result.status))
    assert ends == [(ends[1][0], "input"), (ends[1][0], "ok")]


def test_a_value_that_is_not_finite_is_found_while_predicting(level):
    x = np.zeros((40, 33), np.float32)
    x[21, 32] = np.inf
    net = Net(33, [dense(3)], mode="predict", max_rows=7)
    net.set_weights([np.ones(s) for s in net.param_shapes])
    for threads in (1, 2):
        result = net.run(x, output=np.empty((40, 3), np.float32), threads=threads)
        assert (result.status, result.bad_row, result.bad_column) == ("input", 21, 32)
    assert net.run(x[:21], output=np.empty((21, 3), np.float32)).status == "ok"


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.usefixtures("always_thread")
def test_divergence_keeps_the_weights_from_before_the_step(level, regression, threads):
    x, t, net = regression
    start = net.weights()
    result = net.run(x, t, batch=8, optimizer=_core.Optimizer("sgd"), rate=1e12, threads=threads)
    assert result.status == "diverged"
    assert 1 <= result.steps < 7
    bad = net.digest()
    net.set_weights(start)
    again = net.run(x, t, rows=8 * result.steps, batch=8, optimizer=_core.Optimizer("sgd"),
                    rate=1e12, threads=threads)  # fmt: skip
    assert (again.status, again.steps) == ("ok", result.steps)
    assert net.digest() == bad
    assert net.params.nonfinite() == -1


def test_nonfinite_names_the_parameter(level, regression):
    net = regression[2]
    assert net.params.nonfinite() == -1
    for i in reversed(range(4)):
        values = net.weights()
        values[i].flat[-1] = np.inf if i % 2 else np.nan
        net.set_weights(values)
        assert net.params.nonfinite() == i

"""Networks with branches: gradients against float64, several inputs and outputs, and that all of
training works for them as for a chain."""

import copy
import pickle

import numpy as np
import pytest
from graphs import (
    LOSSES,
    by_layer,
    check_gradients,
    data,
    forward64,
    residual,
    two_by_two,
    value64,
)
from training import digest, labels, rows

import fastnet as fn
from fastnet import callbacks, layers

pytestmark = pytest.mark.usefixtures("always_thread")


# ---- what they compute --------------------------------------------------------------------------


def test_outputs_and_gradients_of_a_residual_network(level):
    net, x, y = residual(), rows(), labels()
    want = forward64(net, [x], by_layer(net, [w.astype(np.float64) for w in net.get_weights()]))
    np.testing.assert_allclose(net.predict(x), want[0], rtol=1e-5, atol=1e-6)
    check_gradients(net, [x], [y], ["cross_entropy"])


def test_outputs_and_gradients_of_several_inputs_and_outputs(level):
    net, (xs, ys) = two_by_two(), data()
    weights = [w.astype(np.float64) for w in net.get_weights()]
    for got, want in zip(net.predict(xs), forward64(net, xs, by_layer(net, weights)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    check_gradients(net, xs, ys, ["cross_entropy", "mse"], [1.0, 0.3])
    sample = [np.random.default_rng(4).uniform(0, 2, 37) for _ in range(2)]
    check_gradients(net, xs, ys, ["cross_entropy", "mse"], [0.5, 2.0], sample)


def test_a_wide_layer_of_another_input_behind_pictures_learns():
    """It stays out of their chain: its gradient is made from rows that were kept by columns."""
    picture, row = fn.Input((12, 12, 3)), fn.Input(300)
    h = layers.Conv2D(32, 3, padding="same", activation="relu")(picture)
    h = layers.GlobalAvgPool2D()(layers.Conv2D(32, 3, padding="same", activation="relu")(h))
    side = layers.Dense(64)
    h = layers.Concatenate()([h, side(row)])
    net = fn.Model([picture, row], layers.Dense(4, activation="softmax")(h), seed=0)
    rng = np.random.default_rng(0)
    a = rng.standard_normal((33, 12, 12, 3)).astype(np.float32)
    b = rng.standard_normal((33, 300)).astype(np.float32)
    target = np.eye(4)[rng.integers(0, 4, 33)]
    gradients = fn.Trainer(net).gradients([a, b], target)
    last = net.get_weights()[-2].astype(np.float64)
    want = b.T.astype(np.float64) @ ((net.predict([a, b]) - target) @ last[32:].T) / 33
    i = next(i for i, w in enumerate(net.get_weights()) if w.shape == (300, 64))
    assert np.abs(want).max() > 0.01
    np.testing.assert_allclose(gradients[i], want, atol=1e-6)


def test_gradients_of_more_branches_than_an_op_takes():
    x = fn.Input(4)
    h = layers.Dense(5, activation="tanh")(x)
    many = [layers.Dense(5, activation="tanh")(h) for _ in range(19)]
    joined = [layers.Add()(many), layers.Average()(many), layers.Maximum()(many)]
    wide = layers.Concatenate()([*many, *joined, layers.Multiply()(many[:9])])
    net = fn.Model(x, layers.Dense(2)(wide), seed=0)
    assert wide.shape == (115,)
    x = rows(9, 4)
    weights = [w.astype(np.float64) for w in net.get_weights()]
    (want,) = forward64(net, [x], by_layer(net, weights))
    np.testing.assert_allclose(net.predict(x), want, rtol=1e-4, atol=1e-5)
    trainer = fn.Trainer(net, "mse")
    trainer.train_on_batch(x, rows(9, 2))
    assert all(np.abs(g).max() > 0 for g in trainer.gradients(x, rows(9, 2)))


def test_an_output_that_goes_on_and_a_softmax_that_is_read_twice():
    """The loss is computed from logits; whoever else reads the output gets probabilities."""
    x = fn.Input(5)
    first = layers.Dense(4, activation="softmax", name="first")(x)
    second = layers.Dense(3, activation="softmax", name="second")(first)
    net = fn.Model(x, [first, second], seed=0)
    losses = ["cross_entropy", "cross_entropy"]
    ys = [labels(classes=4), labels()]
    check_gradients(net, [rows()], ys, losses)
    trainer = fn.Trainer(net, losses, metrics="accuracy")
    got = trainer.evaluate(rows(), ys)
    p = net.predict(rows())
    for name, one, t in zip(("first", "second"), p, ys, strict=True):
        assert got[f"{name}_accuracy"] == pytest.approx((one.argmax(1) == t).mean())
        assert got[f"{name}_loss"] == pytest.approx(value64("cross_entropy", one, t), rel=1e-5)


def test_logits_beside_their_probabilities():
    """The loss writes over its logits: not where they are an output, or another layer's too."""
    x = fn.Input(5)
    z = layers.Dense(3, activation="tanh", name="z")(x)
    p = layers.Activation("softmax", name="p")(z)
    net = fn.Model(x, [z, p], seed=0)
    ys = [rows(37, 3, seed=5), labels()]
    check_gradients(net, [rows()], ys, ["mse", "cross_entropy"])
    trainer = fn.Trainer(net, ["mse", "cross_entropy"], metrics={"z": "mae"})
    want = np.abs(net.predict(rows())[0] - ys[0]).mean()
    assert trainer.evaluate(rows(), ys)["z_mae"] == pytest.approx(want, rel=1e-5)


def test_a_chain_whose_softmax_is_behind_another_activation():
    """Probabilities must not be written over what the backward pass of tanh reads."""
    parts = [layers.Input(5), layers.Dense(3, activation="tanh"), layers.Activation("softmax")]
    net = fn.Sequential(parts, seed=0)
    net.build()
    check_gradients(net, [rows()], [labels()], ["cross_entropy"])


def test_a_model_of_a_chain_is_the_chain():
    """The same bits, before and after training."""
    chain = fn.Sequential([layers.Dense(7, activation="relu"), layers.Dropout(0.3),
                           layers.Dense(3, activation="softmax")], seed=3)  # fmt: skip
    chain.build(5)
    x = fn.Input(5)
    y = layers.Dropout(0.3)(layers.Dense(7, activation="relu")(x))
    model = fn.Model(x, layers.Dense(3, activation="softmax")(y), seed=3)
    assert chain.predict(rows()).tobytes() == model.predict(rows()).tobytes()
    for net in (chain, model):
        fn.Trainer(net, optimizer="adam").fit(rows(), labels(), epochs=3, batch_size=8)
    assert digest(chain) == digest(model)


def test_images_join_along_channels_and_other_axes():
    x = fn.Input((4, 3, 2))
    for axis, shape in ((-1, (4, 3, 4)), (3, (4, 3, 4)), (2, (4, 6, 2)), (1, (8, 3, 2))):
        y = layers.Concatenate(axis)([x, x])
        assert y.shape == shape
        images = np.random.default_rng(0).random((5, 4, 3, 2)).astype(np.float32)
        want = np.concatenate([images, images], axis=axis)
        assert np.array_equal(fn.Model(x, y).predict(images), want)


def test_pixels_are_scaled_where_only_one_branch_wants_it():
    x = fn.Input(6)
    scaled = layers.Rescale(1 / 255)(x)
    net = fn.Model(x, layers.Concatenate()([scaled, x]))
    pixels = np.arange(18, dtype=np.uint8).reshape(3, 6)
    want = np.concatenate([pixels / np.float32(255), pixels], axis=1)
    np.testing.assert_allclose(net.predict(pixels), want, rtol=1e-6)
    alone = fn.Model(x, layers.Dense(2)(scaled))
    ops = alone._plan(fn.lowering.Request("predict", 1)).plan.ops()
    assert [op["name"] for op in ops] == ["input", "dense", "output"]


def test_a_shape_given_to_one_branch_leaves_the_other():
    x = fn.Input((2, 3))
    flat = layers.Flatten()(x)
    net = fn.Model(x, [layers.Dense(4)(flat), layers.Rescale(2.0)(x)])
    images = rows(5, 6).reshape(5, 2, 3)
    assert [y.shape for y in net.predict(images)] == [(5, 4), (5, 2, 3)]


# ---- the same bits ------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_same_bits_for_any_number_of_threads_with_branches(level, optimizer):
    results = set()
    for threads in (1, 2, 3, 4, 8):
        with fn.threads(threads):
            net, (xs, ys) = two_by_two(dropout=0.2), data(100)
            trainer = fn.Trainer(net, LOSSES, optimizer, metrics={"kind": "accuracy"})
            history = trainer.fit(xs, ys, epochs=3, batch_size=16)
            results.add((digest(net), *history["loss"], *history["kind_accuracy"]))
    assert len(results) == 1


def pictures(seed=0):
    """A value behind a convolution that batch normalisation and others read."""
    x = fn.Input((6, 5, 2))
    c = layers.Conv2D(4, 3, padding="same")(x)
    b = layers.BatchNorm()(c)
    y = layers.Add()([layers.Activation("relu")(b), c])
    z = layers.GlobalAvgPool2D()(layers.Concatenate()([y, b]))
    kind = layers.Dense(3, activation="softmax", name="kind")(z)
    return fn.Model(x, [kind, layers.Dense(1, name="size")(layers.Flatten()(y))], seed=seed)


def test_same_bits_of_pictures_with_batch_normalisation(level):
    x, y = rows(64, 60).reshape(64, 6, 5, 2), [labels(64), rows(64, 1)]
    results = set()
    for threads in (1, 2, 3, 8):
        with fn.threads(threads):
            net = pictures()
            before = net.get_weights()
            history = fn.Trainer(net, LOSSES, "adam").fit(x, y, epochs=2, batch_size=16)
            results.add((digest(net), *history["loss"]))
    assert len(results) == 1
    after = net.get_weights()
    assert all(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    whole = net.predict(x)
    for alone, full in zip(net.predict(x[7:8]), whole, strict=True):
        assert alone[0].tobytes() == full[7].tobytes()


def test_a_row_predicts_the_same_bits_in_any_batch_of_a_model(level):
    net, (xs, _) = two_by_two(), data(70)
    whole = net.predict(xs)
    for i in (0, 1, 33, 69):
        alone = net.predict([x[i : i + 1] for x in xs])
        for a, b in zip(alone, whole, strict=True):
            assert a[0].tobytes() == b[i].tobytes()
    for size in (1, 3, 64):
        for a, b in zip(net.predict(xs, batch_size=size), whole, strict=True):
            assert a.tobytes() == b.tobytes()


def test_gradients_that_are_kept_give_the_same_bits():
    """global_clipnorm sends gradients through the flat buffer; a huge norm clips nothing."""
    nets = [two_by_two(), two_by_two()]
    xs, ys = data()
    for net, norm in zip(nets, (None, 1e9), strict=True):
        optimizer = fn.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=norm)
        fn.Trainer(net, LOSSES, optimizer).fit(xs, ys, epochs=2)
    assert digest(nets[0]) == digest(nets[1])


# ---- training -----------------------------------------------------------------------------------


def test_inputs_targets_and_results_by_name():
    net, (xs, ys) = two_by_two(), data()
    x = {"left": xs[0], "right": xs[1]}
    y = {"size": ys[1], "kind": ys[0]}
    assert net.input_names == ["left", "right"]
    assert net.output_names == ["kind", "size"]
    trainer = fn.Trainer(net, LOSSES, metrics={"kind": ["accuracy"], "size": "mae"},
                         loss_weights={"kind": 1.0, "size": 0.5})  # fmt: skip
    history = trainer.fit(x, y, epochs=2, validation_data=(x, y))
    keys = ["loss", "kind_loss", "size_loss", "kind_accuracy", "size_mae"]
    assert list(history) == [*keys, *(f"val_{key}" for key in keys)]
    got = trainer.evaluate(x, y)
    assert list(got) == keys
    assert got["loss"] == pytest.approx(got["kind_loss"] + 0.5 * got["size_loss"])
    assert got == trainer.evaluate(xs, ys)
    kind, size = net.predict(x)
    assert got["kind_accuracy"] == pytest.approx((kind.argmax(1) == ys[0]).mean())
    assert got["size_mae"] == pytest.approx(np.abs(size - ys[1]).mean(), rel=1e-5)


def test_loss_falls_and_history_adds_up():
    net, (xs, ys) = two_by_two(), data(200)
    ys[0] = (xs[0][:, 0] > xs[1][:, 0]).astype(int)
    history = fn.Trainer(net, LOSSES, "adam", loss_weights=[2, 1]).fit(xs, ys, epochs=40)
    assert history["kind_loss"][-1] < 0.5 * history["kind_loss"][0]
    for total, kind, size in zip(
        *(history[k] for k in ("loss", "kind_loss", "size_loss")), strict=True
    ):
        assert total == pytest.approx(2 * kind + size)


def test_every_way_to_train_gives_the_same_weights(tmp_path):
    """Arrays, memory-mapped files, iterators of batches, train_on_batch, apply_gradients."""
    xs, ys = data(32)
    weights = [np.linspace(0.5, 2, 32, dtype=np.float32), None]

    def start():
        net = two_by_two()
        return net, fn.Trainer(net, LOSSES, fn.optimizers.SGD(0.1))

    net, trainer = start()
    trainer.fit(xs, ys, batch_size=16, shuffle=False, sample_weight=weights)
    want = digest(net)
    maps = []
    for i, x in enumerate(xs):
        np.save(tmp_path / f"{i}.npy", x)
        maps.append(np.load(tmp_path / f"{i}.npy", mmap_mode="r"))
    net, trainer = start()
    trainer.fit(
        maps, ys, batch_size=16, shuffle=False, sample_weight={"kind": weights[0], "size": None}
    )
    assert digest(net) == want
    parts = [slice(0, 16), slice(16, 32)]
    batches = [([x[p] for x in xs], [y[p] for y in ys], [weights[0][p], None]) for p in parts]
    net, trainer = start()
    trainer.fit(iter(batches))
    assert digest(net) == want
    net, trainer = start()
    for batch in batches:
        trainer.train_on_batch(*batch)
    assert digest(net) == want
    net, trainer = start()
    for batch in batches:
        trainer.apply_gradients(trainer.gradients(*batch))
    assert digest(net) == want


def test_logs_of_iterators_are_those_of_arrays():
    xs, ys = data(32)
    batches = [([x[p] for x in xs], [y[p] for y in ys]) for p in (slice(0, 20), slice(20, 32))]
    results = []
    for x, y in ((xs, ys), (batches, None)):
        trainer = fn.Trainer(two_by_two(), LOSSES, fn.optimizers.SGD(0.0), metrics="mse")
        results.append(trainer.fit(x, y, shuffle=False, **({"batch_size": 20} if y else {})))
    for key in ("loss", "kind_loss", "size_loss", "kind_mse", "size_mse"):
        assert results[0][key] == pytest.approx(results[1][key], rel=1e-6)


def test_one_weight_for_all_outputs_and_weight_zero_removes_a_row():
    xs, ys = data(20)
    keep = np.arange(20) % 3 > 0
    nets = []
    for rows_, weight in ((slice(None), keep.astype(float)), (keep, None)):
        net = two_by_two()
        trainer = fn.Trainer(net, LOSSES, fn.optimizers.SGD(0.1))
        trainer.train_on_batch([x[rows_] for x in xs], [y[rows_] for y in ys], weight)
        nets.append(net.get_weights())
    for a, b in zip(*nets, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_callbacks_with_several_outputs(tmp_path):
    xs, ys = data()
    net = two_by_two()
    trainer = fn.Trainer(net, LOSSES, metrics={"kind": "accuracy"})
    stop = callbacks.EarlyStopping(monitor="val_kind_accuracy", patience=2)
    save = callbacks.ModelCheckpoint(tmp_path / "net-{epoch}.safetensors")
    kept = []
    seen = callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: kept.append((logs, digest(net)))
    )
    losses = []
    batch = callbacks.LambdaCallback(on_batch_end=lambda i, logs: losses.append(logs["loss"]))
    trainer.fit(xs, ys, epochs=30, validation_data=(xs, ys), callbacks=[stop, save, seen, batch])
    best = max(range(len(kept)), key=lambda i: (kept[i][0]["val_kind_accuracy"], -i))
    assert digest(net) == kept[best][1]
    assert digest(fn.load(tmp_path / "net-0.safetensors")) == kept[0][1]
    assert len(losses) == 2 * len(kept)
    assert all(np.isfinite(losses))


def test_divergence_names_the_layer_and_keeps_the_weights():
    x = fn.Input(5)
    tower = fn.Sequential(
        [layers.Dense(4, name="calm"), layers.Dense(4, name="loud")], name="tower"
    )
    y = layers.Add()([layers.Dense(4, name="other")(x), tower(x)])
    net = fn.Model(x, layers.Dense(1, name="last")(y), seed=0)
    weights = net.get_weights()
    loud = net._weight_names().index("tower/loud.kernel")
    weights[loud] = np.full((4, 4), 3e38, np.float32)
    net.set_weights(weights)
    before = digest(net)
    with pytest.raises(fn.DivergenceError, match="'tower/loud'") as caught:
        fn.Trainer(net, "mse", "sgd").fit(100 + rows(), rows(37, 1))
    assert (caught.value.layer, caught.value.epoch, caught.value.step) == ("tower/loud", 0, 0)
    assert digest(net) == before


def test_bad_values_are_found_in_the_right_input():
    net, (xs, ys) = two_by_two(), data()
    before = digest(net)
    xs[1][17, 3] = np.nan
    with pytest.raises(ValueError, match=r"x\['right'\] holds NaN or infinity in row 17, column 3"):
        fn.Trainer(net, LOSSES).fit(xs, ys)
    with pytest.raises(ValueError, match=r"x\['right'\] holds NaN or infinity in row 17, column 3"):
        net.predict(xs)
    assert digest(net) == before


def test_the_shortcut_and_logits():
    x = fn.Input(5)
    net = fn.Model(x, layers.Dense(1)(layers.Dense(4, activation="tanh")(x)), seed=0)
    y = (rows()[:, 0] > 0).astype(int)
    history = net.fit(rows(), y, loss="binary_cross_entropy", epochs=2, metrics=["accuracy"])
    assert list(history) == ["loss", "accuracy"]
    trainer = fn.Trainer(net, "binary_cross_entropy")
    assert np.array_equal(trainer.predict_classes(rows()), net.predict(rows())[:, 0] > 0)


def test_a_loss_function_of_ones_own_on_a_model():
    nets = [residual(), residual()]
    t = rows(37, 3, seed=8)

    def mse(y, y_hat):
        d = y_hat - y
        return float(np.mean(d**2)), 2 * d / d.size

    for net, loss in zip(nets, ("mse", mse), strict=True):
        fn.Trainer(net, loss, fn.optimizers.SGD(0.1)).fit(rows(), t, epochs=2)
    for a, b in zip(*(net.get_weights() for net in nets), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="with several outputs"):
        fn.Trainer(two_by_two(), mse)


# ---- files, copies, text ------------------------------------------------------------------------


def nested(seed=0):
    tower = fn.Sequential([layers.Dense(4, activation="tanh"), layers.Dense(3)], name="tower")
    a, b = fn.Input(5, name="a"), fn.Input(5, name="b")
    h = layers.Add()([tower(a), tower(b)])
    return fn.Model([a, b], [layers.Dense(2, name="p")(h), h], seed=seed, name="pair")


@pytest.mark.parametrize("make", [residual, two_by_two, nested])
def test_files_and_copies_have_the_same_bits(make, tmp_path):
    net = make()
    xs = [rows(seed=1), rows(seed=2)][: len(net.input_names)]
    x = xs if len(xs) > 1 else xs[0]
    want = net.predict(x)
    net.save(tmp_path / "net.safetensors")
    others = [fn.load(tmp_path / "net.safetensors"), copy.deepcopy(net),
              pickle.loads(pickle.dumps(net))]  # fmt: skip
    for other in others:
        got = other.predict(x)
        assert digest(other) == digest(net)
        assert (other.name, other.seed) == (net.name, net.seed)
        assert (other.input_names, other.output_names) == (net.input_names, net.output_names)
        assert other.diagram() == net.diagram()
        pairs = zip(got, want, strict=True) if isinstance(want, list) else [(got, want)]
        assert all(a.tobytes() == b.tobytes() for a, b in pairs)
        other.set_weights([w + 1 for w in other.get_weights()])
    again = net.predict(x)
    pairs = zip(again, want, strict=True) if isinstance(want, list) else [(again, want)]
    assert all(a.tobytes() == b.tobytes() for a, b in pairs)


def test_a_chain_keeps_the_older_schema(tmp_path):
    for make, schema in ((residual, 2), (nested, 2)):
        make().save(tmp_path / "net.safetensors")
        assert fn.storage.info(tmp_path / "net.safetensors").schema == schema
    chain = fn.Sequential([layers.Input(5), layers.Dense(2)])
    chain.save(tmp_path / "net.safetensors")
    assert fn.storage.info(tmp_path / "net.safetensors").schema == 1


def test_a_layer_inside_and_outside_cannot_be_saved(tmp_path):
    tower = fn.Sequential([layers.Dense(4), layers.Dense(3)], name="tower")
    x = fn.Input(5)
    h = tower(x)
    net = fn.Model(x, [h, tower.layers[0](x)])
    with pytest.raises(ValueError, match="inside a nested network and outside"):
        net.save(tmp_path / "net.safetensors")

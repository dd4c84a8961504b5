"""Augmentation: the engine against the reference, and what a user sees of the layers."""

import math

import numpy as np
import pytest
import reference as ref
import reference_augment as augment
from engine import U, assert_within
from op_cases import cases_of, not_near_zero, samples, through

import fastnet as fn
from fastnet import _core, datasets, layers, losses
from fastnet.lowering import Request

pytestmark = pytest.mark.usefixtures("always_thread")
OP = 2  # behind an input and the dense layer of `through`


def check_op(name, case, attributes, tolerance, *, given=None):
    """y and dx of the engine and of the reference, which is given the engine's random numbers."""
    arrays, _ = samples(name, case)
    arrays = {"x": arrays["x"]} | (given or {"u": augment.uniform(0, 0, OP, len(arrays["x"]))})
    y = ref.OPS[name].forward(**arrays, **case.attributes)
    rng = np.random.default_rng(len(y))
    dy = np.float32(rng.uniform(0.5, 1.5, y.shape) * rng.choice([-1, 1], y.shape)).astype(float)
    result = through([(name, attributes | {"shape": y.shape[1:]})], [], arrays["x"], dy)
    if not len(y):
        return
    (dx,) = ref.OPS[name].backward(**arrays, dy=dy, **case.attributes)
    not_near_zero(dx)
    assert_within(result[0].reshape(y.shape), y, tolerance, "y")
    assert_within(result[1].reshape(dx.shape), dx, tolerance * 9, "dx")


# ----------------------------------------------------------------------------- ops


@cases_of("affine")
def test_affine(level, case):
    """Places are float32 numbers: off by a few units in the last place of the image's size."""
    given = dict(case.attributes)
    for name in ("y", "across"):
        low, high = given.pop(name, (0, 0))
        axis = "x" if name == "across" else "y"
        given |= {f"low_{axis}": low, f"high_{axis}": high}
    given["kind"] = augment.KINDS.index(given["kind"])
    given["fill"] = augment.FILLS.index(given.get("fill", "reflect"))
    given["nearest"] = int(given.get("nearest", False))
    given.pop("out", None)
    check_op("affine", case, given, 64 * U * max(case.shapes["x"][1:3]))


@cases_of("tone")
def test_tone(level, case):
    given = {"low": case.attributes["value_range"][0], "high": case.attributes["value_range"][1]}
    for name in ("contrast", "shift"):
        if name in case.attributes:
            low, high = case.attributes[name]
            given |= {f"{name}_low": low, f"{name}_high": high}
    check_op("tone", case, given, 64 * U)


@cases_of("erase")
def test_erase(level, case):
    given = {"fill_value": case.attributes["fill_value"], "low": -1, "high": 1}
    for name, key in (("factor", "chance"), ("scale", "scale")):
        if name in case.attributes:
            low, high = case.attributes[name]
            given |= {f"{key}_low": low, f"{key}_high": high}
    check_op("erase", case, given, 4 * U)


@cases_of("noise")
def test_noise(level, case):
    """The numbers are the engine's to draw: forward adds them, backward passes dy on."""
    arrays, dy = samples("noise", case)
    x = arrays["x"]
    result = through([("noise", case.attributes)], [], x, dy)
    if not len(x):
        return
    z = (result[0] - x) / case.attributes["stddev"]
    check_op("noise", case, case.attributes, 64 * U, given={"z": z})
    assert np.abs(z).max() < 7


# ----------------------------------------------------------------------------- as layers


def changed(layer, x, seed=0, step=0, threads=2):
    """What a layer makes of images while training: a plan that stops behind it."""
    net = fn.Sequential([layer], seed=0)
    net.build(x.shape[1:])
    lowered = net._plan(Request("train", len(x), (losses.get(lambda y, p: None),)))
    work = lowered.take_work()
    target = np.zeros((len(x), *layer.output_shape), np.float32)
    result = _core.run(
        lowered.plan, net.params, work, [np.ascontiguousarray(x), target], n_rows=len(x),
        batch_size=len(x), seed=seed, step=step, threads=threads, rates=np.zeros(1),
        optimizer=_core.Optimizer("sgd"),
    )  # fmt: skip
    assert result.status == "stopped"
    data = work.rows(lowered.outputs[0], len(x), target[0].size)
    return np.frombuffer(data, np.float32).reshape(target.shape)


IMAGES = datasets.load_digits()[0][0][:40]
ALL = {
    "flip": lambda: layers.RandomFlip(),
    "translation": lambda: layers.RandomTranslation(0.2, 0.2),
    "rotation": lambda: layers.RandomRotation(0.1, fill_mode="constant"),
    "zoom": lambda: layers.RandomZoom(0.3),
    "crop": lambda: layers.RandomCrop(6, 5),
    "contrast": lambda: layers.RandomContrast(0.5),
    "brightness": lambda: layers.RandomBrightness(0.3),
    "noise": lambda: layers.GaussianNoise(5.0),
    "erasing": lambda: layers.RandomErasing(),
}
every_layer = pytest.mark.parametrize("make", ALL.values(), ids=ALL)


def test_every_layer_is_here():
    names = {type(make()).__name__ for make in ALL.values()}
    module = layers.augmentation.__name__
    assert names == {c.__name__ for c in layers.LAYERS.values() if c.__module__ == module}


@every_layer
def test_same_bits_for_any_threads_other_ones_for_another_step_or_seed(level, make):
    first = changed(make(), IMAGES)
    for threads in (1, 3, 8):
        assert first.tobytes() == changed(make(), IMAGES, threads=threads).tobytes()
    assert first.tobytes() != changed(make(), IMAGES, step=1).tobytes()
    assert first.tobytes() != changed(make(), IMAGES, seed=1).tobytes()
    assert len({image.tobytes() for image in changed(make(), IMAGES[:1].repeat(20, 0))}) > 3


@every_layer
def test_nothing_happens_when_predicting(make):
    layer = make()
    net = fn.Sequential([layer, layers.Flatten()], seed=0)
    got = net.predict(IMAGES).reshape(len(IMAGES), *layer.output_shape)
    if not isinstance(layer, layers.RandomCrop):
        assert np.array_equal(got, IMAGES)


@every_layer
def test_training_with_each_of_them_learns_and_is_the_same_for_any_threads(make):
    x, y = datasets.load_digits()[0]

    def train(threads):
        chain = [make(), layers.Rescale(1 / 255), layers.Flatten(), layers.Dense(10, "softmax")]
        net = fn.Sequential(chain, seed=1)
        trainer = fn.Trainer(net, optimizer=fn.optimizers.Adam(0.01), metrics=["accuracy"])
        with fn.threads(threads):
            trainer.fit(x, y, epochs=3, batch_size=50, progress=False, seed=2)
        return net, trainer

    net, trainer = train(1)
    assert trainer.evaluate(x, y)["accuracy"] > 0.45
    other, _ = train(3)
    assert all(
        a.tobytes() == b.tobytes()
        for a, b in zip(net.get_weights(), other.get_weights(), strict=True)
    )


@every_layer
def test_gradients_reach_a_layer_before_it(make):
    """Also where such a layer is not the first: its values are tested above, here that it is so."""
    rng = np.random.default_rng(0)
    layer = make()
    chain = [layers.Dense(64), layers.Reshape((8, 8)), layer, layers.Flatten()]
    net = fn.Sequential(chain, seed=3)
    x = rng.standard_normal((3, 4)).astype(np.float32)
    net.build((4,))
    kernel, bias = net.get_weights()
    net.set_weights([20 * kernel, bias + 100])
    y = rng.standard_normal((3, math.prod(layer.output_shape))).astype(np.float32)
    trainer = fn.Trainer(net, loss="mse", optimizer=fn.optimizers.SGD(1e-3))
    gradients = trainer.gradients(x, y)
    assert all(np.abs(g).max() > 1e-3 for g in gradients)


def test_convolutions_behind_all_of_it_have_the_same_bits_for_any_threads():
    x, y = (part[:150] for part in datasets.load_digits()[0])

    def train(threads):
        chain = [
            layers.Rescale(1 / 255), layers.RandomFlip("horizontal"),
            layers.RandomTranslation(0.2, 0.2), layers.RandomRotation(0.1), layers.RandomZoom(0.2),
            layers.RandomContrast(0.2, (0, 1)), layers.RandomBrightness(0.2, (0, 1)),
            layers.RandomErasing(0.5, value_range=(0, 1)), layers.GaussianNoise(0.1),
            layers.RandomCrop(7, 6), layers.Reshape((7, 6, 1)),
            layers.Conv2D(5, 3, activation="relu"), layers.GaussianNoise(0.1),
            layers.Flatten(), layers.Dense(10, "softmax"),
        ]  # fmt: skip
        net = fn.Sequential(chain, seed=1)
        with fn.threads(threads):
            trainer = fn.Trainer(net, mixup=0.3)
            trainer.fit(x, y, epochs=2, batch_size=37, progress=False, seed=2)
        return b"".join(w.tobytes() for w in net.get_weights())

    first = train(1)
    assert all(train(threads) == first for threads in (2, 3, 4, 8))


def test_files_keep_them(tmp_path):
    chain = [make() for make in ALL.values()] + [
        layers.RandomZoom((-0.1, 0.2), 0.3, "wrap", "nearest", 2.0),
        layers.RandomErasing((0.1, 0.4), (0.1, 0.2), 7.0, (0, 9)),
        layers.Flatten(), layers.Dense(2),
    ]  # fmt: skip
    net = fn.Sequential(chain, seed=0)
    net.build((8, 8))
    net.save(tmp_path / "net")
    again = fn.load(tmp_path / "net")
    assert [a.config() for a in again.layers] == [b.config() for b in net.layers]
    assert np.array_equal(again.predict(IMAGES), net.predict(IMAGES))


# ----------------------------------------------------------------------------- one by one


def test_flips_are_exact():
    x = IMAGES.astype(np.float32)
    kinds = {
        "horizontal": [x, x[:, :, ::-1]],
        "vertical": [x, x[:, ::-1]],
        "horizontal_and_vertical": [x, x[:, :, ::-1], x[:, ::-1], x[:, ::-1, ::-1]],
    }
    for mode, wanted in kinds.items():
        y = changed(layers.RandomFlip(mode), IMAGES)
        found = [
            np.array([np.array_equal(a, b) for a, b in zip(y, w, strict=True)]) for w in wanted
        ]
        assert np.any(found, axis=0).all()
        assert all(f.sum() > len(x) / len(wanted) / 3 for f in found)


@pytest.mark.parametrize("turns", [-1, 1, 2])
def test_a_quarter_turn_is_counter_clockwise(turns):
    y = changed(layers.RandomRotation((turns / 4, turns / 4)), IMAGES)
    np.testing.assert_allclose(y, np.rot90(IMAGES, turns, axes=(1, 2)), atol=1e-3)


def test_a_positive_shift_is_down_and_right():
    layer = layers.RandomTranslation((0.25, 0.25), (0.125, 0.125), "constant", fill_value=3)
    y = changed(layer, IMAGES)
    want = np.full(IMAGES.shape, 3.0)
    want[:, 2:, 1:] = IMAGES[:, :-2, :-1]
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("fill", ["wrap", "reflect", "nearest"])
def test_fill_modes_are_those_of_numpy_pad(fill):
    mode = {"wrap": "wrap", "reflect": "symmetric", "nearest": "edge"}[fill]
    y = changed(layers.RandomTranslation((0.375, 0.375), (-0.25, -0.25), fill), IMAGES)
    padded = np.pad(IMAGES, ((0, 0), (8, 8), (8, 8)), mode)
    np.testing.assert_array_equal(y, padded[:, 5:13, 10:18])


def test_zooming_in_doubles_the_middle():
    y = changed(layers.RandomZoom((-0.5, -0.5), interpolation="nearest"), IMAGES)
    places = np.floor((np.arange(8) - 3.5) * 0.5 + 3.5 + 0.5).astype(int)
    np.testing.assert_array_equal(y, IMAGES[:, places][:, :, places])


def test_crops_are_windows_of_the_image():
    x = np.arange(2 * 9 * 8 * 3, dtype=np.float32).reshape(2, 9, 8, 3).repeat(20, 0)
    y = changed(layers.RandomCrop(7, 3), x)
    windows = np.lib.stride_tricks.sliding_window_view(x, (7, 3), axis=(1, 2))
    places = [
        np.argwhere((w == image.transpose(2, 0, 1)).all(axis=(2, 3, 4)))
        for w, image in zip(windows, y, strict=True)
    ]
    assert all(len(p) == 1 for p in places)
    assert len({tuple(p[0]) for p in places}) > 10
    assert {p[0][0] for p in places} == {0, 1, 2}


def test_a_crop_is_the_middle_resized_when_predicting():
    net = fn.Sequential([layers.RandomCrop(4, 4), layers.Flatten()], seed=0)
    want = IMAGES.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(net.predict(IMAGES).reshape(want.shape), want, rtol=1e-6)
    wide = fn.Sequential([layers.RandomCrop(8, 4), layers.Flatten()], seed=0)
    np.testing.assert_array_equal(wide.predict(IMAGES).reshape(-1, 8, 4), IMAGES[:, :, 2:6])


def test_contrast_and_brightness_stay_in_range_and_keep_or_move_the_mean():
    x = (IMAGES / 255).astype(np.float32)
    y = changed(layers.RandomContrast(0.3, value_range=(-9, 9)), x)
    np.testing.assert_allclose(y.mean(axis=(1, 2)), x.mean(axis=(1, 2)), rtol=1e-5)
    ratio = y.std(axis=(1, 2)) / x.std(axis=(1, 2))
    assert 0.7 <= ratio.min() < 0.85
    assert 1.15 < ratio.max() <= 1.3
    y = changed(layers.RandomBrightness((0.1, 0.2), value_range=(0, 1)), x)
    moved = y[:, 0, 0] - x[:, 0, 0]
    assert 0.1 <= moved.min() < moved.max() <= 0.2001
    assert y.max() == 1
    assert changed(layers.RandomBrightness((1, 1)), IMAGES).min() == 255


def test_noise_is_normal_and_independent():
    x = np.full((100, 65), 3.0, np.float32)
    z = (changed(layers.GaussianNoise(2.0), x) - 3) / 2
    assert abs(z.mean()) < 4 / math.sqrt(z.size)
    assert z.std() == pytest.approx(1, abs=0.03)
    assert abs((z**3).mean()) < 0.15
    assert (z**4).mean() == pytest.approx(3, abs=0.3)
    assert np.sort(np.abs(z).ravel())[int(0.6827 * z.size)] == pytest.approx(1, abs=0.04)
    assert abs(np.corrcoef(z[:, :-1].ravel(), z[:, 1:].ravel())[0, 1]) < 0.05
    assert len(np.unique(z)) > 0.99 * z.size


def test_erasing_covers_a_rectangle_as_often_as_asked():
    x = np.ones((200, 10, 12, 3), np.float32)
    y = changed(layers.RandomErasing(0.4, (0.1, 0.3), fill_value=0, value_range=(0, 1)), x)
    holes = (y == 0).all(axis=3)
    assert np.array_equal(holes, (y == 0).any(axis=3))
    hit = holes.any(axis=(1, 2))
    assert 0.28 < hit.mean() < 0.52
    for hole in holes[hit]:
        rows, columns = np.nonzero(hole.any(axis=1))[0], np.nonzero(hole.any(axis=0))[0]
        assert hole.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert 3 <= len(rows) <= 6
    noisy = changed(layers.RandomErasing(1.0, (0.5, 0.5), value_range=(0, 1)), x)
    inside = noisy[noisy != 1]
    assert inside.min() == 0
    assert len(np.unique(inside)) > 1000
    assert np.array_equal(changed(layers.RandomErasing(0.0), x), x)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: layers.RandomFlip("sideways"), ValueError, "unknown mode 'sideways'"),
        (lambda: layers.RandomTranslation(2, 0), ValueError, "height_factor .*<= 1"),
        (lambda: layers.RandomTranslation(0, (1, 0)), ValueError, "low <= high"),
        (lambda: layers.RandomTranslation(0, 0, "mirror"), ValueError, "unknown fill_mode"),
        (lambda: layers.RandomRotation("a"), TypeError, "factor must be a number"),
        (lambda: layers.RandomRotation((0, 1, 2)), TypeError, r"two numbers \(low, high\)"),
        (lambda: layers.RandomZoom(0.1, interpolation="cubic"), ValueError, "interpolation"),
        (lambda: layers.RandomCrop(0, 3), ValueError, "height must be an integer >= 1"),
        (lambda: layers.RandomContrast(-0.1), ValueError, "factor .*>= 0"),
        (lambda: layers.RandomContrast(0.1, (1, 1)), ValueError, "low < high"),
        (lambda: layers.RandomBrightness(1.5), ValueError, "factor .*<= 1"),
        (lambda: layers.GaussianNoise(-1), ValueError, "stddev .*>= 0"),
        (lambda: layers.RandomErasing(1.5), ValueError, "factor.*<= 1"),
        (lambda: layers.RandomErasing(scale=0.2), TypeError, "scale must be"),
    ],
)
def test_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_wrong_shapes_are_named():
    for make in ALL.values():
        if isinstance(make(), layers.GaussianNoise):
            continue
        with pytest.raises(ValueError, match=r"wants images of shape .*got rows of shape \(64,\)"):
            fn.Sequential([make(), layers.Flatten()]).build((64,))

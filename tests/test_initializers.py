"""Starting weights: Keras's distributions, the same bits every time, clear errors, JSON."""

import json
import math
from statistics import NormalDist

import numpy as np
import pytest

from fastnet import initializers

NAMES = [
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "lecun_uniform",
    "lecun_normal",
    "zeros",
    "ones",
    "constant",
    "orthogonal",
    "random_normal",
    "random_uniform",
]
RANDOM = [name for name in NAMES if name not in ("zeros", "ones", "constant")]
SCALED = {  # name -> (scale, mode, uniform)
    "glorot_uniform": (1.0, "average", True),
    "glorot_normal": (1.0, "average", False),
    "he_uniform": (2.0, "in", True),
    "he_normal": (2.0, "in", False),
    "lecun_uniform": (1.0, "in", True),
    "lecun_normal": (1.0, "in", False),
}


def rng(seed=7):
    return np.random.Generator(np.random.Philox(seed))


def test_names_are_the_ones_documented():
    assert set(initializers.names()) == set(NAMES)
    for name in NAMES:
        assert getattr(initializers, name) is type(initializers.get(name))


@pytest.mark.parametrize("name", NAMES)
def test_draws_a_new_float32_array_and_repeats_its_bits(name):
    init = initializers.get(name)
    first, again = init((7, 5), rng()), init((7, 5), rng())
    assert first.dtype == np.float32
    assert first.shape == (7, 5)
    assert first.flags.c_contiguous
    assert first.flags.writeable
    assert not np.shares_memory(first, again)
    assert first.tobytes() == again.tobytes()
    assert np.isfinite(first).all()


@pytest.mark.parametrize("name", RANDOM)
def test_other_seeds_and_a_used_generator_draw_other_values(name):
    init, generator = initializers.get(name), rng()
    first, second = init((7, 5), generator), init((7, 5), generator)
    assert (first != second).any()
    assert (first != init((7, 5), rng(8))).any()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "orthogonal"])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (0, 3), (3, 0), (3, 3, 2, 5), 4])
def test_every_shape(name, shape):
    drawn = initializers.get(name)(shape, rng())
    assert drawn.shape == ((4,) if shape == 4 else shape)
    assert drawn.dtype == np.float32


def test_constants():
    assert not initializers.zeros()((3, 5), rng()).any()
    assert (initializers.ones()((3, 5), rng()) == 1).all()
    assert (initializers.constant(-2.5)((3, 5), rng()) == -2.5).all()
    assert initializers.constant(3) == initializers.Constant(3.0)


@pytest.mark.parametrize(
    ("shape", "fans"),
    [
        ((), (1, 1)),
        ((7,), (7, 7)),
        ((3, 5), (3, 5)),
        ((3, 5, 7), (15, 21)),
        ((3, 5, 7, 11), (105, 165)),
    ],
)
def test_fans(shape, fans):
    assert initializers.fans(shape) == fans


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("shape", [(500, 200), (3, 5, 30, 220), (90_000,)])
def test_scaled_distributions(name, shape):
    scale, mode, uniform = SCALED[name]
    fan_in, fan_out = initializers.fans(shape)
    fan = fan_in if mode == "in" else (fan_in + fan_out) / 2
    stddev = math.sqrt(scale / fan)
    drawn = initializers.get(name)(shape, rng()).astype(np.float64)
    assert drawn.mean() == pytest.approx(0, abs=0.02 * stddev)
    assert drawn.std() == pytest.approx(stddev, rel=0.01)
    if uniform:
        limit = math.sqrt(3) * stddev
        assert 0.999 * limit < np.abs(drawn).max() <= limit * (1 + 1e-6)
        middle = limit / 2
    else:  # cut off at two deviations of the wider normal it is taken from
        wide = stddev / 0.87962566103423978
        assert 1.99 * wide < np.abs(drawn).max() <= 2 * wide * (1 + 1e-6)
        inside = NormalDist().cdf(2) - NormalDist().cdf(-2)
        middle = wide * NormalDist().inv_cdf(0.5 + inside / 4)
    assert (np.abs(drawn) < middle).mean() == pytest.approx(0.5, abs=0.01)


def test_random_normal_and_uniform():
    drawn = initializers.random_normal(mean=3.0, stddev=0.5)((300, 300), rng())
    assert drawn.mean() == pytest.approx(3, abs=0.01)
    assert drawn.std() == pytest.approx(0.5, rel=0.01)
    assert np.abs(drawn - 3).max() > 1.5  # not cut off at two deviations
    drawn = initializers.random_uniform(minval=2.0, maxval=5.0)((300, 300), rng())
    assert 2 <= drawn.min() < 2.001
    assert 4.999 < drawn.max() <= 5
    assert initializers.get("random_normal") == initializers.RandomNormal(0.0, 0.05)
    assert initializers.get("random_uniform") == initializers.RandomUniform(-0.05, 0.05)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (9, 9), (1, 4), (4, 1), (3, 3, 2, 11), (97, 96)])
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_orthogonal(shape, gain):
    drawn = initializers.orthogonal(gain)(shape, rng())
    matrix = drawn.reshape(-1, shape[-1]).astype(np.float64)
    small = matrix @ matrix.T if len(matrix) < shape[-1] else matrix.T @ matrix
    np.testing.assert_allclose(small, gain**2 * np.eye(len(small)), atol=1e-6)


def test_orthogonal_is_the_q_of_a_qr_with_positive_diagonal():
    normal = rng().standard_normal((5, 9)).T
    q, r = np.linalg.qr(normal)
    np.testing.assert_allclose(
        initializers.orthogonal()((9, 5), rng()), q * np.sign(np.diag(r)), atol=1e-6
    )


@pytest.mark.parametrize(
    ("identifier", "want"),
    [
        ("glorot", initializers.GlorotUniform()),
        ("he", initializers.HeUniform()),
        ("lecun", initializers.LecunUniform()),
        ("normal", initializers.RandomNormal()),
        ("uniform", initializers.RandomUniform()),
        ("HeNormal", initializers.HeNormal()),
        ("Orthogonal", initializers.Orthogonal(1.0)),
        (initializers.Orthogonal, initializers.Orthogonal(1.0)),
        (initializers.he_normal, initializers.HeNormal()),
        (initializers.Constant(3), initializers.Constant(3.0)),
    ],
)
def test_get(identifier, want):
    assert initializers.get(identifier) == want


def test_your_own_function():
    seen = []

    def ramp(shape, generator):
        seen.append((shape, generator))
        return held

    held, generator = np.arange(15.0).reshape(3, 5), rng()
    init = initializers.get(ramp)
    drawn = init([3, 5], generator)
    assert seen == [((3, 5), generator)]
    assert drawn.dtype == np.float32
    np.testing.assert_array_equal(drawn, held)
    held32 = held.astype(np.float32)
    copy = initializers.get(lambda shape, generator: held32)((3, 5), generator)
    assert not np.shares_memory(copy, held32)
    transposed = initializers.get(lambda shape, generator: held.T)((5, 3), generator)
    assert transposed.flags.c_contiguous
    np.testing.assert_array_equal(transposed, held.T)
    assert initializers.get(lambda *arguments: np.ones(3))(3, generator).tolist() == [1, 1, 1]


ERRORS = [
    (lambda: initializers.get("glorrot"), ValueError, "unknown initializer 'glorrot'.*he_normal"),
    (lambda: initializers.get(3), TypeError, "must be a name.*got 3"),
    (lambda: initializers.get(None), TypeError, "must be a name.*got None"),
    (lambda: initializers.get(lambda shape: 0), TypeError, r"called as f\(shape, rng\)"),
    (lambda: initializers.constant("1"), TypeError, "value must be a number, got '1'"),
    (lambda: initializers.constant(True), TypeError, "value must be a number, got True"),
    (lambda: initializers.constant(math.nan), ValueError, "value must be a finite.*nan"),
    (lambda: initializers.constant(1e39), ValueError, "value must be a finite float32"),
    (lambda: initializers.constant(10**400), ValueError, "value must be a finite float32"),
    (lambda: initializers.orthogonal(math.inf), ValueError, "gain must be a finite"),
    (lambda: initializers.random_normal(stddev=-1), ValueError, "stddev must be .* >= 0, got -1"),
    (lambda: initializers.random_uniform(2, 1), ValueError, "minval=2.0, maxval=1.0"),
    (lambda: initializers.zeros()((3, -5), rng()), ValueError, "negative sizes, got"),
    (lambda: initializers.zeros()((3, 5.0), rng()), TypeError, "tuple of integers, got"),
    (lambda: initializers.zeros()(None, rng()), TypeError, "tuple of integers, got None"),
    (lambda: initializers.zeros()((3,), 7), TypeError, "rng must be a numpy.*got int"),
    (lambda: initializers.orthogonal()((5,), rng()), ValueError, r"two or more axes.*\(5,\)"),
    (lambda: initializers.orthogonal()((0, 5), rng()), ValueError, "without a size 0"),
]
OWN_ERRORS = [
    (np.zeros((5, 3)), ValueError, r"must return shape \(3, 5\), got \(5, 3\)"),
    (1.0, ValueError, r"must return shape \(3, 5\), got \(\)"),
    (np.full((3, 5), np.nan), ValueError, r"finite float32 values, got nan at \(0, 0\)"),
    (np.full((3, 5), 1e39), ValueError, "finite float32 values, got inf"),
    (None, (TypeError, ValueError), "own must return"),
    ("words", TypeError, "must return numbers of shape .* got str"),
    ([[1, 2], [3]], TypeError, "must return numbers of shape .* got list"),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS)
def test_errors_say_what_was_wanted_and_what_came(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(("returned", "error", "message"), OWN_ERRORS)
def test_errors_of_your_own_function(returned, error, message):
    def own(shape, generator):
        return returned

    with pytest.raises(error, match=message):
        initializers.get(own)((3, 5), rng())


@pytest.mark.parametrize(
    "init",
    [
        *(initializers.get(name) for name in NAMES),
        initializers.constant(0.1),
        initializers.orthogonal(2),
        initializers.random_normal(1, 2),
        initializers.random_uniform(1, 2),
    ],
    ids=repr,
)
def test_round_trip_through_json(init):
    config = json.loads(json.dumps(initializers.serialize(init)))
    assert config["name"] in NAMES
    assert initializers.deserialize(config) == init


def test_your_own_function_is_not_stored():
    config = initializers.serialize(lambda shape, generator: np.full(shape, 9.0))
    assert config == {"name": "custom"}
    again = initializers.deserialize(config)
    assert initializers.serialize(again) == config
    want = initializers.glorot_uniform()((7, 5), rng())
    np.testing.assert_array_equal(again((7, 5), rng()), want)


@pytest.mark.parametrize(
    "config",
    [
        None,
        "zeros",
        {},
        {"name": 3},
        {"name": "os.system"},
        {"name": "Zeros"},
        {"name": "custom", "function": "os.system"},
        {"name": "zeros", "value": 1},
        {"name": "constant", "value": "1"},
        {"name": "constant", "value": None},
        {"name": "constant", "value": math.nan},
        {"name": "orthogonal", "gain": [1]},
        {"name": "random_uniform", "minval": 2.0, "maxval": 1.0},
        {"name": "random_normal", "stddev": -1.0},
        {"name": "constant", "__class__": 1},
    ],
)
def test_a_hostile_config_is_a_value_error(config):
    with pytest.raises(ValueError, match="initializer|must be"):
        initializers.deserialize(config)


def test_reprs_read_well():
    assert repr(initializers.get("he")) == "HeUniform()"
    assert repr(initializers.orthogonal(0.5)) == "Orthogonal(gain=0.5)"

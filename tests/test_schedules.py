"""Learning-rate schedules: values by hand, against torch where it is installed, clear errors."""

import math

import numpy as np
import pytest

from fastnet import schedules as s

ALL = [
    s.ConstantRate(0.1),
    s.ExponentialDecay(0.1, 10, 0.5),
    s.StepDecay(0.1, 10),
    s.CosineDecay(0.1, 30, warmup_target=0.3, warmup_steps=5),
    s.PolynomialDecay(0.1, 30),
    s.PiecewiseConstantDecay([3, 7], [0.3, 0.2, 0.1]),
    s.Warmup(s.CosineDecay(0.1, 30), 5),
    s.OneCycle(0.1, 30),
]


def rates(schedule, steps):
    return [schedule(step) for step in steps]


def test_exponential():
    decay = s.ExponentialDecay(0.8, 10, 0.5)
    assert rates(decay, [0, 5, 10, 30]) == pytest.approx([0.8, 0.8 * 0.5**0.5, 0.4, 0.1])
    stairs = s.ExponentialDecay(0.8, 10, 0.5, staircase=True)
    assert rates(stairs, [0, 9, 10, 19, 20]) == pytest.approx([0.8, 0.8, 0.4, 0.4, 0.2])
    assert decay(10**6) == 0  # underflow is no error


def test_step():
    assert rates(s.StepDecay(0.8, 3, gamma=0.5), range(7)) == pytest.approx(
        [0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2]
    )
    assert s.StepDecay(1.0, 3)(3) == pytest.approx(0.1)


def test_cosine():
    decay = s.CosineDecay(0.8, 12)
    want = [0.8, 0.4 * (1 + math.sqrt(0.5)), 0.4, 0.2, 0.0, 0.0]
    assert rates(decay, [0, 3, 6, 8, 12, 99]) == pytest.approx(want)
    assert rates(s.CosineDecay(0.8, 12, alpha=0.25), [0, 6, 12]) == pytest.approx([0.8, 0.5, 0.2])


def test_cosine_with_warmup():
    decay = s.CosineDecay(0.2, 12, alpha=0.5, warmup_target=0.8, warmup_steps=4)
    want = [0.2, 0.35, 0.65, 0.8, 0.6, 0.4, 0.4]
    assert rates(decay, [0, 1, 3, 4, 10, 16, 99]) == pytest.approx(want)
    unused = s.CosineDecay(0.2, 12, warmup_steps=4)  # Keras warms up only with a target
    assert rates(unused, [0, 6]) == pytest.approx([0.2, 0.1])


def test_polynomial():
    line = s.PolynomialDecay(0.9, 10, end_learning_rate=0.1)
    assert rates(line, [0, 5, 10, 99]) == pytest.approx([0.9, 0.5, 0.1, 0.1])
    square = s.PolynomialDecay(0.9, 10, end_learning_rate=0.1, power=2)
    assert square(5) == pytest.approx(0.3)
    cycle = s.PolynomialDecay(0.9, 10, end_learning_rate=0.1, cycle=True)
    assert rates(cycle, [0, 10, 11, 15, 20]) == pytest.approx([0.9, 0.1, 0.46, 0.3, 0.1])
    assert s.PolynomialDecay(0.9, 10)(10) == pytest.approx(0.0001)


def test_piecewise_constant():
    steps = s.PiecewiseConstantDecay([2, 4], [0.3, 0.2, 0.1])
    assert rates(steps, range(7)) == [0.3, 0.3, 0.3, 0.2, 0.2, 0.1, 0.1]
    assert s.PiecewiseConstantDecay([], [0.3])(5) == 0.3


def test_warmup():
    assert rates(s.Warmup(0.8, 4), range(6)) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8])
    inner = s.StepDecay(0.8, 3, gamma=0.5)
    warm = s.Warmup(inner, 2, initial_learning_rate=0.4)
    want = [0.4, 0.6, 0.8, 0.8, 0.8, 0.4]
    assert rates(warm, range(6)) == pytest.approx(want)
    assert s.Warmup(lambda step: 1 / (1 + step), 2)(3) == 0.5


def test_one_cycle():
    cycle = s.OneCycle(1.0, 11, pct_start=6 / 11, div_factor=10, final_div_factor=100)
    assert rates(cycle, [0, 5, 10, 99]) == pytest.approx([0.1, 1.0, 0.001, 0.001])
    assert cycle(3) > cycle(2) > cycle(1) > cycle(0)
    assert cycle(5) > cycle(6) > cycle(9) > cycle(10)


def torch_rates(make, steps, lr):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    schedule, seen = make(torch.optim.lr_scheduler, optimizer), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize(("total", "pct"), [(30, 0.3), (31, 0.25), (7, 0.5), (10, 0.9)])
def test_one_cycle_against_torch(total, pct):
    want = torch_rates(
        lambda lib, o: lib.OneCycleLR(o, max_lr=0.7, total_steps=total, pct_start=pct),
        total - 1,
        0.1,
    )
    got = s.OneCycle(0.7, total, pct_start=pct)
    assert rates(got, range(total - 1)) == pytest.approx(want, rel=1e-9)


def test_step_cosine_and_polynomial_against_torch():
    got = rates(s.StepDecay(0.7, 4, gamma=0.3), range(20))
    assert got == pytest.approx(torch_rates(lambda lib, o: lib.StepLR(o, 4, 0.3), 20, 0.7))
    got = rates(s.CosineDecay(0.7, 20), range(20))
    want = torch_rates(lambda lib, o: lib.CosineAnnealingLR(o, 20), 20, 0.7)
    assert got == pytest.approx(want, rel=1e-9)
    got = rates(s.PolynomialDecay(0.7, 15, end_learning_rate=0, power=2), range(20))
    want = torch_rates(lambda lib, o: lib.PolynomialLR(o, 15, 2), 20, 0.7)
    assert got == pytest.approx(want, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_every_schedule_is_a_pure_function_with_python_floats(schedule):
    forwards = rates(schedule, range(50))
    backwards = rates(schedule, reversed(range(50)))[::-1]
    assert forwards == backwards
    assert {type(rate) for rate in forwards} == {float}
    assert max(forwards) > 0
    assert schedule(np.int64(7)) == forwards[7]
    assert type(schedule).__name__ in repr(schedule)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_the_rates_of_many_steps_are_those_of_each(schedule):
    many = schedule.rates(3, 20)
    assert many.dtype == np.float64
    assert many.tolist() == rates(schedule, range(3, 23))
    assert schedule.rates(3, 0).shape == (0,)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_steps_are_integers_from_zero(schedule):
    with pytest.raises(ValueError, match="step must be an integer >= 0, got -1"):
        schedule(-1)
    with pytest.raises(TypeError, match="step must be an integer, got 1.5"):
        schedule(1.5)


def test_as_schedule_takes_numbers_schedules_and_functions():
    assert rates(s.as_schedule(0.1), [0, 9]) == [0.1, 0.1]
    assert s.as_schedule(1) == s.ConstantRate(1.0)
    assert s.as_schedule(np.float32(0.5))(0) == 0.5
    assert s.as_schedule(0)(3) == 0
    decay = s.StepDecay(0.1, 3)
    assert s.as_schedule(decay) is decay
    assert rates(s.as_schedule(lambda step: 0.1 * step), [0, 2]) == [0.0, 0.2]
    for returned in (np.float32(0.5), np.array(0.5), 0.5):
        rate = s.as_schedule(lambda step, returned=returned: returned)(0)
        assert (rate, type(rate)) == (0.5, float)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: s.as_schedule("0.1"), TypeError, "number or a function of the step, got '0.1'"),
        (lambda: s.as_schedule(None), TypeError, "number or a function of the step, got None"),
        (lambda: s.as_schedule(True), TypeError, "number or a function of the step, got True"),
        (lambda: s.as_schedule(s.StepDecay), TypeError, r"class StepDecay; make one: StepDecay\("),
        (lambda: s.as_schedule(-0.1), ValueError, "learning_rate must be .* >= 0, got -0.1"),
        (lambda: s.as_schedule(math.nan), ValueError, "learning_rate must be .* got nan"),
        (lambda: s.as_schedule(math.inf), ValueError, "learning_rate must be .* got inf"),
        (lambda: s.as_schedule(10**400), ValueError, "learning_rate must be a finite number"),
        (lambda: s.as_schedule(lambda n: -n)(2), ValueError, "of step 2, from .*must be .*got -2"),
        (lambda: s.as_schedule(lambda n: math.nan)(2), ValueError, "of step 2, .* got nan"),
        (lambda: s.as_schedule(lambda n: None)(2), TypeError, "of step 2, .* got None"),
        (lambda: s.as_schedule(lambda n: np.ones(3))(2), TypeError, "of step 2, .* got array"),
        (lambda: s.ExponentialDecay(0.1, 0, 0.5), ValueError, "decay_steps must be .* >= 1, got 0"),
        (lambda: s.ExponentialDecay(0.1, 1.5, 0.5), TypeError, "decay_steps must be an integer"),
        (lambda: s.ExponentialDecay(0.1, 1, 0), ValueError, "decay_rate must be .* > 0, got 0"),
        (lambda: s.ExponentialDecay(0.1, 1, 9.0)(10**4), ValueError, "of step 10000, .* got inf"),
        (lambda: s.StepDecay(-1, 1), ValueError, "initial_learning_rate must be .* got -1"),
        (lambda: s.StepDecay(1, 1, gamma=-1), ValueError, "gamma must be .* > 0, got -1"),
        (lambda: s.CosineDecay(0.1, 5, alpha=2), ValueError, "alpha must be .* <= 1, got 2"),
        (lambda: s.CosineDecay(0.1, 5, warmup_target="x"), TypeError, "warmup_target must be"),
        (lambda: s.CosineDecay(0.1, 5, warmup_steps=-1), ValueError, "warmup_steps must be"),
        (lambda: s.PolynomialDecay(0.1, 5, power=0), ValueError, "power must be .* > 0, got 0"),
        (lambda: s.PiecewiseConstantDecay([1], [1]), ValueError, "1 values and 1 boundaries"),
        (lambda: s.PiecewiseConstantDecay([2, 2], [1, 1, 1]), ValueError, r"rise, got \(2, 2\)"),
        (lambda: s.Warmup("x", 5), TypeError, "number or a function of the step, got 'x'"),
        (lambda: s.Warmup(0.1, 0), ValueError, "warmup_steps must be .* >= 1, got 0"),
        (lambda: s.OneCycle(0.1, 0), ValueError, "total_steps must be .* >= 1, got 0"),
        (
            lambda: s.OneCycle(0.1, 9, pct_start=1.5),
            ValueError,
            "pct_start must be .* <= 1",
        ),
        (lambda: s.OneCycle(0.1, 9, div_factor=0), ValueError, "div_factor must be .* > 0"),
    ],
)
def test_errors_say_what_was_wanted_and_what_came(call, error, message):
    with pytest.raises(error, match=message):
        call()

"""Plans, what they say of themselves and what they refuse; memory that runs out."""

import math

import numpy as np
import pytest
from course import BATCH, CLASSES, NUMBERS, classifier, fit
from engine import Net, activation, dense, start_weights

from fastnet import _core


def test_a_plan_lists_its_ops_and_buffers(level):
    layers = [dense(7), activation("relu"), ("dropout", {"rate": 0.25}), dense((5, 4), bias=False)]
    net = Net(
        (2, 3), layers, loss=("huber", {"delta": 2.0}), metrics=[("squared", {})], max_rows=10
    )
    ops = net.plan.ops()
    names = ["input", "dense", "activation", "dropout", "dense", "input", "loss", "metric"]
    assert [op["name"] for op in ops] == names
    assert [op["layer"] for op in ops] == [-1, 0, 1, 2, 3, -1, -1, -1]
    assert [op["inputs"] for op in ops] == [[], [0], [1], [2], [3], [], [4, 5], [4, 5]]
    assert [op["outputs"] for op in ops] == [[0], [1], [2], [3], [4], [5], [6], []]
    assert [op["params"] for op in ops] == [[], [0, 1], [], [], [2], [], [], []]
    assert ops[2]["attributes"]["function"] == _core.table("activation").index("relu")
    assert ops[3]["attributes"] == {"rate": 0.25}
    assert ops[5]["attributes"]["source"] == 1
    assert ops[6]["attributes"]["delta"] == 2.0
    assert ops[1]["flops"] == 2 * 6 * 7
    buffers = net.plan.buffers()
    shapes = [(2, 3), (7,), (7,), (7,), (5, 4), (5, 4), ()]
    assert [b["shape"] for b in buffers] == shapes
    assert {b["dtype"] for b in buffers} == {"f"}
    described = net.plan.describe()
    assert described["param_count"] == 6 * 7 + 7 + 7 * 20
    assert described["param_bytes"] >= 4 * described["param_count"]
    assert (described["n_ops"], described["n_buffers"], described["n_params"]) == (8, 7, 3)
    assert described["n_metrics"] == 1
    assert described["n_phases"] == len(net.plan.schedule().splitlines())
    assert described["flops"] >= 2 * (2 * 6 * 7) + 3 * (2 * 7 * 20)
    assert described["simd"] == level


def test_buffers_lie_apart_in_the_arena(level):
    """Rows are long enough, aligned, inside the arena; buffers are apart or one."""
    for mode in ("train", "evaluate"):
        net = classifier("sgd") if mode == "train" else Net(
            131, [dense(130), activation("relu"), dense(CLASSES)], mode=mode, loss="cross_entropy",
            classes=True, max_rows=BATCH)  # fmt: skip
        arena, spans = net.plan.describe()["arena_bytes"], {}
        for buffer in [b for b in net.plan.buffers() if b["memory"] == "arena"]:
            assert buffer["row_bytes"] >= 4 * math.prod(buffer["shape"])
            assert buffer["offset"] % 64 == 0
            spans.setdefault(buffer["offset"], BATCH * buffer["row_bytes"])
            assert buffer["offset"] + BATCH * buffer["row_bytes"] <= arena
        ends = 0
        for offset, size in sorted(spans.items()):
            assert offset >= ends
            ends = offset + size


def test_schedule_names_every_pass(level):
    text = classifier("sgd").plan.schedule()
    lines = text.splitlines()
    assert lines[0].startswith("phase 0 (once): [")
    for part in ("input 0 forward", "dense 1 forward", "loss 9 forward", "dense 7 backward",
                 "dense 1 update", "metric 10 finish", "ahead: input 0 forward"):  # fmt: skip
        assert part in text, part
    assert "dense 1 backward" not in text  # nobody wants the gradient of the input
    flat = classifier("sgd", update="flat").plan.schedule()
    assert " norm]" in flat
    assert " apply]" in flat
    assert "prepare" in classifier("sgd", gemm="sgemm").plan.schedule()
    assert "(stop)" in Net(3, [dense(2)], loss="stop").plan.schedule()


def build(*steps):
    """A plan from (method, arguments...) steps; the last is finish()."""
    plan = _core.Plan("train", 4)
    for method, *arguments in steps:
        keywords = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
        getattr(plan, method)(*arguments, **keywords)
    plan.finish()


X4 = (("buffer", (4,)), ("op", "input", [], [0]))
BAD_PLANS = [
    ([("op", "dens")], "unknown op 'dens'"),
    ([*X4, ("buffer", (4,)), ("op", "activation", [0], [1], {"function": "rely"})], "'rely'"),
    ([*X4, ("buffer", (4,)), ("op", "activation", [0], [1], {"functoin": "relu"})], "functoin"),
    ([*X4, ("buffer", (4,)), ("op", "activation", [0], [1], {"function": 3})], "no number"),
    ([*X4, ("buffer", (4,)), ("op", "dropout", [0], [1], {"rate": "high"})], "no name"),
    ([*X4, ("buffer", (4,)), ("op", "dropout", [0], [1], {"rate": 1.0})], r"not in \[0, 1\)"),
    ([*X4, ("buffer", (4,)), ("op", "dropout", [0], [1], {"rate": float("nan")})], r"\[0, 1\)"),
    ([*X4, ("op", "softmax", [0], [7])], "cannot write buffer 7"),
    ([*X4, ("op", "softmax", [7], [])], "cannot take buffer 7"),
    ([*X4, ("op", "softmax", [-1], [])], "cannot take buffer -1"),
    ([*X4, ("op", "input", [], [0])], "written by two ops"),
    ([*X4, ("op", "softmax", [0, 0], [])], "as input 1"),
    ([*X4, ("op", "softmax", [0], [])], "1 inputs and 0 outputs"),
    ([*X4, ("buffer", (5,)), ("op", "softmax", [0], [1])], "input and output differ"),
    ([*X4, ("buffer", (5,)), ("buffer", (5,)), ("op", "softmax", [1], [2])], "it is written"),
    ([*X4, ("buffer", (5,)), ("op", "dense", [0], [1])], "kernel is wanted"),
    ([*X4, ("buffer", (5,)), ("param", (5, 4), True), ("op", "dense", [0], [1], [0])],
     "not .d_in, units"),
    ([*X4, ("buffer", (5,)), ("param", (4, 5), True), ("param", (4,), False),
      ("op", "dense", [0], [1], [0, 1])], "bias's shape"),
    ([*X4, ("param", (4, 4), True), ("buffer", (4,)),
      ("op", "dense", [0], [1], [0, 0])], "uses parameter 0 twice"),
    ([*X4, ("buffer", (3,)), ("op", "input", [], [1]), ("buffer", ()),
      ("op", "loss", [0, 1], [2], {"kind": "mse"})], "targets do not fit"),
    ([*X4, ("buffer", (), "i"), ("op", "input", [], [1]), ("buffer", ()),
      ("op", "loss", [0, 1], [2], {"kind": "mse"})], "targets do not fit"),
    ([*X4, ("buffer", (3,)), ("op", "input", [], [1]),
      ("op", "metric", [0, 1], {"kind": "squared"})], "do not fit the metric"),
    ([("buffer", (4,)), ("op", "input", [], [0], {"source": 32})], "no such source"),
    ([("buffer", (4, -1))], "needs 1 to"),
    ([("buffer", (2**20, 2**20))], "needs 1 to"),
    ([("buffer", (1,) * 7)], "at most 6 axes"),
    ([("param", (0,), True)], "needs 1 to"),
    ([("param", (), True)], "1 to 6 axes"),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "message"), BAD_PLANS, ids=[message for _, message in BAD_PLANS])
def test_a_plan_that_makes_no_sense(steps, message):
    with pytest.raises(ValueError, match=message):
        build(*steps)


def test_arguments_of_plans_and_names():
    for rows, lanes in ((0, 1), (-3, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1 row and 1 lane"):
            _core.Plan("train", rows, lanes=lanes)
    with pytest.raises(KeyError):
        _core.Plan("fit", 3)
    with pytest.raises(ValueError, match="unknown optimizer 'adem'"):
        _core.Optimizer("adem")
    assert _core.optimizer_slots("adem") == -1
    assert not _core.choose_simd("v9")
    with pytest.raises(ValueError, match="multiple of 16"):
        _core.vmath("exp", np.zeros(15, np.float32), np.zeros(15, np.float32))


def test_parts_that_do_not_belong_together(regression):
    x, t, net = regression
    other = Net(9, [dense(16), activation("relu"), dense(3)], loss="mse", max_rows=8)
    optimizer = _core.Optimizer("sgd")
    call = {"n_rows": 8, "batch_size": 8, "optimizer": optimizer, "rates": np.ones(1)}
    with pytest.raises(ValueError, match="do not fit"):
        _core.run(net.plan, other.params, net.work, [x, t], **call)
    with pytest.raises(ValueError, match="do not fit"):
        _core.run(net.plan, net.params, other.work, [x, t], **call)
    with pytest.raises(ValueError, match="do not fit"):  # slots are missing
        call_adam = call | {"optimizer": _core.Optimizer("adam")}
        _core.run(net.plan, net.params, net.work, [x, t], **call_adam)
    before = _core.simd_level()
    others = [level for level in _core.simd_levels() if level != before]
    if others:
        _core.choose_simd(others[0])
        try:
            low = Net(9, [dense(17), activation("relu"), dense(3)], loss="mse", max_rows=8)
        finally:
            _core.choose_simd(before)
        with pytest.raises(ValueError, match="do not fit"):  # packed for other vectors
            _core.run(low.plan, net.params, low.work, [x, t], **call)
    for index, part in ((4, 0), (-1, 0), (0, 1), (0, 4)):
        with pytest.raises(ValueError, match="no such parameter"):
            net.params.get(index, np.zeros(9 * 17, np.float32), part)


def test_params_serve_every_plan_of_a_network(level, regression):
    """Trained by one plan, predicted by others of any size; copied for a snapshot."""
    x, t, net = regression
    fit(net, x, t)
    layers = [dense(17), activation("relu"), dense(3)]
    for max_rows in (1, 50):
        predictor = Net(9, layers, mode="predict", max_rows=max_rows)
        own = predictor.predict(x)
        predictor.params = net.params
        shared = predictor.predict(x)
        assert not np.array_equal(own, shared)
        copy = Net(9, layers, mode="predict", max_rows=max_rows)
        copy.params.copy_weights(net.params)
        assert np.array_equal(copy.predict(x), shared)
        assert copy.params.nbytes >= 4 * (9 * 17 + 17 + 17 * 3 + 3)


def everything(name="adam"):
    net = Net(20, [dense(30), activation("relu"), *[dense(9), activation("tanh")] * 9, dense(3)],
              loss="mse", update="flat", max_rows=8)  # fmt: skip
    net.need(name)
    net.set_weights(start_weights(net, np.random.default_rng(0)))
    return net


def test_an_allocation_that_fails_is_a_memory_error():
    """Each one in turn, from the plan to the slots; afterwards everything works."""
    rng = np.random.default_rng(1)
    x, t = rng.random((8, 20)).astype(np.float32), rng.random((8, 3)).astype(np.float32)
    call = {"optimizer": _core.Optimizer("adam", **NUMBERS["adam"]), "rate": 0.01, "threads": 2}

    def trained():
        net = everything()
        assert net.run(x, t, **call).status == "ok"
        return net.digest()

    start = _core.fail_allocation(-1)
    want = trained()
    needed = _core.fail_allocation(-1) - start
    assert needed > 20
    for i in range(needed):
        _core.fail_allocation(i)
        with pytest.raises(MemoryError):
            trained()
        if i % 5 == 0:
            _core.fail_allocation(-1)
            assert trained() == want
    _core.fail_allocation(needed)  # one more than are made
    assert trained() == want


def test_running_allocates_nothing(level):
    net = everything()
    x, t = np.ones((100, 20), np.float32), np.ones((100, 3), np.float32)
    before = _core.fail_allocation(-1)
    net.run(x, t, batch=8, optimizer=_core.Optimizer("adam", **NUMBERS["adam"]), threads=2)
    assert _core.fail_allocation(-1) == before


def test_sizes_beyond_memory():
    plan = _core.Plan("train", 2**31 - 1)
    source = plan.buffer((2**29,))
    plan.op("input", [], [source])
    with pytest.raises((ValueError, MemoryError)):
        _core.Work(plan.finish())

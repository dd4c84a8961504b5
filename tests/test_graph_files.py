"""Wrong descriptions of graphs in model files: each is one ModelFileError that says why."""

import copy
import json
import random
import time

import numpy as np
import pytest

import fastnet as fn
from fastnet import _networkfile, layers
from fastnet.cli import main


def network():
    tower = fn.Sequential([layers.Dense(4, activation="tanh"), layers.Dense(3)], name="tower")
    a, b = fn.Input(5, name="a"), fn.Input(5, name="b")
    h = layers.Add(name="sum")([tower(a), tower(b)])
    return fn.Model([a, b], [layers.Dense(2, name="p")(h), h], seed=0, name="pair")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A good file's bytes."""
    path = tmp_path_factory.mktemp("good") / "net.safetensors"
    network().save(path)
    return path.read_bytes()


def parts(data):
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["fastnet"]), data[8 + length :]


def joined(header, about, body):
    header["__metadata__"]["fastnet"] = json.dumps(about)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def changed(data, change):
    """The file with its network's description changed in place, or to what is returned."""
    header, about, body = parts(data)
    result = change(about["description"])
    if isinstance(result, dict):
        about["description"] = result
    return joined(header, about, body)


def call(i, made):
    return lambda d: d["calls"].__setitem__(i, made)


def field(name, value):
    return lambda d: d.update({name: value})


def nest(depth):
    """Networks in networks, so many deep."""

    def change(d):
        inner = {"class": "Sequential", "name": "s", "seed": 0, "input_shape": [5],
                 "layers": [{"class": "Flatten", "name": "f", "config": {}}]}  # fmt: skip
        for _ in range(depth):
            layer = {"class": "Network", "name": "n", "config": {"network": inner}}
            inner = {**inner, "layers": [layer]}
        return inner

    return change


def explode(d):
    """Each network calls the one inside it sixty times: 60 ** 2 calls."""
    inner = {"class": "Sequential", "name": "s", "seed": 0, "input_shape": [5],
             "layers": [{"class": "Flatten", "name": "f", "config": {}}]}  # fmt: skip
    for _ in range(2):
        start = {"class": "Input", "name": "x", "config": {"shape": [5]}}
        layer = {"class": "Network", "name": "n", "config": {"network": inner}}
        inner = {
            "class": "Model", "name": "m", "seed": 0, "layers": [start, layer], "inputs": 1,
            "calls": [[1, [i]] for i in range(60)], "outputs": [60],
        }  # fmt: skip
    return inner


WRONG = {
    "a cycle": (call(0, [2, [4]]), "call 0 of layer 'tower' reads value 4, .* no cycles"),
    "its own value": (call(2, [3, [4, 4]]), "reads value 4, which is not there yet"),
    "a missing value": (call(3, [4, [99]]), "reads value 99, which is not there yet: there are 5"),
    "a negative value": (call(3, [4, [-1]]), "reads value -1"),
    "a value as text": (call(3, [4, ["2"]]), "reads value '2'"),
    "a value as bool": (call(3, [4, [True]]), "reads value True"),
    "no values": (call(3, [4, []]), "must read 1 to 1,000 values"),
    "values as a number": (call(3, [4, 2]), "must read 1 to 1,000 values, it has 2"),
    "a missing layer": (call(3, [9, [2]]), "the layer of call 3 must be 0 to 4, it is 9"),
    "a negative layer": (call(3, [-1, [2]]), "the layer of call 3 must be 0 to 4"),
    "a layer as a float": (call(3, [4.0, [2]]), "the layer of call 3 must be 0 to 4"),
    "an input called": (call(3, [0, [2]]), "call 3 calls the input 'a'"),
    "a call that is no list": (call(3, {"layer": 4}), "call 3 must be a layer and its values"),
    "a call of three": (call(3, [4, [2], 1]), "call 3 must be a layer and its values"),
    "two values for one": (call(3, [4, [2, 3]]), "p takes one input, got 2"),
    "one value for two": (call(2, [3, [2]]), "Add wants at least two inputs"),
    "another shape": (call(3, [4, [0]]), "which is|must have shape|dead|lead to no output|'p'"),
    "no inputs": (field("inputs", 0), "must begin with its 0 inputs"),
    "inputs that are none": (field("inputs", 3), "must begin with its 3 inputs"),
    "inputs as bool": (field("inputs", True), "must have inputs as int, not True"),
    "a huge number of inputs": (field("inputs", 2**70), "must begin with its"),
    "no outputs": (field("outputs", []), "its outputs must read 1 to 1,000 values"),
    "the same output twice": (field("outputs", [4, 4]), "the same symbolic value twice"),
    "a missing output": (field("outputs", [17]), "its outputs reads value 17"),
    "a dead layer": (field("outputs", [4]), "layers that lead to no output"),
    "calls out of order": (
        lambda d: d["layers"].__setitem__(slice(2, 4), d["layers"][3:1:-1])
        or d.update(calls=[[3, [0]], [3, [1]], [2, [2, 3]], [4, [4]]]),
        "not in the order of their calls",
    ),
    "too many calls": (
        lambda d: d["calls"].extend([[4, [4]]] * 2001),
        "2,005 calls, at most 2,000 are possible",
    ),
    "too many layers": (
        lambda d: d["layers"].extend([d["layers"][4]] * 1000),
        "must have 1 to 1,000 layers, it has 1,005",
    ),
    "a chain's fields": (field("input_shape", [5]), "its network must have class, name, seed"),
    "an unknown class": (field("class", "Graph"), "its network must have"),
    "two layers of one name": (
        lambda d: d["layers"][4].update(name="sum"),
        "two layers are named 'sum'",
    ),
    "networks in networks": (nest(20), "nested deeper than 64"),
    "a network that explodes": (explode, "calls layers .* times, at most 2,000"),
    "a network with more": (
        lambda d: d["layers"][2]["config"].update(units=3),
        "layer 2 must have network",
    ),
    "a network that is a list": (
        lambda d: d["layers"][2].update(config={"network": []}),
        "layer 2 must have network as dict",
    ),
    "a shape that does not fit": (
        lambda d: d["layers"][2]["config"]["network"].update(input_shape=[6]),
        "tower wants rows of shape .6,., got .5,.",
    ),
    "a merge that is too large": (
        lambda d: d.update(
            layers=[d["layers"][0], *({"class": "Concatenate", "name": f"c{i}", "config": {}}
                                      for i in range(40))],
            inputs=1, calls=[[i + 1, [i, i]] for i in range(40)], outputs=[40],
        ),
        "at most 2\\*\\*29 values",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_graphs(name, good, tmp_path):
    change, message = WRONG[name]
    path = tmp_path / "net.safetensors"
    path.write_bytes(changed(good, change))
    start = time.perf_counter()
    with pytest.raises(fn.ModelFileError, match=message):
        fn.load(path)
    assert time.perf_counter() - start < 20
    with pytest.raises(fn.ModelFileError, match=message):
        fn.storage.info(path)


def test_schema_1_holds_no_graphs(good, tmp_path):
    header, about, body = parts(good)
    (tmp_path / "net").write_bytes(joined(header, about | {"schema": 1}, body))
    with pytest.raises(fn.ModelFileError, match="schema 1"):
        fn.load(tmp_path / "net")


def test_the_good_file_is_good(good, tmp_path):
    (tmp_path / "net").write_bytes(changed(good, lambda d: None))
    net, same = fn.load(tmp_path / "net"), network()
    xs = [np.ones((3, 5), np.float32)] * 2
    for a, b in zip(net.predict(xs), same.predict(xs), strict=True):
        assert a.tobytes() == b.tobytes()
    assert net.layers[2].inside.get_weights()[0].tobytes() == same.get_weights()[0].tobytes()


def places(value, path=()):
    """Every place in a description, by its path."""
    yield path
    items = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in items:
        inside = value[key]
        yield from places(inside, (*path, key))


def spoil(d, rng):
    """One random change somewhere."""
    path = rng.choice([p for p in places(d) if p])
    at = d
    for key in path[:-1]:
        at = at[key]
    value, key = at[path[-1]], path[-1]
    choices = [
        0,
        1,
        -1,
        2**31,
        2**63,
        1.5,
        True,
        None,
        "",
        "x",
        "Model",
        "Network",
        [],
        {},
        [0],
        [[0]],
    ]
    what = rng.randrange(4)
    if what == 0 and isinstance(at, list):
        del at[key]
    elif what == 1 and isinstance(at, list):
        at.insert(key, copy.deepcopy(rng.choice(at)))
    elif what == 2 and type(value) is int:
        at[key] = value + rng.choice([-2, -1, 1, 2])
    else:
        at[key] = copy.deepcopy(rng.choice(choices))


def test_sample_of_spoilt_graphs(good, tmp_path):
    """Whatever is changed in a description: a network that predicts, or a ModelFileError."""
    rng = random.Random(20261121)
    path, loaded = tmp_path / "net", 0
    for _ in range(600):
        header, about, body = parts(good)
        for _ in range(rng.choice([1, 1, 2, 3])):
            spoil(about["description"], rng)
        path.write_bytes(joined(header, about, body))
        try:
            net = fn.load(path)
        except fn.ModelFileError:
            continue
        loaded += 1
        xs = [np.ones((2, *shape), np.float32) for shape in net._graph.input_shapes]
        net.predict(xs if len(xs) > 1 else xs[0])
    assert 10 < loaded < 300


def test_networks_in_networks_are_saved_ten_deep(tmp_path):
    net = fn.Sequential([layers.Input(5), layers.Dense(5, "tanh", name="core")], name="inner")
    for i in range(10):
        x = fn.Input(5)
        net = fn.Model(x, net(net(x)) if i < 4 else net(x), seed=i, name=f"around_{i}")
    net.save(tmp_path / "net")
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    assert fn.load(tmp_path / "net").predict(x).tobytes() == net.predict(x).tobytes()


def test_only_layers_of_fastnet_are_saved(tmp_path):
    class Mine(layers.Flatten):
        pass

    x = fn.Input(5)
    net = fn.Model(x, layers.Dense(2)(Mine()(x)))
    with pytest.raises(ValueError, match="a model file can only hold layers of fastnet"):
        net.save(tmp_path / "net")
    assert "Network" not in layers.LAYERS
    assert _networkfile._NESTED not in layers.LAYERS


def test_commands_and_models_of_several_inputs(good, tmp_path, capsys):
    path = tmp_path / "net.safetensors"
    path.write_bytes(good)
    assert main(["info", str(path)]) == 0
    text = capsys.readouterr().out
    assert "Inputs    a, b" in text
    assert "Outputs   p, sum" in text
    assert "tower, tower" in text
    assert main(["predict", str(path), "three.png"]) == 2
    assert "use it from Python" in capsys.readouterr().err

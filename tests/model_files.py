"""A small network, its file, and ways to spoil that file."""

import json
import math
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import fastnet as fn
from fastnet import layers


def small(seed=7, **options):
    network = fn.Sequential(
        [layers.Input(4), layers.Dense(5, "tanh"), layers.Dense(3, "softmax")], seed=seed, **options
    )
    network.build()
    return network


def same_bits(a, b):
    pairs = zip(a.get_weights(), b.get_weights(), strict=True)
    return all(x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in pairs)


def run_python(*arguments):
    root = str(Path(fn.__file__).parents[1])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def put(path, content):
    path.write_bytes(content)
    return path


def make_good():
    with tempfile.TemporaryDirectory() as folder:
        small().save(Path(folder) / "net")
        return (Path(folder) / "net").read_bytes()


GOOD = make_good()
LENGTH = int.from_bytes(GOOD[:8], "little")
BODY = GOOD[8 + LENGTH :]


def build(header, body=BODY):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def with_header(change, body=BODY):
    header = json.loads(GOOD[8 : 8 + LENGTH])
    result = change(header)
    return build(header if not isinstance(result, dict) else result, body)


def with_about(file, change):
    """The description changed by a function, or to a text that it returns."""

    def in_header(header):
        about = json.loads(header["__metadata__"]["fastnet"])
        result = change(about)
        header["__metadata__"]["fastnet"] = result if isinstance(result, str) else json.dumps(about)

    return with_header(in_header)


def header_value(name, key, value):
    return with_header(lambda header: header[name].update({key: value}))


def text_instead(old, new):
    text = GOOD[8 : 8 + LENGTH]
    assert old in text
    return build(text.replace(old, new, 1))


def about_value(*place_and_value):
    *place, key, value = place_and_value

    def change(about):
        for step in place:
            about = about[step]
        about[key] = value

    return with_about(GOOD, change)


def network_value(key, value):
    return about_value("description", key, value)


def layer_value(key, value):
    """Of the first Dense layer."""
    return about_value("description", "layers", 1, key, value)


def config_value(key, value):
    return about_value("description", "layers", 1, "config", key, value)


def nan_in_body():
    return GOOD[:-4] + struct.pack("<f", math.nan)


def layer_instead(cls, config):
    return layer_value_all({"class": cls, "name": "dense", "config": config})


def layer_value_all(layer):
    return about_value("description", "layers", 1, layer)


def rows_of(n, then):
    """A network that begins with rows of shape n."""

    def change(about):
        about["description"]["input_shape"] = n
        about["description"]["layers"] = then

    return with_about(GOOD, change)

"""Wrong model files, by what is wrong with each: its bytes, and the rule that its error names."""

import json
import math
import struct

from model_files import (
    GOOD,
    LENGTH,
    about_value,
    build,
    config_value,
    header_value,
    layer_instead,
    layer_value,
    nan_in_body,
    network_value,
    rows_of,
    text_instead,
    with_about,
    with_header,
)

WRONG = {
    # the file
    "empty": (b"", "has 0 bytes"),
    "seven bytes": (GOOD[:7], "has 7 bytes"),
    "only the length": (GOOD[:8], "whole file has 8"),
    "cut in the header": (GOOD[: 8 + LENGTH // 2], "its header would have"),
    "cut behind the header": (GOOD[: 8 + LENGTH], "behind the header the file has 0"),
    "cut in the weights": (
        GOOD[:-1],
        "its tensors have 172 bytes, behind the header the file has 171",
    ),
    "too long": (GOOD + b"\0", "behind the header the file has 173"),
    "length of 2**63": (struct.pack("<Q", 2**63) + GOOD[8:], "at most 1,048,576 are allowed"),
    "length of all ones": (b"\xff" * 8 + GOOD[8:], "at most 1,048,576 are allowed"),
    "length 0": (bytes(8) + GOOD[8:], 'does not begin with "{"'),
    "zip": (b"PK\x03\x04" + bytes(100), "its header would have"),
    "pickle": (b"\x80\x04\x95\x1b\0\0\0\0\0\0\0\x8c\x05posix\x94", "at most 1,048,576 are allowed"),
    "zeros": (bytes(5000), 'does not begin with "{"'),
    # the header
    "no JSON": (build(b"{" + b"x" * 50), "its header is not JSON"),
    "a list": (build(b"[1]"), 'does not begin with "{"'),
    "two values": (build(b"{} {}"), "its header is not JSON"),
    "not UTF-8": (build(b'{"\xff": 1}'), "not UTF-8: invalid start byte at byte 2"),
    "nested": (build(b'{"a":' * 5000 + b"1" + b"}" * 5000), "nested deeper than 64"),
    "nested too deep for the parser": (
        build(b'{"a":' + b"[" * 19_000),
        "nested deeper than 64|not JSON",
    ),
    "many objects": (
        build(b'{"a":[' + b"{}," * 60_000 + b"1]}"),
        "more than 20,000 objects and lists",
    ),
    "NaN": (build(b'{"a": NaN}'), "the number NaN, which JSON does not know"),
    "1e999": (build(b'{"a": 1e999}'), "a number that is too large"),
    "digits": (build(b'{"a": ' + b"9" * 100_000 + b"}"), "a number of 100,000 characters"),
    "tensor twice": (text_instead(b'"dense.bias"', b'"dense.kernel"'), "'dense.kernel' 2 times"),
    "key twice": (text_instead(b'"shape"', b'"dtype":"F32","shape"'), "'dtype' 2 times"),
    "no metadata": (with_header(lambda h: h.pop("__metadata__") and None), "no __metadata__"),
    "metadata of numbers": (
        with_header(lambda h: h["__metadata__"].update(x=1)),
        "no __metadata__",
    ),
    "foreign": (
        with_header(lambda h: h.update(__metadata__={"format": "pt"})),
        "fastnet did not write it",
    ),
    "empty metadata": (build(b'{"__metadata__":{}}', b""), "fastnet did not write it"),
    # its tensors
    "dtype": (
        header_value("dense.bias", "dtype", "F16"),
        "must have dtype F32 or F64, it has 'F16'",
    ),
    "dtype of no sense": (
        header_value("dense.bias", "dtype", ["F32"]),
        "must have dtype F32 or F64",
    ),
    "a field more": (header_value("dense.bias", "x", 1), "data_offsets and nothing else"),
    "a tensor that is a number": (
        with_header(lambda h: h.update({"dense.bias": 1})),
        "nothing else",
    ),
    "negative size": (header_value("dense.bias", "shape", [-5]), "sizes >= 1"),
    "size 0": (header_value("dense.bias", "shape", [0, 5]), "sizes >= 1"),
    "size as float": (header_value("dense.bias", "shape", [5.0]), "sizes >= 1"),
    "size as bool": (header_value("dense.bias", "shape", [5, True]), "sizes >= 1"),
    "size as text": (header_value("dense.bias", "shape", "5"), "sizes >= 1"),
    "seven axes": (header_value("dense.bias", "shape", [5, 1, 1, 1, 1, 1, 1]), "at most 6 sizes"),
    "size 2**62": (header_value("dense.bias", "shape", [2**62]), "which is not 18,446,744"),
    "sizes that wrap": (
        header_value("dense.bias", "shape", [2**32, 2**32 + 5]),
        "which is not 73,",
    ),
    "negative offset": (
        header_value("dense.bias", "data_offsets", [-20, 0]),
        "two data_offsets >= 0",
    ),
    "offsets as floats": (
        header_value("dense.bias", "data_offsets", [0.0, 20.0]),
        "two data_offsets",
    ),
    "three offsets": (header_value("dense.bias", "data_offsets", [0, 20, 40]), "two data_offsets"),
    "offsets swapped": (header_value("dense.bias", "data_offsets", [20, 0]), "not 20 bytes"),
    "overlap": (header_value("dense.kernel", "data_offsets", [0, 80]), "overlaps another"),
    "hole": (header_value("dense_1.kernel", "data_offsets", [4000, 4060]), "leaves a hole"),
    "beyond the end": (
        with_header(
            lambda h: h.update({"more": {"dtype": "F32", "shape": [1], "data_offsets": [172, 176]}})
        ),
        "have 176 bytes, .* has 172",
    ),
    "NaN weight": (nan_in_body(), "tensor 'dense_1.kernel' holds NaN or infinity"),
    "infinite weight": (GOOD[:-4] + struct.pack("<f", -math.inf), "holds NaN or infinity"),
    # the description
    "no JSON in it": (with_about(GOOD, lambda a: "{"), "its description is not JSON"),
    "a list in it": (with_about(GOOD, lambda a: "[]"), "its description must be a JSON object"),
    "a key of it twice": (
        with_about(GOOD, lambda a: '{"kind":"network",' + json.dumps(a)[1:]),
        "'kind' 2 times",
    ),
    "newer schema": (
        about_value("schema", 3),
        "schema 3, this fastnet reads up to 2: install a newer one",
    ),
    "schema 0": (about_value("schema", 0), "schema 0, which there never was"),
    "schema as bool": (about_value("schema", True), "schema as int, not True"),
    "no schema": (
        with_about(GOOD, lambda a: a.pop("schema") and None),
        "its description must have schema, kind",
    ),
    "a field too many": (about_value("code", "print(1)"), "its description must have schema, kind"),
    "unknown kind": (
        about_value("kind", "os.system"),
        "unknown kind 'os.system'; known are network",
    ),
    "extra as list": (about_value("extra", []), "extra as dict"),
    "a deep description": (
        about_value("extra", "x", json.loads("[" * 65 + "]" * 65)),
        "nested deeper than 64",
    ),
    "surrogates": (
        text_instead(b'"dense.bias"', b'"dense.b\\ud800"'),
        "'dense.bias' .* is missing",
    ),
    # the network
    "unknown network": (network_value("class", "eval"), "unknown class 'eval'"),
    "no layers": (network_value("layers", []), "1 to 1,000 layers, it has 0"),
    "1001 layers": (network_value("layers", [{}] * 1001), "1 to 1,000 layers, it has 1,001"),
    "layers as text": (network_value("layers", "Dense"), "layers as list"),
    "a layer that is none": (
        network_value("layers", [5]),
        "layer 0 must have class, name, config; it has 5",
    ),
    "no name": (network_value("name", ""), "must have a name"),
    "negative seed": (network_value("seed", -1), "seed must be an integer >= 0"),
    "large seed": (network_value("seed", 2**64), "seed must be below"),
    "seed as float": (network_value("seed", 1.0), "seed as int, not 1.0"),
    "input_shape of 2**62": (network_value("input_shape", [2**62]), "too large: at most"),
    "input_shape empty": (
        network_value("input_shape", []),
        "input_shape must be an int or a tuple",
    ),
    "input_shape of another": (network_value("input_shape", [9]), "Input wants rows of shape"),
    "a code field": (network_value("code", "print(1)"), "its network must have class, name, seed"),
    # its layers
    "unknown layer": (layer_value("class", "os.system"), "layer 1 .* unknown layer 'os.system'"),
    "private class": (layer_value("class", "__class__"), "unknown layer '__class__'"),
    "layer without name": (layer_value("name", None), "layer 1 must have name as str"),
    "empty layer name": (layer_value("name", ""), "layer 1 .* name must be a text"),
    "name twice": (layer_value("name", "dense_1"), "two layers are named 'dense_1'"),
    "config as list": (layer_value("config", []), "layer 1 must have config as dict"),
    "unknown option": (config_value("hack", 1), r"layer 1 \('dense'\) is wrong: .*hack"),
    "name as option": (config_value("name", "x"), "multiple values for keyword argument 'name'"),
    "self as option": (config_value("self", "x"), "multiple values for argument 'self'"),
    "no units": (
        with_about(GOOD, lambda a: a["description"]["layers"][1]["config"].pop("units") and None),
        "missing 1 required positional argument: 'units'",
    ),
    "units 2**62": (
        config_value("units", 2**62),
        r"layer 'dense': rows of shape \(46116860184.*,\) would come of it: at most",
    ),
    "units of 39 digits": (config_value("units", 10**39), "layer 'dense': rows of shape .10000"),
    "units 0": (config_value("units", 0), "units must be an integer >= 1, got 0"),
    "units -5": (config_value("units", -5), "units must be an integer >= 1"),
    "units as float": (config_value("units", 5.0), "units must be an integer, got 5.0"),
    "units as bool": (config_value("units", True), "units must be an integer, got True"),
    "units as list": (config_value("units", [5]), "units must be an integer"),
    "units as text": (config_value("units", "5"), "units must be an integer"),
    "units of another": (
        config_value("units", 6),
        r"'dense.kernel' must have shape \(4, 6\), it has \(4, 5\)",
    ),
    "activation": (config_value("activation", "eval"), "unknown activation 'eval'"),
    "activation as number": (config_value("activation", 5), "activation must be a name"),
    "giant text": (config_value("activation", "x" * 500_000), "a text of 500,000 characters"),
    "initializer": (
        config_value("kernel_initializer", {"name": "eval"}),
        "unknown initializer 'eval'",
    ),
    "initializer's number": (
        config_value("kernel_initializer", {"name": "constant", "value": 1e300}),
        "finite float32",
    ),
    "initializer as list": (config_value("kernel_initializer", ["zeros"]), "layer 1 .* is wrong"),
    "rate 2": (layer_instead("Dropout", {"rate": 2}), "rate must be a finite number"),
    "scale too large": (
        layer_instead("Rescale", {"scale": 10**39, "offset": 10**60}),
        "a number of 61",
    ),
    "reshape to text": (layer_instead("Reshape", {"target_shape": "abc"}), "target_shape"),
    "reshape to nothing": (layer_instead("Reshape", {"target_shape": []}), "target_shape"),
    "reshape to 2**40": (layer_instead("Reshape", {"target_shape": [2**40]}), "too large"),
    "variance below 0": (
        layer_instead("Normalization", {"mean": 0, "variance": -1}),
        "variance must be >= 0",
    ),
    "ragged mean": (
        layer_instead("Normalization", {"mean": [[1], 2], "variance": 1}),
        "cannot be made an array",
    ),
    "mean of texts": (
        layer_instead("Normalization", {"mean": ["a"], "variance": [1]}),
        "mean must hold numbers",
    ),
    "statistics of 2**29 features": (
        rows_of(
            [2**29], [{"class": "Normalization", "name": "n", "config": {"mean": 0, "variance": 1}}]
        ),
        r"tensor 'n.mean' of shape \(536870912,\) is missing",
    ),
    "a layer fewer": (
        with_about(GOOD, lambda a: a["description"]["layers"].pop() and None),
        "tensor 'dense_1.* belongs to no layer",
    ),
    "a layer more": (
        with_about(
            GOOD,
            lambda a: a["description"]["layers"].append(
                {"class": "Dense", "name": "more", "config": {"units": 2**20}}
            ),
        ),
        "'more.kernel' .* is missing",
    ),
    "Input in the middle": (layer_instead("Input", {"shape": [4]}), "Input comes first"),
    "a shape that does not fit": (
        layer_instead("Reshape", {"target_shape": [2, 2]}),
        "layer 'dense_1': Dense wants",
    ),
}

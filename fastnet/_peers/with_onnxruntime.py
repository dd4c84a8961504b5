"""ONNX Runtime on the CPU (prediction only)."""

from __future__ import annotations

from typing import Any

from . import Job, Work


class Predict(Work):
    """A Gemm-Relu-Gemm-Softmax graph, all optimisations, NumPy in, NumPy out."""

    def __init__(self, job: Job):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if job.threads:
            options.intra_op_num_threads = job.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            onnx_bytes(job), options, providers=["CPUExecutionProvider"]
        )
        self.feed = {"x": job.x}

    def run(self) -> None:
        self.p = self.session.run(None, self.feed)[0]

    def result(self) -> list[Any]:
        return [self.p]


def onnx_bytes(job: Job) -> bytes:
    """Return the job's network as a serialised ONNX model."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, tensors, at = [], [], "x"
    for i, (w, b) in enumerate(zip(job.weights[::2], job.weights[1::2], strict=True)):
        tensors += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(b, f"b{i}")]
        nodes.append(helper.make_node("Gemm", [at, f"w{i}", f"b{i}"], [f"z{i}"]))
        last = i == len(job.widths) - 2
        at = "p" if last else f"h{i}"
        nodes.append(helper.make_node("Softmax" if last else "Relu", [f"z{i}"], [at]))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "mlp",
        [value("x", TensorProto.FLOAT, ["n", job.widths[0]])],
        [value("p", TensorProto.FLOAT, ["n", job.widths[-1]])],
        tensors,
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()

"""Makes what edge.py serves and sends: an MLP of random weights (784, 200, 100, 10), for parityd and as ONNX, and a request in three forms.

    env/bin/python docs/benchmarks/edge/model.py target/edge

Needs numpy and onnx.
"""

import hashlib
import json
import struct
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MANIFEST = """format = 1

[deployment]
name = "mlp"
version = "1"

[input]
name = "INPUT"
shape = [784]
range = [0.0, 1.0]

[output]
name = "OUTPUT"
shape = [10]
labels = []

[preprocessing]
mean = 0.0
std = 1.0

[dataset]
name = "none"
licence = "none"
source = "random weights"
split = "none"

[base]
architecture = "mlp"
file = "base.safetensors"
sha256 = "{sha256}"
canary = {canary}

[base.training]
command = "docs/benchmarks/edge/model.py"
preset = "parm"
seed = 0
batch = 1
epochs = 1
best_epoch = 1
validation = 0.1
"""


def main(folder):
    draw = np.random.default_rng(0)
    sizes = [784, 200, 100, 10]
    layers = [(draw.standard_normal((read, made)) * (2 / read) ** 0.5).astype(np.float32) for read, made in zip(sizes, sizes[1:])]
    row = np.round(draw.random(784), 4).astype(np.float32)

    nodes, tensors, x = [], [], "INPUT"
    for number, weights in enumerate(layers):
        last = number == 2
        y = "OUTPUT" if last else f"x{number}"
        tensors += [numpy_helper.from_array(weights, f"w{number}"), numpy_helper.from_array(np.zeros(weights.shape[1], np.float32), f"b{number}")]
        nodes.append(helper.make_node("Gemm", [x, f"w{number}", f"b{number}"], [y if last else f"y{number}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"y{number}"], [y]))
        x = y
    value = lambda name, width: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width])
    graph = helper.make_graph(nodes, "mlp", [value("INPUT", 784)], [value("OUTPUT", 10)], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "mlp.onnx")

    weights = {}
    for number, layer in enumerate(layers, 1):
        weights[f"fc{number}.weight"], weights[f"fc{number}.bias"] = layer.T.copy(), np.zeros(layer.shape[1], np.float32)
    head, at = {}, 0
    for name, tensor in weights.items():
        head[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(head).encode()
    stored = struct.pack("<Q", len(text)) + text + b"".join(tensor.tobytes() for tensor in weights.values())
    canary = (np.arange(784) * 31 % 256 / 255).astype(np.float32)
    forward = lambda x: np.maximum(np.maximum(x @ layers[0], 0) @ layers[1], 0) @ layers[2]
    served = folder / "mlp/1"
    served.mkdir(parents=True, exist_ok=True)
    (served / "base.safetensors").write_bytes(stored)
    outputs = [round(float(value), 5) for value in forward(canary)]
    (served / "manifest.toml").write_text(MANIFEST.format(sha256=hashlib.sha256(stored).hexdigest(), canary=outputs))

    tensor = {"name": "INPUT", "shape": [1, 784], "datatype": "FP32"}
    compact = lambda value: json.dumps(value, separators=(",", ":")).encode()
    (folder / "body.json").write_bytes(compact({"inputs": [{**tensor, "data": [round(float(pixel), 4) for pixel in row]}]}))
    asked = {"inputs": [{**tensor, "parameters": {"binary_data_size": 3136}}], "parameters": {"binary_data_output": True}}
    (folder / "body.binary").write_bytes(compact(asked) + row.tobytes())
    (folder / "body.binary.length").write_text(str(len(compact(asked))))
    (folder / "body.raw").write_bytes(row.tobytes())
    (folder / "expected.json").write_text(json.dumps(forward(row).tolist()))


main(Path(sys.argv[1]))

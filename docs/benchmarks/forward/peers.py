"""Forward passes on one thread: parityd, ONNX Runtime and PyTorch in turn, on the same weights and rows.

    python3 -m venv env && env/bin/pip install torch onnxruntime onnx safetensors numpy
    cargo build --release
    env/bin/python docs/benchmarks/forward/peers.py target/release/parityd [results.json]

Each round measures all three one after the other, so that what disturbs the machine disturbs all; ratios are taken within a round, and the
median of the rounds is told. Outputs must agree to 1e-4 of the largest, or the run ends.
"""

import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[3] / "tests/data/pytorch"))
import models  # noqa: E402

ROUNDS, SECONDS, RUNS = 7, 0.7, 5

MODELS = {
    "mlp": ((1, 28, 28), lambda: models.mlp(784)),
    "lenet5": ((1, 28, 28), models.lenet5),
    "resnet18 small": ((3, 32, 32), lambda: models.Resnet(64, 3, 10, *models.RESNET18, False)),
    "resnet18 224": ((3, 224, 224), lambda: models.Resnet(64, 3, 1000, *models.RESNET18, True)),
}


def timed(run):
    times, begun = [], time.perf_counter()
    while len(times) < RUNS or time.perf_counter() - begun < SECONDS:
        started = time.perf_counter()
        run()
        times.append((time.perf_counter() - started) * 1e6)
    return median(times)


def ours(binary, architecture, file, batch):
    options = ["--network", architecture, "--weights", file, "--batches", str(batch), "--seconds", str(SECONDS)]
    told = subprocess.run([binary, "bench", "forward", *options], capture_output=True, check=True, text=True).stdout
    return json.loads(told)["passes"][0]


def session(model, row):
    file = io.BytesIO()
    axes = {"x": {0: "n"}, "y": {0: "n"}}
    torch.onnx.export(model, row, file, input_names=["x"], output_names=["y"], dynamic_axes=axes, dynamo=False)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])


class Wrapped(torch.nn.Module):
    """Models whose `forward` is a function of their own."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model.forward(x)


def main(binary, results):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for name, (shape, make_model) in MODELS.items():
        model = make_model().eval()
        x = torch.rand(32, *shape)
        wrapped = Wrapped(model).eval()
        with torch.inference_mode():
            output = wrapped(x)
        onnx = session(wrapped, torch.zeros(2, *shape))
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            save_file({**model.state_dict(), "input": x, "output": output}, file.name)
            for batch in (1, 32):
                some, wanted = x[:batch], output[:batch].numpy()
                rounds = []
                for _ in range(ROUNDS):
                    mine = ours(binary, name.split()[0], file.name, batch)
                    found = np.array(mine["outputs"]).reshape(wanted.shape)
                    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max(), name
                    array = some.numpy()
                    theirs = timed(lambda: onnx.run(None, {"x": array}))
                    with torch.inference_mode():
                        torchs = timed(lambda: wrapped(some))
                    rounds.append({"parityd": mine["p50_us"], "onnxruntime": theirs, "torch": torchs})
                of = lambda peer: median(one["parityd"] / one[peer] for one in rounds)
                row = {"model": name, "batch": batch, "to_onnxruntime": of("onnxruntime"), "to_torch": of("torch"), "rounds": rounds}
                rows.append(row)
                us = {peer: median(one[peer] for one in rounds) for peer in rounds[0]}
                print(
                    f"| {name} | {batch} | {us['parityd']:.1f} | {us['onnxruntime']:.1f} | {us['torch']:.1f} "
                    f"| {row['to_onnxruntime']:.2f} | {row['to_torch']:.2f} |",
                    flush=True,
                )
    about = {
        "cpu": next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), ""),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "onnxruntime": ort.__version__,
        "rounds": ROUNDS,
        "seconds": SECONDS,
    }
    if results:
        Path(results).write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)

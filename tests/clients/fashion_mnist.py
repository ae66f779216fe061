"""What the clients' scripts share: weights/fashion-mnist/1 in numpy, rows to ask with, and how the checks are run."""

import argparse
import json
import pathlib
import struct
import sys
import tomllib

import numpy as np

MODEL = "fashion-mnist"
WEIGHTS = pathlib.Path(__file__).resolve().parents[2] / "weights" / MODEL / "1"
MANIFEST = tomllib.loads((WEIGHTS / "manifest.toml").read_text())
RELATIVE = 1e-4


def tensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    head, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    head.pop("__metadata__", None)
    read = lambda at: np.frombuffer(body[slice(*at["data_offsets"])], "<f4").reshape(at["shape"])
    return {name: read(at).astype(np.float64) for name, at in head.items()}


def convolved(rows, weight, bias, pad):
    rows = np.pad(rows, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(rows, weight.shape[2:], axis=(2, 3))
    return np.einsum("ncxyij,ocij->noxy", windows, weight) + bias[None, :, None, None]


def pooled(rows):
    n, c, h, w = rows.shape
    return rows.reshape(n, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))


def forward(rows):
    """LeNet-5, in float64."""
    w, relu = tensors(WEIGHTS / "base.safetensors"), lambda x: np.maximum(x, 0)
    of = MANIFEST["preprocessing"]
    x = (rows.astype(np.float64) - of["mean"]) / of["std"]
    x = pooled(relu(convolved(x, w["conv1.weight"], w["conv1.bias"], 2)))
    x = pooled(relu(convolved(x, w["conv2.weight"], w["conv2.bias"], 0)))
    x = x.reshape(len(x), -1)
    x = relu(x @ w["fc1.weight"].T + w["fc1.bias"])
    x = relu(x @ w["fc2.weight"].T + w["fc2.bias"])
    return x @ w["fc3.weight"].T + w["fc3.bias"]


def close(found, rows):
    want = forward(rows)
    assert found.shape == want.shape, f"{found.shape}, not {want.shape}"
    # Relative to the row's largest value: single logits pass through zero.
    apart = np.abs(found - want).max(axis=1) / np.abs(want).max(axis=1)
    assert apart.max() < RELATIVE, f"{apart.max()} apart from the direct forward"


DIRECT = {"parameters": {"allow_reconstructed": False}}
ROWS = np.random.default_rng(7).random((4, 1, 28, 28), dtype=np.float32)


def every(checks, about, url):
    """Runs each method of `checks`, which is a class that takes the URL, and says which failed."""
    asked = argparse.ArgumentParser(description=about.splitlines()[0])
    asked.add_argument("--url", default=url, help="host and port of the daemon")
    made = checks(asked.parse_args().url)
    failed = 0
    for name, check in vars(checks).items():
        if name.startswith("_") or name == "infer":
            continue
        try:
            print(f"{name}: {check(made) or 'ok'}", flush=True)
        except Exception as error:  # noqa: BLE001: whatever it is, the other methods are tried, too
            failed += 1
            print(f"{name}: FAILED: {type(error).__name__}: {error}", flush=True)
    if failed:
        sys.exit(f"{failed} failed")

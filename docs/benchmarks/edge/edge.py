#!/usr/bin/env python3
"""parityd's edge beside a bare server and servers of other makes: requests a second and latencies in a closed loop.

    python3 -m venv target/edge/env && target/edge/env/bin/pip install numpy onnx onnxruntime fastapi uvicorn httptools uvloop orjson mosec
    mkdir -p target/edge && target/edge/env/bin/python docs/benchmarks/edge/model.py target/edge
    cargo build --release --bin parityd --example bare
    docs/benchmarks/edge/edge.py --json docs/benchmarks/edge/results.json > docs/benchmarks/edge/table.md

Needs wrk. `--triton DIR` takes a folder with `bin/tritonserver`, such as the one in the wheel of nvidia-pytriton, and `--triton-python` the Python
of its environment. All servers run at once, and one of them at a time is loaded, in turns: what disturbs the machine disturbs all, and ratios are those of medians.
"""

import argparse
import json
import os
import signal
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from statistics import median

SCRIPTS = Path(__file__).resolve().parent
ROOT = SCRIPTS.parents[2]
FOLDER = ROOT / "target/edge"
INFER = "/v2/models/mlp/infer"
JSON, RAW = ("json", "body.json", "application/json"), ("raw", "body.raw", "application/octet-stream")
BINARY = ("binary", "body.binary", "application/octet-stream")


def servers(options):
    """Name: command, environment, port, bodies with their paths."""
    release, python = Path(options.target) / "release", options.python
    env = {"EDGE_FOLDER": str(FOLDER), "EDGE_SCRIPTS": str(SCRIPTS), "OMP_NUM_THREADS": "1"}
    config = str(ROOT / "benches/mlp.toml")
    found = {
        "parityd": ([release / "parityd", "--config", config], {"PARITYD_HTTP_LISTEN": "127.0.0.1:18800"}, 18800, [(JSON, INFER), (BINARY, INFER)]),
        "bare": ([release / "examples/bare", config, "127.0.0.1:18801", "1"], {}, 18801, [(JSON, INFER), (BINARY, INFER)]),
        "bare, 2 threads": ([release / "examples/bare", config, "127.0.0.1:18808", "2"], {}, 18808, [(JSON, INFER), (BINARY, INFER)]),
        "fastapi": ([python, SCRIPTS / "peers.py", "fastapi", 18802], env, 18802, [(JSON, INFER), (RAW, "/raw")]),
        "mosec": ([python, SCRIPTS / "peers.py", "mosec", 18803, "json"], env, 18803, [(JSON, "/inference")]),
        "mosec, raw": ([python, SCRIPTS / "peers.py", "mosec", 18804, "raw"], env, 18804, [(RAW, "/inference")]),
    }
    if options.before:
        before, listen = Path(options.before) / "release/parityd", {"PARITYD_HTTP_LISTEN": "127.0.0.1:18809"}
        found["parityd, before"] = ([before, "--config", config], listen, 18809, [(JSON, INFER), (BINARY, INFER)])
    if options.triton:
        triton = Path(options.triton)
        ports = [word for kind, port in (("http", 18805), ("grpc", 18806), ("metrics", 18807)) for word in (f"--{kind}-address=127.0.0.1", f"--{kind}-port={port}")]
        command = [triton / "bin/tritonserver", f"--model-repository={SCRIPTS / 'triton'}", f"--backend-directory={triton / 'backends'}", *ports]
        packages = subprocess.check_output([options.triton_python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
        path = f"{Path(options.triton_python).parent}:{os.environ['PATH']}"
        found["Triton 2.51, Python backend"] = (command, {**env, "PYTHONPATH": packages, "PATH": path}, 18805, [(JSON, INFER), (BINARY, INFER)])
    return {name: one for name, one in found.items() if not options.only or name.split(",")[0] in options.only.split(",") or name in options.only.split(",")}


def body(form):
    _, file, kind = form
    headers = {"Content-Type": kind}
    if form is BINARY:
        headers["Inference-Header-Content-Length"] = (FOLDER / "body.binary.length").read_text()
    return (FOLDER / file).read_bytes(), headers


def outputs(form, reply):
    data = reply.read()
    if form is JSON:
        return json.loads(data)["outputs"][0]["data"]
    if form is BINARY:
        data = data[int(reply.headers["Inference-Header-Content-Length"]) :]
    return list(struct.unpack("<10f", data))


def check(port, form, path):
    data, headers = body(form)
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers), timeout=5) as reply:
        found = outputs(form, reply)
    wanted = json.loads((FOLDER / "expected.json").read_text())
    off = max(abs(a - b) for a, b in zip(found, wanted)) / max(map(abs, wanted))
    assert off < 1e-4, f"outputs are off by {off:.1e}"


def load(port, form, path, connections, seconds):
    _, headers = body(form)
    words = [str(FOLDER / form[1]), headers["Content-Type"], *filter(None, [headers.get("Inference-Header-Content-Length")])]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", SCRIPTS / "post.lua", f"http://127.0.0.1:{port}{path}", "--", *words]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1])
    assert told["bad"] == 0, f"{port}: {told['bad']} requests failed"
    return told


def start(name, command, env, port, bodies):
    log = open(FOLDER / f"{name.split(',')[0].split()[0]}-{port}.log", "w")
    process = subprocess.Popen([str(word) for word in command], env={**os.environ, **env}, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
    begun = time.monotonic()
    while True:
        try:
            for form, path in bodies:
                check(port, form, path)
            return process
        except OSError:
            if process.poll() is not None or time.monotonic() - begun > 60:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                raise SystemExit(f"{name} does not answer: {log.name}") from None
            time.sleep(0.2)


def measure(options):
    chosen, running, rows = servers(options), [], []
    try:
        for name, one in chosen.items():
            running.append(start(name, *one))
        for turn in range(options.turns + 1):
            for name, (_, _, port, bodies) in chosen.items():
                for form, path in bodies:
                    for connections in (1, 16):
                        # The first turn warms up.
                        told = load(port, form, path, connections, options.seconds if turn else 1)
                        if turn:
                            rows.append({"server": name, "body": form[0], "connections": connections, "turn": turn, **told})
                print(f"turn {turn}: {name}", file=sys.stderr, flush=True)
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)
    return rows


def table(rows):
    of = lambda server, form, connections, key: median(
        row[key] for row in rows if (row["server"], row["body"], row["connections"]) == (server, form, connections)
    )
    print("| server | body | requests/s, 16 connections | over bare | p50 µs, 16 | p50 µs, 1 connection | p99 µs, 1 |\n|---|---|---|---|---|---|---|")
    for server, form in dict.fromkeys((row["server"], row["body"]) for row in rows):
        rate = of(server, form, 16, "rate")
        bare = of("bare", "json" if form == "json" else "binary", 16, "rate")
        print(
            f"| {server} | {form} | {rate:.0f} | {rate / bare:.2f} | {of(server, form, 16, 'p50_us'):.0f} "
            f"| {of(server, form, 1, 'p50_us'):.0f} | {of(server, form, 1, 'p99_us'):.0f} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--only", default="", help="names, with commas")
    parser.add_argument("--target", default=os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target")))
    parser.add_argument("--before", help="the target folder of an older build, to be measured beside this one")
    parser.add_argument("--python", default=str(FOLDER / "env/bin/python"))
    parser.add_argument("--triton")
    parser.add_argument("--triton-python")
    parser.add_argument("--json", help="where raw results go")
    options = parser.parse_args()
    rows = measure(options)
    if options.json:
        cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
        about = {"cpu": cpu, "cores": os.cpu_count(), "turns": options.turns, "seconds": options.seconds}
        Path(options.json).write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    table(rows)


main()

#!/usr/bin/env python3
"""More clients than a daemon has places for connections: how much it answers, and how long a probe on a new connection waits.

    cargo build --release
    docs/benchmarks/soak/full.py --json docs/benchmarks/soak/full.json >> docs/benchmarks/soak.md

Needs nothing but Python and wrk, and more than 10,000 file descriptors (ulimit -n). With --binary more than once it compares builds, in turns.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.dont_write_bytecode = True
from soak import INFER, ROOT, rows, start  # noqa: E402 - it lies beside this

# A client of wrk sends its next request when it has its reply, on the same connection while it may. 4096 have a place.
CLIENTS = [200, 1500, 4000, 6000]
# Kubernetes waits for a second, systemd's users for a few.
PATIENCE = 10


def probed(http, seconds):
    """How long a probe waits that comes as an orchestrator's does: on a connection of its own, one after the other."""
    waits, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        try:
            urllib.request.urlopen(f"http://{http[0]}:{http[1]}/v2/health/live", timeout=PATIENCE).read()
            waits.append(time.monotonic() - began)
        except OSError:
            waits.append(None)
        time.sleep(0.1)
    return waits


def measure(binary, clients, seconds):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        daemon, http, _ = start(binary, folder)
        try:
            body = json.dumps(rows(1).decode())
            (folder / "post.lua").write_text(f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = {body}\n')
            waits = []
            # All clients are there before the first probe, and after the last.
            probe = threading.Timer(2, lambda: waits.extend(probed(http, seconds - 4)))
            probe.start()
            url = f"http://{http[0]}:{http[1]}{INFER}"
            command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s", "-s", folder / "post.lua", url]
            told = subprocess.check_output(command, text=True)
            probe.join()
        finally:
            daemon.terminate()
            daemon.wait(30)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    errors = re.search(r"Socket errors: (.*)", told)
    return {
        "binary": str(binary), "clients": clients, "answered_per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", told)[1]),
        "refused": int(refused[1]) if refused else 0, "socket_errors": errors[1] if errors else "", "probe_s": waits,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", action="append", help="default: the release build")
    parser.add_argument("--seconds", type=int, default=12)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", help="where to write what was measured")
    options = parser.parse_args()
    binaries = options.binary or [ROOT / "target/release/parityd"]
    measured = [measure(binary, clients, options.seconds) for _ in range(options.turns) for clients in CLIENTS for binary in binaries]
    if options.json:
        Path(options.json).write_text(json.dumps(measured) + "\n")
    print("| clients | build | answered a second | probes | median wait, s | longest, s | not answered within 10 s |\n|---|---|---|---|---|---|---|")
    for clients in CLIENTS:
        for number, binary in enumerate(binaries, 1):
            mine = [run for run in measured if (run["binary"], run["clients"]) == (str(binary), clients)]
            waits = [wait for run in mine for wait in run["probe_s"]]
            known = sorted(wait for wait in waits if wait is not None) or [float("nan")]
            answered = statistics.median(run["answered_per_s"] for run in mine)
            print(f"| {clients} | {number} | {answered:.0f} | {len(waits)} | {statistics.median(known):.3f} | {known[-1]:.3f} | {waits.count(None)} |")


if __name__ == "__main__":
    main()

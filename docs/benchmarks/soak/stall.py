#!/usr/bin/env python3
"""A machine that has no time for a while: whether an open loop and its daemon find back to each other.

    cargo build --release
    docs/benchmarks/soak/stall.py --json docs/benchmarks/soak/stall.json >> docs/benchmarks/soak.md

Needs nothing but Python. After a third of the time endless loops, two for each core, take most of the machine for ten seconds. With --pair CLIENT:DAEMON more than
once it compares builds, in turns.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.dont_write_bytecode = True
from soak import ROOT, start  # noqa: E402 - it lies beside this

STALL = 10


def measure(pair, rate, seconds):
    client, daemon = pair.split(":")
    with tempfile.TemporaryDirectory() as folder:
        process, http, _ = start(daemon, Path(folder))
        loops = []
        try:
            command = [client, "bench", "http", "--url", f"http://{http[0]}:{http[1]}", "--rate", rate, "--seconds", seconds, "--json"]
            load = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            time.sleep(seconds / 3)
            loops = [subprocess.Popen(["timeout", str(STALL), "sh", "-c", "while :; do :; done"]) for _ in range(2 * os.cpu_count())]
            told = json.loads(load.communicate()[0])
        finally:
            for loop in loops:
                loop.wait()
            process.terminate()
            process.wait(30)
    return {"pair": pair, "rate": rate, "seconds": seconds, "sent": told["sent"], "answered": told["answered"], "each_second": [window["answered"] for window in told["windows"]]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    binary = ROOT / "target/release/parityd"
    parser.add_argument("--pair", action="append", help="default: the release build with itself")
    parser.add_argument("--rate", type=int, default=13000)
    parser.add_argument("--seconds", type=int, default=36)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--json", help="where to write what was measured")
    options = parser.parse_args()
    pairs = options.pair or [f"{binary}:{binary}"]
    measured = [measure(pair, options.rate, options.seconds) for _ in range(options.turns) for pair in pairs]
    if options.json:
        Path(options.json).write_text(json.dumps(measured) + "\n")
    third = options.seconds // 3
    print(f"| client, daemon | not answered in time | answered a second: the first {third} s | while the loops ran | the {third // 2} s after | the last {third // 2} s |\n|---|---|---|---|---|---|")
    for run in measured:
        seconds = run["each_second"]
        parts = [seconds[1:third], seconds[third : third + STALL], seconds[third + STALL : third + STALL + third // 2], seconds[-(third // 2) :]]
        means = " | ".join(f"{sum(part) / len(part):.0f}" for part in parts)
        print(f"| {run['pair']} | {100 * (1 - run['answered'] / run['sent']):.1f} % | {means} |")


if __name__ == "__main__":
    main()

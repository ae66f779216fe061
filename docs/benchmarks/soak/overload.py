#!/usr/bin/env python3
"""More queries than the lanes can answer, from clients that wait for nobody: what is answered, what is refused, and what hears nothing at all.

    cargo build --release
    docs/benchmarks/soak/overload.py --json docs/benchmarks/soak/overload.json >> docs/benchmarks/soak.md

Needs nothing but Python. The lanes stand for devices that take 10 ms for a job of up to 8 rows, so that they are what there is too little of, and not this
machine's cores. With --binary more than once it compares builds, in turns; the last one makes the load.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.dont_write_bytecode = True
from full import probed  # noqa: E402 - it lies beside this
from soak import ROOT, start  # noqa: E402

# Two base lanes answer 1,600 rows a second at most.
CAPACITY = 1600
SHARES = [0.75, 1.5, 2.5, 4]


def stand_for_devices(config):
    return config.replace("threads = 1", "threads = 1\nservice_ms = 10")


def measure(client, binary, share, seconds):
    with tempfile.TemporaryDirectory() as folder:
        daemon, http, _ = start(binary, Path(folder), stand_for_devices)
        try:
            waits = []
            # The load is there before the first probe, and after the last.
            probe = threading.Timer(2, lambda: waits.extend(probed(http, seconds - 4)))
            probe.start()
            command = [client, "bench", "http", "--url", f"http://{http[0]}:{http[1]}", "--rate", share * CAPACITY, "--seconds", seconds, "--json"]
            told = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
            probe.join()
        finally:
            daemon.terminate()
            daemon.wait(30)
    told = json.loads(told)
    return {
        "binary": str(binary), "share": share, "seconds": seconds, "sent": told["sent"], "status": told["status"],
        "answered": told["answered"], "late_p99_ms": told["lateness_ms"]["p99"], "void": told["void_reason"], "probe_s": waits,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", action="append", help="default: the release build")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", help="where to write what was measured")
    options = parser.parse_args()
    binaries = options.binary or [ROOT / "target/release/parityd"]
    runs = [(share, binary) for _ in range(options.turns) for share in SHARES for binary in binaries]
    measured = [measure(binaries[-1], binary, share, options.seconds) for share, binary in runs]
    if options.json:
        Path(options.json).write_text(json.dumps(measured) + "\n")
    print("| sent a second | build | answered in time, a second | refused (429) | no reply, or too late | a probe's median wait, s | its longest, s |\n|---|---|---|---|---|---|---|")
    for share in SHARES:
        for number, binary in enumerate(binaries, 1):
            mine = [run for run in measured if (run["binary"], run["share"]) == (str(binary), share)]
            sent = sum(run["sent"] for run in mine)
            answered = sum(run["answered"] for run in mine)
            refused = sum(run["status"].get("429", 0) for run in mine)
            # One that was not answered within ten seconds waited for at least as long.
            waits = [10 if wait is None else wait for run in mine for wait in run["probe_s"]]
            share_of = [f"{100 * part / sent:.1f} %" for part in (refused, sent - answered - refused)]
            rate = answered / sum(run["seconds"] for run in mine)
            print(f"| {share * CAPACITY:.0f} | {number} | {rate:.0f} | {share_of[0]} | {share_of[1]} | {statistics.median(waits):.3f} | {max(waits):.3f} |")


if __name__ == "__main__":
    main()

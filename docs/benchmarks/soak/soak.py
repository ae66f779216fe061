#!/usr/bin/env python3
"""Honest load beside clients that leave, are slow, or talk nonsense; then whether everything that they took is given back.

    cargo build --release
    docs/benchmarks/soak/soak.py --seconds 600 --json docs/benchmarks/soak/results.json > docs/benchmarks/soak/table.md

Needs nothing but Python and wrk, which finds out what the machine can do. Starts a daemon of its own, with the repository's configuration and the policy
"coded", so that there are stripes to lose. Ends with 1 if anything is left over, if memory grew, or if an honest request was not answered.
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from functools import cache
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[3]
CORPUS = ROOT / "fuzz/corpus"
sys.path.insert(0, str(ROOT / "fuzz"))
sys.dont_write_bytecode = True
from seeds import field, framed, varint  # noqa: E402 - it lies where the fuzzer is

MODEL = "fashion-mnist"
INFER = f"/v2/models/{MODEL}/infer"
RESET = struct.pack("ii", 1, 0)
# Within this time after the load every limit in time is over, and what has not been given back never will be.
SETTLE = 90


class Soak:
    """What the clients share: where to go, when to stop, what came of it."""

    def __init__(self, http, grpc, seconds):
        self.http, self.grpc = http, grpc
        self.end = time.monotonic() + seconds
        self.seen = Counter()

    def over(self):
        return time.monotonic() >= self.end

    def pause(self, seconds):
        time.sleep(max(0, min(seconds, self.end - time.monotonic())))


def post(body, headers=""):
    return f"POST {INFER} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


@cache
def rows(count):
    tensor = {"name": "input", "shape": [count, 1, 28, 28], "datatype": "FP32", "data": [0.5] * (784 * count)}
    return json.dumps({"inputs": [tensor]}).encode()


def connect(address, buffer=None):
    sock = socket.socket()
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.settimeout(60)
    sock.connect(address)
    return sock


def drip(soak, sock, data, pause):
    """Sends a byte at a time, until the server has had enough."""
    for at in range(len(data)):
        if soak.over():
            return
        sock.sendall(data[at : at + 1])
        soak.pause(pause)


def drink(soak, sock, pause):
    """Reads a byte at a time, until the server has had enough."""
    while not soak.over() and sock.recv(1):
        soak.pause(pause)


def swallow(sock):
    """Reads to the end; gives the beginning."""
    first = sock.recv(4096)
    while sock.recv(65536):
        pass
    return first


# Clients of HTTP.


def leaves(soak, dice):
    sock = connect(soak.http)
    sock.sendall(post(rows(dice.choice([1, 8, 64]))))
    soak.pause(dice.uniform(0, 0.003))
    if dice.random() < 0.5:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def leaves_half_way(soak, dice):
    with connect(soak.http) as sock:
        whole = post(rows(4))
        sock.sendall(whole[: dice.randrange(1, len(whole))])
        soak.pause(dice.uniform(0, 0.5))


def drips_a_head(soak, dice):
    with connect(soak.http) as sock:
        drip(soak, sock, post(b"{}", "X: " + "x" * 100 + "\r\n"), 0.7)


def drips_a_body(soak, dice):
    with connect(soak.http) as sock:
        sock.sendall(post(rows(1))[:200])
        drip(soak, sock, b" " * 1000, 0.5)


def drips_chunks(soak, dice):
    with connect(soak.http) as sock:
        sock.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        while not soak.over():
            sock.sendall(b"1\r\n \r\n")
            soak.pause(0.05)


def reads_slowly(soak, dice):
    # Pipelined, so that the replies are more than the kernel keeps.
    with connect(soak.http, 4096) as sock:
        sock.settimeout(5)
        try:
            for _ in range(200):
                sock.sendall(post(rows(64)))
        except TimeoutError:
            pass
        sock.settimeout(60)
        drink(soak, sock, 0.2)


def declares_much(soak, dice):
    with connect(soak.http) as sock:
        sock.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {dice.choice([20_000_000, 10**12])}\r\n\r\n".encode())
        swallow(sock)


def talks_nonsense(soak, dice):
    files = [file for folder in ("request", "json", "binary", "picture", "coding") for file in sorted((CORPUS / folder).iterdir())]
    file = dice.choice(files)
    data = file.read_bytes()
    with connect(soak.http) as sock:
        sock.settimeout(5)
        sock.sendall(data if file.parent.name == "request" else post(data))
        sock.shutdown(socket.SHUT_WR)
        swallow(sock)


# Clients of gRPC, frame by frame.


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def call(window, method="ModelInfer"):
    head = {":method": "POST", ":scheme": "http", ":path": f"/inference.GRPCInferenceService/{method}", ":authority": "x", "content-type": "application/grpc"}
    block = b"".join(b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in pair) for pair in {**head, "te": "trailers"}.items())
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, struct.pack(">HI", 4, window)) + frame(1, 4, 1, block)


@cache
def message(count):
    shape = b"".join(varint(number) for number in (count, 1, 28, 28))
    tensor = field(1, b"input") + field(2, b"FP32") + field(3, shape)
    made = field(1, MODEL.encode()) + field(5, tensor) + field(7, struct.pack("<f", 0.5) * (784 * count))
    return framed(made)


def data(body):
    return b"".join(frame(0, 0, 1, body[at : at + 16_000]) for at in range(0, len(body), 16_000)) + frame(0, 1, 1)


def takes_nothing(soak, dice):
    with connect(soak.grpc) as sock:
        sock.sendall(call(dice.choice([0, 1]), dice.choice(["ModelInfer", "ModelStreamInfer"])) + data(message(1)))
        while swallowed := sock.recv(4096):
            # Pings are answered: it looks alive.
            if swallowed[3:4] == b"\6" and not swallowed[4] & 1:
                sock.sendall(frame(6, 1, 0, swallowed[9:17]))


def calls_and_leaves(soak, dice):
    with connect(soak.grpc) as sock:
        sock.sendall(call(65_535) + data(message(4)))
        soak.pause(dice.uniform(0, 0.003))
        if dice.random() < 0.5:
            sock.sendall(frame(3, 0, 1, struct.pack(">I", 8)))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def drips_a_message(soak, dice):
    with connect(soak.grpc) as sock:
        sock.sendall(call(65_535))
        for byte in message(1):
            if soak.over():
                return
            sock.sendall(frame(0, 0, 1, bytes([byte])))
            soak.pause(0.1)


def says_half(soak, dice):
    with connect(soak.grpc) as sock:
        sock.sendall(b"PRI * HTTP/2.0\r\n"[: dice.randrange(16)])
        swallow(sock)


def frames_nonsense(soak, dice):
    with connect(soak.grpc) as sock:
        sock.settimeout(5)
        if dice.random() < 0.5:
            sock.sendall(call(65_535) + frame(dice.randrange(12), dice.randrange(256), dice.randrange(4), dice.randbytes(dice.randrange(200))))
        else:
            sock.sendall(call(65_535) + data(dice.choice(sorted((CORPUS / "grpc").iterdir())).read_bytes()))
        swallow(sock)


# And how many of each at once.
RUDE = {
    leaves: 2, leaves_half_way: 2, drips_a_head: 4, drips_a_body: 4, drips_chunks: 2, reads_slowly: 4, declares_much: 2, talks_nonsense: 2,
    takes_nothing: 4, calls_and_leaves: 2, drips_a_message: 4, says_half: 4, frames_nonsense: 2,
}  # fmt: skip


def all_of_them(http, grpc, seconds, tell):
    """In a process of their own: what they do must not keep the one that measures waiting."""
    soak = Soak(http, grpc, seconds)
    threads = [threading.Thread(target=behave, args=(soak, client, f"{client.__name__} {n}")) for client, count in RUDE.items() for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(70)
    tell.put(dict(soak.seen))


def behave(soak, client, seed):
    dice = random.Random(seed)
    while not soak.over():
        try:
            client(soak, dice)
            soak.seen[client.__name__] += 1
        except (OSError, TimeoutError):
            # The server had enough: that is what it is for.
            soak.seen[client.__name__] += 1
        soak.pause(dice.uniform(0.01, 0.1))


# The daemon, from outside.


def get(http, path):
    return urllib.request.urlopen(f"http://{http[0]}:{http[1]}{path}", timeout=20).read().decode()


def gauges(http):
    text = get(http, "/metrics")
    found = re.findall(r'^(parityd_(?:queue_jobs|queries_open|stripes_open|connections\{protocol="\w+"\})) (\d+)$', text, re.M)
    return {name.removeprefix("parityd_"): int(value) for name, value in found}


def memory(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def start(binary, folder, edit=str):
    config = edit((ROOT / "config.toml").read_text())
    config = config.replace('kind = "approximate"', 'kind = "coded"').replace('"weights/', f'"{ROOT}/weights/')
    config = config.replace("127.0.0.1:8000", "127.0.0.1:0").replace("127.0.0.1:8001", "127.0.0.1:0")
    (folder / "config.toml").write_text(config)
    log = open(folder / "log", "w+")
    daemon = subprocess.Popen([binary, "--config", folder / "config.toml"], stdout=log, stderr=log)
    for _ in range(300):
        time.sleep(0.1)
        text = (folder / "log").read_text()
        ports = dict(re.findall(r"(listening|listens for gRPC).*?127\.0\.0\.1:(\d+)", text))
        if len(ports) == 2:
            return daemon, ("127.0.0.1", int(ports["listening"])), ("127.0.0.1", int(ports["listens for gRPC"]))
    sys.exit(f"the daemon does not start:\n{text}")


def capacity(http, folder):
    """Requests a second of a closed loop with 16 connections."""
    body = json.dumps(rows(1).decode())
    (folder / "post.lua").write_text(f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = {body}\n')
    command = ["wrk", "-t1", "-c16", "-d5s", "-s", folder / "post.lua", f"http://{http[0]}:{http[1]}{INFER}"]
    return float(re.search(r"Requests/sec:\s+([\d.]+)", subprocess.check_output(command, text=True))[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600)
    # A third: with the rude clients and the generator on the same cores, half of it is all that a small machine can do, and then the soak tells of the machine.
    parser.add_argument("--share", type=float, default=1 / 3, help="the honest load, as a share of what a closed loop gets")
    parser.add_argument("--binary", default=ROOT / "target/release/parityd")
    parser.add_argument("--json", help="where to write what was measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        daemon, http, grpc = start(options.binary, folder)
        try:
            measured = run(options, folder, daemon.pid, http, grpc)
        finally:
            daemon.terminate()
            measured_end = daemon.wait(30)
        measured["exit"] = measured_end
    if options.json:
        Path(options.json).write_text(json.dumps(measured) + "\n")
    told(measured)


def run(options, folder, pid, http, grpc):
    most = capacity(http, folder)
    time.sleep(2)
    before = {**gauges(http), "descriptors": descriptors(pid), "memory": memory(pid)}
    soak, seen = Soak(http, grpc, options.seconds), multiprocessing.Queue()
    rude = multiprocessing.Process(target=all_of_them, args=(http, grpc, options.seconds, seen))
    command = [options.binary, "bench", "http", "--url", f"http://{http[0]}:{http[1]}", "--rate", str(most * options.share), "--seconds", str(options.seconds), "--json"]
    honest = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    rude.start()
    samples = []
    while not soak.over():
        samples.append({"memory": memory(pid), "descriptors": descriptors(pid), **gauges(http)})
        soak.pause(1)
    answered = json.loads(honest.communicate()[0])
    answered.pop("windows", None)
    ended, after = time.monotonic(), {}
    soak.seen = seen.get()
    while time.monotonic() < ended + SETTLE:
        after = gauges(http)
        if all(after[name] <= before[name] for name in after):
            break
        time.sleep(1)
    settled = time.monotonic() - ended
    after |= {"descriptors": descriptors(pid), "memory": memory(pid)}
    refused = re.findall(r'^parityd_errors_total\{reason="(\w+)"\} ([1-9]\d*)$', get(http, "/metrics"), re.M)
    refused = {reason: int(count) for reason, count in refused}
    return {
        "seconds": options.seconds, "capacity": most, "rude": dict(soak.seen), "refused": refused, "honest": answered, "before": before, "after": after,
        "settled_s": settled, "samples": samples,
    }  # fmt: skip


def told(measured):
    samples, before, after = measured["samples"], measured["before"], measured["after"]
    print("| | before | median while it ran | highest | after |\n|---|---|---|---|---|")
    for name in before:
        values = [sample[name] for sample in samples]
        print(f"| {name} | {before[name]:.0f} | {median(values):.0f} | {max(values):.0f} | {after[name]:.0f} |")
    early, late = (median(sample["memory"] for sample in part) for part in (samples[len(samples) // 5 : len(samples) * 2 // 5], samples[-len(samples) // 5 :]))
    print(f"\nMemory, the second fifth of the run and the last: {early:.1f} and {late:.1f} MiB. Settled {measured['settled_s']:.0f} s after the last client.\n")
    honest = measured["honest"]
    p50, p99, p999 = (honest["latency_ms"][name] for name in ("p50", "p99", "p999"))
    print(f"Honest requests: {honest['sent']} at {honest['load']['rate']:.0f}/s ({measured['capacity']:.0f}/s in a closed loop), {honest['unanswered']} not answered, {honest['status']}.")
    print(f"p50 {p50:.2f}, p99 {p99:.2f}, p99.9 {p999:.2f} ms.\n")
    print("| rude clients | connections |\n|---|---|")
    for name, count in sorted(measured["rude"].items()):
        print(f"| {name.replace('_', ' ')} | {count} |")
    print("\n| refused | times |\n|---|---|")
    for name, count in sorted(measured["refused"].items()):
        print(f"| `{name}` | {count} |")
    left = [name for name in before if name != "memory" and after[name] > before[name]]
    problems = [f"{name} is not given back" for name in left]
    if late > early * 1.05 + 2:
        problems.append("memory grew")
    if honest["unanswered"] > measured["refused"].get("full", 0):
        problems.append("honest requests were not answered")
    if measured["exit"] != 0:
        problems.append(f"the daemon ended with {measured['exit']}")
    sys.exit("; ".join(problems) or 0)


if __name__ == "__main__":
    main()

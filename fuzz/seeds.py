#!/usr/bin/env python3
"""Writes a few honest requests into the corpora, so that the fuzzer begins with what works: fuzz/seeds.py

What fuzzing found since lies beside them in corpus/, the few of each target that cover most.
"""

import gzip
import json
import struct
import zlib
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
FILES = [FOLDER.parent / "weights/fashion-mnist/1/example.png", *sorted((FOLDER.parent / "tests/data/pictures").glob("*.[jw]*"))]
PICTURES = [file.read_bytes() for file in FILES]
ROW = [0.0, 0.25, 0.5, 1.0, 1e-3, 3.25e2, -0.0, 7, 8, 9, 10, 11]


def tensor(data=None, rows=1, datatype="FP32", **more):
    made = {"name": "input", "shape": [rows, 3, 2, 2], "datatype": datatype, **more}
    return made if data is None else {**made, "data": data}


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


def varint(number):
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    return bytes(made) + bytes([number])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


nested = [[[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]]]]
outputs = {"outputs": [{"name": "logits", "parameters": {"classification": 2}}]}
words = {"id": "", "parameters": {"timeout": 1000, "priority": 1, "allow_reconstructed": False, "min_confidence": 0.5}}
BODIES = [
    {"inputs": [tensor(ROW)]},
    {"inputs": [tensor(ROW * 2, 2)], **outputs},
    {"inputs": [tensor(nested)], **words},
    {"inputs": [tensor([1] * 12, datatype="UINT8")], "outputs": [{"name": "logits", "parameters": {"binary_data": True}}]},
]
JSON = [compact(body) for body in BODIES] + [b'{"inputs":[{"data":[NaN,1,-Infinity,3,4,5,6,7,8,9,10,1e400],"shape":[1,3,2,2],"datatype":"FP64","name":"input"}]}']
RAW = struct.pack("<12f", *ROW)
asked = compact({"inputs": [tensor(parameters={"binary_data_size": 48})], "parameters": {"binary_data_output": True}})
BINARY = [(asked, RAW), (b"", RAW), (compact({"inputs": [tensor(datatype="FP16", parameters={"binary_data_size": 24})]}), RAW[:24])]


def request(path, body=b"", verb="POST", headers=""):
    return f"{verb} {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


shape = b"".join(varint(number) for number in (1, 3, 2, 2))
message = (
    field(1, b"m") + field(3, b"id") + field(5, field(1, b"input") + field(2, b"FP32") + field(3, shape)) + field(6, field(1, b"logits")) + field(7, RAW)
)
typed = field(1, b"m") + field(5, field(1, b"input") + field(2, b"FP32") + field(3, shape) + field(5, field(6, RAW)))
framed = lambda body, flag=0: bytes([flag]) + struct.pack(">I", len(body)) + body

SEEDS = {
    "json": JSON,
    "binary": [struct.pack("<H", len(head)) + head + tail for head, tail in BINARY],
    "request": [
        request("/v2", verb="GET"),
        request("/v2/models/m/versions/1/infer", JSON[0], headers="Content-Type: application/json\r\nAccept-Encoding: gzip\r\n"),
        request("/v2/models/m/infer", BINARY[0][0] + RAW, headers=f"Inference-Header-Content-Length: {len(asked)}\r\n"),
        request("/v2/models/m/infer", gzip.compress(JSON[1], mtime=0), headers="Content-Encoding: gzip\r\n"),
        b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"inp\r\n0\r\n\r\n",
        request("/v2/repository/index", b"{}"),
        request("/metrics", verb="HEAD"),
        request("/v2/models/m/classify?top_k=2&timeout_us=5", b"\x89PNG", headers="traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nx-request-id: a\r\n"),
        b"GET / HTTP/1.0\r\n\r\nGET /openapi.json HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
    ],
    "picture": [b"\0" + picture for picture in PICTURES]
    + [b"\1--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\n" + PICTURES[0] + b"\r\n--b--\r\n"],
    "coding": [b"\0" + gzip.compress(JSON[0], mtime=0), b"\1" + zlib.compress(JSON[2]), b"\0" + gzip.compress(JSON[0], mtime=0) * 2, b"\1" + zlib.compress(b" " * 60_000)],
    "grpc": [b"\0" + framed(message), b"\0" + framed(typed), b"\2" + framed(gzip.compress(message, mtime=0), 1), b"\0" + framed(message)[:30], b"\0" + framed(b"")]
    + [b"\1" + framed(message) + framed(typed), b"\3" + framed(gzip.compress(message, mtime=0), 1) + framed(typed), b"\5" + framed(zlib.compress(message), 1) * 2],
}


if __name__ == "__main__":
    for target, seeds in SEEDS.items():
        folder = FOLDER / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds):
            (folder / f"seed-{number}").write_bytes(seed)

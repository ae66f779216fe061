#!/usr/bin/env python3
"""A client of parityd in Python; needs the package `requests` and nothing else.

    python3 examples/client.py                               the example query of the shipped weights
    python3 examples/client.py --image 7 --data tests/data   a test image of Fashion-MNIST
    python3 examples/client.py --direct-only                 refuse everything but direct predictions

parityd speaks the Open Inference Protocol v2, so other clients of it work, too. What is parityd's own, and what this one shows:

- `parameters.provenance` in a reply has one word a row: direct, reconstructed, approximate or default;
- the request parameter `allow_reconstructed = false` refuses all but direct predictions;
- every error is JSON with `error`, `reason` and `retryable`; 429 and 503 say in Retry-After when to come back.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence
from urllib.parse import quote

import requests

EXAMPLE = Path(__file__).resolve().parent.parent / "weights/fashion-mnist/1/example.json"
DEBIAN_PACKAGE = "/usr/share/datasets/fashion-mnist"


@dataclass(frozen=True)
class Prediction:
    """One output row. A value that is not finite comes as None: JSON has no word for it."""

    logits: list[float | None]
    provenance: str

    @property
    def label(self) -> int:
        """The index of the largest logit."""
        return max(range(len(self.logits)), key=lambda index: _or_least(self.logits[index]))


class ParitydError(Exception):
    """No predictions. `retryable` tells whether the same request may succeed later; `status` is None where no reply came."""

    def __init__(self, message: str, *, status: int | None, reason: str, retryable: bool) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retryable = retryable


class Client:
    """A connection to one deployment of one daemon. Not for several threads at once: give each its own."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        model: str = "fashion-mnist",
        *,
        timeout: float = 5.0,
        retries: int = 4,
        longest_wait: float = 5.0,
    ) -> None:
        """`timeout` (seconds, one try) should exceed the daemon's deadline_ms, so that the daemon and not the socket says what failed.

        A request is sent `1 + retries` times at most, with pauses of `longest_wait` seconds at most.
        """
        self._model_url = f"{url.rstrip('/')}/v2/models/{quote(model, safe='')}"
        self._timeout = timeout
        self._retries = retries
        self._longest_wait = longest_wait
        self._session = requests.Session()
        self._metadata: dict[str, Any] | None = None

    def metadata(self) -> dict[str, Any]:
        """Names, types and shapes of the model's tensors; asked for once."""
        if self._metadata is None:
            self._metadata = self._call("GET", self._model_url, None)
        return self._metadata

    def infer(self, rows: Sequence[Sequence[float]], *, allow_reconstructed: bool = True) -> list[Prediction]:
        """One prediction a row, in order. Raises ParitydError if any row has none.

        Each row holds all values of one input, one after the other: 784 pixels in 0..1 for Fashion-MNIST.
        """
        tensor = self.metadata()["inputs"][0]
        row_shape = tensor["shape"][1:]
        width = math.prod(row_shape)
        for index, row in enumerate(rows):
            if len(row) != width:
                raise ValueError(f"row {index} has {len(row)} values, the model takes {width}")
        body = {
            "parameters": {"allow_reconstructed": allow_reconstructed},
            "inputs": [
                {
                    "name": tensor["name"],
                    "datatype": tensor["datatype"],
                    "shape": [len(rows), *row_shape],
                    "data": [value for row in rows for value in row],
                }
            ],
        }
        return _predictions(self._call("POST", f"{self._model_url}/infer", body))

    def close(self) -> None:
        """Closes the connection; the next call opens another."""
        self._session.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, verb: str, url: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """Sends until there is a reply that waiting cannot better. Sending twice is safe: a query changes nothing."""
        for tries_left in range(self._retries, -1, -1):
            try:
                reply = self._session.request(verb, url, json=body, timeout=self._timeout)
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
                # Down, or restarting: the old connection is of no use, so the next try opens a new one.
                self._session.close()
                wait: float | None = 1.0
                failure = ParitydError(f"no connection to {url}: {error}", status=None, reason="no_connection", retryable=True)
            except requests.Timeout as error:
                # The daemon answers every query by its deadline. Asking again would add load to whatever is stuck.
                self._session.close()
                raise ParitydError(
                    f"no reply from {url} within {self._timeout} s", status=None, reason="timeout", retryable=True
                ) from error
            else:
                if reply.ok:
                    told: dict[str, Any] = reply.json()
                    return told
                wait, failure = _wait(reply), _failure(reply)
            if wait is None or tries_left == 0:
                raise failure
            time.sleep(min(wait, self._longest_wait))
        raise AssertionError("the last try returns or raises")


def _wait(reply: requests.Response) -> float | None:
    """Seconds until the same request may be sent again; None where that is the caller's decision, as for a missed deadline."""
    if reply.status_code not in (429, 503):
        return None
    try:
        return max(0.0, float(reply.headers.get("Retry-After", "1")))
    except ValueError:
        # A proxy may send a date.
        return 1.0


def _failure(reply: requests.Response) -> ParitydError:
    try:
        told = reply.json()
        error, reason, retryable = str(told["error"]), str(told["reason"]), bool(told["retryable"])
    except (ValueError, KeyError, TypeError):
        # Not parityd's own words: a proxy's, or a request that was no HTTP.
        error, reason, retryable = reply.text[:200] or reply.reason, "unknown", reply.status_code in (429, 503)
    return ParitydError(f"{reply.status_code} {reason}: {error}", status=reply.status_code, reason=reason, retryable=retryable)


def _predictions(reply: dict[str, Any]) -> list[Prediction]:
    output = reply["outputs"][0]
    provenance = reply["parameters"]["provenance"].split(",")
    count, data = output["shape"][0], output["data"]
    if len(provenance) != count or count == 0 or len(data) % count != 0:
        raise ValueError(f"{count} rows, {len(provenance)} words of provenance and {len(data)} values do not fit together")
    width = len(data) // count
    return [Prediction(data[row * width : (row + 1) * width], word) for row, word in enumerate(provenance)]


def _or_least(value: float | None) -> float:
    return -math.inf if value is None else value


def read_image(folder: Path, index: int) -> list[float]:
    """The pixels of a Fashion-MNIST test image in 0..1, from the IDX file of its authors, gzipped or not."""
    name = "t10k-images-idx3-ubyte"
    packed = folder / f"{name}.gz"
    content = gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / name).read_bytes()
    magic, count, height, width = struct.unpack_from(">4I", content)
    if magic != 0x803:
        raise ValueError(f"{folder}/{name} is no IDX file of images")
    if not 0 <= index < count:
        raise ValueError(f"there is no image {index}: {folder} holds {count}")
    start = 16 + index * height * width
    return [pixel / 255 for pixel in content[start : start + height * width]]


def read_example(file: Path) -> list[list[float]]:
    """The rows of a request that lies in a file."""
    tensor = json.loads(file.read_text())["inputs"][0]
    width = math.prod(tensor["shape"][1:])
    data = tensor["data"]
    return [data[start : start + width] for start in range(0, len(data), width)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask parityd for predictions; one line a row: class and provenance.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="fashion-mnist")
    parser.add_argument("--image", type=int, metavar="N", help="a test image instead of the example query")
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("PARITYD_DATA") or DEBIAN_PACKAGE), metavar="DIR",
        help="folder of Fashion-MNIST's files [default: $PARITYD_DATA, then that of the Debian package]",
    )  # fmt: skip
    parser.add_argument("--direct-only", action="store_true", help="refuse reconstructed predictions")
    parser.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS", help="of one try")
    parser.add_argument("--retries", type=int, default=4, metavar="N", help="further tries where the daemon says so")
    options = parser.parse_args()
    if options.retries < 0:
        parser.error("argument --retries: must not be negative")
    try:
        rows = read_example(EXAMPLE) if options.image is None else [read_image(options.data, options.image)]
        with Client(options.url, options.model, timeout=options.timeout, retries=options.retries) as client:
            for prediction in client.infer(rows, allow_reconstructed=not options.direct_only):
                print(f"class {prediction.label}, {prediction.provenance}")
    except (ParitydError, OSError, ValueError) as error:
        print(f"client.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Every HTTP method of tritonclient against a parityd that serves weights/fashion-mnist/1.

    python tests/clients/triton_http.py --url 127.0.0.1:8000

Each method works, with the right result, or raises the documented error (docs/compat.md). Predictions are compared with a forward pass in
numpy from the same safetensors. Needs tritonclient[http]; prints a line for each method, and exits 1 if one of them failed.
"""

import asyncio
import gzip
import json
import zlib

import numpy as np
import tritonclient.http as http
import tritonclient.http.aio as http_aio
from fashion_mnist import DIRECT, MANIFEST, MODEL, ROWS, close, every, forward
from tritonclient.utils import InferenceServerException

def refused(status, words, call):
    try:
        call()
    except InferenceServerException as error:
        told = f"{error.status()} {error.message()}"
        assert error.status() == str(status) or f"[{status}]" in str(error), told
        assert words in str(error), f"{words!r} is not in {error}"
        return
    raise AssertionError(f"no error, and {status} was expected")


def tensor(rows, datatype="FP32", binary=True):
    made = http.InferInput("input", list(rows.shape), datatype)
    made.set_data_from_numpy(rows, binary_data=binary)
    return made


def output(**asked):
    return http.InferRequestedOutput("logits", **asked)


class Checks:
    """A method a check; its name is the client's method, and what of it."""

    def __init__(self, url):
        self.client = http.InferenceServerClient(url)
        self.url = url

    def infer(self, rows, datatype="FP32", binary=True, outputs=None, **more):
        return self.client.infer(MODEL, [tensor(rows, datatype, binary)], outputs=outputs, **{**DIRECT, **more})

    def is_server_live(self):
        assert self.client.is_server_live()

    def is_server_ready(self):
        assert self.client.is_server_ready()

    def is_model_ready(self):
        assert self.client.is_model_ready(MODEL) and self.client.is_model_ready(MODEL, "1")
        assert not self.client.is_model_ready("nobody") and not self.client.is_model_ready(MODEL, "2")

    def get_server_metadata(self):
        told = self.client.get_server_metadata()
        assert told["name"] == "parityd"
        assert set(told["extensions"]) == {"classification", "model_configuration", "binary_tensor_data", "statistics"}

    def get_model_metadata(self):
        for version in ("", "1"):
            told = self.client.get_model_metadata(MODEL, version)
            assert told["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 28, 28]}], told
        refused(404, "there is no model", lambda: self.client.get_model_metadata("nobody"))
        refused(404, "there is no version", lambda: self.client.get_model_metadata(MODEL, "2"))

    def get_model_config(self):
        for version in ("", "1"):
            told = self.client.get_model_config(MODEL, version)
            assert told["max_batch_size"] >= 4 and told["input"][0]["dims"] == [1, 28, 28], told

    def get_model_repository_index(self):
        assert self.client.get_model_repository_index() == [{"name": MODEL, "version": "1", "state": "READY"}]

    def get_inference_statistics(self):
        count = lambda told: told["model_stats"][0]["inference_stats"]["success"]["count"]
        before = count(self.client.get_inference_statistics(MODEL))
        self.infer(ROWS)
        told = self.client.get_inference_statistics(MODEL, "1")
        assert count(told) == before + 1 == count(self.client.get_inference_statistics()), told
        stats = told["model_stats"][0]
        assert stats["inference_count"] >= 4 and stats["execution_count"] >= 1 and stats["last_inference"] > 0
        assert stats["inference_stats"]["compute_infer"]["ns"] > 0

    def load_and_unload_model(self):
        refused(404, "not served", lambda: self.client.load_model(MODEL))
        refused(404, "not served", lambda: self.client.load_model(MODEL, config="{}"))
        refused(404, "not served", lambda: self.client.unload_model(MODEL))
        assert self.client.is_model_ready(MODEL)

    def trace_settings(self):
        refused(404, "not served", lambda: self.client.get_trace_settings())
        refused(404, "not served", lambda: self.client.get_trace_settings(MODEL))
        refused(404, "not served", lambda: self.client.update_trace_settings(MODEL, {"trace_level": ["OFF"]}))

    def log_settings(self):
        refused(404, "not served", self.client.get_log_settings)
        refused(404, "not served", lambda: self.client.update_log_settings({"log_verbose_level": 1}))

    def shared_memory(self):
        client = self.client
        for call in (
            client.get_system_shared_memory_status,
            lambda: client.register_system_shared_memory("r", "/key", 16),
            client.unregister_system_shared_memory,
            client.get_cuda_shared_memory_status,
            lambda: client.register_cuda_shared_memory("r", b"handle", 0, 16),
            client.unregister_cuda_shared_memory,
        ):
            refused(404, "not served", call)
        made = http.InferInput("input", [1, 1, 28, 28], "FP32")
        made.set_shared_memory("r", 3136)
        refused(400, "inputs[0].parameters", lambda: client.infer(MODEL, [made]))
        asked = output()
        asked.set_shared_memory("r", 40)
        refused(400, "outputs[0].parameters", lambda: client.infer(MODEL, [tensor(ROWS)], outputs=[asked]))

    def infer_binary_and_json(self):
        for binary_in in (True, False):
            for asked in (None, [output(binary_data=True)], [output(binary_data=False)]):
                result = self.infer(ROWS, binary=binary_in, outputs=asked)
                close(result.as_numpy("logits"), ROWS)
                told = result.get_response()
                assert told["parameters"]["provenance"] == "direct,direct,direct,direct", told
        assert self.infer(ROWS).as_numpy("nothing") is None

    def infer_request_id(self):
        for request_id in ("seven", "é/\"1"):
            assert self.infer(ROWS[:1], request_id=request_id).get_response()["id"] == request_id
        assert "id" not in self.infer(ROWS[:1]).get_response()

    def infer_datatypes(self):
        whole = np.random.default_rng(8).integers(0, 2, (2, 1, 28, 28))
        wanted = whole.astype(np.float32)
        for numpy_type, datatype in (
            (bool, "BOOL"), (np.uint8, "UINT8"), (np.uint16, "UINT16"), (np.uint32, "UINT32"), (np.uint64, "UINT64"),
            (np.int8, "INT8"), (np.int16, "INT16"), (np.int32, "INT32"), (np.int64, "INT64"),
            (np.float32, "FP32"), (np.float64, "FP64"),
        ):
            for binary in (True, False):
                close(self.infer(whole.astype(numpy_type), datatype, binary).as_numpy("logits"), wanted)
        half = ROWS.astype(np.float16)
        close(self.infer(half, "FP16").as_numpy("logits"), half.astype(np.float32))
        refused(400, "FP16 must be binary data", lambda: self.infer(half, "FP16", binary=False))
        double = ROWS.astype(np.float64)
        double[1, 0, 0, 2] = 1e39
        for binary in (True, False):
            refused(400, "inputs[0].data: value 786 is 1e39", lambda: self.infer(double, "FP64", binary))
        long = whole.astype(np.int64)
        long[0, 0, 0, 3] = 2**24 + 1
        refused(400, "inputs[0].data: value 3 is 16777217", lambda: self.infer(long, "INT64"))
        words = np.full((1, 1, 28, 28), "x", dtype=np.object_)
        refused(400, "inputs[0].datatype", lambda: self.infer(words, "BYTES"))

    def infer_bf16(self):
        try:
            import ml_dtypes
        except ImportError:
            return "skipped: no ml_dtypes"
        half = ROWS.astype(ml_dtypes.bfloat16)
        close(self.infer(half, "BF16").as_numpy("logits"), half.astype(np.float32))

    def infer_compressed(self):
        for way_in in (None, "gzip", "deflate"):
            for way_out in (None, "gzip", "deflate"):
                many = np.tile(ROWS, (16, 1, 1, 1))
                for binary in (True, False):
                    result = self.infer(
                        many, binary=binary, outputs=[output(binary_data=binary)],
                        request_compression_algorithm=way_in, response_compression_algorithm=way_out,
                    )
                    close(result.as_numpy("logits"), many)

    def infer_classification(self):
        logits = forward(ROWS)
        labels = MANIFEST["output"]["labels"]
        for binary in (True, False):
            found = self.infer(ROWS, outputs=[output(binary_data=binary, class_count=3)]).as_numpy("logits")
            assert found.shape == (4, 3), found
            for row, words in zip(logits, found):
                for place, word in zip(np.argsort(-row), words):
                    word = word.decode() if isinstance(word, bytes) else word
                    value, index, label = word.split(":", 2)
                    assert (int(index), label) == (place, labels[place]), word
                    assert abs(float(value) - row[place]) < 1e-3, word

    def infer_parameters(self):
        close(self.infer(ROWS, priority=3, timeout=1_000_000).as_numpy("logits"), ROWS)
        more = {"allow_reconstructed": False, "min_confidence": 0.5, "mine": "x"}
        close(self.infer(ROWS, parameters=more).as_numpy("logits"), ROWS)
        close(self.infer(ROWS, sequence_id=5, sequence_start=True, sequence_end=True).as_numpy("logits"), ROWS)
        refused(504, "by the deadline", lambda: self.infer(np.tile(ROWS, (64, 1, 1, 1)), timeout=1))
        refused(400, "parameters.min_confidence", lambda: self.infer(ROWS, parameters={"min_confidence": 2}))

    def infer_wrong(self):
        client, right = self.client, tensor(ROWS)
        other = http.InferInput("image", [1, 1, 28, 28], "FP32")
        other.set_data_from_numpy(ROWS[:1])
        refused(404, "there is no model", lambda: client.infer("nobody", [right]))
        refused(404, "there is no version", lambda: client.infer(MODEL, [right], model_version="9"))
        refused(400, "inputs[0].name", lambda: client.infer(MODEL, [other]))
        refused(400, "inputs: exactly one", lambda: client.infer(MODEL, [right, right]))
        refused(400, "inputs[0].shape", lambda: self.infer(ROWS.reshape(4, 784)))
        refused(400, "outputs[].name", lambda: self.infer(ROWS, outputs=[http.InferRequestedOutput("probs")]))
        close(self.infer(ROWS).as_numpy("logits"), ROWS)

    def infer_not_finite(self):
        rows = ROWS.copy()
        rows[2, 0, 3] = np.inf
        rows[2, 0, 4] = np.nan
        for binary in (True, False):
            found = self.infer(rows, outputs=[output(binary_data=binary)]).as_numpy("logits")
            # What the model makes of such a row is its affair; the others are not touched by it.
            close(found[[0, 1, 3]], ROWS[[0, 1, 3]])
        tensor = {"name": "logits", "datatype": "FP32", "shape": [1, 2], "data": [None, 1.5]}
        reply = json.dumps({"outputs": [tensor]}).encode()
        read = http.InferenceServerClient.parse_response_body(reply).as_numpy("logits")
        assert np.isnan(read[0, 0]) and read[0, 1] == 1.5, "null is how the JSON of a reply says that"

    def async_infer(self):
        client = http.InferenceServerClient(self.url, concurrency=4)
        waiting = [client.async_infer(MODEL, [tensor(ROWS)], **DIRECT) for _ in range(8)]
        for asked in waiting:
            close(asked.get_result().as_numpy("logits"), ROWS)
        client.close()

    def generate_request_body_and_parse_response_body(self):
        body, length = http.InferenceServerClient.generate_request_body(
            [tensor(ROWS)], outputs=[output()], **DIRECT
        )
        for coding, sent in ((None, body), ("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
            headers = {"Inference-Header-Content-Length": str(length)}
            if coding:
                headers["Content-Encoding"] = coding
            reply = self.client._post(f"v2/models/{MODEL}/infer", sent, headers, None)
            assert reply.status_code == 200, reply.status_code
            result = http.InferenceServerClient.parse_response_body(
                reply.read(), header_length=int(reply.get("Inference-Header-Content-Length"))
            )
            close(result.as_numpy("logits"), ROWS)

    def raw_request(self):
        # Such a request cannot ask for a direct prediction: one that a busy machine had reconstructed is let pass.
        for _ in range(50):
            reply = self.client._post(
                f"v2/models/{MODEL}/infer", ROWS[:1].tobytes(), {"Inference-Header-Content-Length": "0"}, None
            )
            assert reply.status_code == 200, reply.status_code
            length, body = int(reply.get("Inference-Header-Content-Length")), reply.read()
            if json.loads(body[:length])["parameters"]["provenance"] == "direct":
                close(np.frombuffer(body[length:], "<f4").reshape(1, 10), ROWS[:1])
                return
        raise AssertionError("none of 50 predictions was direct")

    def aio(self):
        async def every():
            async with http_aio.InferenceServerClient(self.url) as client:
                assert await client.is_server_live() and await client.is_server_ready()
                assert await client.is_model_ready(MODEL)
                assert (await client.get_server_metadata())["name"] == "parityd"
                assert (await client.get_model_metadata(MODEL))["name"] == MODEL
                assert (await client.get_model_config(MODEL))["name"] == MODEL
                assert (await client.get_model_repository_index())[0]["state"] == "READY"
                assert (await client.get_inference_statistics(MODEL))["model_stats"]
                made = http_aio.InferInput("input", list(ROWS.shape), "FP32")
                made.set_data_from_numpy(ROWS)
                for coding in (None, "gzip", "deflate"):
                    result = await client.infer(
                        MODEL, [made], request_compression_algorithm=coding, response_compression_algorithm=coding,
                        **DIRECT,
                    )
                    close(result.as_numpy("logits"), ROWS)

        asyncio.run(every())


if __name__ == "__main__":
    every(Checks, __doc__, "127.0.0.1:8000")

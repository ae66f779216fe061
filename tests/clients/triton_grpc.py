#!/usr/bin/env python3
"""Every gRPC method of tritonclient against a parityd that serves weights/fashion-mnist/1.

    python tests/clients/triton_grpc.py --url 127.0.0.1:8001

Each method works, with the right result, or raises the documented error (docs/compat.md). Predictions are compared with a forward pass in
numpy from the same safetensors. Needs tritonclient[grpc]; prints a line for each method, and exits 1 if one of them failed.
"""

import asyncio
import queue
import threading

import grpc as channel
import numpy as np
import tritonclient.grpc as grpc
import tritonclient.grpc.aio as grpc_aio
from fashion_mnist import DIRECT, MANIFEST, MODEL, ROWS, close, every, forward
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException


def refused(code, words, call):
    try:
        call()
    except InferenceServerException as error:
        told = f"{error.status()} {error.message()}"
        assert error.status() == f"StatusCode.{code}" and words in told, f"{code} {words!r} was expected, not {told}"
        return
    raise AssertionError(f"no error, and {code} was expected")


def tensor(rows, datatype="FP32"):
    made = grpc.InferInput("input", list(rows.shape), datatype)
    made.set_data_from_numpy(rows)
    return made


def output(**asked):
    return grpc.InferRequestedOutput("logits", **asked)


class Checks:
    """A method a check; its name is the client's method, and what of it."""

    def __init__(self, url):
        self.client = grpc.InferenceServerClient(url)
        self.url = url
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(channel.insecure_channel(url))

    def infer(self, rows, datatype="FP32", outputs=None, **more):
        return self.client.infer(MODEL, [tensor(rows, datatype)], outputs=outputs, **{**DIRECT, **more})

    def is_server_live(self):
        assert self.client.is_server_live()

    def is_server_ready(self):
        assert self.client.is_server_ready()

    def is_model_ready(self):
        assert self.client.is_model_ready(MODEL) and self.client.is_model_ready(MODEL, "1")
        assert not self.client.is_model_ready("nobody") and not self.client.is_model_ready(MODEL, "2")

    def get_server_metadata(self):
        told = self.client.get_server_metadata(as_json=True)
        assert told["name"] == "parityd"
        assert set(told["extensions"]) == {"classification", "model_configuration", "binary_tensor_data", "statistics"}

    def get_model_metadata(self):
        for version in ("", "1"):
            told = self.client.get_model_metadata(MODEL, version)
            assert list(told.inputs[0].shape) == [-1, 1, 28, 28] and told.inputs[0].datatype == "FP32", told
            assert list(told.outputs[0].shape) == [-1, 10] and list(told.versions) == ["1"], told
        refused("NOT_FOUND", "there is no model", lambda: self.client.get_model_metadata("nobody"))
        refused("NOT_FOUND", "there is no version", lambda: self.client.get_model_metadata(MODEL, "2"))

    def get_model_config(self):
        for version in ("", "1"):
            told = self.client.get_model_config(MODEL, version).config
            assert told.max_batch_size >= 4 and list(told.input[0].dims) == [1, 28, 28], told
            assert told.input[0].data_type == 11 and not told.model_transaction_policy.decoupled, told
            assert told.HasField("dynamic_batching"), told
        refused("NOT_FOUND", "there is no model", lambda: self.client.get_model_config("nobody"))

    def get_model_repository_index(self):
        told = self.client.get_model_repository_index().models
        assert [(each.name, each.version, each.state, each.reason) for each in told] == [(MODEL, "1", "READY", "")]

    def get_inference_statistics(self):
        count = lambda told: told.model_stats[0].inference_stats.success.count
        before = count(self.client.get_inference_statistics(MODEL))
        self.infer(ROWS)
        told = self.client.get_inference_statistics(MODEL, "1")
        assert count(told) == before + 1 == count(self.client.get_inference_statistics()), told
        stats = told.model_stats[0]
        assert stats.inference_count >= 4 and stats.execution_count >= 1 and stats.last_inference > 0
        assert stats.inference_stats.compute_infer.ns > 0
        refused("NOT_FOUND", "there is no model", lambda: self.client.get_inference_statistics("nobody"))

    def load_and_unload_model(self):
        refused("UNIMPLEMENTED", "not served", lambda: self.client.load_model(MODEL))
        refused("UNIMPLEMENTED", "not served", lambda: self.client.load_model(MODEL, config="{}"))
        refused("UNIMPLEMENTED", "not served", lambda: self.client.unload_model(MODEL))
        assert self.client.is_model_ready(MODEL)

    def trace_settings(self):
        refused("UNIMPLEMENTED", "not served", lambda: self.client.get_trace_settings())
        refused("UNIMPLEMENTED", "not served", lambda: self.client.get_trace_settings(MODEL))
        refused("UNIMPLEMENTED", "not served", lambda: self.client.update_trace_settings(MODEL, {"trace_level": ["OFF"]}))

    def log_settings(self):
        refused("UNIMPLEMENTED", "not served", self.client.get_log_settings)
        refused("UNIMPLEMENTED", "not served", lambda: self.client.update_log_settings({"log_verbose_level": 1}))

    def shared_memory(self):
        client = self.client
        for call in (
            client.get_system_shared_memory_status,
            lambda: client.register_system_shared_memory("r", "/key", 16),
            client.unregister_system_shared_memory,
            client.get_cuda_shared_memory_status,
            lambda: client.register_cuda_shared_memory("r", b"aGFuZGxl", 0, 16),
            client.unregister_cuda_shared_memory,
        ):
            refused("UNIMPLEMENTED", "not served", call)
        made = grpc.InferInput("input", [1, 1, 28, 28], "FP32")
        made.set_shared_memory("r", 3136)
        refused("INVALID_ARGUMENT", "inputs[0].parameters", lambda: client.infer(MODEL, [made]))
        asked = output()
        asked.set_shared_memory("r", 40)
        refused("INVALID_ARGUMENT", "outputs[0].parameters", lambda: client.infer(MODEL, [tensor(ROWS)], outputs=[asked]))

    def infer_rows(self):
        for asked in (None, [output()]):
            result = self.infer(ROWS, outputs=asked)
            close(result.as_numpy("logits"), ROWS)
            told = result.get_response()
            assert told.parameters["provenance"].string_param == "direct,direct,direct,direct", told
        assert self.infer(ROWS).as_numpy("nothing") is None

    def infer_typed_contents(self):
        """Which tritonclient neither sends nor reads."""
        for form in (False, True):
            request = service_pb2.ModelInferRequest(model_name=MODEL)
            request.parameters["allow_reconstructed"].bool_param = False
            request.parameters["binary_data_output"].bool_param = form
            made = request.inputs.add(name="input", datatype="FP32", shape=ROWS.shape)
            made.contents.fp32_contents.extend(ROWS.flatten())
            reply = self.stub.ModelInfer(request)
            assert len(reply.raw_output_contents) == form, reply
            values = reply.outputs[0].contents.fp32_contents
            found = np.frombuffer(reply.raw_output_contents[0], "<f4") if form else np.array(values, "<f4")
            close(found.reshape(reply.outputs[0].shape), ROWS)

    def infer_request_id(self):
        for request_id in ("seven", "é/\"1"):
            assert self.infer(ROWS[:1], request_id=request_id).get_response().id == request_id
        assert self.infer(ROWS[:1]).get_response().id == ""

    def infer_datatypes(self):
        whole = np.random.default_rng(8).integers(0, 2, (2, 1, 28, 28))
        wanted = whole.astype(np.float32)
        for numpy_type, datatype in (
            (bool, "BOOL"), (np.uint8, "UINT8"), (np.uint16, "UINT16"), (np.uint32, "UINT32"), (np.uint64, "UINT64"),
            (np.int8, "INT8"), (np.int16, "INT16"), (np.int32, "INT32"), (np.int64, "INT64"),
            (np.float32, "FP32"), (np.float64, "FP64"),
        ):
            close(self.infer(whole.astype(numpy_type), datatype).as_numpy("logits"), wanted)
        half = ROWS.astype(np.float16)
        close(self.infer(half, "FP16").as_numpy("logits"), half.astype(np.float32))
        double = ROWS.astype(np.float64)
        double[1, 0, 0, 2] = 1e39
        refused("INVALID_ARGUMENT", "raw_input_contents[0]: value 786 is 1e39", lambda: self.infer(double, "FP64"))
        long = whole.astype(np.int64)
        long[0, 0, 0, 3] = 2**24 + 1
        refused("INVALID_ARGUMENT", "raw_input_contents[0]: value 3 is 16777217", lambda: self.infer(long, "INT64"))
        words = np.full((1, 1, 28, 28), "x", dtype=np.object_)
        refused("INVALID_ARGUMENT", "inputs[0].datatype", lambda: self.infer(words, "BYTES"))

    def infer_bf16(self):
        try:
            import ml_dtypes
        except ImportError:
            return "skipped: no ml_dtypes"
        half = ROWS.astype(ml_dtypes.bfloat16)
        close(self.infer(half, "BF16").as_numpy("logits"), half.astype(np.float32))

    def infer_compressed(self):
        many = np.tile(ROWS, (16, 1, 1, 1))
        for coding in (None, "gzip", "deflate"):
            close(self.infer(many, compression_algorithm=coding).as_numpy("logits"), many)

    def infer_classification(self):
        logits = forward(ROWS)
        labels = MANIFEST["output"]["labels"]
        found = self.infer(ROWS, outputs=[output(class_count=3)]).as_numpy("logits")
        assert found.shape == (4, 3), found
        for row, words in zip(logits, found):
            for place, word in zip(np.argsort(-row), words):
                value, index, label = word.decode().split(":", 2)
                assert (int(index), label) == (place, labels[place]), word
                assert abs(float(value) - row[place]) < 1e-3, word

    def infer_parameters(self):
        close(self.infer(ROWS, priority=3, timeout=1_000_000).as_numpy("logits"), ROWS)
        more = {"allow_reconstructed": False, "min_confidence": 0.5, "mine": "x"}
        close(self.infer(ROWS, parameters=more).as_numpy("logits"), ROWS)
        close(self.infer(ROWS, sequence_id=5, sequence_start=True, sequence_end=True).as_numpy("logits"), ROWS)
        many = np.tile(ROWS, (64, 1, 1, 1))
        refused("DEADLINE_EXCEEDED", "by the deadline", lambda: self.infer(many, timeout=1))
        refused("INVALID_ARGUMENT", "parameters.min_confidence", lambda: self.infer(ROWS, parameters={"min_confidence": 2}))

    def infer_client_timeout(self):
        close(self.infer(ROWS, client_timeout=5).as_numpy("logits"), ROWS)
        many = np.tile(ROWS, (200, 1, 1, 1))
        try:
            self.infer(many, client_timeout=0.004)
        except InferenceServerException as error:
            # Whether the daemon's word or the client's own comes first is a race; both are this one.
            assert error.status() == "StatusCode.DEADLINE_EXCEEDED", error
        else:
            return "skipped: 800 rows were answered within 4 ms"

    def infer_wrong(self):
        client, right = self.client, tensor(ROWS)
        other = grpc.InferInput("image", [1, 1, 28, 28], "FP32")
        other.set_data_from_numpy(ROWS[:1])
        refused("NOT_FOUND", "there is no model", lambda: client.infer("nobody", [right]))
        refused("NOT_FOUND", "there is no version", lambda: client.infer(MODEL, [right], model_version="9"))
        refused("INVALID_ARGUMENT", "inputs[0].name", lambda: client.infer(MODEL, [other]))
        refused("INVALID_ARGUMENT", "inputs: exactly one", lambda: client.infer(MODEL, [right, right]))
        refused("INVALID_ARGUMENT", "inputs[0].shape", lambda: self.infer(ROWS.reshape(4, 784)))
        wrong = [grpc.InferRequestedOutput("probs")]
        refused("INVALID_ARGUMENT", "outputs[].name", lambda: self.infer(ROWS, outputs=wrong))
        close(self.infer(ROWS).as_numpy("logits"), ROWS)

    def infer_not_finite(self):
        rows = ROWS.copy()
        rows[2, 0, 3] = np.inf
        rows[2, 0, 4] = np.nan
        found = self.infer(rows).as_numpy("logits")
        # What the model makes of such a row is its affair; the others are not touched by it.
        close(found[[0, 1, 3]], ROWS[[0, 1, 3]])

    def async_infer(self):
        answers = queue.Queue()
        for _ in range(8):
            self.client.async_infer(MODEL, [tensor(ROWS)], lambda result, error: answers.put((result, error)), **DIRECT)
        for _ in range(8):
            result, error = answers.get(timeout=10)
            assert error is None, error
            close(result.as_numpy("logits"), ROWS)

    def async_infer_cancelled(self):
        told = threading.Event()
        call = self.client.async_infer(
            MODEL, [tensor(np.tile(ROWS, (250, 1, 1, 1)))], lambda result, error: told.set(), **DIRECT
        )
        call.cancel()
        assert told.wait(10)
        close(self.infer(ROWS).as_numpy("logits"), ROWS)

    def stream_infer(self):
        client, answers = grpc.InferenceServerClient(self.url), queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(100):
            model = "nobody" if number == 50 else MODEL
            client.async_stream_infer(
                model, [tensor(ROWS)], request_id=str(number), enable_empty_final_response=number % 2 == 0, **DIRECT
            )
        for number in range(100):
            result, error = answers.get(timeout=20)
            if number == 50:
                assert result is None and "there is no model" in str(error), error
                continue
            assert error is None, error
            reply = result.get_response()
            assert reply.id == str(number) and reply.parameters["triton_final_response"].bool_param, reply
            close(result.as_numpy("logits"), ROWS)
        client.stop_stream()

    def stream_errors_have_ids(self):
        request = service_pb2.ModelInferRequest(model_name="nobody", id="x")
        (reply,) = self.stub.ModelStreamInfer(iter([request]))
        failed = reply.infer_response
        assert failed.id == "x" and failed.parameters["reason"].string_param == "unknown_model", reply
        assert failed.parameters["code"].string_param == "NOT_FOUND", reply
        assert not failed.parameters["retryable"].bool_param, reply

    def errors_have_metadata(self):
        try:
            self.stub.ModelInfer(service_pb2.ModelInferRequest(model_name=MODEL))
        except channel.RpcError as error:
            told = dict(error.trailing_metadata())
            assert (told["reason"], told["retryable"]) == ("bad_field", "false"), told
        else:
            raise AssertionError("no error")

    def aio(self):
        async def all_of_it():
            async with grpc_aio.InferenceServerClient(self.url) as client:
                assert await client.is_server_live() and await client.is_server_ready()
                assert await client.is_model_ready(MODEL)
                assert (await client.get_server_metadata()).name == "parityd"
                assert (await client.get_model_metadata(MODEL)).name == MODEL
                assert (await client.get_model_config(MODEL)).config.name == MODEL
                assert (await client.get_model_repository_index()).models[0].state == "READY"
                assert (await client.get_inference_statistics(MODEL)).model_stats
                made = grpc_aio.InferInput("input", list(ROWS.shape), "FP32")
                made.set_data_from_numpy(ROWS)
                for coding in (None, "gzip", "deflate"):
                    result = await client.infer(MODEL, [made], compression_algorithm=coding, **DIRECT)
                    close(result.as_numpy("logits"), ROWS)

                async def requests():
                    for number in range(5):
                        yield {"model_name": MODEL, "inputs": [made], "request_id": str(number), **DIRECT}

                numbers = []
                async for result, error in client.stream_infer(requests()):
                    assert error is None, error
                    numbers.append(result.get_response().id)
                    close(result.as_numpy("logits"), ROWS)
                assert numbers == ["0", "1", "2", "3", "4"], numbers

        asyncio.run(all_of_it())


if __name__ == "__main__":
    every(Checks, __doc__, "127.0.0.1:8001")

"""The same MLP behind servers of other makes: `peers.py fastapi PORT` and `peers.py mosec PORT json|raw`. edge.py starts them.

Each on one worker with one thread of ONNX Runtime, and without batching, as parityd has one lane.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(os.environ["EDGE_FOLDER"])


class Model:
    def __init__(self):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(FOLDER / "mlp.onnx"), options, providers=["CPUExecutionProvider"])

    def __call__(self, rows):
        return self.session.run(None, {"INPUT": rows})[0]


def rows_of(request):
    tensor = request["inputs"][0]
    return np.asarray(tensor["data"], dtype=np.float32).reshape(tensor["shape"])


def reply(outputs):
    tensor = {"name": "OUTPUT", "datatype": "FP32", "shape": list(outputs.shape), "data": outputs.ravel().tolist()}
    return {"model_name": "mlp", "model_version": "1", "outputs": [tensor]}


def fastapi(port):
    import orjson
    import uvicorn
    from fastapi import FastAPI, Request, Response

    app, model = FastAPI(), Model()

    @app.post("/v2/models/mlp/infer")
    async def infer(request: Request):
        outputs = model(rows_of(orjson.loads(await request.body())))
        return Response(orjson.dumps(reply(outputs)), media_type="application/json")

    @app.post("/raw")
    async def raw(request: Request):
        outputs = model(np.frombuffer(await request.body(), np.float32).reshape(1, 784))
        return Response(outputs.tobytes(), media_type="application/octet-stream")

    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning")


def mosec(port, form):
    from mosec import Server, Worker

    class Mlp(Worker):
        def __init__(self):
            super().__init__()
            self.model = Model()

        def deserialize(self, data):
            return np.frombuffer(data, np.float32).reshape(1, 784) if form == "raw" else rows_of(json.loads(data))

        def serialize(self, data):
            return data.tobytes() if form == "raw" else json.dumps(reply(data)).encode()

        def forward(self, data):
            return self.model(data)

    sys.argv = [sys.argv[0], "--address", "127.0.0.1", "--port", str(port)]
    server = Server()
    # Its workers begin as copies of this process: a class of a function does not travel.
    server.append_worker(Mlp, num=1, start_method="fork")
    server.run()


if __name__ == "__main__":
    kind, port, *rest = sys.argv[1:]
    {"fastapi": fastapi, "mosec": mosec}[kind](int(port), *rest)

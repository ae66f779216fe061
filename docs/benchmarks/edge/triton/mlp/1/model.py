"""The MLP for Triton's Python backend."""

import os
import sys

import numpy as np
import triton_python_backend_utils as triton

sys.path.insert(0, os.environ["EDGE_SCRIPTS"])
from peers import Model  # noqa: E402


class TritonPythonModel:
    def initialize(self, args):
        self.model = Model()

    def execute(self, requests):
        rows = [triton.get_input_tensor_by_name(request, "INPUT").as_numpy() for request in requests]
        outputs, ends = self.model(np.concatenate(rows)), np.cumsum([len(some) for some in rows])[:-1]
        return [triton.InferenceResponse([triton.Tensor("OUTPUT", some)]) for some in np.split(outputs, ends)]

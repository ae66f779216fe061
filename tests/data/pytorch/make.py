"""Makes the fixtures of tests/pytorch.rs: state dicts of PyTorch models, an input and the output of each in eval mode.

    python3 -m venv env && env/bin/pip install torch==2.* safetensors numpy
    env/bin/python tests/data/pytorch/make.py

Seed 1. Modules are called as torchvision calls them; widths are small, so that the files are. Batch norms have seen a few batches, so that their
running averages are not those they begin with. Rounded to half precision, weights and input alike, before the outputs are computed.
"""

from pathlib import Path

import torch
from models import RESNET18, RESNET152, Resnet, Vgg11, lenet5, mlp
from safetensors.torch import save_file

FIXTURES = {
    # architecture, shape of a row
    ("mlp", (1, 28, 28)): lambda: mlp(784),
    ("lenet5", (1, 28, 28)): lenet5,
    ("vgg11-w2", (3, 32, 32)): lambda: Vgg11(2, 3, 10, False, 32),
    ("vgg11-w2", (1, 28, 28)): lambda: Vgg11(2, 1, 10, False, 28),
    ("vgg11-w1", (3, 224, 224)): lambda: Vgg11(1, 3, 10, True, 224),
    ("resnet18-w4", (1, 28, 28)): lambda: Resnet(4, 1, 10, *RESNET18, False),
    ("resnet18-w3", (3, 75, 96)): lambda: Resnet(3, 3, 10, *RESNET18, True),
    ("resnet152-w2", (3, 32, 32)): lambda: Resnet(2, 3, 10, *RESNET152, False),
}


def main():
    torch.manual_seed(1)
    for (name, shape), make in FIXTURES.items():
        model = make().train()
        with torch.no_grad():
            for _ in range(3):
                model(torch.rand(8, *shape))
            model.eval()
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(tensor.half().float())
            rows = torch.rand(1 if shape[-1] > 100 else 2, *shape).half().float()
            output = model(rows)
        tensors = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
        side = "x".join(map(str, shape))
        save_file({**tensors, "input": rows.half(), "output": output}, Path(__file__).parent / f"{name}-{side}.safetensors")


if __name__ == "__main__":
    main()

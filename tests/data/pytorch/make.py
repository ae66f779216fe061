"""Makes the fixtures of tests/pytorch.rs: state dicts of PyTorch models, an input and the output of each in eval mode.

    python3 -m venv env && env/bin/pip install torch==2.* safetensors numpy
    env/bin/python tests/data/pytorch/make.py

Seed 1. Modules are called as torchvision calls them; widths are small, so that the files are. Batch norms have seen a few batches, so that their
running averages are not those they begin with. Rounded to half precision, weights and input alike, before the outputs are computed.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


def mlp(inputs):
    model = nn.Sequential()
    model.fc1, model.fc2, model.fc3 = nn.Linear(inputs, 200), nn.Linear(200, 100), nn.Linear(100, 10)
    model.forward = lambda x: model.fc3(model.fc2(model.fc1(x.flatten(1)).relu()).relu())
    return model


def lenet5():
    model = nn.Module()
    model.conv1, model.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
    model.fc1, model.fc2, model.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(x):
        x = torch.max_pool2d(model.conv1(x).relu(), 2)
        x = torch.max_pool2d(model.conv2(x).relu(), 2).flatten(1)
        return model.fc3(model.fc2(model.fc1(x).relu()).relu())

    model.forward = forward
    return model


class Vgg11(nn.Module):
    """torchvision.models.vgg11_bn; for small pictures with one matrix after the mean of each channel."""

    def __init__(self, width, channels, outputs, imagenet, side):
        super().__init__()
        layers = []
        for stage in ([1], [2], [4, 4], [8, 8], [8, 8]):
            for times in stage:
                filters = times * width
                layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU()]
                channels = filters
            # In its place to keep the names, where nothing is left to pool.
            layers.append(nn.MaxPool2d(2) if side >= 2 else nn.Identity())
            side //= 2
        self.features = nn.Sequential(*layers)
        self.imagenet = imagenet
        if imagenet:
            hidden = 64 * width
            self.classifier = nn.Sequential(
                nn.Linear(channels * 49, hidden), nn.ReLU(), nn.Dropout(),
                nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, outputs),
            )
        else:
            self.classifier = nn.Linear(channels, outputs)

    def forward(self, x):
        x = self.features(x)
        return self.classifier(x.flatten(1) if self.imagenet else x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, channels, filters, stride, bottleneck):
        super().__init__()
        written = 4 * filters if bottleneck else filters
        sizes = (
            [(channels, filters, 1, 1), (filters, filters, 3, stride), (filters, written, 1, 1)]
            if bottleneck
            else [(channels, filters, 3, stride), (filters, filters, 3, 1)]
        )
        self.count = len(sizes)
        for number, (read, write, kernel, step) in enumerate(sizes, 1):
            setattr(self, f"conv{number}", nn.Conv2d(read, write, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{number}", nn.BatchNorm2d(write))
        if stride != 1 or channels != written:
            self.downsample = nn.Sequential(nn.Conv2d(channels, written, 1, stride, bias=False), nn.BatchNorm2d(written))
        else:
            self.downsample = nn.Identity()
        self.written = written

    def forward(self, x):
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            y = y.relu() if number < self.count else y
        return (y + self.downsample(x)).relu()


class Resnet(nn.Module):
    """torchvision.models.resnet18 and resnet152; small pictures begin with 3 x 3 and no pooling."""

    def __init__(self, width, channels, outputs, blocks, bottleneck, large):
        super().__init__()
        self.large = large
        self.conv1 = nn.Conv2d(channels, width, 7 if large else 3, 2 if large else 1, 3 if large else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for stage, count in enumerate(blocks):
            layer = []
            for number in range(count):
                layer.append(Block(channels, width << stage, 2 if stage and not number else 1, bottleneck))
                channels = layer[-1].written
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(channels, outputs)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = torch.max_pool2d(x, 3, 2, 1) if self.large else x
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


RESNET18, RESNET152 = ([2, 2, 2, 2], False), ([3, 8, 36, 3], True)

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

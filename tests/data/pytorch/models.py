"""Networks as torchvision has them, in PyTorch and nothing else, for fixtures and for comparisons (docs/benchmarks, scripts/gpu-check)."""

import torch
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

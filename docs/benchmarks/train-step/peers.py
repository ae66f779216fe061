"""The training step of PyTorch that docs/benchmarks/train-step.md compares with: one thread, forward, backward and Adam on one batch of 64.

Usage: python peers.py [seconds per network]. Prints the median and the fastest step of each network in milliseconds.
"""

import statistics
import sys
import time

import torch
from torch import nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(1)


class Lenet5(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2)).flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 10))


class Block(nn.Module):
    def __init__(self, channels, filters, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(filters), nn.BatchNorm2d(filters)
        self.short = nn.Sequential()
        if stride != 1 or channels != filters:
            self.short = nn.Sequential(nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters))

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.short(x))


def resnet18(width):
    layers = [nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    channels = width
    for stage in range(4):
        for block in range(2):
            layers.append(Block(channels, width << stage, 2 if stage and not block else 1))
            channels = width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def vgg11(width):
    layers, channels, side = [], 1, 28
    for stage in [[1], [2], [4, 4], [8, 8], [8, 8]]:
        for times in stage:
            layers += [nn.Conv2d(channels, times * width, 3, 1, 1), nn.BatchNorm2d(times * width), nn.ReLU()]
            channels = times * width
        if side >= 2:
            layers.append(nn.MaxPool2d(2))
            side //= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def measure(name, net, seconds, channels_last=False):
    rows, labels = torch.rand(64, 1, 28, 28), torch.arange(64) % 10
    if channels_last:
        net, rows = net.to(memory_format=torch.channels_last), rows.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-5)
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        begin = time.perf_counter()
        optimiser.zero_grad()
        F.cross_entropy(net(rows), labels).backward()
        optimiser.step()
        times.append(time.perf_counter() - begin)
    print(f"{name:28} median {1e3 * statistics.median(times):8.3f} ms  fastest {1e3 * min(times):8.3f} ms  steps {len(times)}")


if __name__ == "__main__":
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    print("torch", torch.__version__, "threads", torch.get_num_threads())
    measure("mlp", mlp(), seconds)
    measure("lenet5", Lenet5(), seconds)
    measure("resnet18-w16", resnet18(16), seconds)
    measure("resnet18-w16 channels_last", resnet18(16), seconds, channels_last=True)
    measure("vgg11-w16", vgg11(16), seconds)

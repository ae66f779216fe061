#!/usr/bin/env python3
"""Makes this folder's subset of the Fashion-MNIST test set: the first 100 images of each class, in the order of the test set.

    python3 tests/data/make_subset.py [DIR]

DIR holds the test files, gzipped; by default it is where the Debian package dataset-fashion-mnist puts them.
The output is the same to the byte each time.
"""

import gzip
import struct
import sys
from pathlib import Path

PER_CLASS = 100
IMAGES = "t10k-images-idx3-ubyte.gz"
LABELS = "t10k-labels-idx1-ubyte.gz"


def write(path: Path, content: bytes) -> None:
    """Writes gzip without a time or a name in its header."""
    with path.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(content)


def main() -> None:
    source = Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/datasets/fashion-mnist")
    target = Path(__file__).resolve().parent
    images = gzip.decompress((source / IMAGES).read_bytes())
    labels = gzip.decompress((source / LABELS).read_bytes())
    magic, count, height, width = struct.unpack(">4I", images[:16])
    assert magic == 0x803 and struct.unpack(">2I", labels[:8]) == (0x801, count), "these are no IDX files of one set"
    size = height * width
    left = dict.fromkeys(range(10), PER_CLASS)
    picked = []
    for index, label in enumerate(labels[8:]):
        if left[label] > 0:
            left[label] -= 1
            picked.append(index)
    assert len(picked) == 10 * PER_CLASS, "some class has too few images"
    rows = b"".join(images[16 + i * size : 16 + (i + 1) * size] for i in picked)
    write(target / IMAGES, struct.pack(">4I", 0x803, len(picked), height, width) + rows)
    write(target / LABELS, struct.pack(">2I", 0x801, len(picked)) + bytes(labels[8 + i] for i in picked))


if __name__ == "__main__":
    main()

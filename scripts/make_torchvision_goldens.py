#!/usr/bin/env python3
"""Makes tests/golden/video/torchvision-*.png, torchvision's own resize of the pictures that make_video_goldens.py made.

    python3 -m venv /tmp/torchvision
    /tmp/torchvision/bin/pip install torch==2.11.0 torchvision==0.26.0 numpy==2.4.6 pillow==13.0.0
    /tmp/torchvision/bin/python scripts/make_torchvision_goldens.py

The released fast processors resize 8-bit tensors so. torchvision follows PIL with coefficients of 16 bits rather than
22, so that some values differ from PIL's by 1 level.
"""

import pathlib
import re

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/video"


def main():
    for pil in sorted(FOLDER.glob("resize-*-*x*.png")):
        name, width, height = re.fullmatch(r"resize-(\w+)-(\d+)x(\d+)", pil.stem).groups()
        source = np.array(Image.open(FOLDER / f"resize-{name}.png").convert("RGB"))
        picture = torch.from_numpy(source).permute(2, 0, 1)
        made = resize(picture, [int(height), int(width)], interpolation=InterpolationMode.BICUBIC, antialias=True)
        Image.fromarray(made.permute(1, 2, 0).numpy()).save(FOLDER / f"torchvision-{name}-{width}x{height}.png")


if __name__ == "__main__":
    main()

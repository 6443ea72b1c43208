#!/usr/bin/env python3
"""Makes tests/golden/video, what foveate-video's preprocessing is compared with.

    python3 -m venv /tmp/goldens
    /tmp/goldens/bin/pip install numpy==2.4.6 pillow==13.0.0
    /tmp/goldens/bin/pip install --no-deps qwen-vl-utils==0.0.11
    /tmp/goldens/bin/python scripts/make_video_goldens.py

resize-*.png     PIL's bicubic resize, which is what the released processors do to 8-bit frames
preprocess.json  sizes and frame counts by qwen-vl-utils, frame indices by numpy's linspace, patches by the reshape and
                 transpose of transformers' Qwen2-VL processor

Decoding needs no files: its tests make clips with the ffmpeg program and compare with what that program decodes.
"""

import ast
import importlib.util
import json
import math
import pathlib

import numpy as np
from PIL import Image

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/video"
# (name, source width, source height, [target sizes])
PICTURES = [
    ("noise", 24, 20, [(61, 47), (24, 50), (7, 5), (13, 20)]),
    ("smooth", 90, 60, [(32, 32), (28, 84), (140, 112)]),
]


def picture(name, width, height):
    if name == "noise":
        return np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9 + c) * np.cos(y / 7 - c) for c in range(3)]
    return np.clip(127.5 + 127.5 * np.stack(waves, -1), 0, 255).astype(np.uint8)


def resizes():
    for name, width, height, targets in PICTURES:
        source = Image.fromarray(picture(name, width, height))
        source.save(OUT / f"resize-{name}.png")
        for target in targets:
            source.resize(target, Image.BICUBIC).save(OUT / f"resize-{name}-{target[0]}x{target[1]}.png")


def qwen_vl_utils():
    """The pure functions of the package, without importing it, since that needs torch."""
    root = pathlib.Path(importlib.util.find_spec("qwen_vl_utils").submodule_search_locations[0])
    tree = ast.parse((root / "vision_process.py").read_text())
    wanted = {"round_by_factor", "ceil_by_factor", "floor_by_factor", "smart_resize", "smart_nframes"}
    constants = {"IMAGE_FACTOR", "MIN_PIXELS", "MAX_PIXELS", "MAX_RATIO", "FPS", "FRAME_FACTOR", "FPS_MIN_FRAMES", "FPS_MAX_FRAMES"}
    keep = [
        node
        for node in tree.body
        if (isinstance(node, ast.FunctionDef) and node.name in wanted)
        or (isinstance(node, ast.Assign) and node.targets[0].id in constants)
        or isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]
    names = {"math": math, "logger": type("Quiet", (), {"warning": staticmethod(print)})}
    exec(compile(ast.Module(keep, []), "vision_process", "exec"), names)
    return names


def sizes(utils):
    rng = np.random.default_rng(3)
    cases = [(1080, 1920, 28, 128 * 784, 768 * 784), (42, 70, 28, 784, 78400), (128, 128, 16, 1024, 1024)]
    for _ in range(200):
        height, width = (int(v) for v in rng.integers(30, 2200, 2))
        factor = int(rng.choice([16, 28, 32]))
        low = int(rng.integers(4, 200)) * factor**2
        high = low + int(rng.integers(4, 800)) * factor**2
        cases.append((height, width, factor, low, high))
    return [[*case, *utils["smart_resize"](case[0], case[1], case[2], case[3], case[4])] for case in cases]


def counts(utils):
    rng = np.random.default_rng(5)
    rows = []
    for _ in range(200):
        total = int(rng.integers(4, 5000))
        rate = float(rng.choice([24, 25, 30, 29.97, 23.976, 15, 60, 12.5]))
        fps = float(rng.choice([0.5, 1, 2, 4]))
        low, high = int(rng.integers(1, 9)), int(rng.integers(10, 769))
        setting = {"fps": fps, "min_frames": low, "max_frames": high}
        rows.append([total, rate, fps, low, high, int(utils["smart_nframes"](setting, total, rate))])
    return rows


def linspaces():
    rng = np.random.default_rng(9)
    pairs = [(int(rng.integers(1, 3000)), int(rng.integers(1, 129))) for _ in range(150)] + [(6, 3), (4, 3), (12, 3)]
    return [[t, n, np.linspace(0, t - 1, n).round().astype(int).tolist()] for t, n in pairs]


def patches():
    """Frames 4, height 8, width 12, patch 2, merge 2: value (f * 97 + c * 61 + y * 13 + x * 7) mod 256."""
    f, c, y, x = np.mgrid[0:4, 0:3, 0:8, 0:12]
    pixels = ((f * 97 + c * 61 + y * 13 + x * 7) % 256).astype(np.float64) / 255
    mean = np.array([0.48145466, 0.4578275, 0.40821073]).reshape(1, 3, 1, 1)
    std = np.array([0.26862954, 0.26130258, 0.27577711]).reshape(1, 3, 1, 1)
    pixels = (pixels - mean) / std
    t, h, w, merge, patch = 2, 4, 6, 2, 2
    cut = pixels.reshape(t, 2, 3, h // merge, merge, patch, w // merge, merge, patch)
    rows = cut.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(t * h * w, -1)
    return [[round(v, 7) for v in row] for row in rows.tolist()]


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    resizes()
    utils = qwen_vl_utils()
    golden = {
        "smart_resize": sizes(utils),
        "smart_nframes": counts(utils),
        "linspace": linspaces(),
        "patches": patches(),
    }
    lines = [f'"{name}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]" for name, rows in golden.items()]
    (OUT / "preprocess.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()

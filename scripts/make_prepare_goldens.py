#!/usr/bin/env python3
"""Makes tests/golden/prepare: small videos, and what PyAV, torchvision and transformers make of them.

    python3 -m venv /tmp/goldens
    /tmp/goldens/bin/pip install torch==2.11.0 torchvision==0.26.0 transformers==5.17.0 av==18.1.0 safetensors
    /tmp/goldens/bin/python scripts/make_prepare_goldens.py [--check]

NAME.mp4           H.264 with B-frames; odd sizes in 4:4:4; frames at irregular times
NAME.safetensors   pixel_values_videos (f16), video_grid_thw, frame_indices, timestamps of the frames that
                   linspace(0, total - 1, N) picks, and pixels i64 [3]: N and the bounds of a frame's pixels

`trainer data prepare --video` is compared with them (crates/trainer/tests/commands/curate.rs). `--check` makes everything
again from the videos that are there and says how far the recorded values are off.
"""

import pathlib
import sys
from fractions import Fraction

import av
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLVideoProcessor

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/prepare"
# name: width, height, pixel format, frames, N, fewest and most pixels, whether times are irregular
VIDEOS = {
    "b-frames": (120, 80, "yuv420p", 40, 4, 3136, 4704, False),
    "odd-444": (85, 61, "yuv444p", 25, 6, 3136, 12_845_056, False),
    "irregular": (96, 96, "yuv420p", 31, 5, 1568, 3136, True),
}


def picture(width, height, index):
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin((x + 3 * index) / 9 + c) * np.cos((y - 2 * index) / 7 - c) for c in range(3)]
    return np.clip(127.5 + 120 * np.stack(waves, -1), 0, 255).astype(np.uint8)


def write(path, width, height, pixel_format, frames, irregular):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "18", "bf": "2", "g": "12", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.time_base = Fraction(1, 1000)
        time = 0
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(width, height, index), format="rgb24")
            frame.time_base, frame.pts = Fraction(1, 1000), time
            time += 40 + (17 * (index % 3) if irregular else 0)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def expected(path, count, low, high):
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    times = [float(frame.pts * frame.time_base) for frame in decoded]
    indices = np.linspace(0, len(decoded) - 1, count).round().astype(np.int64)
    pictures = np.stack([decoded[i].to_ndarray(format="rgb24") for i in indices])  # [N, H, W, 3]
    processor = Qwen2VLVideoProcessor(size={"shortest_edge": low, "longest_edge": high}, do_sample_frames=False)
    video = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    out = processor(videos=[video], return_tensors="pt")
    return {
        "pixel_values_videos": out["pixel_values_videos"].to(torch.float16).contiguous(),
        "video_grid_thw": out["video_grid_thw"].to(torch.int64).contiguous(),
        "frame_indices": torch.from_numpy(indices),
        "timestamps": torch.tensor([times[i] - times[0] for i in indices], dtype=torch.float64),
        "pixels": torch.tensor([count, low, high], dtype=torch.int64),
    }


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name, (width, height, pixel_format, frames, count, low, high, irregular) in VIDEOS.items():
        video, tensors = OUT / f"{name}.mp4", OUT / f"{name}.safetensors"
        if "--check" not in sys.argv[1:]:
            write(video, width, height, pixel_format, frames, irregular)
            save_file(expected(video, count, low, high), tensors)
            continue
        recorded = load_file(tensors)
        for key, value in expected(video, count, low, high).items():
            difference = (value.double() - recorded[key].double()).abs().max().item()
            print(f"{name} {key}: largest difference {difference}")


if __name__ == "__main__":
    main()

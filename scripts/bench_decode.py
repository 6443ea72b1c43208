#!/usr/bin/env python3
"""Times foveate-video's decoding beside decord, PyAV and torchcodec, on the same clips, in turn.

    python3 -m venv /tmp/decoders
    /tmp/decoders/bin/pip install numpy==2.4.6 torch==2.11.0
    /tmp/decoders/bin/pip install --no-deps decord==0.6.0 av==18.1.0 torchcodec==0.17.0
    /tmp/decoders/bin/python scripts/bench_decode.py [--threads 2] [--rounds 3] [--only NAME] [--json FILE]

Makes the clips with the ffmpeg program into bench-decode in the target folder (once), builds the example bench_decode,
and prints seconds from path to RGB frames of full size in memory, and ratios to ours (above 1: slower than ours). In each round
every decoder decodes once, in turn, in a fresh process kept to as many cores as there are threads; the smallest of the
rounds counts, for wall time and for processor time separately (ours with the start of its process). The last column compares frames: the largest mean
difference of a frame from ours, in levels (different versions of swscale round differently).

decord      VideoReader(num_threads).get_batch
pyav-seek   a seek before every wanted frame, then decoding up to it
pyav-run    decoding from the start, converting only wanted frames
codec-exact, codec-approx  torchcodec's VideoDecoder(seek_mode).get_frames_at
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
CLIPS = TARGET / "bench-decode"
OURS = TARGET / "debug/examples/bench_decode"
PEERS = ["decord", "pyav-seek", "pyav-run", "codec-exact", "codec-approx"]
H264 = "-c:v libx264 -preset medium -pix_fmt yuv420p"
# name: (size, frames that are encoded, times that they are repeated, seconds, encoder, sampling)
# Repeating a whole group of pictures without encoding it again is what makes a minute of video cheap to make.
CASES = {
    "720p 60 s, GOP 250, 16 frames": ("1280x720", 250, 8, 60, f"{H264} -b:v 4M -g 250", ("--frames", 16)),
    "720p 60 s, GOP 30, 16 frames": ("1280x720", 240, 8, 60, f"{H264} -b:v 4M -g 30", ("--frames", 16)),
    "720p 60 s, GOP 250, 1 per s": ("1280x720", 250, 8, 60, f"{H264} -b:v 4M -g 250", ("--fps", 1)),
    "720p 4 s, GOP 250, 16 frames": ("1280x720", 120, 1, 4, f"{H264} -b:v 4M -g 250", ("--frames", 16)),
    "1080p 20 s, GOP 60, 16 frames": ("1920x1080", 120, 5, 20, f"{H264} -b:v 8M -g 60", ("--frames", 16)),
    "360p 60 s, GOP 250, 16 frames": ("640x360", 250, 8, 60, f"{H264} -b:v 1M -g 250", ("--frames", 16)),
    "720p HEVC 20 s, GOP 60, 16 frames": (
        "1280x720", 120, 5, 20,
        "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=60:bframes=3 -pix_fmt yuv420p -b:v 3M -tag:v hvc1",
        ("--frames", 16),
    ),
}  # fmt: skip


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)], check=True, timeout=900)


def make(size, frames, repeats, seconds, encoder):
    """A moving test picture at 30 fps under noise that changes with every frame, so that the bit rate is reached."""
    kind = encoder.split()[1] + "-" + encoder.split("-b:v ")[1].split()[0]
    group = encoder.split("keyint=")[-1].split(":")[0] if "keyint=" in encoder else encoder.split("-g ")[1]
    path = CLIPS / f"{size}-{kind}-gop{group}-{seconds}s.mp4"
    if not path.exists():
        print(f"making {path.relative_to(ROOT)}", file=sys.stderr)
        once, whole = path.with_suffix(".once.mp4"), path.with_suffix(".part.mp4")
        source = f"testsrc2=size={size}:rate=30,noise=alls=10:allf=t+u"
        ffmpeg("-f", "lavfi", "-i", source, "-frames:v", frames, *encoder.split(), once)
        ffmpeg("-stream_loop", repeats - 1, "-i", once, "-c", "copy", "-t", seconds, whole)
        once.unlink()
        whole.rename(path)
    return path


def decord(path, indices, threads):
    from decord import VideoReader

    return VideoReader(path, num_threads=threads).get_batch(indices).asnumpy()


def pyav(path, indices, threads, seek):
    import av
    import numpy as np

    pictures = {}
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
        step = float(1 / stream.average_rate / stream.time_base)
        start = stream.start_time or 0
        stamps = {index: round(start + index * step) for index in sorted(set(indices))}
        if seek:
            for index, stamp in stamps.items():
                container.seek(stamp, stream=stream)
                frame = next(f for f in container.decode(stream) if f.pts >= stamp - step / 2)
                pictures[index] = frame.to_ndarray(format="rgb24")
        else:
            for number, frame in enumerate(container.decode(stream)):
                if number in stamps:
                    pictures[number] = frame.to_ndarray(format="rgb24")
                if len(pictures) == len(stamps):
                    break
    return np.stack([pictures[index] for index in indices])


def torchcodec(path, indices, threads, mode):
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, num_ffmpeg_threads=threads, seek_mode=mode, dimension_order="NHWC")
    return decoder.get_frames_at(indices).data.numpy()


def decode(peer, path, indices, threads):
    if peer == "decord":
        return decord(path, indices, threads)
    if peer.startswith("pyav"):
        return pyav(path, indices, threads, seek=peer == "pyav-seek")
    return torchcodec(path, indices, threads, {"codec-exact": "exact", "codec-approx": "approximate"}[peer])


def cpu(who):
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def worker(peer, path, threads):
    """Decodes in this process the frames whose indices come on standard input; compares with FILE of ours if given."""
    import numpy as np

    task = json.load(sys.stdin)
    # Imports and a first use of the library are not decoding.
    decode(peer, task["warm"], [0, 1], threads)
    before, begun = cpu(resource.RUSAGE_SELF), time.perf_counter()
    frames = decode(peer, path, task["indices"], threads)
    seconds, used = time.perf_counter() - begun, cpu(resource.RUSAGE_SELF) - before
    difference = None
    if task["raw"]:
        ours = np.fromfile(task["raw"], np.uint8).reshape(frames.shape).astype(np.int16)
        difference = float(max(np.abs(a - b).mean() for a, b in zip(ours, frames.astype(np.int16))))
    json.dump({"seconds": seconds, "cpu": used, "difference": difference}, sys.stdout)


def run(command, threads, task=None):
    """What the command prints, with the processor seconds of its process."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    limit = lambda: os.sched_setaffinity(0, cores)  # noqa: E731
    before = cpu(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [str(part) for part in command],
        input=json.dumps(task), capture_output=True, text=True, preexec_fn=limit, timeout=600,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stderr.strip()[-500:]}")
    return {"cpu": cpu(resource.RUSAGE_CHILDREN) - before} | json.loads(done.stdout)


def measure(path, sampling, warm, options):
    times = {name: [] for name in ["ours", *PEERS]}
    differences = {}
    with tempfile.TemporaryDirectory() as folder:
        raw = pathlib.Path(folder) / "frames.rgb"
        run([OURS, path, *sampling, "--repeat", 1, "--write", raw], options.threads)
        for number in range(options.rounds):
            ours = run([OURS, path, *sampling, "--repeat", 1], options.threads)
            times["ours"].append((ours["seconds"]["decode"], ours["cpu"]))
            for peer in PEERS:
                task = {"indices": ours["indices"], "raw": str(raw) if number == 0 else None, "warm": str(warm)}
                command = [sys.executable, __file__, "--worker", peer, path, "--threads", options.threads]
                found = run(command, options.threads, task)
                times[peer].append((found["seconds"], found["cpu"]))
                if number == 0:
                    differences[peer] = found["difference"]
    return {
        name: {"seconds": min(t[0] for t in all), "cpu": min(t[1] for t in all), "difference": differences.get(name)}
        for name, all in times.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", type=pathlib.Path, help="where to write the numbers")
    parser.add_argument("--worker", nargs=2, metavar=("PEER", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(*options.worker, options.threads)
    if not any(options.only in name for name in CASES):
        parser.error(f"--only {options.only}: expected a part of one of: {'; '.join(CASES)}")
    CLIPS.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cargo", "build", "-q", "-p", "foveate-video", "--example", "bench_decode"], cwd=ROOT, check=True)
    warm = make("320x240", 30, 1, 1, f"{H264} -b:v 300k -g 30")
    results = {}
    print(f"{options.threads} threads; wall s / processor s, best of {options.rounds}, and ratios to ours\n")
    for name, (*clip, sampling) in CASES.items():
        if options.only not in name:
            continue
        results[name] = measure(make(*clip), sampling, warm, options)
        ours = results[name]["ours"]
        print(name)
        for peer, found in results[name].items():
            wall, used = found["seconds"] / ours["seconds"], found["cpu"] / ours["cpu"]
            frames = "" if found["difference"] is None else f"  frames within {found['difference']:.3f}"
            print(f"  {peer:13}{found['seconds']:8.3f} /{found['cpu']:7.3f}   x{wall:5.2f} / x{used:5.2f}{frames}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"threads": options.threads, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

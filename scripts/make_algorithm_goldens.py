#!/usr/bin/env python3
"""Recorded groups and what GRPO and APPO make of them, in float64 numpy, apart from the Rust code.

Needs Python 3.10 and numpy; not part of the build.

    scripts/make_algorithm_goldens.py --check tests/golden/algorithms    # recompute every case and compare
    scripts/make_algorithm_goldens.py --make DIR --seed 1                # a new group of each kind, with its cases

Shapes: G completions, T tokens, F frames, V vocabulary.
"""
import argparse
import json
import pathlib
import struct
import sys

import numpy as np

TOLERANCE = 2e-5
DTYPES = {"F32": np.float32, "I64": np.int64}


def read(path):
    """The tensors of a safetensors file."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(body[slice(*at["data_offsets"])], DTYPES[at["dtype"]]).reshape(at["shape"])
        for name, at in header.items()
    }


def write(path, tensors):
    """A safetensors file: float tensors as F32, integer ones as I64."""
    header, body = {}, b""
    for name, array in tensors.items():
        dtype = "I64" if np.asarray(array).dtype.kind in "iu" else "F32"
        raw = np.ascontiguousarray(array, DTYPES[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(np.shape(array)), "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + body)


def advantages(rewards):
    """Group-relative advantages, [G]."""
    if rewards.max() == rewards.min():
        return np.zeros_like(rewards)
    return (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)


def divergence(log_probs, kind):
    """Of distributions [G, J, V] from their middle, [J]."""
    if kind == "kl":
        log_mean = np.log(np.exp(log_probs).mean(0))
        return (np.exp(log_probs) * (log_probs - log_mean)).sum((0, 2))
    gap = np.clip(log_probs.mean(0) - log_probs, -11, 11)
    return (np.exp(gap) - gap - 1).mean(0).sum(-1)


def top(values, count):
    """Indices of the largest values, ties lowest first."""
    return np.argsort(-values, kind="stable")[:count]


def crucial_frames(group, lengths, s):
    """Frames that the right completions look at, ascending."""
    high, low = set(), set()
    for attention, length, accuracy in zip(group["frame_attention"], lengths, group["accuracy"]):
        score = np.sort(attention[:length].astype(np.float64), 0)[::-1][: s["k1"]].mean(0)  # [F]
        right = accuracy >= 0.5 if s["variant"] == "paper" else accuracy > 0
        (high if right else low).update(top(score, s["k2"]).tolist())
    if s["selection"] == "soft" and not high and s["fallback_all"]:
        return sorted(low)
    return sorted({"hard": high - low, "soft": high, "all": high | low}[s["selection"]])


def appo_weights(group, lengths, s):
    """Token weights [G, T], 0 on padding, and the crucial frames."""
    mask = group["completion_mask"]
    count, width = mask.shape
    logits = group["logits"].astype(np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    log_probs[mask == 0] = -np.log(logits.shape[-1])
    uniform = np.full((count, 1, logits.shape[-1]), -np.log(logits.shape[-1]))
    log_probs = np.concatenate([log_probs, uniform], 1)  # position T stands for "past the end"
    total, groups = np.zeros((count, width + 1)), np.zeros((count, width + 1))
    frames = crucial_frames(group, lengths, s)
    for frame in frames:
        ranks = np.full((count, min(s["k3"], width)), width)
        for i, length in enumerate(lengths):
            tokens = top(group["frame_attention"][i, :length, frame], s["k3"])
            ranks[i, : len(tokens)] = tokens if s["order"] == "attention" else np.sort(tokens)
        d = divergence(np.take_along_axis(log_probs, ranks[..., None], 1), s["divergence"])
        share = (d - d.min()) / (d.max() - d.min() + 1e-8)
        for i in range(count):
            np.add.at(total[i], ranks[i], share)
            np.add.at(groups[i], ranks[i], 1)
    mean = total[:, :width] / np.maximum(groups[:, :width], 1)
    return (1 + s["alpha"] * mean) * mask, np.array(frames, np.int64)


def results(algo, group, s):
    """What the algorithm makes of the group: the tensors of its case."""
    mask = group["completion_mask"].astype(np.float64)
    lengths = group["completion_mask"].sum(1)
    rewards = group["rewards"].astype(np.float64)
    out = {"shaped_rewards": rewards, "advantages": advantages(rewards)}
    if algo == "appo":
        weights, out["crucial_frames"] = appo_weights(group, lengths, s)
        factor = mask / lengths.sum()
    else:
        weights, factor = mask, mask / lengths[:, None] / len(lengths)
    new, old, ref = (group[name].astype(np.float64) for name in ("logprobs", "old_logprobs", "ref_logprobs"))
    ratio, advantage = np.exp(new - old), out["advantages"][:, None]
    bound = np.clip(ratio, 1 - s["clip_low"], 1 + s["clip_high"]) * advantage
    slope = np.where(ratio * advantage <= bound, ratio * advantage, 0)
    beta = s.get("beta", 0.0)
    k3 = np.exp(ref - new) - (ref - new) - 1
    out["token_weights"] = weights
    out["loss"] = np.array([(factor * (beta * k3 - weights * np.minimum(ratio * advantage, bound))).sum()])
    out["grad_logprobs"] = factor * (beta * (1 - np.exp(ref - new)) - weights * slope)
    return out


def settings():
    """Case name -> (algorithm, settings)."""
    appo = {"k1": 4, "k2": 2, "k3": 6, "alpha": 0.7, "clip_low": 0.2, "clip_high": 0.28}
    paper = {"variant": "paper", "fallback_all": False, "divergence": "kl", "order": "attention", **appo}
    released = {"variant": "released", "fallback_all": True, "divergence": "log-k3", "order": "text", **appo}
    cases = {"grpo": ("grpo", {"beta": 0.04, "clip_low": 0.2, "clip_high": 0.2})}
    cases |= {f"appo-paper-{x}": ("appo", {**paper, "selection": x}) for x in ("hard", "soft", "all")}
    cases |= {f"appo-released-{x}": ("appo", {**released, "selection": x}) for x in ("soft", "all")}
    cases["appo-released-k3-whole"] = ("appo", {**released, "selection": "soft", "k3": 512})
    return cases


def make_group(rng, accuracy):
    """A recorded group whose completions have these accuracies; padding holds noise."""
    count, width, frames, vocabulary = len(accuracy), 16, 7, 37
    lengths = rng.integers(3, width - 1, count)
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    logits = rng.normal(0, 2, (count, width, vocabulary)) * rng.choice([0.3, 1.0, 1.5], (1, width, 1))
    ids = rng.integers(0, vocabulary, (count, width))
    near = lambda base, spread: np.minimum(base + rng.normal(0, spread, base.shape), -1e-3) * mask
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    old = np.take_along_axis(log_probs, ids[..., None], -1)[..., 0] * mask
    accuracy = np.array(accuracy, np.float32)
    return {
        "rewards": 0.9 * accuracy + 0.1 * (rng.random(count) < 0.7),
        "accuracy": accuracy,
        "completion_mask": mask,
        "completion_ids": ids,
        "logits": logits,
        "old_logprobs": old,
        "logprobs": near(old, 0.2),
        "ref_logprobs": near(old, 0.4),
        "frame_attention": rng.dirichlet(np.full(frames + 1, 0.6), (count, width))[..., :frames],
    }


def make(folder, seed):
    """Writes a group of each kind below the folder."""
    kinds = {"mixed": [1, 0, 0, 1, 0, 0], "one-right": [0, 0, 1, 0, 0], "none-right": [0, 0, 0, 0], "soft": [1, 0.7, 0, 0.3]}
    for kind, (name, accuracy) in enumerate(kinds.items()):
        place = folder / f"seed{seed}-{name}"
        place.mkdir(parents=True)
        write(place / "rollouts.safetensors", make_group(np.random.default_rng([seed, kind]), accuracy))
        group = read(place / "rollouts.safetensors")  # as rounded to f32
        for case, (algo, s) in settings().items():
            (place / f"{case}.json").write_text(json.dumps({"algo": algo, "settings": s}, indent=1) + "\n")
            write(place / f"{case}.safetensors", results(algo, group, s))
        print(f"wrote {place}")


def check(folder):
    """Compares every case below the folder with what comes out here; the number of cases that differ."""
    wrong = 0
    for path in sorted(folder.glob("*/*.json")):
        case = json.loads(path.read_text())
        found = results(case["algo"], read(path.with_name("rollouts.safetensors")), case["settings"])
        expected = read(path.with_suffix(".safetensors"))
        gaps = {name: np.abs(found[name] - value).max(initial=0) for name, value in expected.items()}
        off = {name: f"{gap:.1e}" for name, gap in gaps.items() if not gap <= TOLERANCE}
        wrong += bool(off)
        print(f"{path.relative_to(folder)}: {off or 'agrees'}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--check", type=pathlib.Path, metavar="DIR")
    mode.add_argument("--make", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.make:
        make(args.make, args.seed)
    elif check(args.check):
        sys.exit("some cases differ")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Recorded groups and what every algorithm makes of them, in float64 numpy, apart from the Rust code.

Needs Python 3.10 and numpy; not part of the build.

    scripts/make_algorithm_goldens.py --check tests/golden/algorithms    # recompute every case and compare
    scripts/make_algorithm_goldens.py --make DIR --seed 1                # a new group of each kind, with its cases
    scripts/make_algorithm_goldens.py --make-picks DIR --seed 1          # the same of sets of frame picks (tests/golden/picks)
    scripts/make_algorithm_goldens.py --add tests/golden/algorithms/seed1-mixed    # the cases of a group that is there

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


def advantages(rewards, scaled=True):
    """Group-relative advantages, [G]."""
    if rewards.max() == rewards.min():
        return np.zeros_like(rewards)
    return (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4 if scaled else 1)


def log_softmax(logits):
    """Log-probs in float64."""
    logits = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


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
    logits = group["logits"]
    log_probs = log_softmax(logits)
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


def overlong(lengths, s):
    """DAPO's punishment of long completions, [G]."""
    if s.get("overlong_max") is None:
        return np.zeros(len(lengths))
    return np.minimum(0, -(lengths - (s["overlong_max"] - s["overlong_cache"])) / s["overlong_cache"])


def t_grpo_bonus(group, lengths, s):
    """T-GRPO's bonuses, [G]."""
    accuracy, shuffled = group["accuracy"], group["shuffled_accuracy"]
    fits = (lengths >= s["length_min"]) & (lengths <= s["length_max"])
    if s["variant"] == "paper":
        right = accuracy >= 0.5
        helped = right.mean() >= (shuffled >= 0.5).mean()
    else:
        right = accuracy > 0.1
        helped = accuracy.astype(np.float64).mean() >= 0.8 * shuffled.astype(np.float64).mean()
        fits &= right.sum() >= 2
    return 0.3 * (right & helped) + 0.2 * (right & fits)


def tw_grpo_weights(group, lengths, s):
    """Weight of each position and its divergence, [T] both."""
    log_probs = log_softmax(group["logits"])
    log_probs[group["completion_mask"] == 0] = -np.log(log_probs.shape[-1])
    d = divergence(log_probs, s["divergence"])
    n = (d - d.min()) / (d.max() - d.min() + 1e-8)
    weight = 1 + s["alpha"] * n if s["weight_rule"] == "offset" else (1 + s["alpha"]) * n
    reached_by_all = np.arange(len(d)) < lengths.min()
    weighted = {
        "all": np.ones_like(reached_by_all), "content": reached_by_all, "padding": ~reached_by_all,
        "none": np.zeros_like(reached_by_all),
    }[s.get("positions", "all")]
    return np.where(weighted, weight, 1), d


def distance(before, after, kind):
    """Between log-probs [G, T, V], [G, T]."""
    p, q = np.exp(before), np.exp(after)
    kl = lambda a, log_a, log_b: (a * (log_a - log_b)).sum(-1)
    middle = np.log((p + q) / 2)
    return {
        "kl": lambda: kl(p, before, after),
        "js": lambda: (kl(p, before, middle) + kl(q, after, middle)) / 2,
        "l1": lambda: np.abs(p - q).sum(-1),
        "l2": lambda: np.linalg.norm(p - q, axis=-1),
        "cosine": lambda: 1 - (p * q).sum(-1) / np.linalg.norm(p, axis=-1) / np.linalg.norm(q, axis=-1),
        "hellinger": lambda: np.linalg.norm(np.sqrt(p) - np.sqrt(q), axis=-1) / np.sqrt(2),
    }[kind]()


def key_tokens(group, s):
    """Video-KTR's token weights, key tokens and scores, [G, T] each."""
    mask = group["completion_mask"].astype(bool)
    log_probs = log_softmax(group["logits"])
    measure = s.get("distance", "log-prob")

    def moved(name):
        if measure != "log-prob":
            return distance(log_probs, log_softmax(group[f"{name}_logits"]), measure)
        fall = group["old_logprobs"].astype(np.float64) - group[f"{name}_logprobs"]
        return np.abs(fall) if s["variant"] == "paper" else fall

    score = {
        "visual": lambda: moved("masked"),
        "temporal": lambda: moved("shuffled"),
        "entropy": lambda: -(np.exp(log_probs) * log_probs).sum(-1),
    }
    scores = {name: np.where(mask, score[name](), 0) for name in s.get("signals", list(score))}
    key = np.zeros_like(mask)
    for values in scores.values():
        key |= mask & (values >= np.quantile(values[mask], 1 - s["ratio"]))
    weighting = s.get("weighting", "binary")
    if weighting == "binary":
        return key.astype(np.float64), key, scores
    scaled = [(x - x[mask].min()) / (x[mask].max() - x[mask].min()) for x in scores.values()]
    z = np.mean(scaled, 0)
    raw = {
        "softmax": np.exp(4 * z), "sigmoid": 1 / (1 + np.exp(-8 * (z - 0.5))), "linear": z, "exponential": np.exp(2 * z)
    }[weighting]
    return raw / raw[mask].mean() * mask, mask, scores


def credit(algo, group, s):
    """The case's tensors as far as credit goes, the factor of every token and where weights enter."""
    mask = group["completion_mask"].astype(np.float64)
    lengths = group["completion_mask"].sum(1)
    rewards = group["rewards"].astype(np.float64)
    out, weights = {}, mask
    sequence_mean, token_mean = mask / lengths[:, None] / len(lengths), mask / lengths.sum()
    factor, place = token_mean, "surrogate"
    if algo == "dapo":
        rewards = rewards + overlong(lengths, s)
    elif algo == "tw-grpo":
        by_position, out["divergence"] = tw_grpo_weights(group, lengths, s)
        weights, place = by_position * mask, "inside" if s["weight_inside_min"] else place
    elif algo == "appo":
        weights, out["crucial_frames"] = appo_weights(group, lengths, s)
    elif algo == "video-ktr":
        weights, key, scores = key_tokens(group, s)
        out |= scores
        count = lengths if s["normalizer"] == "length" else np.maximum(key.sum(1), 1)
        factor, place = mask / count[:, None] / len(lengths), "everything"
    else:  # GRPO, what papers named of its settings, and T-GRPO
        rewards = rewards + t_grpo_bonus(group, lengths, s) if algo == "t-grpo" else rewards
        constant = mask / s.get("constant_length", 1) / len(lengths)
        kinds = {"sequence-mean": sequence_mean, "token-mean": token_mean, "constant-length": constant}
        factor = kinds[s.get("reduction", "sequence-mean")]
    out |= {
        "shaped_rewards": rewards,
        "advantages": advantages(rewards, s.get("scale_rewards", True)),
        "token_weights": weights,
    }
    return out, factor, place


def picks_results(group, s):
    """What ReFoCUS makes of the sets of frame picks."""
    old, new = group["old_logprobs"].astype(np.float64), group["logprobs"].astype(np.float64)
    logits, gold = group["option_logits"].astype(np.float64), int(group["gold"][0])
    rewards = np.tanh((logits[:, gold] - np.delete(logits, gold, 1).max(1)) / 2)
    advantage = advantages(rewards)
    log_probs = log_softmax(group["pick_logits"])
    probability = np.take_along_axis(np.exp(log_probs), group["picks"][..., None], -1)[..., 0]
    entropy = -np.where(np.isfinite(log_probs), np.exp(log_probs) * np.where(np.isfinite(log_probs), log_probs, 0), 0).sum(-1)
    pull = np.exp((new - old).sum(1)) * advantage / len(rewards)
    return {
        "rewards": rewards, "advantages": advantage, "probability": probability, "entropy": entropy,
        "loss": np.array([-pull.sum() - s["entropy_coef"] * entropy.mean()]),
        "grad_logprobs": np.repeat(-pull[:, None], new.shape[1], 1),
    }


def results(algo, group, s):
    """What the algorithm makes of the group: the tensors of its case."""
    if algo == "refocus":
        return picks_results(group, s)
    out, factor, place = credit(algo, group, s)
    mask = group["completion_mask"].astype(np.float64)
    new, old, ref = (np.where(mask > 0, group[x].astype(np.float64), 0) for x in ("logprobs", "old_logprobs", "ref_logprobs"))
    log_ratio = new - old
    if s.get("ratio") == "sequence":
        log_ratio = log_ratio.sum(1, keepdims=True) / mask.sum(1, keepdims=True) * mask
    ratio, advantage = np.exp(log_ratio), out["advantages"][:, None]
    weights = out["token_weights"]
    inside = weights if place == "inside" else 1
    outside = 1 if place == "inside" else weights
    low, high = 1 - s["clip_low"], 1 + s["clip_high"]
    free, bound = inside * ratio * advantage, np.clip(ratio, low, high) * advantage
    # Of the smaller of the two, by the log-ratio.
    slope = np.where(free <= bound, free, np.where((ratio >= low) & (ratio <= high), bound, 0))
    beta = s.get("beta", 0.0) * (weights if place == "everything" else 1)
    k3 = np.exp(ref - new) - (ref - new) - 1
    out["loss"] = np.array([(factor * (beta * k3 - outside * np.minimum(free, bound))).sum()])
    through_ratio = -factor * outside * slope
    if s.get("ratio") == "sequence":
        through_ratio = through_ratio.sum(1, keepdims=True) / mask.sum(1, keepdims=True) * mask
    out["grad_logprobs"] = through_ratio + factor * beta * (1 - np.exp(ref - new))
    return out


def settings():
    """Case name -> (algorithm, settings)."""
    appo = {"k1": 4, "k2": 2, "k3": 6, "alpha": 0.7, "clip_low": 0.2, "clip_high": 0.28}
    paper = {"variant": "paper", "fallback_all": False, "divergence": "kl", "order": "attention", **appo}
    released = {"variant": "released", "fallback_all": True, "divergence": "log-k3", "order": "text", **appo}
    clip = {"clip_low": 0.2, "clip_high": 0.2}
    higher = {"clip_low": 0.2, "clip_high": 0.28}
    cases = {"grpo": ("grpo", {"beta": 0.04, **clip})}
    cases["dr-grpo"] = (
        "dr-grpo",
        {"beta": 0.0, "reduction": "constant-length", "constant_length": 20, "scale_rewards": False, **clip},
    )
    cases["gspo"] = ("gspo", {"beta": 0.0, "ratio": "sequence", "clip_low": 0.05, "clip_high": 0.06})
    cases["dapo"] = ("dapo", higher)
    cases["dapo-overlong"] = ("dapo", {"overlong_max": 16, "overlong_cache": 6, **higher})
    lengths = {"beta": 0.04, "length_min": 8, "length_max": 12, **clip}
    cases |= {f"t-grpo-{x}": ("t-grpo", {"variant": x, **lengths}) for x in ("paper", "released")}
    tw = {"variant": "paper", "divergence": "kl", "alpha": 0.7, "weight_rule": "offset", "weight_inside_min": True, **clip}
    code = {**tw, **higher, "variant": "released", "divergence": "log-k3", "weight_inside_min": False}
    cases |= {"tw-grpo-paper": ("tw-grpo", tw), "tw-grpo-released": ("tw-grpo", code)}
    cases["tw-grpo-printed"] = ("tw-grpo", {**tw, "weight_rule": "printed"})
    cases["tw-grpo-printed-released"] = ("tw-grpo", {**code, "weight_rule": "printed"})
    cases |= {f"tw-grpo-{x}": ("tw-grpo", {**tw, "positions": x}) for x in ("content", "padding", "none")}
    cases |= {f"appo-paper-{x}": ("appo", {**paper, "selection": x}) for x in ("hard", "soft", "all")}
    cases |= {f"appo-released-{x}": ("appo", {**released, "selection": x}) for x in ("soft", "all")}
    cases["appo-released-k3-whole"] = ("appo", {**released, "selection": "soft", "k3": 512})
    ktr = {"variant": "paper", "ratio": 0.2, "beta": 0.04, "normalizer": "length", **clip}
    signed = {**ktr, "variant": "released", "normalizer": "selected"}
    cases |= {"video-ktr-paper": ("video-ktr", ktr), "video-ktr-released": ("video-ktr", signed)}
    e, v, t = "entropy", "visual", "temporal"
    for signals in ([e], [v], [t], [e, v], [e, t], [v, t]):
        name = "-".join(signals)
        cases[f"video-ktr-{name}"] = ("video-ktr", {**signed, "ratio": 0.3, "signals": signals})
    for x in ("softmax", "sigmoid", "linear", "exponential"):
        cases[f"video-ktr-{x}"] = ("video-ktr", {**ktr, "weighting": x})
    for x in ("kl", "js", "l1", "l2", "cosine", "hellinger"):
        cases[f"video-ktr-{x}"] = ("video-ktr", {**ktr, "distance": x})
    return cases


def make_group(rng, accuracy):
    """A recorded group whose completions have these accuracies; padding holds noise."""
    count, width, frames, vocabulary = len(accuracy), 16, 7, 37
    lengths = rng.integers(3, width - 1, count)
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    logits = rng.normal(0, 2, (count, width, vocabulary)) * rng.choice([0.3, 1.0, 1.5], (1, width, 1))
    ids = rng.integers(0, vocabulary, (count, width))
    changed = lambda spread: logits + rng.normal(0, spread, logits.shape)
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
        "masked_logprobs": near(old, 0.8),
        "shuffled_logprobs": near(old, 0.5),
        "masked_logits": changed(0.8),
        "shuffled_logits": changed(0.5),
        "shuffled_accuracy": (rng.random(count // 2) < 0.5).astype(np.float32),
        "frame_attention": rng.dirichlet(np.full(frames + 1, 0.6), (count, width))[..., :frames],
    }


def make(folder, seed):
    """Writes a group of each kind below the folder."""
    kinds = {"mixed": [1, 0, 0, 1, 0, 0], "one-right": [0, 0, 1, 0, 0], "none-right": [0, 0, 0, 0], "soft": [1, 0.7, 0, 0.3]}
    for kind, (name, accuracy) in enumerate(kinds.items()):
        place = folder / f"seed{seed}-{name}"
        place.mkdir(parents=True)
        write(place / "rollouts.safetensors", make_group(np.random.default_rng([seed, kind]), accuracy))
        add(place)


def make_picks(folder, seed):
    """Writes sets of frame picks below the folder: several shapes, one of which leaves a single frame to pick."""
    for kind, (count, picks, frames, options) in enumerate([(4, 5, 11, 4), (3, 6, 6, 2), (16, 8, 64, 5)]):
        rng = np.random.default_rng([seed, kind])
        place = folder / f"seed{seed}-{frames}"
        place.mkdir(parents=True)
        order = np.stack([rng.permutation(frames)[:picks] for _ in range(count)])
        logits = rng.normal(0, 2, (count, picks, frames)).astype(np.float32)
        for later in range(1, picks):
            np.put_along_axis(logits[:, later], order[:, :later], -np.inf, 1)
        old = np.take_along_axis(log_softmax(logits), order[..., None], -1)[..., 0]
        write(place / "rollouts.safetensors", {
            "pick_logits": logits, "picks": order, "old_logprobs": old,
            "logprobs": np.minimum(old + rng.normal(0, 0.1, old.shape), 0),
            "option_logits": rng.normal(0, 2, (count, options)), "gold": rng.integers(0, options, 1),
        })
        case = {"algo": "refocus", "settings": {"entropy_coef": 0.002}}
        (place / "refocus.json").write_text(json.dumps(case, indent=1) + "\n")
        write(place / "refocus.safetensors", picks_results(read(place / "rollouts.safetensors"), case["settings"]))


def add(place):
    """Writes every case of the group in the folder."""
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
        off_by = lambda a, b: (np.abs(a - b) / np.maximum(np.abs(b), 1)).max(initial=0)  # relative above 1
        gaps = {name: off_by(found[name], value) for name, value in expected.items()}
        off = {name: f"{gap:.1e}" for name, gap in gaps.items() if not gap <= TOLERANCE}
        wrong += bool(off)
        print(f"{path.relative_to(folder)}: {off or 'agrees'}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--check", type=pathlib.Path, metavar="DIR")
    mode.add_argument("--make", type=pathlib.Path, metavar="DIR")
    mode.add_argument("--make-picks", type=pathlib.Path, metavar="DIR")
    mode.add_argument("--add", type=pathlib.Path, metavar="GROUP")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.make:
        make(args.make, args.seed)
    elif args.make_picks:
        make_picks(args.make_picks, args.seed)
    elif args.add:
        add(args.add)
    elif check(args.check):
        sys.exit("some cases differ")


if __name__ == "__main__":
    main()

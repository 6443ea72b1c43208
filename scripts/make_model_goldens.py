#!/usr/bin/env python3
"""Makes golden models of the kind in tests/golden/model, or checks such a folder against transformers.

    python3 -m venv /tmp/goldens
    /tmp/goldens/bin/pip install torch==2.11.0 transformers==5.17.0
    /tmp/goldens/bin/python scripts/make_model_goldens.py --check tests/golden/model/*
    /tmp/goldens/bin/python scripts/make_model_goldens.py --make /tmp/new-goldens

Each folder holds a tiny random Qwen2.5-VL in the released file layout and
inputs.safetensors    right-padded rows: input_ids, attention_mask, completion_mask [B, S], pixels and grids of the videos
                      (one per row) and images, second_per_grid_ts [B]
expected.safetensors  at the completions' tokens, 0 elsewhere: logprobs, entropy [B, S] of the distribution that predicts
                      each token, frame_attention_layers [L, B, S, F] of the position that predicts it (sum over the
                      frame's tokens, mean over heads) and its mean over the last three layers, frame_attention
                      [B, S, F]; position_ids [3, B, S] (0 in padding); greedy_row0 [24], the likeliest continuation of
                      the first row's prompt, not ended by anything

Position ids are computed here, by the rule that the released checkpoints were trained with, and passed on: transformers
has changed its own more than once. Attention weights are those of its eager attention.
"""

import argparse
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

IMAGE, VIDEO, VISION_START, VISION_END, END = 10, 11, 12, 13, 2
MERGE, PATCH, TEMPORAL, TOKENS_PER_SECOND = 2, 14, 2, 2
GREEDY = 24
# What the comparison of --check allows: the same library and the same numbers, perhaps other kernels.
TOLERANCE = 1e-5

# name: layout, layers, tied head, full-attention blocks, rows of (images, video, seconds per grid, prompt, completion);
# pictures as (t, h, w) in patches.
MODELS = {
    "untied": ("nested", 2, False, [1], [([], (3, 4, 4), 1.0, 9, 10), ([], (4, 4, 6), 0.5, 8, 7)]),
    "tied": ("nested", 2, True, [0], [([], (7, 4, 4), 0.7, 10, 7), ([], (2, 10, 6), 0.4, 8, 6)]),
    "released-config": ("flat", 3, False, [1], [([], (5, 4, 4), 2.0, 9, 9), ([], (2, 6, 4), 1.0, 8, 12)]),
    "image-and-video": (
        "nested", 2, False, [1],
        [([(1, 6, 4)], (3, 4, 4), 1.0, 9, 7), ([(1, 4, 4), (1, 4, 6)], (2, 4, 6), 0.7, 9, 8)],
    ),
}


def config(layers, tied, full_blocks):
    text = dict(
        hidden_size=64, intermediate_size=160, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=512, max_position_embeddings=4096, rms_norm_eps=1e-6, tie_word_embeddings=tied, eos_token_id=END,
        pad_token_id=0, bos_token_id=None,
        rope_parameters=dict(rope_type="default", type="mrope", rope_theta=1e6, mrope_section=[2, 3, 3]),
    )
    vision = dict(
        depth=3, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=64, patch_size=PATCH,
        temporal_patch_size=TEMPORAL, spatial_merge_size=MERGE, window_size=112, fullatt_block_indexes=full_blocks,
        tokens_per_second=TOKENS_PER_SECOND,
    )
    return Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=tied, image_token_id=IMAGE, video_token_id=VIDEO,
        vision_start_token_id=VISION_START, vision_end_token_id=VISION_END,
        architectures=["Qwen2_5_VLForConditionalGeneration"],
    )


def flat(nested):
    """The released layout: the decoder's fields at the top, the rotary ones under their old names."""
    out = {key: value for key, value in nested.items() if key != "text_config"}
    text = dict(nested["text_config"])
    rope = text.pop("rope_parameters")
    text.pop("model_type")
    out |= text
    out |= dict(rope_theta=rope["rope_theta"], rope_scaling=dict(type="mrope", mrope_section=rope["mrope_section"]))
    return out


def released_name(name):
    for later, released in [("model.visual.", "visual."), ("model.language_model.", "model.")]:
        if name.startswith(later):
            return released + name[len(later):]
    return name


def randomize(model):
    """Weights wide enough for attention and distributions that are not flat."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.2)
            elif parameter.dim() > 1:
                parameter.normal_(0, 0.08)


def tokens(grid):
    return grid[0] * (grid[1] // MERGE) * (grid[2] // MERGE)


def make_inputs(rows):
    """Rows of random words, images, then a video, words and a completion that ends with the end token."""
    sequences, completions = [], []
    for index, (images, video, _, words, completion) in enumerate(rows):
        word = lambda count: torch.randint(20, 512, (count,)).tolist()
        ids = word(5 + index)
        for pad, grid in [(IMAGE, image) for image in images] + [(VIDEO, video)]:
            ids += [VISION_START] + [pad] * tokens(grid) + [VISION_END]
        ids += word(words)
        completions.append((len(ids), completion))
        sequences.append(ids + word(completion - 1) + [END])
    longest = max(map(len, sequences))
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    ids, completion_mask = mask.clone(), mask.clone()
    for row, (sequence, (start, count)) in enumerate(zip(sequences, completions)):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
        completion_mask[row, start : start + count] = 1
    pixels = lambda grids: torch.randn(sum(t * h * w for t, h, w in grids), 3 * TEMPORAL * PATCH * PATCH)
    videos, images = [row[1] for row in rows], [image for row in rows for image in row[0]]
    inputs = dict(
        input_ids=ids, attention_mask=mask, completion_mask=completion_mask, pixel_values_videos=pixels(videos),
        video_grid_thw=torch.tensor(videos), second_per_grid_ts=torch.tensor([row[2] for row in rows]),
    )
    if images:
        inputs |= dict(pixel_values=pixels(images), image_grid_thw=torch.tensor(images))
    return inputs


def pictures(inputs, row):
    """Each picture of a row in order: first token, grid in merged patches, seconds per grid (0: an image)."""
    ids = inputs["input_ids"]
    runs = lambda row, pad: [
        at for at in range(ids.shape[1]) if ids[row, at] == pad and (at == 0 or ids[row, at - 1] != pad)
    ]
    before = sum(len(runs(earlier, IMAGE)) for earlier in range(row))
    found = [(at, inputs["image_grid_thw"][before + i], 0.0) for i, at in enumerate(runs(row, IMAGE))]
    found += [(at, inputs["video_grid_thw"][row], inputs["second_per_grid_ts"][row]) for at in runs(row, VIDEO)]
    merged = lambda grid: [int(grid[0]), int(grid[1]) // MERGE, int(grid[2]) // MERGE]
    return sorted(((at, merged(grid), torch.as_tensor(seconds)) for at, grid, seconds in found), key=lambda p: p[0])


def positions_of(inputs, row, tokens_per_second):
    """[3, length]: text counts up on all axes; a picture's patch (t, h, w) stands at the position that the text has
    reached plus (int((t * seconds) * tokens_per_second) in f32, h, w); text goes on at the largest position + 1."""
    length = int(inputs["attention_mask"][row].sum())
    axes = torch.zeros(3, length, dtype=torch.int64)
    starts = {at: (grid, seconds) for at, grid, seconds in pictures(inputs, row)}
    at = position = 0
    while at < length:
        if at not in starts:
            axes[:, at] = position
            at, position = at + 1, position + 1
            continue
        (t, h, w), seconds = starts[at]
        time = (torch.arange(t, dtype=torch.float32) * seconds.float() * float(tokens_per_second)).long()
        grid = torch.stack(torch.meshgrid(time, torch.arange(h), torch.arange(w), indexing="ij")).flatten(1)
        axes[:, at : at + grid.shape[1]] = position + grid
        at, position = at + grid.shape[1], position + int(grid.max()) + 1
    return axes


def media(inputs):
    names = ("pixel_values_videos", "video_grid_thw", "pixel_values", "image_grid_thw")
    return {name: inputs[name] for name in names if name in inputs}


@torch.no_grad()
def greedy(model, inputs, positions):
    """The likeliest continuation of the first row's prompt, without any cache."""
    start = int(inputs["completion_mask"][0].argmax())
    ids, axes = inputs["input_ids"][:1, :start], positions[:, :1, :start]
    images = sum(1 for _, _, seconds in pictures(inputs, 0) if seconds == 0)
    first = dict(inputs, video_grid_thw=inputs["video_grid_thw"][:1])
    first["pixel_values_videos"] = inputs["pixel_values_videos"][: int(first["video_grid_thw"].prod())]
    if "image_grid_thw" in inputs:
        first["image_grid_thw"] = inputs["image_grid_thw"][:images]
        first["pixel_values"] = inputs["pixel_values"][: int(first["image_grid_thw"].prod(-1).sum())]
    for _ in range(GREEDY):
        logits = model(input_ids=ids, position_ids=axes, use_cache=False, **media(first)).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
        axes = torch.cat([axes, axes[:, :, -1:].max(0, keepdim=True).values.expand(3, 1, 1) + 1], 2)
    return ids[0, start:]


@torch.no_grad()
def expected(model, inputs):
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    batch, length = ids.shape
    positions = torch.zeros(3, batch, length, dtype=torch.int64)
    for row in range(batch):
        axes = positions_of(inputs, row, model.config.vision_config.tokens_per_second)
        positions[:, row, : axes.shape[1]] = axes
    out = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, output_attentions=True,
        **media(inputs),
    )
    chosen = inputs["completion_mask"].float()
    # The value of token s stands at s and was predicted at s - 1; nothing predicts the first.
    of_token = lambda at_predictor, dim: torch.cat(
        [torch.zeros_like(at_predictor.narrow(dim, 0, 1)), at_predictor.narrow(dim, 0, length - 1)], dim
    )
    all_logprobs = of_token(out.logits.float().log_softmax(-1), 1)
    logprobs = all_logprobs.gather(-1, ids[..., None])[..., 0] * chosen
    entropy = -(all_logprobs.exp() * all_logprobs).sum(-1) * chosen
    frames = torch.zeros(batch, length, int(inputs["video_grid_thw"][:, 0].max()))
    for row in range(batch):
        for at, (t, h, w), seconds in pictures(inputs, row):
            if seconds > 0:
                for index in range(t * h * w):
                    frames[row, at + index, index // (h * w)] = 1
    layers = [of_token(weights.float().mean(1) @ frames, 1) * chosen[..., None] for weights in out.attentions]
    layers = torch.stack(layers)
    return dict(
        logprobs=logprobs, entropy=entropy, frame_attention=layers[-3:].mean(0), frame_attention_layers=layers,
        position_ids=positions, greedy_row0=greedy(model, inputs, positions),
    )


def make(out):
    for seed, (name, (layout, layers, tied, full_blocks, rows)) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config(layers, tied, full_blocks)).eval()
        model.set_attn_implementation("eager")
        randomize(model)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        settings = json.loads(model.config.to_json_string(use_diff=False))
        settings = flat(settings) if layout == "flat" else settings
        (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
        generation = dict(eos_token_id=END, pad_token_id=0, use_cache=True)
        (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
        weights = {released_name(key): value.contiguous() for key, value in model.state_dict().items()}
        if tied:
            del weights["lm_head.weight"]
        save_file(weights, folder / "model.safetensors", metadata=dict(format="pt"))
        inputs = make_inputs(rows)
        save_file(inputs, folder / "inputs.safetensors")
        save_file({k: v.contiguous() for k, v in expected(model, inputs).items()}, folder / "expected.safetensors")
        print(f"{folder}: made")


def check(folder):
    """Whether the folder's expected values are those of its model; prints the largest difference of each."""
    model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True, output_loading_info=True
    )
    problems = {name: sorted(map(str, keys)) for name, keys in info.items() if keys}
    if problems:
        print(f"{folder}: {problems}")
        return False
    found = expected(model.eval(), load_file(folder / "inputs.safetensors"))
    recorded = load_file(folder / "expected.safetensors")
    if found.keys() != recorded.keys():
        print(f"{folder}: expected tensors {sorted(found)}, found {sorted(recorded)}")
        return False
    differences = {
        name: (found[name].double() - recorded[name].double()).abs().max().item()
        if found[name].shape == recorded[name].shape else float("inf")
        for name in sorted(found)
    }
    exact = ("position_ids", "greedy_row0")
    same = all(value <= (0 if name in exact else TOLERANCE) for name, value in differences.items())
    shown = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    print(f"{folder}: {'the same' if same else 'DIFFERENT'} ({shown})")
    return same


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--make", metavar="DIR", type=pathlib.Path, help="write new golden models there")
    what.add_argument("--check", metavar="DIR", type=pathlib.Path, nargs="+", help="compare these folders")
    args = parser.parse_args()
    if args.make:
        make(args.make)
        return 0
    return 0 if all([check(folder) for folder in args.check]) else 1


if __name__ == "__main__":
    sys.exit(main())

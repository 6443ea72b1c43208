#!/usr/bin/env python3
"""The work of `trainer bench`, done by transformers: one prompt with its group, as a trainer built on it does.

    scripts/bench_transformers.py --shape configs/bench/cpu-small.json --mode update --threads 2

  rollout       G completions of exactly R tokens by generate(); the prompt is repeated G times
  rollout-attn  the same with eager attention and output_attentions=True, made into [G, R, frames]
  update        forward pass over [G, prompt + R] (vision tower included), log-probs, clipped loss, backward pass, AdamW

Prints the JSON of `trainer bench`: seconds are the median of the rounds after the first, peak memory is that of the
process (CPU) or of torch's allocator (CUDA). `all` runs the modes in one process: the peak is of all so far.

Written for transformers 5.17 and torch 2.11. Exit code 3: no torch or transformers here.
"""

import argparse
import json
import resource
import statistics
import sys
import time

try:
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
except ImportError as error:
    print(f"skipped: {error}", file=sys.stderr)
    sys.exit(3)

MODES = ("rollout", "rollout-attn", "update")
PAD, END, IMAGE, VIDEO, VISION_START, VISION_END = 0, 2, 10, 11, 12, 13
FIRST_WORD = 20
PATCH, MERGE, TEMPORAL_PATCH = 14, 2, 2


def build(shape, attention, device, dtype):
    """A model of the shape with random weights."""
    text, vision = shape["text"], shape["vision"]
    half = text["hidden_size"] // text["num_attention_heads"] // 2
    spatial = 3 * half // 8
    rope = {"type": "mrope", "rope_type": "default", "mrope_section": [half - 2 * spatial, spatial, spatial]}
    config = Qwen2_5_VLConfig(
        text_config={
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "bos_token_id": None,
            "eos_token_id": END,
            "pad_token_id": PAD,
            "rope_scaling": rope,
            **text,
        },
        vision_config={
            "in_channels": 3,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL_PATCH,
            "tokens_per_second": 2,
            "window_size": 112,
            "out_hidden_size": text["hidden_size"],
            **vision,
        },
        tie_word_embeddings=text.get("tie_word_embeddings", False),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation=attention, dtype=dtype)
    return model.to(device)


class Group:
    """One prompt, repeated for its G completions as transformers wants it."""

    def __init__(self, shape, device, dtype):
        random = torch.Generator().manual_seed(1)
        self.frames, height, width = shape["grid_thw"]
        patches = self.frames * height * width
        self.video_tokens = patches // MERGE**2
        vocabulary = shape["text"]["vocab_size"]
        words = torch.randint(FIRST_WORD, vocabulary, (shape["prompt_text_tokens"],), generator=random).tolist()
        ids = torch.tensor([[VISION_START] + [VIDEO] * self.video_tokens + [VISION_END] + words])
        pixels = torch.randn(patches, 3 * TEMPORAL_PATCH * PATCH**2, generator=random)
        self.size, self.length = shape["group_size"], shape["completion_tokens"]
        self.prompt_tokens = ids.shape[1]
        self.ids = ids.to(device)
        ids = self.ids.repeat(self.size, 1)
        self.inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values_videos": pixels.to(device, dtype).repeat(self.size, 1),
            "video_grid_thw": torch.tensor([shape["grid_thw"]], device=device).repeat(self.size, 1),
            "second_per_grid_ts": torch.ones(self.size, device=device),
            "mm_token_type_ids": (ids == VIDEO).long() * 2,
        }
        self.completions = torch.randint(FIRST_WORD, vocabulary, (self.size, self.length), device=device)
        self.advantages = torch.randn(self.size, 1, device=device)


@torch.no_grad()
def rollout(model, group, attention):
    """G x R sampled tokens; with `attention`, the share of it on each frame, mean over layers and heads."""
    drawn = model.generate(
        **group.inputs,
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        min_new_tokens=group.length,
        max_new_tokens=group.length,
        return_dict_in_generate=True,
        output_attentions=attention,
        pad_token_id=PAD,
    )
    if not attention:
        return drawn.sequences
    columns = (group.ids[0] == VIDEO).nonzero()[:, 0].view(group.frames, -1)
    steps = [torch.stack(layers).float().mean((0, 2))[:, -1][:, columns].sum(-1) for layers in drawn.attentions]
    return torch.stack(steps, 1)


def update(model, group, optimizer):
    """One optimizer step on the whole group."""
    inputs = dict(group.inputs)
    ids = torch.cat([inputs["input_ids"], group.completions], 1)
    kinds = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(group.completions)], 1)
    inputs.update(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=kinds)
    logits = model(**inputs, use_cache=False, logits_to_keep=group.length + 1).logits[:, :-1].float()
    logprobs = torch.log_softmax(logits, -1).gather(-1, group.completions[..., None])[..., 0]
    ratio = (logprobs - logprobs.detach()).exp()
    loss = -torch.min(ratio * group.advantages, ratio.clamp(0.8, 1.2) * group.advantages).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def wait(device):
    if device != "cpu":
        torch.cuda.synchronize(device)


def median_seconds(work, repeat, device):
    """Median over `repeat` rounds after one that warms up."""
    seconds = []
    for _ in range(repeat + 1):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def peak_mib(device):
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(mode, shape, group, args, dtype):
    """The result of one mode and the number of parameters."""
    if args.device != "cpu":
        torch.cuda.reset_peak_memory_stats(args.device)
    model = build(shape, "eager" if mode == "rollout-attn" else "sdpa", args.device, dtype)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if mode == "update":
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
        seconds = median_seconds(lambda: update(model, group, optimizer), args.repeat, args.device)
        rate = {"samples_per_s": group.size / seconds}
    else:
        model.eval()
        seconds = median_seconds(lambda: rollout(model, group, mode == "rollout-attn"), args.repeat, args.device)
        rate = {"completion_tokens_per_s": group.size * group.length / seconds}
    return {"seconds": seconds, **rate, "peak_mib": peak_mib(args.device)}, parameters


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", required=True)
    parser.add_argument("--mode", choices=[*MODES, "all"], default="all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    with open(args.shape) as file:
        shape = json.load(file)
    group = Group(shape, args.device, dtype)
    results = {}
    for mode in MODES if args.mode == "all" else [args.mode]:
        results[mode], parameters = measure(mode, shape, group, args, dtype)
    report = {
        "device": args.device,
        "dtype": args.dtype,
        "threads": args.threads,
        "prompt_tokens": group.prompt_tokens,
        "video_tokens": group.video_tokens,
        "groups": 1,
        "group_size": group.size,
        "completion_tokens": group.length,
        "params": parameters,
        "results": results,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

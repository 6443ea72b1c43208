#!/usr/bin/env python3
"""Does a model directory saved by foveate load in transformers, and give the same log-probs there?

    trainer score --model MODEL --inputs INPUTS.safetensors --output SCORES.safetensors
    scripts/check_in_transformers.py MODEL INPUTS.safetensors SCORES.safetensors

Written for transformers 5.17 and torch 2.11. Positions are taken from SCORES and passed on: the rule by which
transformers itself places video tokens has changed between its releases.

Exit codes: 0 the same, 1 different, 2 the model or a file cannot be used, 3 no torch or transformers here.
"""

import argparse
import sys

try:
    import torch
    from safetensors.torch import load_file
    from transformers import Qwen2_5_VLForConditionalGeneration
except ImportError as error:
    print(f"skipped: {error}", file=sys.stderr)
    sys.exit(3)

MEDIA = ("pixel_values_videos", "video_grid_thw", "pixel_values", "image_grid_thw")


def load(directory):
    """The model in f32, if every weight is there and none is left over."""
    model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        directory, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    problems = {name: sorted(map(str, keys)) for name, keys in info.items() if keys}
    if problems:
        raise ValueError(f"{directory}: {problems}")
    return model.eval()


@torch.no_grad()
def logprobs(model, inputs, positions):
    """Log-prob of each token from the logits one place before it, [B, S]; 0 for the first token."""
    media = {name: inputs[name] for name in MEDIA if name in inputs}
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, **media).logits
    of_next = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return torch.nn.functional.pad(of_next, (1, 0))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model directory")
    parser.add_argument("inputs", help="what `trainer score` read")
    parser.add_argument("scores", help="what `trainer score` wrote")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="allowed difference (default %(default)s)")
    args = parser.parse_args()
    try:
        inputs, scores = load_file(args.inputs), load_file(args.scores)
        chosen = inputs["completion_mask"].bool()
        if not chosen.any():
            raise ValueError(f"{args.inputs}: no completion tokens")
        expected = logprobs(load(args.model), inputs, scores["position_ids"])[chosen]
        difference = (expected - scores["logprobs"][chosen]).abs().max().item()
    except Exception as error:  # whatever transformers raises: the directory is not usable there
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    same = difference <= args.tolerance  # false for NaN
    print(f"{chosen.sum()} tokens, largest difference of log-probs {difference:.2e}, allowed {args.tolerance:.0e}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Makes tiny Mamba-2 models of the kind in tests/golden/mamba, or checks such a folder against transformers.

    python3 -m venv /tmp/goldens
    /tmp/goldens/bin/pip install torch==2.11.0 transformers==5.17.0
    /tmp/goldens/bin/python scripts/make_mamba_goldens.py --check tests/golden/mamba/*
    /tmp/goldens/bin/python scripts/make_mamba_goldens.py --make /tmp/new-goldens

Each folder holds a tiny random model in the released file layout,
inputs.safetensors    right-padded rows: input_ids, attention_mask, completion_mask [B, S]
expected.safetensors  logprobs and entropy [B, S] of the distribution that predicts each completion token, 0 elsewhere
"""

import argparse
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import Mamba2Config, Mamba2ForCausalLM

TOLERANCE = 1e-5
# name: groups, layers, chunk, tied, the rows' lengths (prompt, completion)
MODELS = {
    "three-groups-tied": (3, 2, 8, True, [(5, 12), (20, 9), (1, 1)]),
    "long-rows": (1, 2, 16, False, [(70, 20), (3, 40)]),
}


def expected(model, inputs):
    """Log-probs and entropy of the completions' tokens."""
    ids, chosen = inputs["input_ids"], inputs["completion_mask"].bool()
    with torch.no_grad():
        logits = model(ids, attention_mask=inputs["attention_mask"]).logits.float()
    all_logprobs = logits[:, :-1].log_softmax(-1)
    logprobs, entropy = torch.zeros(ids.shape), torch.zeros(ids.shape)
    logprobs[:, 1:] = all_logprobs.gather(-1, ids[:, 1:, None])[..., 0]
    entropy[:, 1:] = -(all_logprobs.exp() * all_logprobs).sum(-1)
    return {"logprobs": (logprobs * chosen).contiguous(), "entropy": (entropy * chosen).contiguous()}


def make(folder, seed):
    """Writes every model below the folder."""
    for name, (groups, layers, chunk, tied, rows) in MODELS.items():
        torch.manual_seed(seed)
        model = Mamba2ForCausalLM(Mamba2Config(
            hidden_size=48, num_hidden_layers=layers, num_heads=6, head_dim=16, expand=2, state_size=16, n_groups=groups,
            chunk_size=chunk, vocab_size=300, tie_word_embeddings=tied, initializer_range=0.1, time_step_rank=3,
        )).eval()
        place = folder / name
        model.save_pretrained(place)
        length = max(prompt + completion for prompt, completion in rows)
        ids, seen, chosen = (torch.zeros(len(rows), length, dtype=torch.int64) for _ in range(3))
        for row, (prompt, completion) in enumerate(rows):
            ids[row, : prompt + completion] = torch.randint(3, 300, (prompt + completion,))
            seen[row, : prompt + completion] = 1
            chosen[row, prompt : prompt + completion] = 1
        inputs = {"input_ids": ids, "attention_mask": seen, "completion_mask": chosen}
        save_file(inputs, place / "inputs.safetensors")
        save_file(expected(model, inputs), place / "expected.safetensors")
        print(f"wrote {place}")


def check(folder):
    """Whether the folder's values are those of transformers."""
    model = Mamba2ForCausalLM.from_pretrained(folder).eval()
    found = expected(model, load_file(folder / "inputs.safetensors"))
    gaps = {n: (found[n] - value).abs().max().item() for n, value in load_file(folder / "expected.safetensors").items()}
    print(f"{folder.name}: {gaps}")
    return all(gap <= TOLERANCE for gap in gaps.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--check", type=pathlib.Path, metavar="DIR", nargs="+")
    mode.add_argument("--make", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.make:
        make(args.make, args.seed)
    elif not all([check(folder) for folder in args.check]):
        sys.exit("some values differ")


if __name__ == "__main__":
    main()

#!/usr/bin/env bash
# The first 8 steps of the demo, in small, for each algorithm: writes grpo.jsonl and appo.jsonl to the folder given
# [default: this one], which holds what crates/trainer/tests/commands/curve.rs expects. TRAINER names a built trainer.
# When passes were packed, the losses of the curve of that time stayed the same to 3e-8. It was recorded anew since, with
# packed passes, for another model and other questions.
# A curve may change only with a change that is meant to change it: the model, the scenes, an algorithm, the sampler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

trainer() {
    if [[ -n ${TRAINER:-} ]]; then "$TRAINER" "$@"; else cargo run --quiet -p trainer -- "$@"; fi
}

readonly out=${1:-tests/golden/curve}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Two updates per rollout: in the first all ratios are 1, which says nothing of the clipped loss.
# Kernels for wider vectors sum in another order; every processor that foveate runs on has AVX2.
export OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2 ONEDNN_MAX_CPU_ISA=AVX2

trainer data scenes --output "$work/scenes" --train 20 --test 0 --seed 3
for algo in grpo appo; do
    cat configs/demo/{base,$algo}.toml >"$work/$algo.toml"
    trainer --algo $algo --config "$work/$algo.toml" --output "$work/$algo" \
        --set model.path=data/tiny-vlm --set data.train="$work/scenes/train.jsonl" --set rollout.prompts_per_step=4 \
        --set optim.updates_per_rollout=2 --set run.steps=8 --set run.seed=1 --set run.save_every=0 \
        --set eval.at_ends=false
    grep -oE '"(step|loss|grad_norm|reward|completions/mean_length)":[^,}]+' "$work/$algo/metrics.jsonl" |
        paste -d, - - - - - | sed 's/.*/{&}/' >"$work/$algo.jsonl"
    mv "$work/$algo.jsonl" "$out/$algo.jsonl"
done

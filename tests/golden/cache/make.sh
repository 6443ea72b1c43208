#!/usr/bin/env bash
# Two scenes whose frames are prepared and whose videos are not here: writes records.jsonl, frames/ and answers.jsonl beside
# this script, which crates/trainer/tests/cached.rs reads without a decoder. TRAINER names a built trainer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

trainer() {
    if [[ -n ${TRAINER:-} ]]; then "$TRAINER" "$@"; else cargo run --quiet -p trainer -- "$@"; fi
}

readonly out=tests/golden/cache
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

trainer data scenes --output "$work" --train 0 --test 2 --seed 7
trainer data prepare --model data/tiny-vlm --config configs/demo/base.toml --for evaluation \
    --input "$work/test.jsonl" --cache "$work/frames"
trainer eval --model data/tiny-vlm --config configs/demo/base.toml --data "$work/test.jsonl" --output "$work/items.jsonl"
grep -oE '"(given|media_tokens)":("[^"]*"|\[[^]]*\])' "$work/items.jsonl" | paste -d, - - | sed 's/.*/{&}/' >"$work/answers.jsonl"
rm -rf "$out/frames"
mv "$work/test.jsonl" "$out/records.jsonl"
mv "$work/frames" "$work/answers.jsonl" "$out"

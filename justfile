# Everything here needs what scripts/bootstrap sets up, and nothing else.
set positional-arguments

[private]
default:
    @just --list --unsorted

# train the embedded policy with APPO and evaluate it before and after; takes trainer's options
train-appo *args:
    cargo run -p trainer -- --algo appo "$@"

# the same with GRPO
train-grpo *args:
    cargo run -p trainer -- --algo grpo "$@"

# the same with any algorithm: grpo, dapo, t-grpo, tw-grpo, video-ktr, dr-grpo, gspo, refocus
train name *args:
    cargo run -p trainer -- --algo "$@"

# train a frame selector with ReFoCUS on long scenes, and evaluate it before and after; takes trainer's options
train-refocus *args:
    cargo run -p trainer -- --algo refocus "$@"

# train every algorithm with three seeds and compare them in docs/results/demo.md; takes trainer compare's options
compare *args:
    cargo run -p trainer -- compare configs/compare/demo.toml --report docs/results/demo.md "$@"

# the same for an ablation of configs/ablations, in docs/results/ablate-NAME.md
ablate NAME *args:
    shift && cargo run -p trainer -- compare "configs/ablations/{{NAME}}.toml" \
        --report "docs/results/ablate-{{NAME}}.md" "$@"

# answer the held-out scenes with the embedded model; takes trainer eval's options
eval-demo *args: scenes
    cargo run -p trainer -- eval --model data/tiny-vlm --data data/scenes/test.jsonl --output runs/eval-demo.jsonl \
        --config configs/demo/base.toml "$@"

[private]
scenes:
    cargo run -p trainer -- data scenes --output data/scenes

# make data/tiny-vlm, the embedded model, from random weights
make-tiny-vlm:
    scripts/make-tiny-vlm

# make data/tiny-scorer, the embedded model that answers from sets of frames, from data/tiny-vlm
make-tiny-scorer:
    scripts/make-tiny-scorer

# time and memory of a step's work on random weights; takes trainer bench's options
bench *args:
    cargo run -p trainer -- bench --shape configs/bench/cpu-small.json --mode all "$@"

# the same work with transformers and with foveate, in turn; FOVEATE_PYTHON names a Python that has transformers
bench-peer *args:
    scripts/bench-peer "$@"

# formatting, lints, every test, documentation
test: fmt clippy unit docs

alias ci := test

[private]
fmt:
    cargo fmt --all --check

[private]
clippy:
    cargo clippy --workspace --all-features --all-targets -- -D warnings
    cargo clippy --workspace --no-default-features -- -D warnings

[private]
unit:
    cargo test --workspace --all-features
    cargo test --workspace --no-default-features --test cached --test parquet --test remote

# API documentation, in target/doc
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps

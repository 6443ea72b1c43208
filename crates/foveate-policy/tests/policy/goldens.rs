//! tests/golden/model: what transformers computes, by scripts/make_model_goldens.py.

use foveate_algo::Layers;
use foveate_policy::{
    AttentionMode, Completions, Draw, Encoded, GroupSeed, LoadOptions, Prompt, SamplingParams, Segment, Trainable, Vlm,
};
use tch::{Device, Kind, Tensor};

use crate::common::{GOLDENS, Golden, Row, assert_close, floats};

const MODES: [AttentionMode; 2] = [AttentionMode::Eager, AttentionMode::Fused];
fn group(prompt: &Encoded, completions: usize) -> Draw<'_> {
    Draw { prompt, completions, seed: GroupSeed { seed: 0, step: 0, group: 0 } }
}

fn options(attention: AttentionMode, kind: Kind) -> LoadOptions {
    LoadOptions { attention, kind, trainable: Trainable::Nothing, ..LoadOptions::default() }
}

/// Every golden model in both modes.
fn each(mut check: impl FnMut(&Golden, &Vlm)) {
    for name in GOLDENS {
        let golden = Golden::read(name);
        for mode in MODES {
            check(&golden, &Vlm::load(&golden.dir, &options(mode, Kind::Float)).unwrap());
        }
    }
}

pub(crate) fn check_scores(golden: &Golden, model: &Vlm) {
    for (index, row) in golden.rows.iter().enumerate() {
        let scores = model.score(&row.sequence, &row.chosen, Layers::All).unwrap();
        assert_close("log-probs", &scores.logprobs, &golden.chosen("logprobs", index), 1e-4);
        assert_close("entropy", &scores.entropy, &golden.chosen("entropy", index), 1e-4);
    }
}

/// The prompt of a row: everything before its completion.
fn split(row: &Row) -> (Prompt, Vec<i64>) {
    let (prompt, completion) = row.sequence.ids.split_at(row.chosen[0]);
    (Prompt { ids: prompt.to_vec(), media: row.sequence.media.clone() }, completion.to_vec())
}

#[test]
fn log_probs_and_entropy_equal_the_goldens() {
    each(check_scores);
}

#[test]
fn frame_attention_of_every_layer_equals_the_goldens() {
    each(|golden, model| {
        let layers = &golden.expected["frame_attention_layers"]; // [L, B, S, F]
        for (index, row) in golden.rows.iter().enumerate() {
            let scores = model.score(&row.sequence, &row.chosen, Layers::All).unwrap();
            let found = scores.frame_attention.unwrap(); // [L, R, F of the row]
            let chosen: Vec<i64> = row.chosen.iter().map(|index| *index as i64).collect();
            let expected = layers.select(1, index as i64).index_select(1, &Tensor::from_slice(&chosen));
            let frames = found.size()[2];
            assert_close("frame attention", &found, &expected.narrow(2, 0, frames), 2e-5);
            let beyond = expected.narrow(2, frames, expected.size()[2] - frames);
            assert!(floats(&beyond).iter().all(|mass| *mass == 0.0));
        }
        let last = golden.rows.iter().map(|row| {
            let scores = model.score(&row.sequence, &row.chosen, Layers::Last(1)).unwrap();
            scores.frame_attention.unwrap().size()[0]
        });
        assert_eq!(last.collect::<Vec<_>>(), [1, 1]);
    });
}

#[test]
fn position_ids_equal_the_goldens_exactly() {
    each(|golden, model| {
        for (index, row) in golden.rows.iter().enumerate() {
            let length = row.sequence.ids.len() as i64;
            let expected = golden.expected["position_ids"].select(1, index as i64).narrow(1, 0, length);
            assert_eq!(model.score(&row.sequence, &[], Layers::All).unwrap().positions.unwrap(), expected);
        }
    });
}

#[test]
fn greedy_tokens_equal_the_goldens_exactly() {
    each(|golden, model| {
        let expected = Vec::<i64>::try_from(&golden.expected["greedy_row0"]).unwrap();
        let prompt = model.encode(&split(&golden.rows[0]).0).unwrap();
        let rollout = model.rollout(&[group(&prompt, 1)], &SamplingParams::greedy(expected.len()), &[]).unwrap();
        assert_eq!(rollout[0].ids, [expected]);
    });
}

#[test]
fn the_packed_group_equals_each_sequence_by_itself() {
    each(|golden, model| {
        for row in &golden.rows {
            let (prompt, completion) = split(row);
            let backwards: Vec<i64> = completion.iter().rev().copied().collect();
            let group = [completion[..1].to_vec(), completion.clone(), backwards, completion[..3].to_vec()];
            let encoded = model.encode(&prompt).unwrap();
            let completions = Completions::new(&group, Device::Cpu);
            let segment = Segment { prompt: &encoded, completions: &completions };
            let forward = model.forward(&[segment], Some(Layers::All)).unwrap().remove(0);
            let frame_attention = forward.frame_attention.unwrap(); // [L, G, T, F]
            for (index, completion) in (0..).zip(&group) {
                let ids = [&prompt.ids[..], completion].concat();
                let chosen: Vec<usize> = (prompt.ids.len()..ids.len()).collect();
                let alone = model.score(&Prompt { ids, media: prompt.media.clone() }, &chosen, Layers::All).unwrap();
                let length = completion.len() as i64;
                let hidden = forward.hidden.get(index).narrow(0, 0, length);
                let scores = model.head(1.0).over_all_tokens().score(&hidden, &Tensor::from_slice(completion));
                assert_close("log-probs", &scores.logprobs, &alone.logprobs, 1e-5);
                assert_close("entropy", &scores.entropy, &alone.entropy, 1e-5);
                let frames = frame_attention.select(1, index).narrow(1, 0, length);
                assert_close("frame attention", &frames, &alone.frame_attention.unwrap(), 1e-6);
            }
        }
    });
}

#[test]
fn bf16_stays_near_the_goldens() {
    for name in GOLDENS {
        let golden = Golden::read(name);
        for mode in MODES {
            let model = Vlm::load(&golden.dir, &options(mode, Kind::BFloat16)).unwrap();
            for (index, row) in golden.rows.iter().enumerate() {
                let scores = model.score(&row.sequence, &row.chosen, Layers::All).unwrap();
                assert_close("log-probs", &scores.logprobs, &golden.chosen("logprobs", index), 0.15);
                assert_close("entropy", &scores.entropy, &golden.chosen("entropy", index), 0.15);
                let frames = scores.frame_attention.unwrap();
                assert!(
                    frames.min().double_value(&[]) >= 0.0
                        && frames.sum_dim_intlist(-1, false, Kind::Float).max().double_value(&[]) < 1.02
                );
            }
            let prompt = model.encode(&split(&golden.rows[0]).0).unwrap();
            let params = SamplingParams { temperature: 1.0, ..SamplingParams::greedy(5) };
            let rollout = model.rollout(&[group(&prompt, 3)], &params, &[]).unwrap();
            assert!(rollout[0].logprobs.iter().flatten().all(|logprob| *logprob < 0.0));
        }
    }
}

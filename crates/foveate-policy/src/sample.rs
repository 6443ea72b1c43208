//! Drawing tokens: temperature, top-k, top-p, and random numbers that depend on nothing but their name.

use foveate_algo::Layers;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::{
    PolicyError,
    input::Encoded,
    room::{Room, number},
};

/// What is kept of generation beside its tokens; nothing by default. All of it comes from numbers that generation forms
/// anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Observe {
    /// Frame attention in these layers.
    pub frame_layers: Option<Layers>,
    /// Hidden states.
    pub hidden: bool,
    /// Entropies.
    pub entropy: bool,
}

/// Below it logits would leave f32's range, and the marks of tokens that are never sampled theirs.
pub const MIN_TEMPERATURE: f64 = 0.01;

/// How completions are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingParams {
    /// Longest completion in tokens; one that reaches it without an end-of-sequence token is truncated.
    pub max_new_tokens: usize,
    /// Softmax temperature; 0 takes the likeliest token.
    pub temperature: f64,
    /// Smallest set of likeliest tokens, of those that `top_k` leaves, that holds this share of their probability; 1 keeps
    /// all.
    pub top_p: f64,
    /// So many likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// What the logits of tokens that stand in the prompt or in the completion so far are divided by where positive and
    /// multiplied with where negative (Keskar et al., arXiv 1909.05858, and transformers); 1 leaves them as they are.
    pub repetition_penalty: f64,
    /// Most completions that are drawn at a time, a single prompt's aside; 0 draws those of all prompts together. It
    /// bounds memory and, but for rounding, changes no token.
    pub max_rows: usize,
    /// What is kept beside the tokens.
    pub observe: Observe,
}

impl SamplingParams {
    /// Greedy decoding.
    pub fn greedy(max_new_tokens: usize) -> Self {
        Self {
            max_new_tokens,
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            repetition_penalty: 1.0,
            max_rows: 0,
            observe: Observe::default(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), PolicyError> {
        let wrong =
            |what, expected: &str, found: String| PolicyError::Setting { what, expected: expected.into(), found };
        if self.max_new_tokens == 0 {
            return Err(wrong("max_new_tokens", "at least 1", "0".into()));
        }
        if self.temperature != 0.0 && !(MIN_TEMPERATURE..f64::MAX).contains(&self.temperature) {
            let expected = format!("0 or a number of at least {MIN_TEMPERATURE}");
            return Err(wrong("temperature", &expected, self.temperature.to_string()));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(wrong("top_p", "a number above 0 and at most 1", self.top_p.to_string()));
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return Err(wrong("repetition_penalty", "a number above 0", self.repetition_penalty.to_string()));
        }
        Ok(())
    }
}

/// A group to draw.
#[derive(Debug, Clone, Copy)]
pub struct Draw<'a> {
    /// What its completions answer.
    pub prompt: &'a Encoded,
    /// Completions, G; at least one.
    pub completions: usize,
    /// Its random stream.
    pub seed: GroupSeed,
}

/// Names the random stream of a group: the run's seed, the step and the group within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSeed {
    /// The run's seed.
    pub seed: u64,
    /// The step, or whatever tells one use of the seed from another.
    pub step: u64,
    /// The group within the step.
    pub group: u64,
}

impl GroupSeed {
    /// `length` uniform numbers in [0, 1) for one completion. They do not depend on any other group or completion.
    pub(crate) fn uniforms(&self, completion: u64, length: usize) -> Vec<f32> {
        let mut stream = self.stream(completion);
        (0..length).map(|_| stream.random()).collect()
    }

    /// The random stream of one completion; those from the largest number down are free for other uses.
    pub fn stream(&self, completion: u64) -> ChaCha8Rng {
        let mut seed = [0; 32];
        for (bytes, part) in seed.chunks_exact_mut(8).zip([self.seed, self.step, self.group, completion]) {
            bytes.copy_from_slice(&part.to_le_bytes());
        }
        ChaCha8Rng::from_seed(seed)
    }
}

/// Uniform numbers of all rows, `[B * T]`; rows are the groups' completions in order.
pub(crate) fn uniforms(draws: &[Draw<'_>], length: usize, device: Device) -> Tensor {
    let rows = draws.iter().flat_map(|draw| (0..draw.completions as u64).map(|c| draw.seed.uniforms(c, length)));
    let numbers: Vec<f32> = rows.flatten().collect();
    Tensor::from_slice(&numbers).to_device(device)
}

/// A token for each of B rows, good until the next are drawn.
#[derive(Debug)]
pub(crate) struct Drawn {
    /// Ids, `[B]`.
    pub(crate) ids: Tensor,
    /// Their log-probs under the unfiltered distribution, `[B]`.
    pub(crate) logprobs: Tensor,
    /// Entropy of the unfiltered distribution in nats, `[B]`, if it was asked for.
    pub(crate) entropy: Option<Tensor>,
}

/// Draws tokens in room that is made once.
#[derive(Debug)]
pub(crate) struct Sampler {
    temperature: f64,
    top_p: f64,
    limit: Tensor, // [], top-p
    zero: Tensor,  // []
    top_k: usize,
    observe_entropy: bool,
    probabilities: Room, // [B, V], as are the next ones
    kept: Room,
    cumulative: Room,
    surprise: Room,
    sorted: Room, // [B, top-k], as are the next ones
    before: Room,
    order: Room,
    outside: Room,
    not_first: Room,
    total: Room, // [B, 1], as are the next ones
    threshold: Room,
    passed: Room,
    last: Room,
    ids: Room,
    logprobs: Room,
    entropy: Room, // [B]
}

/// Sums along each row up to each place, `[B, X]` f32. CUDA scans a lone row in no fixed order, two rows in a fixed one.
fn running_sums(x: &Tensor, room: &mut Room) -> Tensor {
    let (rows, width) = x.size2().unwrap_or_default();
    if rows == 1 && x.device().is_cuda() {
        let twice = x.expand([2, width], false).cumsum_out(&room.shaped(&[2, width]), -1, Kind::Float);
        return twice.narrow(0, 0, 1);
    }
    x.cumsum_out(&room.shaped(&[rows, width]), -1, Kind::Float)
}

impl Sampler {
    pub(crate) fn new(params: &SamplingParams, device: Device) -> Self {
        let room = |kind| move || Room::new(kind, device);
        let [float, index, mask] = [Kind::Float, Kind::Int64, Kind::Bool].map(room);
        Self {
            temperature: params.temperature,
            top_p: params.top_p,
            limit: number(params.top_p, Kind::Float, device),
            zero: number(0.0, Kind::Float, device),
            top_k: params.top_k,
            observe_entropy: params.observe.entropy,
            probabilities: float(),
            kept: float(),
            cumulative: float(),
            surprise: float(),
            sorted: float(),
            before: float(),
            order: index(),
            outside: mask(),
            not_first: mask(),
            total: float(),
            threshold: float(),
            passed: index(),
            last: index(),
            ids: index(),
            logprobs: float(),
            entropy: float(),
        }
    }

    /// One token per row: logits `[B, V]` (temperature applied), uniform numbers `[B]`.
    pub(crate) fn draw(&mut self, logits: &Tensor, uniform: &Tensor) -> Drawn {
        let shape = logits.size();
        let column = [shape[0], 1];
        let probabilities = logits.softmax_int_out(&self.probabilities.shaped(&shape), -1, Kind::Float);
        let ids = if self.temperature == 0.0 {
            logits.argmax_out(&self.ids.shaped(&column), -1, true)
        } else {
            let kept = self.filtered(&probabilities);
            let cumulative = running_sums(&kept, &mut self.cumulative);
            // The first token whose cumulative probability passes u * total; u < 1, so there is one.
            let mut total = self.total.shaped(&column);
            total.copy_(&cumulative.narrow(-1, shape[1] - 1, 1));
            let threshold = uniform.unsqueeze(-1).multiply_out(&self.threshold.shaped(&column), &total);
            let search = |threshold: &Tensor, room: &mut Room, right, side| {
                let found = room.shaped(&column);
                threshold.searchsorted_tensor_out(&found, &cumulative, false, right, side, None::<Tensor>)
            };
            let passed = search(&threshold, &mut self.passed, true, "right");
            // Rounding may let u * total reach the total: take the last token that has any probability.
            let last = search(&total, &mut self.last, false, "left");
            // Distributions that are no numbers draw a token all the same: `Vlm::rollout` then refuses their log-probs.
            passed.minimum_out(&self.ids.shaped(&column), &last).clamp_max_(shape[1] - 1)
        };
        let logprobs = probabilities.gather_out(&self.logprobs.shaped(&column), -1, &ids, false).log_();
        let entropy = self.observe_entropy.then(|| {
            let surprise = probabilities.special_entr_out(&self.surprise.shaped(&shape));
            surprise.sum_intlist_out(&self.entropy.shaped(&column[..1]), -1, false, Kind::Float)
        });
        Drawn { ids: ids.squeeze_dim(-1), logprobs: logprobs.squeeze_dim(-1), entropy }
    }

    /// Probabilities `[B, V]` with everything outside top-k and top-p set to 0.
    fn filtered(&mut self, probabilities: &Tensor) -> Tensor {
        let shape = probabilities.size();
        let vocabulary = shape[1];
        let keep = if self.top_k == 0 { vocabulary } else { vocabulary.min(self.top_k as i64) };
        if keep == vocabulary && self.top_p >= 1.0 {
            return probabilities.shallow_clone();
        }
        let few = [shape[0], keep];
        let (mut sorted, order) = (self.sorted.shaped(&few), self.order.shaped(&few));
        let _ = probabilities.topk_values(&sorted, &order, keep, -1, true, true);
        let mut before = running_sums(&sorted, &mut self.before);
        // Top-p is a share of what top-k leaves, as in transformers.
        let left = before.narrow(-1, keep - 1, 1);
        let limit = left.multiply_out(&self.threshold.shaped(&[shape[0], 1]), &self.limit);
        let _ = before.subtract_(&sorted);
        let mut outside = before.ge_tensor_out(&self.outside.shaped(&few), &limit);
        let _ = outside.logical_and_(&before.gt_tensor_out(&self.not_first.shaped(&few), &self.zero));
        let _ = sorted.masked_fill_(&outside, 0.0);
        self.kept.shaped(&shape).zero_().scatter_(-1, &order, &sorted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(temperature: f64, top_p: f64, top_k: usize) -> SamplingParams {
        SamplingParams {
            max_new_tokens: 4,
            temperature,
            top_p,
            top_k,
            repetition_penalty: 1.0,
            max_rows: 0,
            observe: Observe::default(),
        }
    }

    fn draw(probabilities: &[f32], uniform: f32, params: &SamplingParams) -> i64 {
        let logits = Tensor::from_slice(probabilities).log().unsqueeze(0);
        let mut sampler = Sampler::new(params, Device::Cpu);
        sampler.draw(&logits, &Tensor::from_slice(&[uniform])).ids.int64_value(&[0])
    }

    #[test]
    fn a_uniform_number_picks_by_cumulative_probability() {
        let all = params(1.0, 1.0, 0);
        let drawn = [0.0, 0.19, 0.21, 0.69, 0.71, 0.999_999_9].map(|u| draw(&[0.2, 0.5, 0.3], u, &all));
        assert_eq!(drawn, [0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn tokens_without_probability_are_never_drawn() {
        let all = params(1.0, 1.0, 0);
        for uniform in [0.0, 0.5, 0.999_999_94] {
            assert_eq!(draw(&[0.0, 1.0, 0.0], uniform, &all), 1);
        }
    }

    #[test]
    fn distributions_that_are_no_numbers_draw_a_token_of_the_vocabulary() {
        for temperature in [0.0, 1.0] {
            let logits = Tensor::from_slice(&[f32::NAN; 3]).unsqueeze(0);
            let mut sampler = Sampler::new(&params(temperature, 1.0, 0), Device::Cpu);
            let drawn = sampler.draw(&logits, &Tensor::from_slice(&[0.5_f32]));
            assert!((0..3).contains(&drawn.ids.int64_value(&[0])));
            assert!(drawn.logprobs.double_value(&[0]).is_nan());
        }
    }

    #[test]
    fn top_k_and_top_p_keep_the_likeliest() {
        for uniform in [0.0, 0.4, 0.99] {
            assert_eq!(draw(&[0.3, 0.6, 0.1], uniform, &params(1.0, 1.0, 1)), 1);
            assert_eq!(draw(&[0.3, 0.6, 0.1], uniform, &params(1.0, 0.5, 0)), 1);
            assert_eq!(draw(&[0.3, 0.6, 0.1], uniform, &params(1.0, 0.001, 0)), 1);
            assert_ne!(draw(&[0.3, 0.6, 0.1], uniform, &params(1.0, 0.7, 0)), 2);
            assert_eq!(draw(&[0.3, 0.6, 0.1], uniform, &params(0.0, 1.0, 0)), 1);
            // Of the two likeliest the first holds 5/9: half of what top-k leaves, not of everything.
            assert_eq!(draw(&[0.2, 0.25, 0.2, 0.2, 0.15], uniform, &params(1.0, 0.5, 2)), 1);
        }
    }

    #[test]
    fn streams_depend_on_seed_step_group_and_completion_only() {
        let name = GroupSeed { seed: 1, step: 2, group: 3 };
        assert_eq!(name.uniforms(0, 3), name.uniforms(0, 5)[..3]);
        let others = [GroupSeed { seed: 2, ..name }, GroupSeed { step: 3, ..name }, GroupSeed { group: 4, ..name }];
        assert!(others.iter().all(|other| other.uniforms(0, 3) != name.uniforms(0, 3)));
        assert_ne!(name.uniforms(0, 3), name.uniforms(1, 3));
    }
}

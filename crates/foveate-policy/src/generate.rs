//! Generation: each prompt is computed once, then its group decodes together with the others until its rows end.

use tch::{Kind, Tensor, no_grad};

use crate::{
    PolicyError,
    batch::{Batch, Join, Layout, Limits, look_every},
    head::{Head, LogitRooms},
    input::Encoded,
    model::Vlm,
    qwen::{
        cache::Sizes,
        decode::Decoder,
        frames::FrameProbe,
        pack::{GroupRows, Pack},
        text::Wanted,
    },
    records::Records,
    repetition::Repetition,
    room::Room,
    sample::{Draw, Sampler, SamplingParams, uniforms},
};

/// Prompts are computed together up to so many tokens: a product of more rows is no faster, and their keys and values are
/// held twice meanwhile.
const PREFILLED_TOKENS: usize = 2048;

/// The completions drawn for one prompt, and what [`crate::Observe`] asked to keep of them. T is the longest completion
/// of the group; what is kept is 0 past a completion's end.
#[derive(Debug, PartialEq)]
pub struct Rollout {
    /// Token ids of each completion, its end-of-sequence token included.
    pub ids: Vec<Vec<i64>>,
    /// The sampler's log-prob of each token.
    pub logprobs: Vec<Vec<f32>>,
    /// Whether a completion was cut off before an end-of-sequence token.
    pub truncated: Vec<bool>,
    /// Attention mass of the position that predicts token t on each frame, mean over heads, by chosen layer:
    /// `[L, G, T, F]` f32, as a teacher-forced pass gives it ([`crate::GroupForward`]); F is 0 without a video.
    pub frame_attention: Option<Tensor>,
    /// Hidden state that predicts token t, `[G, T, D]`: any [`Head`] turns it into a distribution again.
    pub hidden: Option<Tensor>,
    /// Entropy in nats of the distribution that token t was drawn from, before top-k and top-p: `[G, T]` f32.
    pub entropy: Option<Tensor>,
}

impl Vlm {
    /// Draws the completions of every group, each of which ends with the first id of `end` or at
    /// `params.max_new_tokens`. Each prompt is computed once and shared by its group. Groups decode together, as many
    /// as `params.max_rows` allows: completions that have ended leave, and the next group joins when there is room. A
    /// group's tokens depend, but for rounding, on its own prompt and seed alone.
    ///
    /// # Errors
    /// If parameters are out of range, a group is to have no completion, or a prompt with its completion would be longer
    /// than the model allows; [`PolicyError::NotFinite`] if the model's numbers are none; [`PolicyError::Torch`] if libtorch
    /// fails.
    pub fn rollout(
        &self,
        draws: &[Draw<'_>],
        params: &SamplingParams,
        end: &[i64],
    ) -> Result<Vec<Rollout>, PolicyError> {
        params.check()?;
        let longest = self.config().text.max_position_embeddings as usize;
        if draws.iter().any(|draw| draw.completions == 0) {
            return Err(PolicyError::Prompt("expected at least one completion of every prompt".into()));
        }
        if let Some(draw) = draws.iter().find(|draw| draw.prompt.tokens() + params.max_new_tokens > longest) {
            return Err(PolicyError::Prompt(format!(
                "{} tokens and a completion of {} are longer than the model's {longest}",
                draw.prompt.tokens(),
                params.max_new_tokens
            )));
        }
        if draws.is_empty() {
            return Ok(Vec::new());
        }
        no_grad(|| Generation::new(self, draws, params, end).run(end))
    }
}

/// A rollout under way.
struct Generation<'a> {
    model: &'a Vlm,
    draws: &'a [Draw<'a>],
    params: &'a SamplingParams,
    head: Head,
    logit_rooms: LogitRooms,
    sampler: Sampler,
    decoder: Decoder<'a>,
    sizes: Sizes,
    uniforms: Tensor, // [B * T], T the longest completion allowed
    uniform: Room,    // [B]
    ends: Tensor,     // [V] bool
    records: Records,
    repetition: Option<Repetition>,
    look_every: i64,
}

/// A prompt after its only pass.
struct Prefilled {
    keys_values: Vec<[Tensor; 2]>, // by layer, [P, K, E]
    probe: Option<FrameProbe>,
    hidden: Tensor,                  // [D], predicts the first token
    frame_attention: Option<Tensor>, // [L, F of this prompt], of the same position
}

impl<'a> Generation<'a> {
    fn new(model: &'a Vlm, draws: &'a [Draw<'a>], params: &'a SamplingParams, end: &[i64]) -> Self {
        let (text, device) = (&model.config().text, model.device());
        let sizes = Sizes {
            layers: text.num_hidden_layers as usize,
            heads: text.num_attention_heads,
            kv_heads: text.num_key_value_heads,
            width: text.head_dim(),
            hidden: text.hidden_size,
            // The last token of a completion is never an input.
            columns: (params.max_new_tokens as i64 - 1).max(1),
            seen_layers: params.observe.frame_layers.map_or(0, |layers| model.text.count(layers)),
            frames: draws.iter().map(|draw| draw.prompt.frames).max().unwrap_or(0),
            kind: model.text.head().kind(),
            device,
        };
        let in_vocabulary: Vec<i64> = end.iter().copied().filter(|id| (0..text.vocab_size).contains(id)).collect();
        let ends = Tensor::zeros([text.vocab_size], (Kind::Bool, device));
        let head = model.head(params.temperature);
        Self {
            ends: ends.index_fill(0, &Tensor::from_slice(&in_vocabulary).to_device(device), 1),
            logit_rooms: head.rooms(),
            repetition: Repetition::new(draws, params, &head),
            head,
            sampler: Sampler::new(params, device),
            decoder: Decoder::new(&model.text),
            uniforms: uniforms(draws, params.max_new_tokens, device),
            uniform: Room::new(Kind::Float, device),
            records: Records::new(&sizes, Layout::new(draws), params.max_new_tokens, params.observe),
            model,
            draws,
            params,
            sizes,
            look_every: look_every(device),
        }
    }

    fn run(mut self, end: &[i64]) -> Result<Vec<Rollout>, PolicyError> {
        let mut batch = self.nobody();
        loop {
            batch = self.regrouped(batch)?;
            if batch.is_empty() {
                return finite(self.records.rollouts(self.draws, end));
            }
            self.draw_one_token(&mut batch);
        }
    }

    /// The batch that all groups still have to join.
    fn nobody(&self) -> Batch {
        let limits = Limits {
            layout: Layout::new(self.draws),
            length: self.params.max_new_tokens,
            rows: self.params.max_rows,
            look_every: self.look_every,
        };
        Batch::new(self.sizes, limits)
    }

    /// The batch without those who have ended, and with those who join and their first tokens.
    fn regrouped(&mut self, mut batch: Batch) -> Result<Batch, PolicyError> {
        while let Some(plan) = batch.plan() {
            batch = batch.regrouped(&plan, self.draws, |positions| self.model.rope(positions));
            self.join(&mut batch, &plan.joins())?;
        }
        Ok(batch)
    }

    /// The next token of every row.
    fn draw_one_token(&mut self, batch: &mut Batch) {
        let hidden = self.decoder.decode_one_token(&batch.tokens, &mut batch.cache);
        let frame_attention = batch.cache.seen();
        let tokens = self.draw(&hidden, frame_attention.as_ref(), &batch.places());
        batch.push(&tokens, &self.ends);
    }

    /// Computes the prompts of the groups that join and draws their first tokens.
    fn join(&mut self, batch: &mut Batch, joins: &[Join]) -> Result<(), PolicyError> {
        if joins.is_empty() {
            return Ok(());
        }
        let layers = self.sizes.seen_layers as i64;
        let mut hidden = Vec::new();
        let mut frames = Vec::new();
        let mut left = joins;
        while !left.is_empty() {
            let (joins, later) = left.split_at(self.prefilled_together(left));
            left = later;
            for (join, prefilled) in joins.iter().zip(self.prefill(joins)?) {
                batch.cache.fill(join.seat, &prefilled.keys_values, prefilled.probe.as_ref());
                hidden.push(prefilled.hidden);
                let own = prefilled
                    .frame_attention
                    .unwrap_or_else(|| Tensor::zeros([layers, 0], (Kind::Float, self.sizes.device)));
                let missing = self.sizes.frames - own.size()[1];
                frames.push(own.constant_pad_nd([0, missing]).to_kind(Kind::Float));
            }
        }
        let counts: Vec<i64> = joins.iter().map(|join| self.draws[join.group].completions as i64).collect();
        let rows: i64 = counts.iter().sum();
        let counts = Tensor::from_slice(&counts).to_device(self.sizes.device);
        let hidden = Tensor::stack(&hidden, 0).repeat_interleave_self_tensor(&counts, 0, rows);
        let frames = Tensor::stack(&frames, 1).repeat_interleave_self_tensor(&counts, 1, rows); // [L, rows, F]
        let tokens = self.draw(&hidden, Some(&frames), &batch.first_places(joins));
        batch.join(&tokens, &self.ends);
        Ok(())
    }

    /// The next token of every row from its hidden state `[B, D]`, also recorded in its place. The ids `[B]` are good until
    /// the next call.
    fn draw(&mut self, hidden: &Tensor, frame_attention: Option<&Tensor>, places: &Tensor) -> Tensor {
        let uniform = self.uniforms.index_select_out(&self.uniform.shaped(&places.size()), 0, places);
        let mut logits = self.head.logits_within(hidden, &mut self.logit_rooms);
        if let Some(repetition) = &mut self.repetition {
            logits = repetition.penalised(&logits, places);
        }
        let drawn = self.sampler.draw(&logits, &uniform);
        if let Some(repetition) = &mut self.repetition {
            repetition.note(&drawn.ids, places);
        }
        self.records.put(places, &drawn, hidden, frame_attention);
        drawn.ids
    }

    /// How many of those who join next have their prompts computed together.
    fn prefilled_together(&self, joins: &[Join]) -> usize {
        let mut tokens = 0;
        let fits = |join: &&Join| {
            tokens += self.draws[join.group].prompt.tokens();
            tokens <= PREFILLED_TOKENS
        };
        joins.iter().take_while(fits).count().max(1)
    }

    /// The only pass over the prompts of those who join.
    fn prefill(&self, joins: &[Join]) -> Result<Vec<Prefilled>, PolicyError> {
        let model = self.model;
        let prompts: Vec<_> = joins.iter().map(|join| (self.draws[join.group].prompt, None)).collect();
        // A first token has no row of its own: the prompt's last one predicts it.
        let lengths: Vec<_> = prompts.iter().map(|(prompt, _)| (prompt.tokens() as i64, vec![1])).collect();
        let pack = Pack::new(&lengths, model.device());
        let probe = |((prompt, _), group): (&(&Encoded, _), &GroupRows)| {
            model.probe(prompt, &group.predicting, self.params.observe.frame_layers)
        };
        let wanted = Wanted {
            frames: prompts.iter().zip(&pack.groups).map(probe).collect(),
            frame_layers: self.sizes.seen_layers,
            keys_values: true,
        };
        let positions = prompts.iter().map(|(prompt, _)| &prompt.positions).collect::<Vec<_>>();
        let rope = model.rope(&Tensor::cat(&positions, 1));
        let (hidden, taps) = model.text.forward(model.embed(&prompts), &rope, &pack, &wanted)?;
        let one = |(index, (group, probe)): (usize, (&GroupRows, _))| Prefilled {
            keys_values: taps.keys_values.iter().map(|both| both.each_ref().map(|x| group.of(x))).collect(),
            probe,
            hidden: hidden.get(index as i64),
            frame_attention: taps.frames_of(index).map(|frames| frames.squeeze_dim(1)),
        };
        Ok(pack.groups.iter().zip(wanted.frames).enumerate().map(one).collect())
    }
}

/// Refuses completions of a model that gives no numbers any more.
fn finite(rollouts: Vec<Rollout>) -> Result<Vec<Rollout>, PolicyError> {
    let mut logprobs = rollouts.iter().flat_map(|rollout| rollout.logprobs.iter().flatten());
    match logprobs.find(|logprob| !logprob.is_finite()) {
        Some(value) => Err(PolicyError::NotFinite { what: "log-prob of a drawn token", value: f64::from(*value) }),
        None => Ok(rollouts),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{GroupSeed, LoadOptions, Observe, Prompt};

    fn model() -> Vlm {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/model/untied");
        Vlm::load(&folder, &LoadOptions::default()).unwrap()
    }

    fn prompts(model: &Vlm) -> [Encoded; 4] {
        [3, 7, 5, 4].map(|length| {
            let ids: Vec<i64> = (0..length).map(|token| 40 + (7 * token) % 20).collect();
            model.encode(&Prompt { ids, media: Vec::new() }).unwrap()
        })
    }

    fn groups(prompts: &[Encoded], completions: [usize; 4]) -> Vec<Draw<'_>> {
        (0..)
            .zip(prompts)
            .zip(completions)
            .map(|((group, prompt), completions)| Draw {
                prompt,
                completions,
                seed: GroupSeed { seed: 1, step: 0, group },
            })
            .collect()
    }

    fn params() -> SamplingParams {
        SamplingParams { temperature: 1.0, ..SamplingParams::greedy(40) }
    }

    /// Ends often enough that groups come and go.
    fn end(model: &Vlm) -> Vec<i64> {
        (0..model.config().text.vocab_size).step_by(12).collect()
    }

    #[test]
    fn no_tokens_are_drawn_of_rows_that_have_ended_or_fill_the_rectangle() {
        let model = model();
        let (prompts, end) = (prompts(&model), end(&model));
        for max_rows in [0, 6] {
            let (draws, params) = (groups(&prompts, [8, 3, 8, 4]), SamplingParams { max_rows, ..params() });
            no_grad(|| {
                let mut generation = Generation::new(&model, &draws, &params, &end);
                let (mut batch, mut drawn) = (generation.nobody(), 0);
                loop {
                    batch = generation.regrouped(batch).unwrap();
                    if batch.is_empty() {
                        break;
                    }
                    drawn += batch.tokens.numel();
                    generation.draw_one_token(&mut batch);
                }
                let rollouts = generation.records.rollouts(&draws, &end);
                // The first token comes of the prompt.
                let needed: usize = rollouts.iter().flat_map(|rollout| &rollout.ids).map(|ids| ids.len() - 1).sum();
                assert!(needed > 100 && 7 * drawn <= 8 * needed, "{drawn} drawn, {needed} needed");
            });
        }
    }

    #[test]
    fn looking_less_often_who_has_ended_changes_no_completion() {
        let model = model();
        let (prompts, end) = (prompts(&model), end(&model));
        let draws = groups(&prompts, [3; 4]);
        let params = SamplingParams {
            max_rows: 6, // groups wait for others to end
            observe: Observe { entropy: true, hidden: true, ..Observe::default() },
            ..params()
        };
        let drawn = |look_every| {
            no_grad(|| Generation { look_every, ..Generation::new(&model, &draws, &params, &end) }.run(&end)).unwrap()
        };
        let always = drawn(1);
        assert!(always.iter().flat_map(|rollout| &rollout.ids).any(|ids| ids.len() < 16), "some end early");
        assert!(always.iter().flat_map(|rollout| &rollout.ids).any(|ids| ids.len() > 20), "some last");
        for every in [3, 16, 64] {
            for (one, other) in always.iter().zip(&drawn(every)) {
                assert_eq!((&one.ids, &one.truncated), (&other.ids, &other.truncated), "{every}");
                let close = |a: &Option<Tensor>, b: &Option<Tensor>| {
                    let (a, b) = (a.as_ref().unwrap(), b.as_ref().unwrap());
                    assert_eq!(a.size(), b.size(), "{every}");
                    assert!((a - b).abs().max().double_value(&[]) < 1e-5, "{every}");
                };
                close(&one.entropy, &other.entropy);
                close(&one.hidden, &other.hidden);
            }
        }
    }
}

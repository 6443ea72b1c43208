//! Generation: `prefill` each prompt once, then `decode_one_token` for all completions of all groups together.

use tch::{Kind, Tensor, no_grad};

use crate::{
    PolicyError,
    input::Encoded,
    model::Vlm,
    qwen::{
        pack::Pack,
        text::{Cache, Wanted},
    },
    sample::{GroupSeed, SamplingParams, sample, uniforms},
};

/// The completions drawn for one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    /// Token ids of each completion, its end-of-sequence token included.
    pub ids: Vec<Vec<i64>>,
    /// The sampler's log-prob of each token.
    pub logprobs: Vec<Vec<f32>>,
    /// Whether a completion was cut off before an end-of-sequence token.
    pub truncated: Vec<bool>,
}

impl Vlm {
    /// Draws `params.completions` completions for every prompt. Each prompt is computed once and shared by its group;
    /// all groups decode together. A group's tokens depend on its own prompt and seed alone.
    ///
    /// # Errors
    /// If parameters are out of range, seeds and prompts differ in number, or a prompt with its completion would be
    /// longer than the model allows.
    pub fn rollout(
        &self,
        prompts: &[&Encoded],
        params: &SamplingParams,
        seeds: &[GroupSeed],
        end: &[i64],
    ) -> Result<Vec<Rollout>, PolicyError> {
        params.check()?;
        let longest = self.config().text.max_position_embeddings as usize;
        if prompts.len() != seeds.len() {
            let found = format!("{} prompts with {} seeds", prompts.len(), seeds.len());
            return Err(PolicyError::Prompt(found));
        }
        if let Some(prompt) = prompts.iter().find(|p| p.tokens() + params.max_new_tokens > longest) {
            return Err(PolicyError::Prompt(format!(
                "{} tokens and a completion of {} are longer than the model's {longest}",
                prompt.tokens(),
                params.max_new_tokens
            )));
        }
        if prompts.is_empty() {
            return Ok(Vec::new());
        }
        Ok(no_grad(|| self.draw(prompts, params, seeds, end)))
    }

    fn draw(&self, prompts: &[&Encoded], params: &SamplingParams, seeds: &[GroupSeed], end: &[i64]) -> Vec<Rollout> {
        let (count, device) = (params.completions as i64, self.device());
        let head = self.head(params.temperature);
        let uniform = uniforms(seeds, params, device);
        let end = Tensor::from_slice(end).to_device(device);
        let (keys_values, last): (Vec<_>, Vec<_>) = prompts.iter().map(|prompt| self.prefill(prompt)).unzip();
        let mut cache = Cache::new(&keys_values, count, params.max_new_tokens as i64);
        drop(keys_values);
        let mut hidden = Tensor::stack(&last, 0).repeat_interleave_self_int(count, 0, None);
        let starts: Vec<i64> = prompts.iter().map(|prompt| prompt.next_position).collect();
        let starts = Tensor::from_slice(&starts).to_device(device).repeat_interleave_self_int(count, 0, None);

        let rows = prompts.len() as i64 * count;
        let mut finished = Tensor::zeros([rows], (Kind::Bool, device));
        let (mut ids, mut logprobs, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        for step in 0..params.max_new_tokens as i64 {
            let (token, logprob) = sample(&head.logits(&hidden), params, &uniform.select(1, step));
            finished = finished.logical_or(&token.unsqueeze(-1).eq_tensor(&end).any_dim(-1, false));
            ids.push(token.shallow_clone());
            logprobs.push(logprob);
            ended.push(finished.shallow_clone());
            if step + 1 == params.max_new_tokens as i64 || finished.all().int64_value(&[]) == 1 {
                break;
            }
            let positions = (&starts + step).unsqueeze(0).expand([3, rows], false);
            let rope = self.rope(&positions);
            hidden = self.text.decode_one_token(self.text.embed(&token), &rope, &mut cache);
        }
        let [ids, logprobs, ended] = [ids, logprobs, ended].map(|steps| Tensor::stack(&steps, 1));
        rollouts(&ids, &logprobs, &ended, params.completions)
    }

    /// Keys and values of a prompt and the hidden state that predicts the first token.
    fn prefill(&self, prompt: &Encoded) -> (Vec<[Tensor; 2]>, Tensor) {
        let rows = prompt.tokens() as i64;
        let pack = Pack::of_prompt(rows, vec![rows - 1], self.device());
        let wanted = Wanted { keys_values: true, ..Wanted::default() };
        let rope = self.rope(&prompt.positions);
        let (hidden, taps) = self.text.forward(self.embed_prompt(prompt), &rope, &pack, &wanted);
        (taps.keys_values, hidden.get(0))
    }
}

/// Cuts rows `[B, T]` of ids, log-probs and "has ended by here" into groups of completions.
fn rollouts(ids: &Tensor, logprobs: &Tensor, ended: &Tensor, completions: usize) -> Vec<Rollout> {
    let ids: Vec<Vec<i64>> = rows(ids);
    let logprobs: Vec<Vec<f32>> = rows(logprobs);
    let ended: Vec<Vec<bool>> = rows(ended);
    let all: Vec<usize> = (0..ids.len()).collect();
    let groups = all.chunks(completions).map(|rows| {
        let length = |row: usize| ended[row].iter().position(|e| *e).map_or(ended[row].len(), |last| last + 1);
        Rollout {
            ids: rows.iter().map(|&row| ids[row][..length(row)].to_vec()).collect(),
            logprobs: rows.iter().map(|&row| logprobs[row][..length(row)].to_vec()).collect(),
            truncated: rows.iter().map(|&row| !ended[row].last().copied().unwrap_or(false)).collect(),
        }
    });
    groups.collect()
}

fn rows<T: tch::kind::Element + Copy>(tensor: &Tensor) -> Vec<Vec<T>> {
    let (rows, columns) = (tensor.size()[0] as usize, tensor.size()[1] as usize);
    let mut flat = vec![T::ZERO; rows * columns];
    let tensor = tensor.to_device(tch::Device::Cpu).contiguous();
    tensor.copy_data(&mut flat, rows * columns);
    flat.chunks(columns).map(<[T]>::to_vec).collect()
}

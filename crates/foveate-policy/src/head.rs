//! Token log-probs and entropies from hidden states, a bounded number of rows at a time, and their backward pass.

use tch::{Kind, Tensor, no_grad};

/// Logits held at a time: rows x vocabulary.
const CHUNK_ELEMENTS: i64 = 1 << 25;

/// A logit that leaves a token no probability in f32, and stays finite in every sum.
const NEVER: f64 = -1e4;

/// The output head of a policy at a sampling temperature.
#[derive(Debug)]
pub struct Head {
    weight: Tensor, // [V, D]
    temperature: f64,
    never: Option<Tensor>, // [ids]
}

/// Log-probs and entropies of tokens.
#[derive(Debug)]
pub struct TokenScores {
    /// Log-prob of each row's token, `[R]` f32.
    pub logprobs: Tensor,
    /// Entropy in nats of the distribution it was drawn from, `[R]` f32.
    pub entropy: Tensor,
}

/// Gradients of a loss with respect to [`TokenScores`].
#[derive(Debug)]
pub struct ScoreGradients {
    /// d loss / d log-prob, `[R]`.
    pub logprobs: Tensor,
    /// d loss / d entropy, `[R]`, where the loss has an entropy term.
    pub entropy: Option<Tensor>,
}

impl Head {
    pub(crate) fn new(weight: &Tensor, temperature: f64, never: &[i64]) -> Self {
        let never = (!never.is_empty()).then(|| Tensor::from_slice(never).to_device(weight.device()));
        // Greedy decoding still has log-probs: those of the plain distribution.
        let temperature = if temperature > 0.0 { temperature } else { 1.0 };
        Self {
            weight: weight.shallow_clone(),
            temperature,
            never,
        }
    }

    /// The same head over the whole vocabulary: the model's plain distribution, as papers define divergences on it.
    pub fn over_all_tokens(&self) -> Self {
        Self {
            weight: self.weight.shallow_clone(),
            temperature: self.temperature,
            never: None,
        }
    }

    /// Size of the vocabulary, V.
    pub fn vocabulary(&self) -> i64 {
        self.weight.size()[0]
    }

    /// Logits of hidden states: `[R, D]` -> `[R, V]` f32.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        let logits = hidden.linear::<&Tensor>(&self.weight, None).to_kind(Kind::Float);
        let logits = if self.temperature == 1.0 { logits } else { logits / self.temperature };
        match &self.never {
            Some(ids) => logits.index_fill(-1, ids, NEVER),
            None => logits,
        }
    }

    fn chunk(&self) -> i64 {
        (CHUNK_ELEMENTS / self.vocabulary()).max(1)
    }

    /// Log-probs of `ids` `[R]` and entropies under hidden states `[R, D]`, without gradients.
    pub fn score(&self, hidden: &Tensor, ids: &Tensor) -> TokenScores {
        no_grad(|| {
            let chunks = chunks(hidden.size()[0], self.chunk()).map(|(start, rows)| {
                let scores = self.score_rows(&hidden.narrow(0, start, rows), &ids.narrow(0, start, rows), true);
                (scores.logprobs, scores.entropy)
            });
            let (logprobs, entropy): (Vec<_>, Vec<_>) = chunks.unzip();
            TokenScores {
                logprobs: Tensor::cat(&logprobs, 0),
                entropy: Tensor::cat(&entropy, 0),
            }
        })
    }

    fn score_rows(&self, hidden: &Tensor, ids: &Tensor, entropy: bool) -> TokenScores {
        let all = self.logits(hidden).log_softmax(-1, Kind::Float);
        let entropy = if entropy {
            -(all.exp() * &all).sum_dim_intlist(-1, false, Kind::Float)
        } else {
            Tensor::zeros([0], (Kind::Float, all.device()))
        };
        TokenScores {
            logprobs: all.gather(-1, &ids.unsqueeze(-1), false).squeeze_dim(-1),
            entropy,
        }
    }

    /// Backpropagates a loss whose gradients at the scores are known: into the head's weight and through `hidden`
    /// `[R, D]` into the model. Logits are recomputed a chunk at a time; `[R, V]` never exists as a whole.
    pub fn backward(&self, hidden: &Tensor, ids: &Tensor, gradients: &ScoreGradients) {
        let leaf = hidden.detach().set_requires_grad(true);
        for (start, rows) in chunks(hidden.size()[0], self.chunk()) {
            let part = |x: &Tensor| x.narrow(0, start, rows);
            let scores = self.score_rows(&part(&leaf), &part(ids), gradients.entropy.is_some());
            let mut loss = (scores.logprobs * part(&gradients.logprobs)).sum(Kind::Float);
            if let Some(entropy) = &gradients.entropy {
                loss += (scores.entropy * part(entropy)).sum(Kind::Float);
            }
            loss.backward();
        }
        // tch cannot start a backward pass from a given gradient; this product's gradient is that gradient.
        (hidden * leaf.grad()).sum(Kind::Float).backward();
    }
}

/// `(start, rows)` of consecutive chunks.
pub(crate) fn chunks(total: i64, chunk: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..total).step_by(chunk as usize).map(move |start| (start, chunk.min(total - start)))
}

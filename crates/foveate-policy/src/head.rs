//! Token log-probs and entropies from hidden states, a bounded number of rows at a time, and their backward pass.

use tch::{Device, Kind, Tensor, no_grad};

use crate::{
    qwen::{push, wide, wide_kind},
    room::{Room, number},
};

/// Logits held at a time, rows x vocabulary: on a GPU more, since every chunk of rows reads and writes the whole gradient
/// of the weight.
fn held_logits(device: Device) -> i64 {
    if device == Device::Cpu { 1 << 25 } else { 1 << 27 }
}

/// Up to so many rows a CPU multiplies the weight with them, not them with the weight: for 8 to 32 of them a third to
/// all of the time, the transposition included. With more the transposition takes longer than is saved.
const FEW_ROWS: i64 = 32;

/// A logit that leaves a token no probability in f32, and stays finite in every sum.
const NEVER: f64 = -1e4;

/// The output head of a policy at a sampling temperature.
#[derive(Debug)]
pub struct Head {
    weight: Tensor, // [V, D]
    temperature: f64,
    never: Option<Tensor>, // [ids]
    chunk: i64,            // rows whose logits are held at a time
}

/// What logits are formed in.
#[derive(Debug)]
pub(crate) struct LogitRooms {
    temperature: Tensor, // []
    product: Room,       // [V, B] or [B, V], in the weight's number type
    logits: Room,        // [B, V]
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
            chunk: (held_logits(weight.device()) / weight.size()[0].max(1)).max(1),
        }
    }

    /// The same head over the whole vocabulary: the model's plain distribution, as papers define divergences on it.
    pub fn over_all_tokens(&self) -> Self {
        Self { never: None, ..self.with_weight(self.weight.shallow_clone()) }
    }

    fn with_weight(&self, weight: Tensor) -> Self {
        let never = self.never.as_ref().map(Tensor::shallow_clone);
        Self { weight, temperature: self.temperature, never, chunk: self.chunk }
    }

    /// Size of the vocabulary, V.
    pub fn vocabulary(&self) -> i64 {
        self.weight.size()[0]
    }

    /// Number type of the logits.
    pub(crate) fn logits_kind(&self) -> Kind {
        wide_kind(self.weight.kind())
    }

    /// Logits of hidden states: `[.., D]` -> `[.., V]` f32 (f64 for an f64 model).
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        let logits = if is_few(hidden) {
            self.weight.mm(&hidden.tr()).tr().contiguous()
        } else {
            hidden.linear::<&Tensor>(&self.weight, None)
        };
        let logits = wide(&logits);
        let logits = if self.temperature == 1.0 { logits } else { logits / self.temperature };
        match &self.never {
            Some(ids) => logits.index_fill(-1, ids, NEVER),
            None => logits,
        }
    }

    /// [`Head::logits`] of hidden states `[B, D]` in room that is made once, good until the next call.
    pub(crate) fn logits_within(&self, hidden: &Tensor, rooms: &mut LogitRooms) -> Tensor {
        let (rows, vocabulary) = (hidden.size()[0], self.vocabulary());
        let product = if is_few(hidden) {
            self.weight.mm_out(&rooms.product.shaped(&[vocabulary, rows]), &hidden.tr()).tr()
        } else {
            hidden.mm_out(&rooms.product.shaped(&[rows, vocabulary]), &self.weight.tr())
        };
        let mut logits = rooms.logits.holding(&product);
        if self.temperature != 1.0 {
            let _ = logits.g_div_(&rooms.temperature);
        }
        if let Some(ids) = &self.never {
            let _ = logits.index_fill_(-1, ids, NEVER);
        }
        logits
    }

    /// Room for logits of this head.
    pub(crate) fn rooms(&self) -> LogitRooms {
        let device = self.weight.device();
        LogitRooms {
            temperature: number(self.temperature, self.logits_kind(), device),
            product: Room::new(self.weight.kind(), device),
            logits: Room::new(self.logits_kind(), device),
        }
    }

    /// Logits of a few tokens only, `[R, ids]`, formed in f32 so that those of a bf16 model are not rounded to ties.
    pub fn logits_of(&self, hidden: &Tensor, ids: &[i64]) -> Tensor {
        let ids = Tensor::from_slice(ids).to_device(self.weight.device());
        no_grad(|| wide(hidden).matmul(&wide(&self.weight.index_select(0, &ids)).tr()) / self.temperature)
    }

    /// Log-probs of `ids` `[R]` and entropies under hidden states `[R, D]`, without gradients.
    pub fn score(&self, hidden: &Tensor, ids: &Tensor) -> TokenScores {
        self.scored(hidden, ids, true)
    }

    /// The log-probs alone, `[R]` f32, without the passes over all logits that an entropy takes.
    pub fn logprobs(&self, hidden: &Tensor, ids: &Tensor) -> Tensor {
        self.scored(hidden, ids, false).logprobs
    }

    fn scored(&self, hidden: &Tensor, ids: &Tensor, entropy: bool) -> TokenScores {
        no_grad(|| {
            let chunks = chunks(hidden.size()[0], self.chunk).map(|(start, rows)| {
                let scores = self.score_rows(&hidden.narrow(0, start, rows), &ids.narrow(0, start, rows), entropy);
                (scores.logprobs, scores.entropy)
            });
            let (logprobs, entropy): (Vec<_>, Vec<_>) = chunks.unzip();
            TokenScores { logprobs: Tensor::cat(&logprobs, 0), entropy: Tensor::cat(&entropy, 0) }
        })
    }

    /// The likeliest token of hidden states `[R, D]`, `[R]` i64.
    pub fn likeliest(&self, hidden: &Tensor) -> Tensor {
        let rows = hidden.size()[0];
        let part = |(start, count)| self.logits(&hidden.narrow(0, start, count)).argmax(-1, false);
        no_grad(|| Tensor::cat(&chunks(rows, self.chunk).map(part).collect::<Vec<_>>(), 0))
    }

    fn score_rows(&self, hidden: &Tensor, ids: &Tensor, entropy: bool) -> TokenScores {
        let logits = self.logits(hidden);
        let all = logits.log_softmax(-1, logits.kind());
        let entropy = if entropy {
            -(all.exp() * &all).sum_dim_intlist(-1, false, all.kind())
        } else {
            Tensor::zeros([0], (all.kind(), all.device()))
        };
        TokenScores { logprobs: all.gather(-1, &ids.unsqueeze(-1), false).squeeze_dim(-1), entropy }
    }

    /// Backpropagates a loss whose gradients at the scores are known: adds to the head's weight's gradient and gives
    /// that at `hidden` `[R, D]`. Logits are recomputed a chunk at a time; `[R, V]` never exists as a whole. The weight's
    /// gradient is summed over the chunks in f32, also where it is bf16.
    pub fn backward(&self, hidden: &Tensor, ids: &Tensor, gradients: &ScoreGradients) -> Tensor {
        let rows = hidden.size()[0];
        let narrow = self.weight.kind() != self.logits_kind();
        let mut at_weight = (narrow && self.weight.requires_grad() && rows > self.chunk)
            .then(|| self.weight.detach().zeros_like().to_kind(self.logits_kind()));
        let at_hidden = chunks(rows, self.chunk).map(|(start, rows)| {
            let part = |x: &Tensor| x.narrow(0, start, rows);
            let leaf = part(hidden).detach().set_requires_grad(true);
            let head = self.with_weight(match &at_weight {
                Some(_) => self.weight.detach().set_requires_grad(true), // has a gradient of its own
                None => self.weight.shallow_clone(),
            });
            let scores = head.score_rows(&leaf, &part(ids), gradients.entropy.is_some());
            let mut loss = (&scores.logprobs * part(&gradients.logprobs)).sum(scores.logprobs.kind());
            if let Some(entropy) = &gradients.entropy {
                loss += (&scores.entropy * part(entropy)).sum(scores.entropy.kind());
            }
            loss.backward();
            if let Some(sum) = &mut at_weight {
                let _ = sum.g_add_(&head.weight.grad());
            }
            leaf.grad()
        });
        let at_hidden = Tensor::cat(&at_hidden.collect::<Vec<_>>(), 0);
        if let Some(sum) = at_weight.map(|sum| sum.to_kind(self.weight.kind())) {
            push(&[(&self.weight, &sum)]);
        }
        at_hidden
    }
}

fn is_few(hidden: &Tensor) -> bool {
    hidden.device() == Device::Cpu && hidden.dim() == 2 && hidden.size()[0] <= FEW_ROWS
}

/// `(start, rows)` of consecutive chunks; of nothing, one empty chunk, so that results keep their shape.
pub(crate) fn chunks(total: i64, chunk: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..total.max(1)).step_by(chunk as usize).map(move |start| (start, chunk.min(total - start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: i64 = 7;

    fn randn<const N: usize>(shape: [i64; N]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64) {
        let difference = (found - expected).abs().max().double_value(&[]);
        assert!(difference <= tolerance, "they differ by {difference}");
    }

    /// Gradients at hidden states and weight of sum(logprobs a + entropy b), by `backward`.
    fn gradients(hidden: &Tensor, weight: &Tensor, backward: impl Fn(&Head, &Tensor) -> Tensor) -> [Tensor; 2] {
        let weight = weight.detach().copy().set_requires_grad(true);
        let hidden = hidden.detach().copy().set_requires_grad(true);
        let at_hidden = backward(&Head::new(&weight, 0.7, &[1, 4]), &hidden);
        [at_hidden, weight.grad()]
    }

    #[test]
    fn chunked_scores_and_gradients_equal_those_of_one_plain_pass() {
        tch::manual_seed(5);
        let (hidden, weight) = (randn([ROWS, 5]), randn([11, 5]));
        let ids = Tensor::from_slice(&[0_i64, 2, 3, 10, 5, 5, 9]);
        for with_entropy in [false, true] {
            let at_scores = ScoreGradients { logprobs: randn([ROWS]), entropy: with_entropy.then(|| randn([ROWS])) };
            let plain = gradients(&hidden, &weight, |head, hidden| {
                let logits =
                    (hidden.matmul(&head.weight.tr()) / 0.7).index_fill(-1, &Tensor::from_slice(&[1_i64, 4]), -1e4);
                let all = logits.log_softmax(-1, Kind::Float);
                let chosen = all.gather(-1, &ids.unsqueeze(-1), false).squeeze_dim(-1);
                let mut loss = (chosen * &at_scores.logprobs).sum(Kind::Float);
                if let Some(at_entropy) = &at_scores.entropy {
                    loss -= ((all.exp() * &all).sum_dim_intlist(-1, false, Kind::Float) * at_entropy).sum(Kind::Float);
                }
                loss.backward();
                hidden.grad()
            });
            for chunk in [1, 2, 3, ROWS, 100] {
                let chunked = gradients(&hidden, &weight, |head, hidden| {
                    let head = Head { chunk, ..head.over_all_tokens() };
                    let head = Head { never: Some(Tensor::from_slice(&[1_i64, 4])), ..head };
                    head.backward(hidden, &ids, &at_scores)
                });
                plain.iter().zip(&chunked).for_each(|(plain, chunked)| assert_close(chunked, plain, 2e-6));
            }
        }
        let head = Head::new(&weight, 0.7, &[1, 4]);
        let whole = head.score(&hidden, &ids);
        let parts = Head { chunk: 3, ..head }.score(&hidden, &ids);
        assert_close(&parts.logprobs, &whole.logprobs, 1e-6);
        assert_close(&parts.entropy, &whole.entropy, 1e-6);
        assert_eq!(parts.logprobs, Head { chunk: 3, ..Head::new(&weight, 0.7, &[1, 4]) }.logprobs(&hidden, &ids));
    }

    #[test]
    fn the_gradient_of_a_bf16_weight_is_summed_in_f32() {
        // Of the same sign and size in every row, so that a sum in bf16 would stand still after a few hundred.
        let (hidden, weight) = (Tensor::ones([600, 2], (Kind::BFloat16, Device::Cpu)), randn([6, 2]));
        let ids = Tensor::zeros([600], (Kind::Int64, Device::Cpu));
        let at_scores = || ScoreGradients { logprobs: Tensor::ones([600], (Kind::Float, Device::Cpu)), entropy: None };
        let weight = weight.to_kind(Kind::BFloat16);
        let [_, expected] = gradients(&hidden.to_kind(Kind::Float), &weight.to_kind(Kind::Float), |head, hidden| {
            head.backward(hidden, &ids, &at_scores())
        });
        let [_, found] = gradients(&hidden, &weight, |head, hidden| {
            let head = Head { chunk: 1, ..head.with_weight(head.weight.shallow_clone()) };
            head.backward(hidden, &ids, &at_scores())
        });
        // What is rounded are the logits, each row's part, and the sum.
        assert_close(&found.to_kind(Kind::Float), &expected, 0.02 * expected.abs().max().double_value(&[]));
    }

    #[test]
    fn logits_in_room_are_the_same_logits() {
        for (kind, temperature, never) in
            [(Kind::Float, 1.0, vec![]), (Kind::Float, 0.7, vec![1, 4]), (Kind::BFloat16, 0.7, vec![2])]
        {
            let head = Head::new(&randn([4100, 5]).to_kind(kind), temperature, &never);
            let mut rooms = head.rooms();
            for rows in [1, FEW_ROWS, FEW_ROWS + 1, 3] {
                let hidden = randn([rows, 5]).to_kind(kind);
                assert_close(&head.logits_within(&hidden, &mut rooms), &head.logits(&hidden), 1e-6);
            }
        }
    }

    #[test]
    fn a_chunk_of_a_released_vocabulary_stays_within_its_bound() {
        for vocabulary in [11, 151_936, held_logits(Device::Cpu) * 2] {
            let head =
                Head::new(&Tensor::zeros([1], (Kind::Float, Device::Cpu)).expand([vocabulary, 1], false), 1.0, &[]);
            let held = head.chunk * vocabulary;
            assert!(
                head.chunk >= 1 && held <= held_logits(Device::Cpu).max(vocabulary),
                "{held} logits of {vocabulary}"
            );
        }
        let covered: Vec<_> = chunks(10, 4).collect();
        assert_eq!(covered, [(0, 4), (4, 4), (8, 2)]);
    }

    #[test]
    fn tokens_that_are_never_sampled_have_no_share_and_entropy_stays_finite() {
        let head = Head::new(&randn([6, 3]), 1.0, &[0, 5]);
        let probabilities = head.logits(&randn([4, 3])).softmax(-1, Kind::Float);
        assert_eq!(probabilities.select(1, 0).sum(Kind::Float).double_value(&[]), 0.0);
        assert_eq!(probabilities.select(1, 5).sum(Kind::Float).double_value(&[]), 0.0);
        let scores = head.score(&randn([4, 3]), &Tensor::from_slice(&[1_i64, 2, 3, 4]));
        let entropy = Vec::<f64>::try_from(scores.entropy).unwrap();
        assert!(entropy.iter().all(|entropy| (0.0..=4.0_f64.ln() + 1e-6).contains(entropy)), "{entropy:?}");
    }

    #[test]
    fn no_rows_have_no_scores_and_no_gradient() {
        let head = Head::new(&randn([6, 3]).set_requires_grad(true), 1.0, &[]);
        let (hidden, none) = (randn([0, 3]), Tensor::zeros([0], (Kind::Int64, Device::Cpu)));
        let scores = head.score(&hidden, &none);
        assert_eq!((scores.logprobs.size(), scores.entropy.size()), (vec![0], vec![0]));
        let at_hidden = head.backward(&hidden, &none, &ScoreGradients { logprobs: scores.logprobs, entropy: None });
        assert_eq!(at_hidden.size(), [0, 3]);
        assert_eq!(head.weight.grad().abs().sum(Kind::Float).double_value(&[]), 0.0);
    }
}

//! Divergence of a group's token distributions, computed from hidden states a chunk of positions at a time.

use foveate_algo::{AlgoError, Divergence, TokenDistributions};
use ndarray::{Array1, ArrayView2};
use tch::{Kind, Tensor, no_grad};

use crate::head::{Head, chunks};

/// Bound on the log-ratio in [`Divergence::LogK3`] (released TW-GRPO).
const LOG_RATIO_BOUND: f64 = 11.0;

/// Log-probs held at a time: positions x completions x vocabulary.
const CHUNK_ELEMENTS: i64 = 1 << 24;

/// The distributions of one group, kept as hidden states.
#[derive(Debug)]
pub struct GroupDistributions {
    hidden: Tensor, // [G, T, D]
    head: Head,
    lengths: Tensor, // [G] i64
}

impl GroupDistributions {
    /// `hidden` `[G, T, D]` predicts the tokens that `mask` `[G, T]` marks. The distributions are the model's own, over
    /// its whole vocabulary, at the head's temperature.
    pub fn new(hidden: &Tensor, mask: &Tensor, head: &Head) -> Self {
        Self {
            hidden: hidden.detach(),
            head: head.over_all_tokens(),
            lengths: mask.to_kind(Kind::Int64).sum_dim_intlist(-1, false, Kind::Int64),
        }
    }

    /// Log-probs at positions `[G, J]`: `[G, J, V]`, uniform past a completion's end.
    fn log_probs(&self, positions: &Tensor) -> Tensor {
        let (width, length) = (self.hidden.size()[2], self.hidden.size()[1]);
        let index = positions.clamp_max(length - 1).unsqueeze(-1).expand([-1, -1, width], false);
        let logits = self.head.logits(&self.hidden.gather(1, &index, false));
        let ended = positions.ge_tensor(&self.lengths.unsqueeze(-1)).unsqueeze(-1);
        logits.masked_fill(&ended, 0.0).log_softmax(-1, Kind::Float)
    }
}

/// D of each position from log-probs `[G, J, V]`.
fn divergence(log_probs: &Tensor, kind: Divergence) -> Tensor {
    let count = log_probs.size()[0] as f64;
    match kind {
        // TW-GRPO eq. 4: the sum over completions of KL to their mean.
        Divergence::Kl => {
            let log_mean = log_probs.logsumexp([0].as_slice(), true) - count.ln();
            (log_probs.exp() * (log_probs - log_mean)).sum_dim_intlist([0, 2].as_slice(), false, Kind::Float)
        }
        Divergence::LogK3 => {
            let middle = log_probs.mean_dim([0].as_slice(), true, Kind::Float);
            let d = (middle - log_probs).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND);
            (d.expm1() - d).sum_dim_intlist([0, 2].as_slice(), false, Kind::Float) / count
        }
    }
}

impl TokenDistributions for GroupDistributions {
    fn divergence(&self, positions: ArrayView2<usize>, kind: Divergence) -> Result<Array1<f64>, AlgoError> {
        let (count, ranks) = (self.hidden.size()[0], positions.ncols() as i64);
        if positions.nrows() as i64 != count {
            return Err(AlgoError::Shape {
                what: "positions",
                expected: vec![count as usize, positions.ncols()],
                found: positions.shape().to_vec(),
            });
        }
        let index: Vec<i64> = positions.iter().map(|p| i64::try_from(*p).unwrap_or(i64::MAX)).collect();
        let index = Tensor::from_slice(&index).view([count, ranks]).to_device(self.hidden.device());
        let chunk = (CHUNK_ELEMENTS / (count * self.head.vocabulary())).max(1);
        let parts = no_grad(|| {
            chunks(ranks, chunk).map(|(start, n)| divergence(&self.log_probs(&index.narrow(1, start, n)), kind)).collect::<Vec<_>>()
        });
        let values = Vec::<f64>::try_from(Tensor::cat(&parts, 0)).unwrap_or_default();
        Ok(Array1::from_vec(values))
    }
}

#[cfg(test)]
mod tests {
    use foveate_algo::RecordedDistributions;
    use ndarray::{Array2, Array3, array};
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn divergence_from_hidden_states_equals_the_recorded_one() {
        tch::manual_seed(3);
        let (count, length, width, vocabulary) = (4, 6, 5, 11);
        let hidden = Tensor::randn([count, length, width], (Kind::Float, Device::Cpu));
        let weight = Tensor::randn([vocabulary, width], (Kind::Float, Device::Cpu));
        let head = Head::new(&weight, 0.7, &[2, 3]);
        let mask = Array2::from_shape_fn((4, 6), |(g, t)| t < [6, 1, 4, 5][g]);
        let flags: Vec<bool> = mask.iter().copied().collect();
        let group = GroupDistributions::new(&hidden, &Tensor::from_slice(&flags).view([count, length]), &head);

        let logits = Vec::<f32>::try_from(head.over_all_tokens().logits(&hidden).flatten(0, -1)).unwrap();
        let logits = Array3::from_shape_vec((4, 6, 11), logits).unwrap();
        let recorded = RecordedDistributions::new(logits, &mask).unwrap();
        let positions = array![[0, 1, 5, 3], [0, 2, 5, 99], [1, 0, 3, 4], [usize::MAX, 1, 2, 3]];
        for kind in [Divergence::Kl, Divergence::LogK3] {
            let found = group.divergence(positions.view(), kind).unwrap();
            let expected = recorded.divergence(positions.view(), kind).unwrap();
            for (a, b) in found.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-5 * b.abs().max(1.0), "{kind:?}: {found} {expected}");
            }
        }
    }
}

//! Divergence of a group's token distributions, and their distance from those under a changed video, computed from hidden
//! states a chunk of positions at a time.

use foveate_algo::{AlgoError, Counterfactual, Distance, Divergence, TokenDistributions};
use ndarray::{Array1, Array2, ArrayView2};
use tch::{Kind, Tensor, no_grad};

use crate::head::{Head, chunks};

/// Bound on the log-ratio in [`Divergence::LogK3`] (released TW-GRPO).
const LOG_RATIO_BOUND: f64 = 11.0;

/// Log-probs held at a time, f64: positions x completions x vocabulary.
const CHUNK_ELEMENTS: i64 = 1 << 23;

/// The distributions of one group, kept as hidden states.
#[derive(Debug)]
pub struct GroupDistributions {
    hidden: Tensor,            // [G, T, D]
    masked: Option<Tensor>,    // [G, T, D]
    reordered: Option<Tensor>, // [G, T, D]
    head: Head,
    mask: Tensor,    // [G, T] bool
    lengths: Tensor, // [G] i64
    chunk: i64,      // positions of all completions whose log-probs are held at a time
}

impl GroupDistributions {
    /// `hidden` `[G, T, D]` predicts the tokens that `mask` `[G, T]` marks. The distributions are the model's own, over
    /// its whole vocabulary, at the head's temperature.
    pub fn new(hidden: &Tensor, mask: &Tensor, head: &Head) -> Self {
        Self {
            hidden: hidden.detach(),
            masked: None,
            reordered: None,
            head: head.over_all_tokens(),
            mask: mask.to_kind(Kind::Bool),
            lengths: mask.to_kind(Kind::Int64).sum_dim_intlist(-1, false, Kind::Int64),
            chunk: (CHUNK_ELEMENTS / (hidden.size()[0] * head.vocabulary()).max(1)).max(1),
        }
    }

    /// The same with the hidden states `[G, T, D]` that predict the same tokens under a changed video.
    pub fn with(mut self, under: Counterfactual, hidden: &Tensor) -> Self {
        let place = match under {
            Counterfactual::Masked => &mut self.masked,
            Counterfactual::Reordered => &mut self.reordered,
        };
        *place = Some(hidden.detach());
        self
    }

    /// The logits `[G, T, V]` of those under a changed video, as large as that is; `None` without its hidden states.
    pub fn logits(&self, under: Counterfactual) -> Option<Tensor> {
        let hidden = match under {
            Counterfactual::Masked => self.masked.as_ref(),
            Counterfactual::Reordered => self.reordered.as_ref(),
        };
        hidden.map(|hidden| self.head.logits(hidden))
    }

    /// Log-probs at positions `[G, J]`: `[G, J, V]` f64, uniform past a completion's end.
    fn log_probs(&self, positions: &Tensor) -> Tensor {
        let (width, length) = (self.hidden.size()[2], self.hidden.size()[1]);
        let index = positions.clamp_max(length - 1).unsqueeze(-1).expand([-1, -1, width], false);
        let logits = self.head.logits(&self.hidden.gather(1, &index, false));
        let ended = positions.ge_tensor(&self.lengths.unsqueeze(-1)).unsqueeze(-1);
        logits.masked_fill(&ended, 0.0).log_softmax(-1, Kind::Double)
    }
}

/// D of each position, `[J]`, from log-probs `[G, J, V]`, all f64: divergences of 4e5 may differ by 30 only.
fn divergence(log_probs: &Tensor, kind: Divergence) -> Tensor {
    let count = log_probs.size()[0] as f64;
    match kind {
        // TW-GRPO eq. 4: the sum over completions of KL to their mean.
        Divergence::Kl => {
            let log_mean = log_probs.logsumexp([0].as_slice(), true) - count.ln();
            (log_probs.exp() * (log_probs - log_mean)).sum_dim_intlist([0, 2].as_slice(), false, Kind::Double)
        }
        Divergence::LogK3 => {
            let middle = log_probs.mean_dim([0].as_slice(), true, Kind::Double);
            let d = (middle - log_probs).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND);
            (d.expm1() - d).sum_dim_intlist([0, 2].as_slice(), false, Kind::Double) / count
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
        let part = |(start, n)| divergence(&self.log_probs(&index.narrow(1, start, n)), kind);
        let parts = no_grad(|| chunks(ranks, self.chunk).map(part).collect::<Vec<_>>());
        values(&Tensor::cat(&parts, 0))
    }

    fn distance(&self, under: Counterfactual, kind: Distance) -> Result<Array2<f32>, AlgoError> {
        let changed = match under {
            Counterfactual::Masked => self.masked.as_ref(),
            Counterfactual::Reordered => self.reordered.as_ref(),
        };
        let changed = changed.ok_or(AlgoError::NoCounterfactual { under })?;
        let of = distance_of(kind).ok_or(AlgoError::NotOfDistributions { kind })?;
        let (rows, columns) = (self.hidden.size()[0], self.hidden.size()[1]);
        let tokens = self.mask.flatten(0, -1).nonzero().squeeze_dim(-1); // [N]
        let distances = no_grad(|| {
            let log_probs = |hidden: &Tensor, at: &Tensor| {
                self.head.logits(&hidden.flatten(0, 1).index_select(0, at)).log_softmax(-1, Kind::Double)
            };
            let all = Tensor::zeros([rows * columns], (Kind::Float, self.hidden.device()));
            // Two sets of distributions are held instead of one.
            for (start, n) in chunks(tokens.size()[0], (self.chunk * rows / 2).max(1)) {
                let at = tokens.narrow(0, start, n);
                let distance = of(&log_probs(&self.hidden, &at), &log_probs(changed, &at));
                let _ = all.shallow_clone().index_copy_(0, &at, &distance.to_kind(Kind::Float));
            }
            all
        });
        let values = Vec::<f32>::try_from(&distances).map_err(|error| AlgoError::Distributions(Box::new(error)))?;
        Array2::from_shape_vec((rows as usize, columns as usize), values)
            .map_err(|error| AlgoError::Distributions(Box::new(error)))
    }
}

/// The distance `[N]` from distributions to others, both given as log-probs `[N, V]` f64.
fn distance_of(kind: Distance) -> Option<fn(&Tensor, &Tensor) -> Tensor> {
    fn sum(x: Tensor) -> Tensor {
        x.sum_dim_intlist(-1, false, Kind::Double)
    }
    // 0 log 0 is 0.
    fn relative(from: &Tensor, to: &Tensor) -> Tensor {
        sum((from.exp() * (from - to)).masked_fill(&from.eq(f64::NEG_INFINITY), 0.0))
    }
    Some(match kind {
        Distance::LogProb => return None,
        Distance::Kl => relative,
        Distance::Js => |p, q| {
            let middle = p.logaddexp(q) - std::f64::consts::LN_2;
            (relative(p, &middle) + relative(q, &middle)) / 2.0
        },
        Distance::L1 => |p, q| sum((p.exp() - q.exp()).abs()),
        Distance::L2 => |p, q| sum((p.exp() - q.exp()).square()).sqrt(),
        Distance::Cosine => |p, q| 1.0 - sum((p + q).exp()) / (sum((p * 2.0).exp()) * sum((q * 2.0).exp())).sqrt(),
        Distance::Hellinger => |p, q| (sum(((p / 2.0).exp() - (q / 2.0).exp()).square()) / 2.0).sqrt(),
    })
}

fn values(tensor: &Tensor /* [J] */) -> Result<Array1<f64>, AlgoError> {
    let values = Vec::<f64>::try_from(tensor).map_err(|error| AlgoError::Distributions(Box::new(error)))?;
    Ok(Array1::from_vec(values))
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
        let group = GroupDistributions::new(&hidden, &mask_tensor(&mask), &head);

        let logits = Vec::<f32>::try_from(head.over_all_tokens().logits(&hidden).flatten(0, -1)).unwrap();
        let logits = Array3::from_shape_vec((4, 6, 11), logits).unwrap();
        let recorded = RecordedDistributions::new(logits, &mask).unwrap();
        let positions = array![[0, 1, 5, 3], [0, 2, 5, 99], [1, 0, 3, 4], [usize::MAX, 1, 2, 3]];
        for kind in [Divergence::Kl, Divergence::LogK3] {
            let found = group.divergence(positions.view(), kind).unwrap();
            let expected = recorded.divergence(positions.view(), kind).unwrap();
            assert_close(&found, &expected, 1e-5);
            for chunk in [1, 3] {
                let chunked =
                    GroupDistributions { chunk, ..GroupDistributions::new(&hidden, &mask_tensor(&mask), &head) };
                assert_close(&chunked.divergence(positions.view(), kind).unwrap(), &found, 1e-6);
            }
        }
    }

    fn assert_close(found: &Array1<f64>, expected: &Array1<f64>, relative: f64) {
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < relative * b.abs().max(1.0), "{found}, expected {expected}");
        }
    }

    fn mask_tensor(mask: &Array2<bool>) -> Tensor {
        let flags: Vec<bool> = mask.iter().copied().collect();
        Tensor::from_slice(&flags).view([mask.nrows() as i64, mask.ncols() as i64])
    }

    #[test]
    fn large_divergences_that_differ_little_keep_their_differences() {
        // Logits so far apart that thousands of log-ratios reach their bound: sums of 4e8 whose differences matter.
        tch::manual_seed(4);
        let (count, length, vocabulary) = (2, 5, 8192);
        let logits = Tensor::randn([count, length, 1], (Kind::Float, Device::Cpu)) * 1e-3;
        let signs = Tensor::randn([1, vocabulary], (Kind::Float, Device::Cpu)).sign() * 30.0;
        let hidden = logits + Tensor::from_slice(&[1.0_f32, -1.0]).view([2, 1, 1]);
        let weight = signs.tr();
        let head = Head::new(&weight, 1.0, &[]);
        let mask = Array2::from_elem((2, 5), true);
        let group = GroupDistributions::new(&hidden, &mask_tensor(&mask), &head);
        let positions = array![[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]];

        let logits = Vec::<f32>::try_from(head.logits(&hidden).flatten(0, -1)).unwrap();
        let logits = Array3::from_shape_vec((2, 5, vocabulary as usize), logits).unwrap();
        let recorded = RecordedDistributions::new(logits, &mask).unwrap();
        let found = group.divergence(positions.view(), Divergence::LogK3).unwrap();
        let expected = recorded.divergence(positions.view(), Divergence::LogK3).unwrap();
        assert!(expected.iter().all(|d| *d > 1e7), "{expected}");
        assert_close(&found, &expected, 1e-12);
    }

    #[test]
    fn distances_from_hidden_states_equal_the_recorded_ones_whatever_the_chunk() {
        tch::manual_seed(5);
        let random = || Tensor::randn([4, 6, 5], (Kind::Float, Device::Cpu));
        let (hidden, masked, reordered) = (random(), random(), random());
        let head = Head::new(&Tensor::randn([11, 5], (Kind::Float, Device::Cpu)), 0.7, &[2, 3]);
        let mask = Array2::from_shape_fn((4, 6), |(g, t)| t < [6, 1, 4, 5][g]);
        let group = |chunk| GroupDistributions {
            chunk,
            ..GroupDistributions::new(&hidden, &mask_tensor(&mask), &head)
                .with(Counterfactual::Masked, &masked)
                .with(Counterfactual::Reordered, &reordered)
        };
        let logits = |hidden: &Tensor| {
            let logits = Vec::<f32>::try_from(head.over_all_tokens().logits(hidden).flatten(0, -1)).unwrap();
            Array3::from_shape_vec((4, 6, 11), logits).unwrap()
        };
        let recorded = RecordedDistributions::new(logits(&hidden), &mask)
            .and_then(|group| group.with(Counterfactual::Masked, logits(&masked)))
            .and_then(|group| group.with(Counterfactual::Reordered, logits(&reordered)))
            .unwrap();
        for under in [Counterfactual::Masked, Counterfactual::Reordered] {
            for kind in [Distance::Kl, Distance::Js, Distance::L1, Distance::L2, Distance::Cosine, Distance::Hellinger]
            {
                let expected = recorded.distance(under, kind).unwrap();
                for chunk in [1, 2, 100] {
                    let found = group(chunk).distance(under, kind).unwrap();
                    let near = found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5 * b.abs().max(1.0));
                    assert!(near, "{under} {kind:?}: {found}, expected {expected}");
                    assert!(mask.iter().zip(&found).all(|(token, distance)| *token == (*distance != 0.0)));
                }
            }
        }
    }

    #[test]
    fn a_distance_needs_its_counterfactual_and_distributions() {
        let head = Head::new(&Tensor::ones([4, 2], (Kind::Float, Device::Cpu)), 1.0, &[]);
        let hidden = Tensor::zeros([2, 3, 2], (Kind::Float, Device::Cpu));
        let group = GroupDistributions::new(&hidden, &mask_tensor(&Array2::from_elem((2, 3), true)), &head);
        let error = group.distance(Counterfactual::Reordered, Distance::Kl).unwrap_err();
        assert!(error.to_string().contains("reordered"), "{error}");
        let error = group.with(Counterfactual::Masked, &hidden).distance(Counterfactual::Masked, Distance::LogProb);
        assert!(matches!(error, Err(AlgoError::NotOfDistributions { .. })));
    }

    #[test]
    fn no_positions_have_no_divergence_and_rows_must_be_the_groups() {
        let head = Head::new(&Tensor::ones([4, 2], (Kind::Float, Device::Cpu)), 1.0, &[]);
        let hidden = Tensor::zeros([2, 3, 2], (Kind::Float, Device::Cpu));
        let group = GroupDistributions::new(&hidden, &mask_tensor(&Array2::from_elem((2, 3), true)), &head);
        assert_eq!(group.divergence(Array2::zeros((2, 0)).view(), Divergence::Kl).unwrap().len(), 0);
        let error = group.divergence(Array2::zeros((3, 1)).view(), Divergence::Kl).unwrap_err();
        assert!(matches!(error, AlgoError::Shape { what: "positions", .. }), "{error}");
    }

    #[test]
    fn what_libtorch_refuses_is_an_error_of_the_distributions() {
        let error = values(&Tensor::zeros([2, 2], (Kind::Double, Device::Cpu))).unwrap_err();
        assert!(matches!(error, AlgoError::Distributions(_)), "{error}");
    }

    #[test]
    fn held_log_probs_stay_within_their_bound() {
        let weight = Tensor::zeros([1], (Kind::Float, Device::Cpu)).expand([151_936, 1], false);
        let hidden = Tensor::zeros([8, 64, 1], (Kind::Float, Device::Cpu));
        let group = GroupDistributions::new(
            &hidden,
            &mask_tensor(&Array2::from_elem((8, 64), true)),
            &Head::new(&weight, 1.0, &[]),
        );
        assert!(group.chunk >= 1 && group.chunk * 8 * 151_936 <= CHUNK_ELEMENTS);
    }
}

//! `trainer explain`: what an algorithm makes of one recorded group.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, anyhow, ensure};
use foveate_algo::{
    Algorithm, Counterfactual, Credit, GroupShape, MediaKind, Needs, Observations, RecordedDistributions, ScoredGroup,
    factors,
};
use foveate_policy::{SurrogateInputs, read_safetensors, surrogate_loss, write_safetensors};
use ndarray::{Array1, Array2, Array3, ArrayD, Dimension, Zip};
use tch::{Kind, Tensor};

use crate::{
    cli::ExplainArgs,
    config::resolve_plain,
    error::{UserContext, existing, user_error},
};

/// Reads `args.rollouts`, gives its tokens the credit of `args.algo` and writes credit, loss and gradient.
///
/// # Errors
/// A user error if the file lacks a tensor that the algorithm needs, or its tensors disagree in shape.
pub fn run(args: &ExplainArgs) -> Result<()> {
    existing("--rollouts", &args.rollouts)?;
    let config = resolve_plain(&args.settings.layers(Some(&args.algo)))?;
    let algorithm = config.algo.algorithm().user()?;
    let group = Recorded::read(&args.rollouts).user()?;
    let explained = group.explain(algorithm.as_ref()).with_context(|| args.rollouts.display().to_string()).user()?;
    let tensors = explained.iter().map(|(name, tensor)| (name.as_str(), tensor));
    write_safetensors(&args.output, tensors)?;
    Ok(())
}

/// The tensors of one recorded group.
#[derive(Debug)]
pub struct Recorded {
    tensors: BTreeMap<String, Tensor>,
}

impl Recorded {
    /// Reads a recorded group.
    ///
    /// # Errors
    /// If the file is not a readable safetensors file.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self { tensors: read_safetensors(path)? })
    }

    fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| anyhow!("tensor {name} is missing"))
    }

    fn array<D: Dimension>(&self, name: &str) -> Result<ndarray::Array<f32, D>> {
        let tensor = self.get(name)?.to_kind(Kind::Float).contiguous();
        let array: ArrayD<f32> = (&tensor).try_into()?;
        let shape = array.shape().to_vec();
        array
            .into_dimensionality::<D>()
            .map_err(|_| anyhow!("{name}: expected {} axes, found shape {shape:?}", D::NDIM.unwrap_or_default()))
    }

    fn scored(&self) -> Result<ScoredGroup> {
        let mask: Array2<f32> = self.array("completion_mask")?;
        let rewards: Array1<f32> = self.array("rewards")?;
        let truncated = match self.tensors.contains_key("truncated") {
            true => self.array::<ndarray::Ix1>("truncated")?.mapv(|value| value != 0.0),
            false => Array1::from_elem(rewards.len(), false),
        };
        Ok(ScoredGroup {
            rewards,
            accuracy: self.array("accuracy")?,
            mask: mask.mapv(|value| value != 0.0),
            truncated,
            media: self.media()?,
        })
    }

    /// What the prompt showed: a video, unless `has_video` [1] is 0.
    fn media(&self) -> Result<MediaKind> {
        if !self.tensors.contains_key("has_video") {
            return Ok(MediaKind::Video);
        }
        let flag: Array1<f32> = self.array("has_video")?;
        Ok(if flag.iter().any(|value| *value != 0.0) { MediaKind::Video } else { MediaKind::Image })
    }

    fn distributions(&self, needs: &Needs, mask: &Array2<bool>) -> Result<RecordedDistributions> {
        let mut distributions = RecordedDistributions::new(self.array("logits")?, mask)?;
        if needs.masked.is_some() {
            distributions = distributions.with(Counterfactual::Masked, self.array("masked_logits")?)?;
        }
        if needs.reordered.is_some() {
            distributions = distributions.with(Counterfactual::Reordered, self.array("shuffled_logits")?)?;
        }
        Ok(distributions)
    }

    /// The credit of the group's tokens under an algorithm, its loss and the gradient at the log-probs, by name.
    ///
    /// # Errors
    /// If a tensor that the algorithm needs is missing or has another shape.
    pub fn explain(&self, algorithm: &dyn Algorithm) -> Result<BTreeMap<String, Tensor>> {
        let group = self.scored()?;
        let needs = algorithm.needs(group.media);
        let distributions = needs.distributions.then(|| self.distributions(&needs, &group.mask)).transpose()?;
        // Of distributions under a changed video everything is computed from them.
        let wanted = |needed: bool, name: &'static str| needed.then(|| self.array(name)).transpose();
        let seen = Observations {
            frame_attention: needs.frame_attention.map(|_| self.array("frame_attention")).transpose()?,
            distributions: distributions.as_ref().map(|d| d as _),
            entropy: match needs.entropy {
                true => Some(entropy(&self.array("logits")?, &group.mask)),
                false => None,
            },
            sampling_logprobs: wanted(needs.sampling_logprobs, "old_logprobs")?,
            masked_logprobs: wanted(needs.masked.is_some() && !needs.distributions, "masked_logprobs")?,
            reordered_logprobs: wanted(needs.reordered.is_some() && !needs.distributions, "shuffled_logprobs")?,
            contrast_accuracy: needs.contrast.then(|| self.array("shuffled_accuracy")).transpose()?,
        };
        let credit = algorithm.credit(&group, &seen)?;
        let mut output = self.loss(algorithm, &group, &credit)?;
        output.insert("shaped_rewards".into(), Tensor::try_from(&credit.rewards)?);
        output.insert("advantages".into(), Tensor::try_from(&credit.advantages)?);
        output.insert("token_weights".into(), Tensor::try_from(&credit.weights)?);
        for (name, value) in credit.details.iter().filter(|(_, value)| value.ndim() > 0) {
            let tensor = Tensor::try_from(value)?;
            let indices = *name == "crucial_frames";
            output.insert((*name).into(), if indices { tensor.to_kind(Kind::Int64) } else { tensor });
        }
        Ok(output)
    }

    fn loss(
        &self,
        algorithm: &dyn Algorithm,
        group: &ScoredGroup,
        credit: &Credit,
    ) -> Result<BTreeMap<String, Tensor>> {
        let objective = algorithm.objective();
        let shape: Vec<i64> = group.mask.shape().iter().map(|side| *side as i64).collect();
        let per_token = |name: &str| {
            let tensor = self.get(name)?.to_kind(Kind::Float);
            ensure!(tensor.size() == shape, "{name}: expected shape {shape:?}, found {:?}", tensor.size());
            anyhow::Ok(tensor)
        };
        let factors = factors(&objective, &[GroupShape::of(group, credit)]);
        let flags: Vec<bool> = group.mask.iter().copied().collect();
        let logprobs = per_token("logprobs")?.set_requires_grad(true);
        let reference = (objective.kl_coef != 0.0).then(|| per_token("ref_logprobs")).transpose()?;
        // The gradient is taken at the log-probs; a recorded group's entropy is a constant to them.
        let entropy = match objective.entropy_coef != 0.0 {
            true => Some(Tensor::try_from(&entropy(&self.array("logits")?, &group.mask))?),
            false => None,
        };
        let surrogate = surrogate_loss(&SurrogateInputs {
            objective: &objective,
            logprobs: &logprobs,
            old_logprobs: &per_token("old_logprobs")?,
            ref_logprobs: reference.as_ref(),
            entropy: entropy.as_ref(),
            advantages: &Tensor::try_from(&credit.advantages)?,
            weights: &Tensor::try_from(&credit.weights)?,
            factors: &Tensor::try_from(factors.first().context("no factors")?)?,
            mask: &Tensor::from_slice(&flags).view(shape.as_slice()),
        });
        if !surrogate.loss.requires_grad() {
            return Err(user_error("the loss does not depend on the log-probs"));
        }
        surrogate.loss.backward();
        Ok(BTreeMap::from([
            ("loss".to_owned(), surrogate.loss.detach().view([1])),
            ("grad_logprobs".to_owned(), logprobs.grad()),
        ]))
    }
}

/// Entropy in nats of each token's distribution, `[G, T]`; 0 on padding.
fn entropy(logits: &Array3<f32>, mask: &Array2<bool>) -> Array2<f32> {
    Zip::indexed(mask).map_collect(|(i, t), token| {
        if !token {
            return 0.0;
        }
        let logits = logits.slice(ndarray::s![i, t, ..]).mapv(f64::from);
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights = logits.mapv(|logit| (logit - largest).exp());
        let total = weights.sum();
        let cross: f64 = weights.iter().zip(&logits).filter(|(w, _)| **w > 0.0).map(|(w, l)| w * (l - largest)).sum();
        (total.ln() - cross / total) as f32
    })
}

//! One recorded group: `rollouts/step-N/group-K.safetensors`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use foveate_algo::{
    Algorithm, Counterfactual, Credit, MediaKind, Needs, Observations, RecordedDistributions, ScoredGroup,
};
use foveate_policy::read_safetensors;
use ndarray::{Array, Array1, Array2, Array3, ArrayD, Dimension, Ix1, Ix2, Ix3, Zip, s};
use tch::{Kind, Tensor};

/// A recorded group does not hold what was asked for.
#[derive(Debug)]
pub struct MissingTensor {
    path: PathBuf,
    /// The tensor's name.
    pub name: String,
}

impl fmt::Display for MissingTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: tensor {} is missing", self.path.display(), self.name)?;
        match self.name.as_str() {
            "logits" => write!(f, " (recorded with run.rollout_contents = \"logits\")"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for MissingTensor {}

/// The tensors of one recorded group, by name.
#[derive(Debug)]
pub struct RecordedGroup {
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
}

impl RecordedGroup {
    /// Reads a recorded group.
    ///
    /// # Errors
    /// The file is not a readable safetensors file.
    pub fn read(path: &Path) -> Result<Self> {
        let tensors = read_safetensors(path).with_context(|| path.display().to_string())?;
        Ok(Self { path: path.to_owned(), tensors })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it holds a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        let missing = || MissingTensor { path: self.path.clone(), name: name.to_owned() };
        Ok(self.tensors.get(name).ok_or_else(missing)?)
    }

    /// A tensor as f32.
    ///
    /// # Errors
    /// It is not there, or has another number of axes.
    pub fn array<D: Dimension>(&self, name: &str) -> Result<Array<f32, D>> {
        let path = self.path.display();
        let tensor = self.tensor(name)?;
        let array: ArrayD<f32> = (&tensor.to_kind(Kind::Float).contiguous()).try_into()?;
        let found = array.shape().to_vec();
        let expected = D::NDIM.unwrap_or_default();
        array
            .into_dimensionality()
            .map_err(|_| anyhow!("{path}: {name}: expected {expected} axes, found shape {found:?}"))
    }

    /// A tensor `[G, T]` that fits the group's tokens.
    ///
    /// # Errors
    /// It is not there, or has another shape.
    pub fn per_token(&self, name: &str, group: &ScoredGroup) -> Result<Array2<f32>> {
        let array = self.array::<Ix2>(name)?;
        self.agree(name, group.mask.shape(), array.shape())?;
        Ok(array)
    }

    /// Frame attention `[G, T, F]` of the group's tokens.
    ///
    /// # Errors
    /// It is not there, or has another shape.
    pub fn frame_attention(&self, group: &ScoredGroup) -> Result<Array3<f32>> {
        let attention = self.array::<Ix3>("frame_attention")?;
        self.agree("frame_attention", group.mask.shape(), &attention.shape()[..2])?;
        Ok(attention)
    }

    /// The group's scores.
    ///
    /// # Errors
    /// One of them is missing, or their shapes disagree.
    pub fn scored(&self) -> Result<ScoredGroup> {
        let truncated = |completions| match self.has("truncated") {
            true => Ok(self.array::<Ix1>("truncated")?.mapv(|value| value != 0.0)),
            false => anyhow::Ok(Array1::from_elem(completions, false)),
        };
        let rewards: Array1<f32> = self.array("rewards")?;
        let scored = ScoredGroup {
            truncated: truncated(rewards.len())?,
            rewards,
            accuracy: self.array("accuracy")?,
            mask: self.array::<Ix2>("completion_mask")?.mapv(|value| value != 0.0),
            media: self.media()?,
        };
        scored.lengths().with_context(|| self.path.display().to_string())?;
        Ok(scored)
    }

    /// What the prompt showed: a video, unless `has_video` `[1]` is 0; then images, unless `has_media` `[1]` is 0 too.
    fn media(&self) -> Result<MediaKind> {
        let flag = |name| -> Result<bool> {
            Ok(!self.has(name) || self.array::<Ix1>(name)?.iter().any(|value| *value != 0.0))
        };
        Ok(match (flag("has_video")?, flag("has_media")?) {
            (true, _) => MediaKind::Video,
            (false, true) => MediaKind::Image,
            (false, false) => MediaKind::Text,
        })
    }

    /// The credit of the group's tokens under an algorithm.
    ///
    /// # Errors
    /// A tensor that the algorithm needs is missing or has another shape.
    pub fn credit(&self, algorithm: &dyn Algorithm, group: &ScoredGroup) -> Result<Credit> {
        let needs = algorithm.needs(group.media);
        let distributions = needs.distributions.then(|| self.distributions(&needs, &group.mask)).transpose()?;
        // Of distributions under a changed video everything is computed from them.
        let logprobs_change = !needs.distributions;
        let wanted = |needed: bool, name: &'static str| needed.then(|| self.array(name)).transpose();
        let seen = Observations {
            frame_attention: needs.frame_attention.map(|_| self.array("frame_attention")).transpose()?,
            distributions: distributions.as_ref().map(|distributions| distributions as _),
            entropy: needs.entropy.then(|| self.entropy(&group.mask)).transpose()?,
            sampling_logprobs: wanted(needs.sampling_logprobs, "old_logprobs")?,
            masked_logprobs: wanted(needs.masked.is_some() && logprobs_change, "masked_logprobs")?,
            reordered_logprobs: wanted(needs.reordered.is_some() && logprobs_change, "shuffled_logprobs")?,
            contrast_accuracy: needs.contrast.then(|| self.array("shuffled_accuracy")).transpose()?,
        };
        algorithm.credit(group, &seen).with_context(|| self.path.display().to_string())
    }

    /// The group's token distributions, with those under a changed video that are needed.
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

    /// Entropy in nats of each token's distribution, `[G, T]`: as it was recorded, or else that of the logits. What is sampled
    /// from leaves vision tokens out, which logits hold.
    ///
    /// # Errors
    /// Neither is there, or it has another shape.
    pub fn entropy(&self, mask: &Array2<bool>) -> Result<Array2<f32>> {
        if self.has("entropy") {
            return self.array("entropy");
        }
        let logits = self.array::<Ix3>("logits")?;
        self.agree("logits", mask.shape(), &logits.shape()[..2])?;
        Ok(Zip::indexed(mask).map_collect(|(i, t), token| match token {
            true => entropy(&logits.slice(s![i, t, ..]).mapv(f64::from)) as f32,
            false => 0.0,
        }))
    }

    /// Token ids of each completion, without padding.
    ///
    /// # Errors
    /// They are not there, or do not fit the group.
    pub fn completions(&self, group: &ScoredGroup) -> Result<Vec<Vec<i64>>> {
        let ids = self.tensor("completion_ids")?;
        let shape: Vec<usize> = ids.size().iter().map(|side| *side as usize).collect();
        self.agree("completion_ids", group.mask.shape(), &shape)?;
        let rows = (0..).zip(group.lengths()?);
        let row = |(row, length): (i64, usize)| {
            Ok(Vec::<i64>::try_from(ids.get(row).narrow(0, 0, length as i64).to_kind(Kind::Int64))?)
        };
        rows.map(row).collect()
    }

    /// An error unless a tensor has the shape expected.
    ///
    /// # Errors
    /// It has not.
    pub fn agree(&self, name: &str, expected: &[usize], found: &[usize]) -> Result<()> {
        ensure!(expected == found, "{}: {name}: expected shape {expected:?}, found {found:?}", self.path.display());
        Ok(())
    }
}

/// Entropy in nats of the distribution with these logits.
fn entropy(logits: &Array1<f64>) -> f64 {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights = logits.mapv(|logit| (logit - largest).exp());
    let total = weights.sum();
    let cross: f64 = weights.iter().zip(logits).filter(|(w, _)| **w > 0.0).map(|(w, l)| w * (l - largest)).sum();
    total.ln() - cross / total
}

#[cfg(test)]
mod tests {
    use foveate_policy::write_safetensors;

    use super::*;

    fn read(tensors: &[(&str, Tensor)]) -> (tempfile::TempDir, RecordedGroup) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("group-0.safetensors");
        write_safetensors(&path, tensors.iter().map(|(name, tensor)| (*name, tensor))).unwrap();
        let group = RecordedGroup::read(&path).unwrap();
        (folder, group)
    }

    fn scores() -> Vec<(&'static str, Tensor)> {
        vec![
            ("rewards", Tensor::from_slice(&[1.0f32, 0.0])),
            ("accuracy", Tensor::from_slice(&[1.0f32, 0.0])),
            ("completion_mask", Tensor::from_slice2(&[[1i64, 1, 1], [1, 0, 0]])),
            ("completion_ids", Tensor::from_slice2(&[[5i64, 6, 2], [2, 9, 9]])),
        ]
    }

    #[test]
    fn completions_come_without_their_padding() {
        let (_folder, group) = read(&scores());
        let scored = group.scored().unwrap();
        assert_eq!(group.completions(&scored).unwrap(), [vec![5, 6, 2], vec![2]]);
        assert!(!scored.truncated[0]);
    }

    #[test]
    fn a_tensor_that_is_missing_or_does_not_fit_is_named() {
        let mut tensors = scores();
        tensors.push(("entropy", Tensor::from_slice2(&[[0.0f32; 2]; 2])));
        let (_folder, group) = read(&tensors);
        let scored = group.scored().unwrap();
        let error = group.frame_attention(&scored).unwrap_err().to_string();
        assert!(error.ends_with("tensor frame_attention is missing"), "{error}");
        let error = group.per_token("entropy", &scored).unwrap_err().to_string();
        assert!(error.ends_with("entropy: expected shape [2, 3], found [2, 2]"), "{error}");
    }
}

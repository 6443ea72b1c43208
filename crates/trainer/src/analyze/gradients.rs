//! Which way key tokens pull: the gradient of the tokens that are singled out, and of all others, against that of all
//! (Video-KTR).

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use foveate_algo::video_ktr::{Settings, VideoKtr};
use foveate_algo::{AlgoConfig, Algorithm, Credit};
use foveate_policy::{Completions, LoadOptions, Recompute, ScoreGradients, Segment, TextProcessor, Vlm};
use ndarray::Array2;
use tch::{Kind, Tensor};

use super::{Analysis, fixed, percent};
use crate::cli::AnalyzeArgs;
use crate::data::{Preparer, View};
use crate::error::{UserContext, existing, one_line};
use crate::figures::{BarChart, Bars, Rgb, Table};
use crate::recorded::{HOW_TO_RECORD, RecordedGroup, RecordedRun, Rollout};
use crate::train::load_options;

const TITLE: &str = "Gradient of the tokens that are singled out";

/// Says how to get what takes the policy and a backward pass for each group.
pub(super) fn not_asked_for() -> Analysis {
    Analysis::missing(TITLE, "it takes the policy and backward passes: ask for it with --gradients N".into())
}

/// Takes the gradients of the last `args.gradients` recorded groups that have one.
///
/// # Errors
/// A user error: the policy or the training examples cannot be read.
pub(super) fn analyze(run: &RecordedRun, rollouts: &[Rollout], args: &AnalyzeArgs) -> Result<Analysis> {
    let model = match &args.model {
        Some(model) => model.clone(),
        None => run.policy()?,
    };
    existing("--model", &model)?;
    let meter = match Meter::new(run, &model) {
        Ok(meter) => meter,
        Err(error) => return Ok(Analysis::missing(TITLE, one_line(&error))),
    };
    let (mut found, mut passed) = (Vec::new(), Vec::new());
    for rollout in rollouts.iter().rev() {
        if found.len() == args.gradients {
            break;
        }
        match meter.pulls(run, rollout) {
            Ok(pulls) => found.extend(pulls.map(|pulls| (rollout, pulls))),
            Err(error) => passed.push(one_line(&error)),
        }
    }
    if found.is_empty() {
        let why = passed.pop().unwrap_or_else(|| {
            format!("no recorded group has both advantages and tokens that are not singled out; more: {HOW_TO_RECORD}")
        });
        return Ok(Analysis::missing(TITLE, why));
    }
    Ok(report(&found, &model, passed.len()))
}

/// Sums over a group's gradients: squared lengths of that of all tokens and of that of those singled out, and their
/// product.
#[derive(Debug, Clone, Copy)]
struct Pulls {
    tokens: usize,
    key: usize,
    all: f64,
    own: f64,
    both: f64,
}

impl Pulls {
    /// Lengths of the gradients of all tokens, of those singled out, and of the others, which is the rest.
    fn norms(&self) -> [f64; 3] {
        [self.all, self.own, self.all - 2.0 * self.both + self.own].map(|square| square.max(0.0).sqrt())
    }

    /// Cosines to the gradient of all tokens: of those singled out and of the others.
    fn cosines(&self) -> [f64; 2] {
        let [all, own, others] = self.norms();
        [self.both / (all * own), (self.all - self.both) / (all * others)]
    }
}

/// Takes gradients of a policy.
struct Meter {
    policy: Vlm,
    preparer: Preparer,
    temperature: f64,
    algorithm: Box<dyn Algorithm>,
    recompute: Recompute,
}

impl Meter {
    fn new(run: &RecordedRun, model: &Path) -> Result<Self> {
        let config = run.config();
        let text = Arc::new(TextProcessor::load(model).user()?);
        let root = run.records()?.media_root().to_owned();
        let options: LoadOptions = load_options(config)?;
        Ok(Self {
            policy: Vlm::load(model, &options).user()?,
            preparer: Preparer::new(&View::training(config, model), config, text, &root)?,
            temperature: config.rollout.temperature,
            algorithm: match &config.algo {
                // Of a run that singles tokens out, its own tokens; else Video-KTR's, if they were recorded.
                AlgoConfig::Appo(_) | AlgoConfig::VideoKtr(_) => config.algo.algorithm().user()?,
                _ => Box::new(VideoKtr::new(Settings::default())?),
            },
            recompute: config.optim.recompute,
        })
    }

    /// A group's gradients; none if they are 0, or if no token or every token is singled out.
    fn pulls(&self, run: &RecordedRun, rollout: &Rollout) -> Result<Option<Pulls>> {
        let group = RecordedGroup::read(&rollout.path)?;
        let scored = group.scored()?;
        let Credit { selected, advantages, .. } = group.credit(self.algorithm.as_ref(), &scored)?;
        let count = |set: &Array2<bool>| set.iter().zip(&scored.mask).filter(|(one, token)| **one && **token).count();
        let (tokens, key) = (count(&scored.mask), count(&selected));
        if key == 0 || key == tokens || advantages.iter().all(|advantage| *advantage == 0.0) {
            return Ok(None);
        }
        let example = run.example(rollout)?;
        let prompt = self.preparer.ready(example)?.prompt;
        let ids = group.completions(&scored)?;
        let lengths = scored.lengths()?;
        let weights = Array2::from_shape_fn(scored.mask.dim(), |(i, t)| match scored.mask[[i, t]] {
            true => advantages[i] / (lengths[i] * lengths.len()) as f32,
            false => 0.0,
        });
        let of_key = Array2::from_shape_fn(weights.dim(), |at| if selected[at] { weights[at] } else { 0.0 });
        let prompt = self.policy.encode(&prompt)?;
        let of = |weights: &Array2<f32>| self.gradient(&prompt, &ids, weights);
        let (all, own) = (of(&weights)?, of(&of_key)?);
        let dot = |a: &[Tensor], b: &[Tensor]| -> f64 {
            a.iter().zip(b).map(|(a, b)| (a * b).sum(Kind::Double).double_value(&[])).sum()
        };
        let pulls = Pulls { tokens, key, all: dot(&all, &all), own: dot(&own, &own), both: dot(&all, &own) };
        ensure!(
            pulls.all.is_finite() && pulls.own.is_finite(),
            "{}: the gradient is not finite",
            rollout.path.display()
        );
        Ok((pulls.all > 0.0 && pulls.own > 0.0).then_some(pulls))
    }

    /// The gradient of the weighted sum of log-probs, a completion at a time so that any group fits.
    fn gradient(
        &self,
        prompt: &foveate_policy::Encoded,
        ids: &[Vec<i64>],
        weights: &Array2<f32>,
    ) -> Result<Vec<Tensor>> {
        self.policy.parameters().for_each(|(_, parameter)| clear(parameter));
        let head = self.policy.head(self.temperature);
        for (ids, weights) in ids.iter().zip(weights.rows()) {
            let completions = Completions::new(std::slice::from_ref(ids), self.policy.device());
            let pass = self.policy.training_pass(&[Segment { prompt, completions: &completions }], self.recompute)?;
            let weights: Vec<f32> = weights.iter().take(ids.len()).copied().collect();
            let logprobs = Tensor::from_slice(&weights).to_device(self.policy.device());
            pass.backward(&head, &ScoreGradients { logprobs, entropy: None });
        }
        let gradients = self.policy.parameters().map(|(_, parameter)| parameter.grad());
        Ok(gradients.filter(Tensor::defined).map(|gradient| gradient.to_kind(Kind::Float).copy()).collect())
    }
}

fn clear(parameter: &Tensor) {
    let mut gradient = parameter.grad();
    if gradient.defined() {
        let _ = gradient.zero_();
    }
}

fn report(found: &[(&Rollout, Pulls)], model: &Path, passed: usize) -> Analysis {
    let header = [
        "step",
        "group",
        "tokens",
        "singled_out",
        "norm_all",
        "norm_singled_out",
        "norm_others",
        "cosine_singled_out",
        "cosine_others",
    ];
    let mut table = Table::new("each group", &header);
    for (rollout, pulls) in found {
        let counts =
            [rollout.step.to_string(), rollout.group.to_string(), pulls.tokens.to_string(), pulls.key.to_string()];
        let values = pulls.norms().into_iter().map(|norm| fixed(norm, 6)).chain(pulls.cosines().map(|c| fixed(c, 4)));
        table.push(counts.into_iter().chain(values).collect());
    }
    let mean =
        |value: &dyn Fn(&Pulls) -> f64| found.iter().map(|(_, one)| value(one)).sum::<f64>() / found.len() as f64;
    let share = mean(&|one| percent(one.key as f64, one.tokens as f64));
    let relative = |place: usize| mean(&|one: &Pulls| one.norms()[place] / one.norms()[0]);
    let cosine = |place: usize| mean(&|one: &Pulls| one.cosines()[place]);
    let bars = |name: &str, colour, values: [f64; 2]| Bars { name: name.into(), values: values.to_vec(), colour };
    let chart = BarChart {
        title: "Gradients of key tokens and of the others".into(),
        x: "mean over groups".into(),
        y: "against the gradient of all tokens".into(),
        categories: vec!["norm, relative".into(), "cosine".into()],
        marked: Vec::new(),
        series: vec![
            bars("singled out", Rgb::RIGHT, [relative(1), cosine(0)]),
            bars("others", Rgb([0xb8; 3]), [relative(2), cosine(1)]),
        ],
    };
    let text = format!(
        "{} groups under the policy {}; {share:.1}% of their tokens are singled out. The gradient is that of the mean over \
         completions of the mean over tokens of advantage x log-prob, at ratio 1; the others' is the rest of it.{}",
        found.len(),
        model.display(),
        if passed > 0 { format!(" {passed} groups could not be read again.") } else { String::new() }
    );
    Analysis {
        title: TITLE.into(),
        text: vec![text],
        pictures: vec![("gradients", chart.picture())],
        tables: vec![("gradients", table)],
        ..Analysis::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_gradient_is_what_is_left_of_the_whole() {
        // All (3, 4), singled out (3, 0), others (0, 4).
        let pulls = Pulls { tokens: 5, key: 2, all: 25.0, own: 9.0, both: 9.0 };
        assert_eq!(pulls.norms(), [5.0, 3.0, 4.0]);
        assert_eq!(pulls.cosines(), [0.6, 0.8]);
    }
}

//! The policy of tokens: a Qwen2.5-VL model and any of its algorithms.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use foveate_algo::{AlgoConfig, Algorithm, MediaKind};
use foveate_policy::{AdamW, LoadOptions, TextProcessor, Trainable, Vlm};
use foveate_reward::Rubric;

use super::learner::{Examples as Supply, Learner, Step};
use super::{POLICY, load_options, optimizer, save_optimizer};
use crate::answer::{Answers, Exam, Examinee};
use crate::config::Config;
use crate::data::{Asked, Examples};
use crate::error::UserContext;
use crate::eval::{self, Item};
use crate::measure::{completion_lines, metrics, tokens};
use crate::run::{Stop, lines};
use crate::step::Stepper;
use crate::update::Updater;

pub(super) struct TokenLearner {
    policy: Vlm,
    reference: Option<Vlm>,
    optimizer: AdamW,
    text: Arc<TextProcessor>,
    rubric: Rubric,
    algorithm: Box<dyn Algorithm>,
    warned: bool,
}

impl Learner for TokenLearner {
    type Source = Examples;

    fn examples(config: &Config) -> Result<Examples> {
        let model = config.model_path()?;
        let text = Arc::new(TextProcessor::load(model).user()?);
        Ok(Examples::train(config, model, text)?.judged())
    }

    fn load(config: &Config, examples: &Examples, checkpoint: Option<&Path>) -> Result<Self> {
        let model = config.model_path()?;
        let options = load_options(config)?;
        let policy = match checkpoint {
            Some(folder) => Vlm::load(&folder.join(POLICY), &options),
            None => Vlm::load(model, &options),
        };
        let policy = policy.user()?;
        let algorithm = config.algo.algorithm().user()?;
        let reference = match algorithm.needs(MediaKind::Video).reference {
            false => None,
            true => Some(Vlm::load(model, &LoadOptions { trainable: Trainable::Nothing, ..options }).user()?),
        };
        let optimizer = optimizer(AdamW::new(policy.parameters(), config.optim.adamw()), checkpoint)?;
        let rubric = Rubric::new(config.reward.clone()).user()?;
        let text = Arc::clone(examples.text());
        Ok(Self { policy, reference, optimizer, text, rubric, algorithm, warned: false })
    }

    fn warn(&self, config: &Config) {
        let rollout = &config.rollout;
        let has_bonus = matches!(&config.algo, AlgoConfig::TGrpo(settings) if settings.length_bonus > 0.0);
        let rewards_length = config.reward.length.as_ref().is_some_and(|length| length.weight > 0.0);
        let doubts = [
            (
                rollout.top_p < 1.0 || rollout.top_k > 0,
                "rollout.top_p and top_k restrict sampling, but log-probs and ratios are those of the whole distribution",
            ),
            (rollout.completions == 1, "rollout.completions = 1: a completion alone is no better than another"),
            (rollout.temperature == 0.0, "rollout.temperature = 0: all completions of a prompt are the same"),
            (self.rubric.rewards_nothing(), "every weight in [reward] is 0"),
            (has_bonus && rewards_length, "reward.length and algo.length_bonus reward the same length twice"),
        ];
        for (_, doubt) in doubts.iter().filter(|(holds, _)| *holds) {
            tracing::warn!("{doubt}");
        }
    }

    fn step(
        &mut self,
        config: &Config,
        step: u64,
        examples: &mut Supply<'_, Self>,
        record: Option<&Path>,
    ) -> Result<Step> {
        let stepper = Stepper {
            policy: &self.policy,
            reference: self.reference.as_ref(),
            text: &self.text,
            rubric: &self.rubric,
            algorithm: self.algorithm.as_ref(),
            config,
        };
        let mut updater = Updater { optimizer: &mut self.optimizer, steps: config.run.steps };
        let stepped = stepper.run(step, examples, &mut updater, record)?;
        let metrics = metrics(&stepped, step, self.algorithm.name());
        self.warn_once(metrics.get("appo/frac_covered_by_k3").unwrap_or(0.0));
        let completions = lines(&completion_lines(step, &stepped))?;
        Ok(Step { metrics, completions, tokens: tokens(&stepped.drawn.groups) })
    }

    fn save(&self, folder: &Path) -> Result<()> {
        self.policy.save(&folder.join(POLICY))?;
        save_optimizer(&self.optimizer, folder)
    }

    fn answer(&self, config: &Config, test: &Path, stop: &Stop) -> Result<Answers> {
        let dir = config.model_path()?;
        let examinee = Examinee { policy: &self.policy, dir, text: &self.text, rubric: Some(&self.rubric), config };
        examinee.answer(&Exam { asked: Asked::whole(test), stop }, None)
    }

    /// A line on the attention to the event, where the examples know of one.
    fn remarks(before: &[Item], after: &[Item]) -> String {
        match (eval::event(before), eval::event(after)) {
            (Some(before), Some(after)) => format!(
                "attention on the event's frames: {:.3} before, {:.3} after, {:.3} if it were uniform\n",
                before.mass, after.mass, after.uniform
            ),
            _ => String::new(),
        }
    }
}

impl TokenLearner {
    /// Says, once, that APPO is not being itself: a `k3` that no completion exceeds makes every token a perception token.
    fn warn_once(&mut self, covered: f64) {
        if covered > 0.0 && !self.warned {
            self.warned = true;
            tracing::warn!(
                "{:.0}% of the completions have no more tokens than algo.k3, so that all of them are perception tokens; \
                 a smaller one: --set algo.k3=N",
                100.0 * covered
            );
        }
    }
}

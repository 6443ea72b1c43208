//! The policy of frames: a selector whose sets of picks a frozen model rewards (ReFoCUS, arXiv 2506.01274).

use std::path::Path;

use anyhow::Result;
use foveate_algo::Algorithm;
use foveate_policy::{AdamW, SELECTOR_TYPE, Selector, model_type};

use super::learner::{Examples, Learner, Step};
use super::{POLICY, load_options, optimizer, save_optimizer};
use crate::answer::Answers;
use crate::config::Config;
use crate::error::{UserContext, user_error};
use crate::eval::Item;
use crate::frame_sets::{FrameScorer, Framed, FramedExamples, Part, PickStepper, Picker};
use crate::run::{Stop, lines};

pub(super) struct PickLearner {
    picker: Picker,
    scorer: FrameScorer,
    optimizer: AdamW,
    algorithm: Box<dyn Algorithm>,
}

impl Learner for PickLearner {
    type Source = FramedExamples;

    fn examples(config: &Config) -> Result<FramedExamples> {
        let scorer = config.scorer_path()?;
        if model_type(scorer).user()? == SELECTOR_TYPE {
            let path = scorer.display();
            return Err(user_error(format!(
                "{path} is a selector: name the model that rewards its picks, scorer.path"
            )));
        }
        if config.data.frames.from.is_some() {
            return Err(user_error(
                "data.frames.from: a selector is trained on all candidates, not on another's picks",
            ));
        }
        FramedExamples::train(config, scorer)
    }

    fn load(config: &Config, _examples: &FramedExamples, checkpoint: Option<&Path>) -> Result<Self> {
        let saved = checkpoint.map(|folder| folder.join(POLICY));
        let picker = Picker::training(config, saved.as_deref(), &load_options(config)?)?;
        let scorer = FrameScorer::load(config.scorer_path()?, config)?;
        let head_lr = config.selector.head_lr_scale;
        let adamw = AdamW::new(picker.selector().parameters(), config.optim.adamw())
            .scaled(|name| if Selector::is_head(name) { head_lr } else { 1.0 });
        let optimizer = optimizer(adamw, checkpoint)?;
        let algorithm = config.algo.algorithm().user()?;
        Ok(Self { picker, scorer, optimizer, algorithm })
    }

    fn step(
        &mut self,
        config: &Config,
        step: u64,
        examples: &mut Examples<'_, Self>,
        record: Option<&Path>,
    ) -> Result<Step> {
        let stepper =
            PickStepper { picker: &self.picker, scorer: &self.scorer, algorithm: self.algorithm.as_ref(), config };
        let stepped = stepper.run(step, examples, &mut self.optimizer, record)?;
        let completions = lines(&stepped.lines(step))?;
        Ok(Step { metrics: stepped.metrics(step, self.algorithm.name()), completions, tokens: stepped.tokens() })
    }

    fn warn(&self, _: &Config) {}

    fn save(&self, folder: &Path) -> Result<()> {
        self.picker.save(&folder.join(POLICY))?;
        save_optimizer(&self.optimizer, folder)
    }

    fn answer(&self, config: &Config, test: &Path, stop: &Stop) -> Result<Answers> {
        let examples = FramedExamples::evaluation(test, config, config.scorer_path()?)?;
        let mut items = Vec::new();
        let part = Part { limit: config.eval.limit, stop: Some(stop), ..Part::default() };
        let bad = examples.visit(&config.data, part, |framed, _| {
            items.push(self.item(&framed, config.selector.last_picks())?);
            Ok(())
        })?;
        Ok(Answers { items, bad })
    }

    /// A line on what as many frames at equal distances are worth.
    fn remarks(_before: &[Item], after: &[Item]) -> String {
        crate::eval::others(after)
    }
}

impl PickLearner {
    /// What the frozen model answers from the likeliest set of frames, and from as many at equal distances.
    fn item(&self, framed: &Framed, picks: usize) -> Result<Item> {
        let sets = self.picker.beside_uniform(framed, picks)?;
        let judged = self.scorer.judge(framed, &sets)?;
        let [picked, _] = sets;
        let (accuracy, example) = (judged.accuracy(), &framed.example);
        Ok(Item {
            id: example.id.clone(),
            kind: example.kind.clone(),
            answer: example.answer.clone(),
            given: foveate_data::letter(judged.given()[0]),
            completion: picked.iter().map(usize::to_string).collect::<Vec<_>>().join(" "),
            accuracy: accuracy[0],
            reward: judged.rewards()[0],
            scores: [("uniform".to_owned(), accuracy[1])].into(),
            length: picked.len(),
            ..Item::default()
        })
    }
}

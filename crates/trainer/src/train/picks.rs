//! The policy of frames: a selector whose sets of picks a frozen model rewards (ReFoCUS, arXiv 2506.01274).

use std::path::Path;

use anyhow::{Context, Result};
use foveate_algo::Algorithm;
use foveate_policy::{AdamW, LoadOptions, SELECTOR_TYPE, Selector, Trainable, model_type};
use foveate_video::uniform_indices;

use super::learner::{Examples, Learner, Step};
use super::{POLICY, load_options, optimizer, save_optimizer};
use crate::answer::{Answers, answered};
use crate::config::Config;
use crate::data::{Loader, LoaderOptions, LoaderState, Order};
use crate::error::{UserContext, user_error};
use crate::eval::Item;
use crate::frame_sets::{FrameScorer, Framed, FramedExamples, PickStepper, Picker, passed_over};
use crate::run::{Stop, lines};

pub(super) struct PickLearner {
    picker: Picker,
    scorer: FrameScorer,
    optimizer: AdamW,
    algorithm: Box<dyn Algorithm>,
}

impl Learner for PickLearner {
    type Source = FramedExamples;

    fn examples(config: &Config) -> Result<(FramedExamples, usize)> {
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
        let examples = FramedExamples::train(config, scorer)?;
        let count = examples.records().len();
        Ok((examples, count))
    }

    fn load(config: &Config, _examples: &FramedExamples, checkpoint: Option<&Path>) -> Result<Self> {
        let options = LoadOptions { trainable: Trainable::Text, ..load_options(config)? };
        let saved = checkpoint.map(|folder| folder.join(POLICY));
        let picker = Picker::training(config, saved.as_deref(), &options)?;
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

    fn save(&self, folder: &Path) -> Result<()> {
        self.picker.save(&folder.join(POLICY))?;
        save_optimizer(&self.optimizer, folder)
    }

    fn answer(&self, config: &Config, test: &Path, stop: &Stop) -> Result<Answers> {
        let examples = FramedExamples::evaluation(test, config, config.scorer_path()?)?;
        let (all, eval, each) = (examples.records().len(), &config.eval, answered());
        let count = if eval.limit == 0 { all } else { all.min(eval.limit) };
        let data = &config.data;
        let options = LoaderOptions { depth: 2 * eval.batch, threads: data.threads, on_bad: data.on_bad_example };
        let mut loader = Loader::new(examples, Order::Once(count), options, LoaderState::default())?;
        let mut answers = Answers::default();
        while !stop.requested() {
            let Some(framed) = loader.batch(1)?.examples.pop() else { break };
            let id = framed.example.id.clone();
            match self.item(&framed, config.selector.last_picks()).context(id) {
                Ok(item) => answers.items.push(item),
                Err(error) => answers.bad += usize::from(passed_over(error, data.on_bad_example)?),
            }
            each(loader.state().position as usize, count);
        }
        answers.bad += loader.state().bad.len();
        Ok(answers)
    }

    /// A line on what as many frames at equal distances are worth.
    fn remarks(_before: &[Item], after: &[Item]) -> String {
        crate::eval::others(after)
    }
}

impl PickLearner {
    /// What the frozen model answers from the likeliest set of frames, and from as many at equal distances.
    fn item(&self, framed: &Framed, picks: usize) -> Result<Item> {
        let picked = self.picker.likeliest(framed, picks)?;
        let uniform = uniform_indices(framed.frames.len(), picked.len());
        let judged = self.scorer.judge(framed, &[picked.clone(), uniform])?;
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

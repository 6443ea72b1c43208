//! What each algorithm would reinforce in one recorded group, side by side.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use foveate_algo::{Credit, ScoredGroup, refocus};
use foveate_policy::TextProcessor;
use maud::{Markup, html};
use ndarray::Array2;

use super::own_run;
use crate::cli::ExplainArgs;
use crate::config::{Config, Layers, algorithm_names, resolve_plain};
use crate::error::{UserContext, user_error};
use crate::figures::{Page, Rgb, Section, Table, visible};
use crate::recorded::{MissingTensor, RecordedGroup, RecordedRun};
use crate::run::{existing_model, write_atomically};

/// Gives the group's tokens the credit of every algorithm and writes page and table.
///
/// # Errors
/// A user error: no algorithm has all it needs, a setting is wrong, or the tensors disagree in shape.
pub(super) fn run(args: &ExplainArgs, group: &RecordedGroup) -> Result<()> {
    let names: Vec<&str> = match args.algo.as_slice() {
        [] => algorithm_names().iter().copied().filter(|name| *name != refocus::NAME).collect(),
        named => named.iter().map(String::as_str).collect(),
    };
    if names.contains(&refocus::NAME) {
        return Err(user_error("--compare: refocus gives credit to frame picks, not to tokens; explain it by itself"));
    }
    let settings = Settings::new(args, &names)?;
    let scored = group.scored().user()?;
    let mut compared = Compared {
        tokens: tokens(args, settings.run.as_ref(), &group.completions(&scored).user()?)?,
        scored,
        columns: Vec::new(),
        lacking: Vec::new(),
    };
    for name in names {
        let algorithm = settings.of(name)?.algo.algorithm().user()?;
        match group.credit(algorithm.as_ref(), &compared.scored) {
            Ok(credit) => compared.columns.push(Column { name: name.to_owned(), credit }),
            Err(error) => match error.downcast_ref::<MissingTensor>() {
                Some(missing) => compared.lacking.push((name.to_owned(), missing.name.clone())),
                None => return Err(error).user(),
            },
        }
    }
    for (name, tensor) in &compared.lacking {
        tracing::warn!("{name}: left out, for the group has no tensor {tensor}");
    }
    ensure_some(&compared).user()?;
    let clashes = args.output.extension().is_some_and(|extension| extension == "csv");
    ensure!(!clashes, user_error("--output names the page (.html); its table goes beside it as .csv"));
    write_atomically(&args.output, compared.page(&args.rollouts.display().to_string()).html().as_bytes())?;
    let table = compared.table();
    write_atomically(&args.output.with_extension("csv"), &table.csv()?)?;
    print!("{}", table.text());
    Ok(())
}

fn ensure_some(compared: &Compared) -> Result<()> {
    ensure!(!compared.columns.is_empty(), "no algorithm has all it needs in this group");
    Ok(())
}

/// Where each algorithm's settings come from.
struct Settings {
    /// The run that the group lies in.
    run: Option<RecordedRun>,
    /// A configuration and the algorithm that it is of.
    stated: Option<(String, PathBuf)>,
    /// Algorithm, and `algo.key=value`.
    set: Vec<(String, String)>,
}

impl Settings {
    fn new(args: &ExplainArgs, names: &[&str]) -> Result<Self> {
        let run = own_run(args);
        let stated = match (&args.settings.config, &run) {
            (Some(path), _) => Some((
                resolve_plain(&Layers { config: Some(path.clone()), ..Layers::default() })?.algorithm_name().to_owned(),
                path.clone(),
            )),
            (None, Some(run)) => Some((run.config().algorithm_name().to_owned(), run.path().join("config.toml"))),
            (None, None) => None,
        };
        let own = |text: &String| {
            let (name, setting) = text.split_once('.').unwrap_or((text, ""));
            match names.contains(&name) && setting.contains('=') {
                true => Ok((name.to_owned(), format!("algo.{setting}"))),
                false => Err(user_error(format!(
                    "--set {text}: expected NAME.key=value with NAME one of {}",
                    names.join(", ")
                ))),
            }
        };
        Ok(Self { run, stated, set: args.settings.set.iter().map(own).collect::<Result<_>>()? })
    }

    /// An algorithm's configuration: what is stated for it, else its paper's.
    fn of(&self, name: &str) -> Result<Config> {
        let set = self.set.iter().filter(|(whose, _)| whose == name).map(|(_, setting)| setting.clone()).collect();
        let config = self.stated.as_ref().filter(|(whose, _)| whose == name).map(|(_, path)| path.clone());
        let algo = config.is_none().then(|| name.to_owned());
        resolve_plain(&Layers { algo, config, set })
    }
}

/// Tokens as text, where a tokenizer is at hand, else as ids.
fn tokens(args: &ExplainArgs, run: Option<&RecordedRun>, ids: &[Vec<i64>]) -> Result<Vec<Vec<String>>> {
    let text = match (&args.model, run) {
        (Some(model), _) => {
            existing_model("--model", model)?;
            Some(Arc::new(TextProcessor::load(model).user()?))
        }
        (None, run) => run.and_then(RecordedRun::text_if_there),
    };
    let spelled = |id: &i64| {
        let spelled = text.as_ref().and_then(|text| text.spelling(*id).ok());
        spelled.map_or_else(|| id.to_string(), |token| visible(&token))
    };
    Ok(ids.iter().map(|ids| ids.iter().map(spelled).collect()).collect())
}

/// A group under several algorithms.
struct Compared {
    tokens: Vec<Vec<String>>,
    scored: ScoredGroup,
    columns: Vec<Column>,
    /// Algorithms that were left out, and the tensor that each lacks.
    lacking: Vec<(String, String)>,
}

/// A group under one algorithm.
struct Column {
    name: String,
    credit: Credit,
}

impl Column {
    /// What a token's surrogate is multiplied by: weight x advantage, `[G, T]`.
    fn pull(&self) -> Array2<f32> {
        let advantages = self.credit.advantages.view().insert_axis(ndarray::Axis(1));
        &self.credit.weights * &advantages
    }
}

impl Compared {
    /// A row for each token: its weight under each algorithm, then weight x advantage.
    fn table(&self) -> Table {
        let weights = self.columns.iter().map(|column| column.name.clone());
        let pulls = self.columns.iter().map(|column| format!("{}_x_advantage", column.name));
        let own = ["completion", "accuracy", "position", "token"].map(str::to_owned);
        let header: Vec<String> = own.into_iter().chain(weights).chain(pulls).collect();
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let mut table = Table::new("weight of each token, and weight x advantage", &header);
        let pulls: Vec<_> = self.columns.iter().map(Column::pull).collect();
        for (completion, tokens) in self.tokens.iter().enumerate() {
            for (position, token) in tokens.iter().enumerate() {
                let at = [completion, position];
                let own = [completion.to_string(), self.scored.accuracy[completion].to_string(), position.to_string()];
                let weights = self.columns.iter().map(|column| column.credit.weights[at]);
                let values = weights.chain(pulls.iter().map(|pull| pull[at])).map(|value| format!("{value:.4}"));
                table.push(own.into_iter().chain([token.clone()]).chain(values).collect());
            }
        }
        table
    }

    fn page(&self, source: &str) -> Page {
        let pulls: Vec<_> = self.columns.iter().map(Column::pull).collect();
        let mut order: Vec<usize> = (0..self.tokens.len()).collect();
        order.sort_by(|a, b| self.scored.accuracy[*b].total_cmp(&self.scored.accuracy[*a]));
        let sections = order.into_iter().map(|completion| Section {
            title: format!(
                "Completion {completion}: accuracy {:.2}, reward {:.2}",
                self.scored.accuracy[completion], self.scored.rewards[completion]
            ),
            body: self.completion(completion, &pulls),
        });
        Page {
            title: "What each algorithm would reinforce".into(),
            opening: self.opening(source),
            sections: sections.collect(),
        }
    }

    fn opening(&self, source: &str) -> Markup {
        html! {
            p.note { (source) }
            p {
                "Tokens are tinted by weight x advantage, which the gradient at the token's log-prob is proportional to \
                 before the reduction: " span style=(tint(1.0)) { "blue" } " is made likelier, "
                span style=(tint(-1.0)) { "orange" } " less likely, on one scale for all algorithms within a completion. Tokens that an \
                 algorithm singles out are underlined. The numbers are shown under the pointer."
            }
            @for (name, tensor) in &self.lacking {
                p.missing { (name) ": left out, for the group has no tensor " code { (tensor) } }
            }
        }
    }

    fn completion(&self, completion: usize, pulls: &[Array2<f32>]) -> Markup {
        let own = pulls.iter().flat_map(|pull| pull.row(completion).to_vec()).filter(|pull| pull.is_finite());
        let strongest = own.fold(f32::MIN_POSITIVE, |most, pull| most.max(pull.abs()));
        html! {
            div.wide {
                table.compare {
                    @for (column, pull) in self.columns.iter().zip(pulls) {
                        @let all = self.singles_out_all(column);
                        tr {
                            th { (column.name) }
                            td.advantage { (format!("{:+.2}", column.credit.advantages[completion])) }
                            td.tokens {
                                @for (position, token) in self.tokens[completion].iter().enumerate() {
                                    @let at = [completion, position];
                                    @let key = column.credit.selected[at] && !all;
                                    span class=(if key { "key" } else { "" }) style=(tint(pull[at] / strongest))
                                        title={ (token) ": weight " (format!("{:.3}", column.credit.weights[at]))
                                            ", x advantage " (format!("{:+.3}", pull[at])) } { (token) }
                                    " "
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// Whether the algorithm tells no token from another.
    fn singles_out_all(&self, column: &Column) -> bool {
        self.scored.mask.iter().zip(&column.credit.selected).all(|(token, selected)| !token || *selected)
    }
}

/// A background for text: blue above 0, orange below, stronger towards 1 and -1.
fn tint(share: f32) -> String {
    let [r, g, b] = if share > 0.0 { Rgb::RIGHT.0 } else { Rgb::EVENT.0 };
    format!("background:rgba({r},{g},{b},{:.2})", (0.55 * share.abs()).clamp(0.0, 0.55))
}

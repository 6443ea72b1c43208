//! `trainer explain`: what an algorithm makes of one recorded group, or what each of several does.

mod compare;
mod picks;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use foveate_algo::{Algorithm, Credit, GroupShape, Objective, ScoredGroup, factors};
use foveate_policy::{SurrogateInputs, surrogate_loss, write_safetensors};
use tch::{Kind, Tensor};

use crate::{
    cli::ExplainArgs,
    config::{Layers, resolve_plain},
    error::{UserContext, existing, one_line, user_error},
    recorded::{RecordedGroup, RecordedRun},
};

/// Reads `args.rollouts`, gives its tokens the credit of `args.algo` and writes credit, loss and gradient; or, with
/// `args.compare`, the weights that every algorithm gives.
///
/// # Errors
/// A user error if the file lacks a tensor that the algorithm needs, or its tensors disagree in shape.
pub fn run(args: &ExplainArgs) -> Result<()> {
    existing("--rollouts", &args.rollouts)?;
    let group = RecordedGroup::read(&args.rollouts).user()?;
    if args.compare {
        return compare::run(args, &group);
    }
    let [name] = args.algo.as_slice() else {
        return Err(user_error("--algo: expected one algorithm; several are compared with --compare"));
    };
    let config = resolve_plain(&recorded_under(args, name)?)?;
    let algorithm = config.algo.algorithm().user()?;
    let acts_on_frames = config.algo.picks_frames();
    let explained = match acts_on_frames {
        true => picks::explain(&group, algorithm.as_ref()),
        false => explain(&group, algorithm.as_ref()),
    };
    let explained = explained.user()?;
    let tensors = explained.iter().map(|(name, tensor)| (name.as_str(), tensor));
    write_safetensors(&args.output, tensors)?;
    if acts_on_frames {
        print!("{}", picks::table(&group, &explained)?.text());
    }
    Ok(())
}

/// Where the settings come from: unless a configuration is stated, from the run that the group lies in, if that run is of
/// the algorithm; else they are the paper's.
fn recorded_under(args: &ExplainArgs, name: &str) -> Result<Layers> {
    let mut layers = args.settings.layers(Some(name));
    if layers.config.is_none()
        && let Some(run) = own_run(args)
        && run.config().algorithm_name() == name
    {
        let path = run.path().join("config.toml");
        tracing::info!("settings of {}", path.display());
        layers.config = Some(path);
    }
    Ok(layers)
}

/// The run that the group lies in, if its configuration can be read.
fn own_run(args: &ExplainArgs) -> Option<RecordedRun> {
    match RecordedRun::of(&args.rollouts, &[]) {
        Ok(found) => found.map(|(run, _)| run),
        Err(error) => {
            tracing::warn!("the run's configuration is not used: {}", one_line(&error));
            None
        }
    }
}

/// The credit of a group's tokens under an algorithm, its loss and the gradient at the log-probs, by name.
///
/// # Errors
/// If a tensor that the algorithm needs is missing or has another shape.
pub fn explain(group: &RecordedGroup, algorithm: &dyn Algorithm) -> Result<BTreeMap<String, Tensor>> {
    let scored = group.scored()?;
    let credit = group.credit(algorithm, &scored)?;
    if algorithm.objective().mask_truncated {
        group.array::<ndarray::Ix1>("truncated")?;
    }
    let mut output = loss(group, algorithm, &scored, &credit)?;
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

/// The loss of a group of tokens and its gradient at the log-probs.
fn loss(
    group: &RecordedGroup,
    algorithm: &dyn Algorithm,
    scored: &ScoredGroup,
    credit: &Credit,
) -> Result<BTreeMap<String, Tensor>> {
    let objective = algorithm.objective();
    let per_token = |name: &str| anyhow::Ok(Tensor::try_from(&group.per_token(name, scored)?)?);
    let recorded = Recorded {
        logprobs: per_token("logprobs")?,
        old: per_token("old_logprobs")?,
        reference: (objective.kl_coef != 0.0).then(|| per_token("ref_logprobs")).transpose()?,
        entropy: match objective.entropy_coef != 0.0 {
            true => Some(Tensor::try_from(&group.entropy(&scored.mask)?)?),
            false => None,
        },
    };
    differentiated(&objective, scored, credit, recorded)
}

/// What a loss is formed of beside credit, `[G, T]` each.
struct Recorded {
    logprobs: Tensor,
    old: Tensor,
    reference: Option<Tensor>,
    entropy: Option<Tensor>,
}

/// A group's loss and its gradient at the log-probs; a recorded group's entropy is a constant to them.
fn differentiated(
    objective: &Objective,
    scored: &ScoredGroup,
    credit: &Credit,
    recorded: Recorded,
) -> Result<BTreeMap<String, Tensor>> {
    let factors = factors(objective, &[GroupShape::of(scored, credit)]);
    let flags: Vec<bool> = scored.mask.iter().copied().collect();
    let shape = [scored.mask.nrows() as i64, scored.mask.ncols() as i64];
    let logprobs = recorded.logprobs.set_requires_grad(true);
    let surrogate = surrogate_loss(&SurrogateInputs {
        objective,
        logprobs: &logprobs,
        old_logprobs: &recorded.old,
        ref_logprobs: recorded.reference.as_ref(),
        entropy: recorded.entropy.as_ref(),
        advantages: &Tensor::try_from(&credit.advantages)?,
        weights: &Tensor::try_from(&credit.weights)?,
        factors: &Tensor::try_from(factors.first().context("no factors")?)?,
        mask: &Tensor::from_slice(&flags).view(shape),
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

//! Which completions go through the model together: groups are packed one behind the other, up to a number of tokens.

use anyhow::Result;
use foveate_policy::{Completions, Encoded, Head, Segment, Vlm};
use tch::{Kind, Tensor};

/// Neighbouring completions of a group that stand behind one computation of its prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The group.
    pub group: usize,
    /// The first completion's place in the group.
    pub start: i64,
    /// How many.
    pub count: i64,
}

/// Tokens of a group: its prompt's and each completion's.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// Tokens of the prompt.
    pub prompt: i64,
    /// Tokens of each completion.
    pub completions: Vec<i64>,
}

impl Sizes {
    /// Those of a prompt and its completions.
    pub fn of(prompt: &Encoded, completions: &Completions) -> Self {
        Self { prompt: prompt.tokens() as i64, completions: completions.lengths().to_vec() }
    }
}

/// The passes that bring these groups, in order, through the model with at most `budget` tokens each (0: any number). A
/// group is split only if it does not fit into a pass by itself; a completion never is, however long.
pub fn passes<'a>(groups: impl IntoIterator<Item = (usize, &'a Sizes)>, budget: usize) -> Vec<Vec<Part>> {
    let budget = if budget == 0 { i64::MAX } else { budget as i64 };
    let mut passes = Vec::new();
    let (mut pass, mut used): (Vec<Part>, i64) = (Vec::new(), 0);
    for (group, sizes) in groups {
        let whole = sizes.prompt + sizes.completions.iter().sum::<i64>();
        if used + whole > budget && used > 0 {
            passes.push(std::mem::take(&mut pass));
            used = 0;
        }
        let mut part = Part { group, start: 0, count: 0 };
        used += sizes.prompt;
        for &completion in &sizes.completions {
            if used + completion > budget && part.count > 0 {
                pass.push(part);
                passes.push(std::mem::take(&mut pass));
                part = Part { start: part.start + part.count, count: 0, ..part };
                used = sizes.prompt;
            }
            part.count += 1;
            used += completion;
        }
        if part.count > 0 {
            pass.push(part);
        }
    }
    passes.extend((!pass.is_empty()).then_some(pass));
    passes
}

/// The completions of a pass's parts, each with its prompt. `group` gives a group's prompt and completions.
pub fn cut<'a>(
    pass: &[Part],
    group: impl Fn(usize) -> (&'a Encoded, &'a Completions),
) -> Vec<(&'a Encoded, Completions)> {
    let cut = |part: &Part| {
        let (prompt, completions) = group(part.group);
        (prompt, completions.part(part.start, part.count))
    };
    pass.iter().map(cut).collect()
}

/// What the policy's passes take.
pub fn segments<'a>(parts: &'a [(&'a Encoded, Completions)]) -> Vec<Segment<'a>> {
    parts.iter().map(|(prompt, completions)| Segment { prompt, completions }).collect()
}

/// What completions look like behind a prompt: `[G, T]`, `[G, T, D]`.
#[derive(Debug)]
pub(crate) struct Viewed {
    /// Teacher-forced log-probs.
    pub(crate) logprobs: Tensor,
    /// Hidden states that predict the tokens, where they were asked for.
    pub(crate) hidden: Option<Tensor>,
}

/// Teacher-forced log-probs of completions behind prompts, packed into passes of `pass_tokens` tokens; hidden states of
/// those that `keeps` names.
pub(crate) fn viewed(
    policy: &Vlm,
    head: &Head,
    prompts: &[(&Encoded, &Completions)],
    pass_tokens: usize,
    keeps: impl Fn(usize) -> bool,
) -> Result<Vec<Viewed>> {
    let sizes: Vec<_> = prompts.iter().map(|(prompt, completions)| Sizes::of(prompt, completions)).collect();
    let mut seen: Vec<_> = prompts
        .iter()
        .map(|(_, completions)| Viewed { logprobs: completions.ids().zeros_like().to_kind(Kind::Float), hidden: None })
        .collect();
    for pass in passes(sizes.iter().enumerate(), pass_tokens) {
        let parts = cut(&pass, |index| prompts[index]);
        let forwards = policy.forward(&segments(&parts), None)?;
        for ((part, (_, completions)), forward) in pass.iter().zip(&parts).zip(forwards) {
            let logprobs = head.logprobs(&completions.flat(&forward.hidden), &completions.tokens());
            let seen = &mut seen[part.group];
            seen.logprobs.narrow(0, part.start, part.count).copy_(&completions.padded(&logprobs));
            if keeps(part.group) {
                let all = || {
                    let mut shape = forward.hidden.size();
                    shape[0] = prompts[part.group].1.count();
                    forward.hidden.new_zeros(shape.as_slice(), (forward.hidden.kind(), forward.hidden.device()))
                };
                seen.hidden.get_or_insert_with(all).narrow(0, part.start, part.count).copy_(&forward.hidden);
            }
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(groups: &[(i64, &[i64])], budget: usize) -> Vec<Vec<(usize, i64, i64)>> {
        let sizes: Vec<_> =
            groups.iter().map(|(prompt, own)| Sizes { prompt: *prompt, completions: own.to_vec() }).collect();
        let found = passes(sizes.iter().enumerate(), budget);
        found.iter().map(|pass| pass.iter().map(|part| (part.group, part.start, part.count)).collect()).collect()
    }

    #[test]
    fn groups_share_a_pass_up_to_its_budget() {
        let groups: [(i64, &[i64]); 3] = [(10, &[5, 5]), (10, &[4, 4, 4]), (10, &[5])];
        assert_eq!(plan(&groups, 0), [vec![(0, 0, 2), (1, 0, 3), (2, 0, 1)]]);
        assert_eq!(plan(&groups, 42), [vec![(0, 0, 2), (1, 0, 3)], vec![(2, 0, 1)]]);
        assert_eq!(plan(&groups, 30), [vec![(0, 0, 2)], vec![(1, 0, 3)], vec![(2, 0, 1)]]);
    }

    #[test]
    fn a_group_too_large_for_a_pass_is_split_between_completions() {
        let groups: [(i64, &[i64]); 2] = [(10, &[5, 5, 5]), (2, &[1])];
        assert_eq!(plan(&groups, 20), [vec![(0, 0, 2)], vec![(0, 2, 1), (1, 0, 1)]]);
        // No completion is ever cut or lost.
        assert_eq!(plan(&groups, 1), [vec![(0, 0, 1)], vec![(0, 1, 1)], vec![(0, 2, 1)], vec![(1, 0, 1)]]);
    }

    #[test]
    fn nothing_takes_no_pass() {
        assert!(plan(&[], 10).is_empty());
    }
}

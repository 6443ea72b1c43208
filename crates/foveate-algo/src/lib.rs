//! Advantages and token credit of GRPO-style algorithms: one file per algorithm, on plain [`ndarray`].
//!
//! One *group* is one prompt with `G` sampled completions, padded to `T` tokens; `F` is the number of frames
//! (temporal grids) of its video and `V` the size of the vocabulary. Every per-token array is `[G, T]` on completion
//! tokens, and position `t` holds the value *of* token `t`, measured where it is predicted. What stands in padding
//! never matters, not even NaN; a completion's length is the sum of its mask row; ties go to the lowest index.
//!
//! An algorithm says what it [needs](Algorithm::needs) to see of a group, turns a [`ScoredGroup`] and its
//! [`Observations`] into [`Credit`], and states its [`Objective`]. The loss of one optimizer step is then
//!
//! ```text
//! loss = sum over groups, i, t of factor[i,t] * token_loss[i,t]
//! token_loss = -surrogate + kl_coef * k3 - entropy_coef * entropy
//! ```
//!
//! (token weights enter where [`WeightSide`] says), with the [`factors`] fixed before any forward pass, so that neither passes nor ranks can change the result.
//!
//! This crate knows nothing of libtorch, does no I/O and draws no random numbers.

mod advantage;
pub mod appo;
mod config;
pub mod dapo;
mod distance;
mod divergence;
mod error;
mod group;
pub mod grpo;
mod needs;
mod objective;
mod recorded;
pub mod refocus;
pub mod sensitivity;
mod settings;
pub mod t_grpo;
pub mod tw_grpo;
pub mod video_ktr;

pub use advantage::{Scaling, advantages};
pub use config::{AlgoConfig, Layers, NAMES, Variant};
pub use distance::{Counterfactual, Distance};
pub use divergence::{Divergence, TokenDistributions, normalized};
pub use error::AlgoError;
pub use group::{Credit, GroupShape, Observations, ScoredGroup};
pub use needs::{MaskedFrames, Masking, MediaKind, Needs, Reordering, VisualMask};
pub use objective::{ClipRange, Objective, Ratio, Reduction, TokenMeanOver, WeightSide, factors};
pub use recorded::RecordedDistributions;

/// One way to turn a group's rewards into credit for its tokens.
pub trait Algorithm: std::fmt::Debug + Send + Sync {
    /// The name that `--algo` takes, such as `appo`.
    fn name(&self) -> &'static str;

    /// What [`Algorithm::credit`] and the objective need to see of a group whose prompt shows this.
    fn needs(&self, media: MediaKind) -> Needs;

    /// The loss that the credit enters.
    fn objective(&self) -> Objective;

    /// How often a step may draw further groups in place of those that are not [kept](Algorithm::keeps); `None`: every
    /// group is kept and nobody asks.
    fn max_refills(&self) -> Option<usize> {
        None
    }

    /// Whether a step should train on this group (DAPO's dynamic sampling).
    fn keeps(&self, _group: &ScoredGroup) -> bool {
        true
    }

    /// The credit of the group's tokens.
    ///
    /// # Errors
    /// If the group's arrays disagree in shape, a completion has no token, or an observation that
    /// [`Algorithm::needs`] names is missing or not finite.
    fn credit(&self, group: &ScoredGroup, seen: &Observations) -> Result<Credit, AlgoError>;
}

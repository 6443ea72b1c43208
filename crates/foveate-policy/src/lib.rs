//! Qwen2.5-VL on libtorch as a policy for reinforcement learning: loading and saving Hugging Face directories,
//! generation that computes each prompt once per group, teacher-forced log-probs that never hold all logits, frame
//! attention without any S x S matrix, the surrogate loss, and AdamW.
//!
//! One group is one prompt with its G completions. [`Vlm::encode`] makes a prompt ready, [`Vlm::rollout`] draws its
//! completions, [`Vlm::forward`] observes them in a teacher-forced pass, [`Vlm::training_pass`] does so for gradients,
//! [`Head`] turns hidden states into log-probs and back into gradients, [`surrogate_loss`] is the loss.
//!
//! This crate knows nothing of configs and data sets, and reads no environment variable but
//! `FOVEATE_LIBTORCH_CUDA` ([`runtime::init`]).

mod adamw;
mod backbone;
mod batch;
mod companions;
mod config;
mod counterfactual;
mod divergence;
mod error;
mod features;
mod generate;
mod head;
mod input;
mod loss;
mod mamba;
mod model;
mod native;
mod pass;
mod qwen;
mod records;
mod repetition;
mod room;
pub mod runtime;
mod sample;
mod score;
mod selector;
pub mod text;
mod weights;

pub use adamw::{AdamW, AdamWOptions, Precision};
pub use config::{ModelConfig, TextConfig, VisionConfig, model_type};
pub use counterfactual::{Alteration, Shown};
pub use divergence::GroupDistributions;
pub use error::PolicyError;
pub use generate::Rollout;
pub use head::{Head, ScoreGradients, TokenScores};
pub use input::{Completions, Encoded, Media, Prompt};
pub use loss::{Surrogate, SurrogateInputs, surrogate_loss};
pub use mamba::{Mamba, MambaConfig};
pub use model::{LoadOptions, Trainable, Vlm};
pub use pass::{GroupForward, Segment, TrainingPass};
pub use qwen::{AttentionMode, Recompute};
pub use sample::{Draw, GroupSeed, MIN_TEMPERATURE, Observe, SamplingParams};
pub use score::RowScores;
pub use selector::{
    Candidates, Origin, PickParams, PickPass, PickScores, Picks, SELECTOR_TYPE, Selector, SelectorConfig,
};
pub use text::{Content, Message, TextProcessor};
pub use weights::{read_safetensors, to_tensor, write_safetensors};

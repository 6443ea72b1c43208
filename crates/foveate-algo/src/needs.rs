//! What an algorithm must be shown of a group, as a value.

use serde::{Deserialize, Serialize};

use crate::Layers;

/// What a prompt shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaKind {
    /// At least one video: frames have an order that can be disturbed.
    Video,
    /// Images only.
    Image,
    /// Nothing: text only.
    Text,
}

/// What an algorithm must be shown of a group besides its rewards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Attention of every token to every frame, averaged over these layers of the text decoder.
    pub frame_attention: Option<Layers>,
    /// The group's token distributions; with `masked` or `reordered`, those under them too.
    pub distributions: bool,
    /// Entropy of every token's distribution.
    pub entropy: bool,
    /// Log-probs under the reference policy, for the KL term.
    pub reference: bool,
    /// The sampling policy's own teacher-forced log-probs, to compare counterfactual ones with.
    pub sampling_logprobs: bool,
    /// Log-probs of the same completions with the video masked.
    pub masked: Option<Masking>,
    /// Log-probs of the same completions with the frames in another order, one for the whole group.
    pub reordered: Option<Reordering>,
    /// Accuracies of half as many completions (rounded down) that see the frames in a random order. No gradient comes
    /// from them.
    pub contrast: bool,
}

/// How a video is taken out of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Masking {
    /// What becomes of the frames that are masked.
    pub how: VisualMask,
    /// Which frames are masked.
    pub frames: MaskedFrames,
}

/// What becomes of a masked frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VisualMask {
    /// Its visual features are 0; its tokens stay.
    ZeroFeatures,
    /// No token attends to its tokens; text positions are as without the mask.
    HideTokens,
}

/// Which frames are masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaskedFrames {
    /// All of them.
    All,
    /// Half of them (rounded down), drawn once for the group.
    Half,
    /// None: another video of the step stands in the place of this one.
    AnotherVideo,
}

/// In which order a video's frames are shown instead of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reordering {
    /// A random order.
    Shuffled,
    /// Last to first.
    Reversed,
    /// Segments of neighbouring frames in a random order, each as it was.
    Segments,
}

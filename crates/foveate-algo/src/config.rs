//! The `[algo]` table of a config: the algorithm's name and its settings.

use serde::{Deserialize, Deserializer, Serialize};

use crate::{AlgoError, Algorithm, appo, dapo, grpo, refocus, t_grpo, tw_grpo, video_ktr};

/// Defines [`NAMES`] and [`AlgoConfig`]: module, type and doc of each algorithm.
macro_rules! algorithms {
    ($($(#[$doc:meta])* $module:ident::$name:ident,)*) => {
        /// The names of all algorithms, as `algo.name` takes them.
        pub const NAMES: &[&str] = &[$($module::NAME),*];

        /// An algorithm with all its settings; serialises as the `[algo]` table, `name` included, with every preset
        /// filled.
        ///
        /// Deserialises from such a table, or with [`AlgoConfig::parse`] from one without `name`.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "name", rename_all = "kebab-case")]
        pub enum AlgoConfig {
            $($(#[$doc])* $name($module::Settings),)*
        }

        impl AlgoConfig {
            /// The algorithm's name, one of [`NAMES`].
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => $module::NAME,)*
                }
            }

            /// The settings of algorithm `name` from a table without a `name` key.
            ///
            /// # Errors
            /// The deserializer's own: an unknown algorithm (with the known ones), an unknown or ill-typed setting, or a
            /// value out of range.
            pub fn parse<'de, D: Deserializer<'de>>(name: &str, settings: D) -> Result<Self, D::Error> {
                match name {
                    $($module::NAME => $module::Settings::deserialize(settings).map(Self::$name),)*
                    _ => Err(serde::de::Error::unknown_variant(name, NAMES)),
                }
            }

            /// The algorithm that these settings describe.
            ///
            /// # Errors
            /// If a setting lies outside its range.
            pub fn algorithm(&self) -> Result<Box<dyn Algorithm>, AlgoError> {
                Ok(match self {
                    $(Self::$name(settings) => Box::new($module::$name::new(settings.clone())?),)*
                })
            }
        }
    };
}

algorithms! {
    /// Group-relative policy optimisation.
    grpo::Grpo,
    /// Decoupled clip and dynamic sampling policy optimisation.
    dapo::Dapo,
    /// Temporal group-relative policy optimisation.
    t_grpo::TGrpo,
    /// Token-weighted group-relative policy optimisation.
    tw_grpo::TwGrpo,
    /// Attention-guided perception policy optimisation.
    appo::Appo,
    /// Reinforcement of key tokens only.
    video_ktr::VideoKtr,
    /// Reinforcement of frame picks.
    refocus::Refocus,
}

impl AlgoConfig {
    /// Whether its actions are frames, not tokens.
    pub fn picks_frames(&self) -> bool {
        matches!(self, Self::Refocus(_))
    }
}

impl Default for AlgoConfig {
    /// GRPO, which every other algorithm is measured against.
    fn default() -> Self {
        Self::Grpo(grpo::Settings::default())
    }
}

/// Which of two readings fills the settings that a config leaves open, where a paper and its released code differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// As printed.
    #[default]
    Paper,
    /// As the authors' published code does it.
    Released,
}

/// Layers of the text decoder, written `"all"` or `"last:3"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Layers {
    /// Every layer.
    All,
    /// The last so many, at least one; all of them if the model has fewer.
    Last(usize),
}

impl std::str::FromStr for Layers {
    type Err = AlgoError;

    fn from_str(text: &str) -> Result<Self, AlgoError> {
        let last = || text.strip_prefix("last:")?.parse().ok().filter(|count| *count > 0).map(Self::Last);
        let parsed = if text == "all" { Some(Self::All) } else { last() };
        parsed.ok_or_else(|| AlgoError::Setting {
            setting: "layers",
            found: format!("{text:?}"),
            expected: "\"all\" or \"last:N\" with N at least 1",
        })
    }
}

impl TryFrom<String> for Layers {
    type Error = AlgoError;

    fn try_from(text: String) -> Result<Self, AlgoError> {
        text.parse()
    }
}

impl From<Layers> for String {
    fn from(layers: Layers) -> Self {
        layers.to_string()
    }
}

impl std::fmt::Display for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Last(count) => write!(f, "last:{count}"),
        }
    }
}

/// An error unless the value is finite and within `[0, largest]`.
pub(crate) fn expect_within(
    setting: &'static str,
    value: f32,
    largest: f32,
    expected: &'static str,
) -> Result<(), AlgoError> {
    if value.is_finite() && (0.0..=largest).contains(&value) {
        return Ok(());
    }
    Err(AlgoError::Setting { setting, found: value.to_string(), expected })
}

/// An error unless the number is at least one.
pub(crate) fn expect_some(setting: &'static str, value: usize) -> Result<(), AlgoError> {
    if value > 0 {
        return Ok(());
    }
    Err(AlgoError::Setting { setting, found: value.to_string(), expected: "at least 1" })
}

/// An error unless the two are bounds of a ratio.
pub(crate) fn expect_clip(low: f32, high: f32) -> Result<(), AlgoError> {
    expect_within("clip_low", low, 1.0, "a number from 0 to 1")?;
    expect_within("clip_high", high, f32::MAX, "a number of at least 0")
}

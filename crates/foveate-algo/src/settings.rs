//! Settings of an algorithm, each written once: its doc, its type, the paper's value and, where that differs, the
//! released code's.

/// Defines `Settings` and its presets: that of `variant` fills what a config leaves open. Every algorithm gets
/// `entropy_coef` (0 unless stated), `mask_zero_std` and `mask_truncated`, and lists `clip_low` and `clip_high`.
macro_rules! settings {
    (
        $(#[$doc:meta])*
        Settings $(with entropy_coef $entropy:literal)? {
            $(#[$variant_about:meta])* variant;
            $($(#[$about:meta])* $field:ident: $type:ty = $paper:expr $(, released $released:expr)?;)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(from = "Given")]
        pub struct Settings {
            $(#[$variant_about])*
            pub variant: $crate::Variant,
            $($(#[$about])* pub $field: $type,)*
            /// Coefficient of the entropy bonus; 0 does without. ReFoCUS: 0.002; the others: 0.
            pub entropy_coef: f32,
            /// Whether a group with equal rewards leaves numerator and denominator of the mean; else what its loss has
            /// besides advantages (KL, entropy) counts. Paper: false.
            pub mask_zero_std: bool,
            /// Whether the tokens of truncated completions leave numerator and denominator; their rewards stay in the
            /// baseline. DAPO, section 3.4 ("overlong filtering"): true; the others: false.
            pub mask_truncated: bool,
        }

        /// A config's table: what it leaves open, the preset of its variant fills.
        #[derive(::serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Given {
            variant: Option<$crate::Variant>,
            $($field: Option<$type>,)*
            entropy_coef: Option<f32>,
            mask_zero_std: Option<bool>,
            mask_truncated: Option<bool>,
        }

        impl From<Given> for Settings {
            fn from(given: Given) -> Self {
                let preset = Self::preset(given.variant.unwrap_or_default());
                Self {
                    variant: preset.variant,
                    $($field: given.$field.unwrap_or(preset.$field),)*
                    entropy_coef: given.entropy_coef.unwrap_or(preset.entropy_coef),
                    mask_zero_std: given.mask_zero_std.unwrap_or(preset.mask_zero_std),
                    mask_truncated: given.mask_truncated.unwrap_or(preset.mask_truncated),
                }
            }
        }

        impl Settings {
            /// All settings as the paper or its released code has them.
            pub fn preset(variant: $crate::Variant) -> Self {
                let paper = Self {
                    variant,
                    $($field: $paper,)*
                    entropy_coef: [0.0, $($entropy)?].iter().sum(),
                    mask_zero_std: false,
                    mask_truncated: false,
                };
                match variant {
                    $crate::Variant::Paper => paper,
                    $crate::Variant::Released => Self { $($($field: $released,)?)* ..paper },
                }
            }
        }

        impl Default for Settings {
            fn default() -> Self {
                Self::preset($crate::Variant::Paper)
            }
        }

        impl Settings {
            /// GRPO's objective without KL, with the settings that every algorithm has.
            fn shared_objective(&self) -> $crate::Objective {
                $crate::Objective {
                    clip: Some($crate::ClipRange { low: self.clip_low, high: self.clip_high }),
                    ratio: $crate::Ratio::Token,
                    reduction: $crate::Reduction::SequenceMean,
                    mask_truncated: self.mask_truncated,
                    mask_zero_std: self.mask_zero_std,
                    kl_coef: 0.0,
                    entropy_coef: self.entropy_coef,
                    weights: $crate::WeightSide::OnSurrogate,
                }
            }

            /// An error if a setting that every algorithm has lies outside its range.
            fn check_shared(&self) -> Result<(), $crate::AlgoError> {
                $crate::config::expect_clip(self.clip_low, self.clip_high)?;
                $crate::config::expect_within("entropy_coef", self.entropy_coef, f32::MAX, "a number of at least 0")
            }
        }
    };
}

pub(crate) use settings;

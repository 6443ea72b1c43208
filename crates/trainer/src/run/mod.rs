//! A run's folder and everything that is written or shown while it goes on.

mod completions;
mod files;
mod folder;
mod log;
mod metrics;
mod progress;
mod signals;

pub use completions::{CompletionLine, LineOf, PickLine};
pub use files::{hold, lines, lock, read_json, write_atomically, write_json, write_lines, write_streaming};
pub use folder::{RunFolder, existing_model};
pub use log::{LOG_FILE, init as init_log};
pub use metrics::{MetricsFile, StepMetrics};
pub use progress::Progress;
pub use signals::Stop;

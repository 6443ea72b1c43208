//! What stands for the remote scorer in a build without it.

use super::RemoteConfig;
use crate::{Answer, Completion, RewardError};

/// Cannot be made.
#[derive(Debug)]
pub(crate) enum Remote {}

impl Remote {
    pub(crate) fn new(config: &RemoteConfig) -> Result<Self, RewardError> {
        let reason = format!("remote.url is {}, but this program is built without the feature `remote`", config.url);
        Err(RewardError::NoRemote { reason })
    }

    pub(crate) fn scores(&self, _: &str, _: &Answer, _: &[Completion]) -> Result<Vec<Option<f32>>, RewardError> {
        match *self {}
    }
}

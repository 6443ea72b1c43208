//! Asks the remote scorer, again after a pause if it fails.

use std::time::Duration;

use reqwest::{Client, StatusCode, Url};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

use super::RemoteConfig;
use crate::{Answer, Completion, ProblemType, RewardError};

/// A remote scorer and what asks it.
#[derive(Debug)]
pub(crate) struct Remote {
    url: Url,
    retries: u32,
    backoff: Duration,
    client: Client,
    runtime: Runtime,
}

#[derive(Serialize)]
struct Batch<'a> {
    items: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Item<'a> {
    prompt: &'a str,
    completion: &'a str,
    answer: &'a str,
    problem_type: ProblemType,
}

#[derive(Deserialize)]
struct Scores {
    scores: Vec<Option<f64>>,
}

/// Why one attempt gave no scores.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no answer came: {}", chain(.0))]
    NoAnswer(#[from] reqwest::Error),
    #[error("status {status}: {body}")]
    Status { status: StatusCode, body: String },
    #[error("status 200 with other JSON or none ({source}): {body}")]
    NotScores { source: serde_json::Error, body: String },
    #[error("status 200 with {found} scores")]
    Count { found: usize },
}

/// An error and its causes in one line: reqwest names the cause, such as a refused connection, only there.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

impl Remote {
    pub(crate) fn new(config: &RemoteConfig) -> Result<Self, RewardError> {
        let wrong = |setting, value: &dyn ToString, expected| RewardError::RemoteSetting {
            setting,
            value: value.to_string(),
            expected,
        };
        let url = Url::parse(&config.url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| wrong("url", &config.url, "http://HOST/PATH or https://HOST/PATH"))?;
        let timeout = seconds(config.timeout).filter(|timeout| !timeout.is_zero());
        let timeout = timeout.ok_or_else(|| wrong("timeout", &config.timeout, "a number of seconds above 0"))?;
        let backoff = seconds(config.backoff);
        let backoff = backoff.ok_or_else(|| wrong("backoff", &config.backoff, "a number of seconds of at least 0"))?;

        // An error means that the process has a provider already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let no_remote = |error: &dyn std::error::Error| RewardError::NoRemote { reason: chain(error) };
        let client = Client::builder().timeout(timeout).build().map_err(|error| no_remote(&error))?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| no_remote(&error))?;
        Ok(Self { url, retries: config.retries, backoff, client, runtime })
    }

    /// A score for each completion of one prompt, `None` where it cannot be scored. Blocks the thread.
    pub(crate) fn scores(
        &self,
        prompt: &str,
        answer: &Answer,
        completions: &[Completion],
    ) -> Result<Vec<Option<f32>>, RewardError> {
        let (answer, problem_type) = (answer.text(), answer.problem_type());
        let texts = completions.iter().map(|completion| completion.text);
        let items = texts.map(|completion| Item { prompt, completion, answer, problem_type }).collect();
        let batch = Batch { items };
        self.runtime.block_on(self.ask_again(&batch)).map_err(|failure| RewardError::Remote {
            url: self.url.to_string(),
            completions: completions.len(),
            attempts: self.retries.saturating_add(1),
            source: failure.into(),
        })
    }

    async fn ask_again(&self, batch: &Batch<'_>) -> Result<Vec<Option<f32>>, Failure> {
        let mut pause = self.backoff;
        for _ in 0..self.retries {
            if let Ok(scores) = self.ask(batch).await {
                return Ok(scores);
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2);
        }
        self.ask(batch).await
    }

    async fn ask(&self, batch: &Batch<'_>) -> Result<Vec<Option<f32>>, Failure> {
        let response = self.client.post(self.url.clone()).json(batch).send().await?;
        let status = response.status();
        let body = response.bytes().await?;
        let begin = || String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        if status != StatusCode::OK {
            return Err(Failure::Status { status, body: begin() });
        }
        let Scores { scores } =
            serde_json::from_slice(&body).map_err(|source| Failure::NotScores { source, body: begin() })?;
        if scores.len() != batch.items.len() {
            return Err(Failure::Count { found: scores.len() });
        }
        // A number too large for f32 is no score.
        Ok(scores.into_iter().map(|score| score.map(|score| score as f32).filter(|score| score.is_finite())).collect())
    }
}

fn seconds(number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(number).ok()
}

#[cfg(test)]
mod tests;

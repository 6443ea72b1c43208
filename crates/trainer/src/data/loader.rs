//! Examples prepared ahead of the step: decoding runs on a thread pool, what comes out does not depend on its timing.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::Order;
use crate::config::OnBadExample;
use crate::error::{one_line, user_error};

/// Where examples come from.
pub trait Source: Send + Sync + 'static {
    /// A prepared example.
    type Item: Send + 'static;

    /// How many records there are.
    fn count(&self) -> usize;

    /// What to call a record in a message, before or without reading it.
    fn name(&self, record: usize) -> String;

    /// Reads and prepares a record. Called from many threads.
    ///
    /// # Errors
    /// The example is bad.
    fn prepare(&self, record: usize) -> Result<Self::Item>;
}

/// How far and how wide a loader works ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Examples being prepared or waiting to be taken; at least 1.
    pub depth: usize,
    /// Threads; 0: one a core, so that none of a step's cores stands idle while it waits.
    pub threads: usize,
    /// What a bad example does.
    pub on_bad: OnBadExample,
}

/// Where a loader stands: what a checkpoint needs to go on with the same examples.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LoaderState {
    /// Positions of the order that are used up.
    pub position: u64,
    /// Records found to be bad; they are passed over without another look.
    pub bad: BTreeSet<usize>,
}

/// An example that was passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BadExample {
    /// File and line.
    pub name: String,
    /// What is wrong with it.
    pub error: String,
}

/// Examples for one step.
#[derive(Debug)]
pub struct Batch<T> {
    /// The examples, in the order of their positions.
    pub examples: Vec<T>,
    /// Bad ones met on the way for the first time.
    pub bad: Vec<BadExample>,
    /// Time spent waiting for examples to be prepared.
    pub wait: Duration,
}

/// Prepares examples ahead of their use.
pub struct Loader<S: Source> {
    source: Arc<S>,
    order: Order,
    options: LoaderOptions,
    state: LoaderState,
    /// First position not yet asked for.
    ahead: u64,
    queue: VecDeque<(usize, JoinHandle<Result<S::Item>>)>,
    runtime: Option<Runtime>,
    /// The first bad example met, with what is wrong with it.
    first_bad: String,
}

impl<S: Source> std::fmt::Debug for Loader<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("options", &self.options).field("state", &self.state).finish_non_exhaustive()
    }
}

impl<S: Source> Loader<S> {
    /// A loader that goes on from `state`; `LoaderState::default()` is the beginning. It starts to prepare at once.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn new(source: S, order: Order, options: LoaderOptions, state: LoaderState) -> Result<Self> {
        let threads = match options.threads {
            0 => available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(threads)
            .thread_name("examples")
            .build()
            .context("threads for examples")?;
        let mut loader = Self {
            source: Arc::new(source),
            order,
            options,
            ahead: state.position,
            state,
            queue: VecDeque::new(),
            runtime: Some(runtime),
            first_bad: "not known any more".into(),
        };
        loader.fill();
        Ok(loader)
    }

    /// Where its examples come from.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// Where the loader stands after the batches taken so far.
    pub fn state(&self) -> &LoaderState {
        &self.state
    }

    /// The next `size` good examples; fewer only at the end of an order that ends.
    ///
    /// # Errors
    /// A bad example if bad ones are to stop the run, or nothing but bad ones.
    pub fn batch(&mut self, size: usize) -> Result<Batch<S::Item>> {
        let mut batch = Batch { examples: Vec::with_capacity(size), bad: Vec::new(), wait: Duration::ZERO };
        let mut passed = 0;
        while batch.examples.len() < size {
            self.fill();
            let Some((record, task)) = self.queue.pop_front() else {
                break;
            };
            let since = Instant::now();
            let prepared = self.wait(task);
            batch.wait += since.elapsed();
            self.state.position += 1;
            match prepared {
                Ok(example) if !self.state.bad.contains(&record) => {
                    batch.examples.push(example);
                    passed = 0;
                }
                Ok(_) => passed += 1,
                Err(error) => {
                    batch.bad.extend(self.refuse(record, &error)?);
                    passed += 1;
                }
            }
            self.check_progress(passed)?;
        }
        Ok(batch)
    }

    /// Starts preparing until the queue is full or the order ends.
    fn fill(&mut self) {
        let Some(runtime) = &self.runtime else { return };
        while self.queue.len() < self.options.depth.max(1) {
            let Some(record) = self.order.record(self.ahead) else {
                return;
            };
            self.ahead += 1;
            let task = if self.state.bad.contains(&record) {
                runtime.spawn_blocking(|| Err(anyhow!("known to be bad")))
            } else {
                let source = Arc::clone(&self.source);
                runtime.spawn_blocking(move || source.prepare(record))
            };
            self.queue.push_back((record, task));
        }
    }

    fn wait(&self, task: JoinHandle<Result<S::Item>>) -> Result<S::Item> {
        let runtime = self.runtime.as_ref().context("the loader is shut down")?;
        runtime.block_on(task).context("preparing the example panicked")?
    }

    /// Notes a bad example; names it if it was not known before.
    fn refuse(&mut self, record: usize, error: &anyhow::Error) -> Result<Option<BadExample>> {
        if !self.state.bad.insert(record) {
            return Ok(None);
        }
        let (name, error) = (self.source.name(record), one_line(error));
        // An error of the record itself begins with its place.
        let error = error.strip_prefix(&format!("{name}: ")).unwrap_or(&error).to_owned();
        let bad = BadExample { name, error };
        if self.state.bad.len() == 1 {
            self.first_bad = format!("{}: {}", bad.name, bad.error);
        }
        match self.options.on_bad {
            OnBadExample::Stop => {
                Err(anyhow!("bad example {}: {} (data.on_bad_example = \"stop\")", bad.name, bad.error))
            }
            OnBadExample::Skip => {
                tracing::warn!("skipped bad example {}: {}", bad.name, bad.error);
                Ok(Some(bad))
            }
        }
    }

    /// Nothing but bad examples is an error: an endless order of them must end, and one that ends has given nothing.
    fn check_progress(&self, passed: usize) -> Result<()> {
        let (all, hopeless) = match &self.order {
            Order::Shuffled(epochs) => (epochs.records(), passed >= 2 * epochs.records()),
            Order::Once(count) => (*count, *count > 0 && self.state.bad.len() == *count),
        };
        if hopeless {
            return Err(user_error(format!(
                "none of the {all} examples can be used; the first bad one: {}",
                self.first_bad
            )));
        }
        Ok(())
    }
}

impl<S: Source> Drop for Loader<S> {
    fn drop(&mut self) {
        // Decoding that is under way may take long; nobody waits for it any more.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::thread::sleep;

    /// Gives the record's number; slow for some, and bad for those named.
    struct Fake(Vec<usize>);

    impl Source for Fake {
        type Item = usize;

        fn count(&self) -> usize {
            10
        }

        fn name(&self, record: usize) -> String {
            format!("fake:{record}")
        }

        fn prepare(&self, record: usize) -> Result<usize> {
            sleep(Duration::from_millis((record as u64 * 7) % 5));
            if self.0.contains(&record) {
                bail!("broken");
            }
            Ok(record)
        }
    }

    fn loader(bad: &[usize], on_bad: OnBadExample, state: LoaderState) -> Loader<Fake> {
        let options = LoaderOptions { depth: 5, threads: 3, on_bad };
        Loader::new(Fake(bad.to_vec()), Order::shuffled(10, 1), options, state).unwrap()
    }

    #[test]
    fn bad_examples_are_named_once_and_the_next_take_their_place() {
        let mut loader = loader(&[2, 5], OnBadExample::Skip, LoaderState::default());
        let mut named = Vec::new();
        let mut seen = Vec::new();
        for _ in 0..6 {
            let batch = loader.batch(4).unwrap();
            assert_eq!(batch.examples.len(), 4);
            seen.extend(batch.examples);
            named.extend(batch.bad.into_iter().map(|bad| bad.name));
        }
        named.sort();
        assert_eq!(named, ["fake:2", "fake:5"]);
        assert_eq!(loader.state().bad, BTreeSet::from([2, 5]));
        let mut order = Order::shuffled(10, 1);
        let good = (0..40).filter_map(|at| order.record(at)).filter(|record| ![2, 5].contains(record));
        assert_eq!(seen, good.take(24).collect::<Vec<_>>());
    }

    #[test]
    fn resuming_gives_the_batches_of_an_undisturbed_run() {
        let mut whole = loader(&[3], OnBadExample::Skip, LoaderState::default());
        whole.batch(7).unwrap();
        let saved = whole.state().clone();
        let mut resumed = loader(&[3], OnBadExample::Skip, saved);
        for _ in 0..4 {
            let (expected, found) = (whole.batch(7).unwrap(), resumed.batch(7).unwrap());
            assert_eq!(expected.examples, found.examples);
            assert_eq!(expected.bad, found.bad);
            assert_eq!(whole.state(), resumed.state());
        }
    }

    #[test]
    fn the_first_bad_example_stops_the_run_if_so_set() {
        let mut loader = loader(&(0..10).collect::<Vec<_>>(), OnBadExample::Stop, LoaderState::default());
        let first = Order::shuffled(10, 1).record(0).unwrap();
        let error = loader.batch(1).unwrap_err();
        assert!(one_line(&error).starts_with(&format!("bad example fake:{first}: broken")));
    }

    #[test]
    fn nothing_but_bad_examples_is_an_error_and_not_a_loop() {
        let mut loader = loader(&(0..10).collect::<Vec<_>>(), OnBadExample::Skip, LoaderState::default());
        let error = loader.batch(1).unwrap_err();
        assert!(one_line(&error).starts_with("none of the 10 examples can be used"));
    }

    #[test]
    fn an_order_that_ends_without_a_good_example_is_an_error() {
        let options = LoaderOptions { depth: 2, threads: 1, on_bad: OnBadExample::Skip };
        let mut loader = Loader::new(Fake(vec![0, 1, 2]), Order::Once(3), options, LoaderState::default()).unwrap();
        let error = loader.batch(2).unwrap_err();
        assert!(one_line(&error).starts_with("none of the 3 examples can be used; the first bad one: fake:0"));
    }

    #[test]
    fn an_order_that_ends_ends_with_a_short_batch() {
        let options = LoaderOptions { depth: 2, threads: 1, on_bad: OnBadExample::Skip };
        let mut loader = Loader::new(Fake(vec![1]), Order::Once(4), options, LoaderState::default()).unwrap();
        assert_eq!(loader.batch(2).unwrap().examples, [0, 2]);
        assert_eq!(loader.batch(2).unwrap().examples, [3]);
        assert!(loader.batch(2).unwrap().examples.is_empty());
    }
}

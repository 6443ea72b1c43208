//! Ctrl-C and SIGTERM: once to end after the current step or batch, twice to end at once.

use std::panic;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

/// Exit code after a second Ctrl-C, as of a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Whether the run was asked to end.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Begins to listen for Ctrl-C and SIGTERM.
    ///
    /// # Errors
    /// The handlers cannot be set.
    pub fn listen() -> Result<Self> {
        let stop = Self::default();
        let runtime = Builder::new_current_thread().enable_all().build().context("signals")?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let asked = stop.clone();
        let listen = move || {
            runtime.block_on(async move {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    asked.signalled();
                }
            });
        };
        thread::Builder::new().name("signals".into()).spawn(listen).context("signals")?;
        Ok(stop)
    }

    /// Whether to end after the current step.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn signalled(&self) {
        if self.0.swap(true, Ordering::Relaxed) {
            // What is under way fails as libtorch is taken down, which nobody needs to know.
            panic::set_hook(Box::new(|_| {}));
            process::exit(INTERRUPTED);
        }
        tracing::warn!("ending once what is under way is kept; press Ctrl-C again to end at once");
    }
}

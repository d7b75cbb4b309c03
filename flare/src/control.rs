//! What a caller holds on to while a statement is taken and runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtime::trap::CancelToken;

/// Stops a statement, and tells what it cost to make its programs. Clones are handles of the same.
#[derive(Clone, Debug, Default)]
pub struct Control {
    cancel: CancelToken,
    costs: Arc<Mutex<Costs>>,
}

/// What was done before anything of a statement ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// Time of parsing, binding and building graphs. Loading files is not in it.
    pub plan: Duration,
    /// Time of the optimizer.
    pub optimize: Duration,
    /// Time of lowering and of generating code.
    pub compile: Duration,
    /// What became one program across the border between a query and a model: a rule, and what it did; each once.
    pub border: Vec<String>,
}

impl Costs {
    /// All of the time.
    pub fn total(&self) -> Duration {
        self.plan + self.optimize + self.compile
    }

    /// Adds lines about the border, those that are not there.
    pub fn add_border<'a>(&mut self, lines: impl Iterator<Item = &'a str>) {
        for line in lines {
            if self.border.iter().all(|there| there != line) {
                self.border.push(line.to_string());
            }
        }
    }
}

impl Control {
    /// For one statement.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops what runs for the statement, from any thread.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// The token that runs of the statement look at.
    pub fn token(&self) -> &CancelToken {
        &self.cancel
    }

    /// What the statement has cost so far.
    pub fn costs(&self) -> Costs {
        self.lock().clone()
    }

    /// Adds to the costs.
    pub fn add(&self, add: impl FnOnce(&mut Costs)) {
        add(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Costs> {
        self.costs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

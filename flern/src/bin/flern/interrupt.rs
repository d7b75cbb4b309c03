//! Ctrl-C ends the statement that runs; the second time, or where none runs, the command.

use std::sync::{Arc, Mutex, MutexGuard};

/// How a shell says that a program was ended by Ctrl-C.
const ENDED_BY_INTERRUPT: i32 = 130;

type Canceller = Arc<dyn Fn() + Send + Sync>;

/// Ends the statement that runs, until it was used.
static RUNNING: Mutex<Option<Canceller>> = Mutex::new(None);

/// Listens to Ctrl-C from now on.
pub(crate) fn listen() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| match lock().take() {
        Some(cancel) => cancel(),
        None => std::process::exit(ENDED_BY_INTERRUPT),
    })
}

/// While the guard lives, Ctrl-C calls `cancel`.
pub(crate) fn running(cancel: Canceller) -> Guard {
    *lock() = Some(cancel);
    Guard
}

pub(crate) struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        *lock() = None;
    }
}

fn lock() -> MutexGuard<'static, Option<Canceller>> {
    RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

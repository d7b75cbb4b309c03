//! How far a training is, on a terminal only.

use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::host::Step;

/// A bar that appears with the first step of a training.
pub(crate) struct Progress {
    bar: Option<Mutex<Option<ProgressBar>>>,
}

impl Progress {
    /// Shows nothing where the standard error is no terminal.
    pub(crate) fn new() -> Progress {
        Progress { bar: std::io::stderr().is_terminal().then(Mutex::default) }
    }

    pub(crate) fn step(&self, step: Step) {
        let Some(bar) = &self.bar else { return };
        let Ok(mut bar) = bar.lock() else { return };
        let bar = bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(step.total_rows), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style.progress_chars("━━╌"));
            }
            bar
        });
        bar.set_position(step.rows);
        bar.set_message(message(step, bar.per_sec()));
    }

    /// Takes the bar from the terminal.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar
            && let Ok(mut bar) = bar.lock()
            && let Some(bar) = bar.take()
        {
            bar.finish_and_clear();
        }
    }
}

const TEMPLATE: &str = "{bar:32.cyan/dim} {percent:>3} %  {msg}";

fn message(step: Step, rows_per_second: f64) -> String {
    format!("epoch {}/{}  loss {:.4}  {} rows/s", step.epoch, step.epochs, step.loss, rounded(rows_per_second))
}

/// "950", "12 k", "3.4 M"
fn rounded(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{:.1} M", n / 1e6),
        n if n >= 1e3 => format!("{:.0} k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_said_in_one_line() {
        let step = Step { epoch: 2, epochs: 3, rows: 300_000, total_rows: 785_292, loss: 0.481_26 };
        assert_eq!(message(step, 2_345_678.0), "epoch 2/3  loss 0.4813  2.3 M rows/s");
        assert_eq!(rounded(950.4), "950");
        assert_eq!(rounded(12_345.0), "12 k");
    }

    #[test]
    fn the_template_is_one_that_indicatif_reads() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}

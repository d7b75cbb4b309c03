//! The engines under the benchmarks' clock.

use std::path::{Path, PathBuf};

use flare::catalog::Relation;
use flare::{Engine, Settings};

use crate::Result;
use crate::measure::timed;
use crate::tpch::{Mode, Run, System};

/// The SQL engine alone.
pub struct Flare {
    settings: Settings,
    /// The engine with the tables in memory.
    loaded: Engine,
    /// The files that each query opens anew.
    files: Vec<(String, PathBuf)>,
}

impl Flare {
    /// An engine that runs on this many threads.
    pub fn new(threads: usize) -> Self {
        let settings = Settings { threads, ..Settings::default() };
        Flare { loaded: Engine::with_settings(settings.clone()), settings, files: Vec::new() }
    }
}

impl System for Flare {
    fn table(&mut self, name: &str, file: &Path, mode: Mode) -> Result<()> {
        match mode {
            Mode::Memory => {
                self.loaded.register_parquet(name, file)?;
                // Columns are read when a statement first needs them: here, before the clock of the queries starts.
                if let Some(Relation::Table(table)) = self.loaded.catalog().get(name) {
                    let all: Vec<usize> = (0..table.columns().len()).collect();
                    table.load(&all, self.settings.threads)?;
                }
            }
            Mode::Parquet => self.files.push((name.to_owned(), file.to_owned())),
        }
        Ok(())
    }

    fn run(&mut self, sql: &str) -> Result<Run> {
        let engine = if self.files.is_empty() {
            self.loaded.clone()
        } else {
            // A new engine has read nothing yet.
            let engine = Engine::with_settings(self.settings.clone());
            for (name, file) in &self.files {
                engine.register_parquet(name, file)?;
            }
            engine
        };
        let (query, plan) = timed(|| engine.sql(sql));
        let query = query?;
        let compile = query.prepare()?;
        Ok(Run { batches: query.collect()?, compile: plan + compile })
    }
}

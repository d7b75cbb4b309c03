//! The engines under the benchmarks' clock.

use std::path::{Path, PathBuf};
use std::time::Duration;

use flare::catalog::Relation;
use flare::{Engine, Settings};
use flern::{Answer, Session};

use crate::Result;
use crate::data::Format;
use crate::measure::timed;
use crate::pipelines::Host;
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
        let (compile, prepare) = timed(|| query.prepare());
        // Tables in memory are there already: then all of it is planning and looking up.
        let compile = if self.files.is_empty() { compile.map(|_| prepare)? } else { compile? };
        Ok(Run { batches: query.collect()?, compile: plan + compile })
    }
}

/// Queries and models together.
pub struct Flern {
    settings: flern::Settings,
    session: Session,
}

impl Flern {
    /// A session that runs on this many threads.
    pub fn new(threads: usize) -> Self {
        let settings = flern::Settings { threads, ..flern::Settings::default() };
        Flern { session: Session::with_settings(settings.clone()), settings }
    }
}

impl Host for Flern {
    fn begin(&mut self) -> Result<()> {
        self.session = Session::with_settings(self.settings.clone());
        Ok(())
    }

    fn table(&mut self, name: &str, file: &Path, format: Format) -> Result<()> {
        match format {
            Format::Parquet => self.session.engine().register_parquet(name, file)?,
            Format::Csv => self.session.engine().register_csv(name, file)?,
        }
        Ok(())
    }

    fn run(&mut self, sql: &str) -> Result<Run> {
        let mut run = Run { batches: Vec::new(), compile: Duration::ZERO };
        for statement in flern::sql::parse(sql).map_err(flern::Error::from)? {
            let ran = self.session.run(&statement, &|_| {})?;
            run.compile += ran.costs.optimize + ran.costs.compile;
            run.batches = match ran.answer {
                Answer::Rows(rows) => rows.collect::<flare::Result<_>>()?,
                Answer::Text(_) | Answer::Done(_) => Vec::new(),
            };
        }
        Ok(run)
    }
}

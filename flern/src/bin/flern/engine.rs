//! The session as the command runs statements on it.

use std::sync::Arc;

use flern::sql::Statement;
use flern::{Answer as Returned, Session};

use crate::Settings;
use crate::host::{Answer, Column, Failure, Host, Rows, Stats, Step};

/// A session, and what its last statement cost.
pub(crate) struct Engine {
    session: Session,
    stats: Stats,
}

pub(crate) fn open(settings: &Settings) -> Result<Engine, Failure> {
    let mut with = flern::Settings::default();
    if let Some(threads) = settings.threads {
        with.threads = threads.into();
    }
    if let Some(limit) = settings.memory_limit {
        let limit = usize::try_from(limit).map_err(|_| Failure::new("the memory limit is out of range"))?;
        with.memory_limit = Some(limit);
    }
    Ok(Engine { session: Session::with_settings(with), stats: Stats::default() })
}

impl Host for Engine {
    fn run<'a>(
        &'a mut self,
        _: &str,
        statement: &Statement,
        watch: &'a (dyn Fn(Step) + Sync),
    ) -> Result<Answer<'a>, Failure> {
        self.stats = Stats::default();
        let watch = |step: flern::Step| {
            let flern::Step { epoch, epochs, rows, total_rows, loss } = step;
            watch(Step { epoch, epochs, rows, total_rows, loss });
        };
        let ran = self.session.run(statement, &watch)?;
        self.stats = Stats { compile: ran.costs.total(), border: ran.costs.border };
        Ok(match ran.answer {
            Returned::Rows(rows) => Answer::Rows(Rows {
                schema: rows.schema().clone(),
                batches: Box::new(rows.map(|batch| batch.map_err(plain))),
            }),
            Returned::Text(text) => Answer::Text(text),
            Returned::Done(text) => Answer::Done(text),
        })
    }

    fn stats(&self) -> Stats {
        self.stats.clone()
    }

    fn tables(&self) -> Vec<String> {
        self.session.engine().catalog().relations().map(|(name, _)| name.to_string()).collect()
    }

    fn columns(&self, table: &str) -> Result<Vec<Column>, Failure> {
        let columns = self.session.engine().describe(table).map_err(plain)?;
        Ok(columns.into_iter().map(|(name, ty)| Column { name, sql_type: ty.ty.to_string() }).collect())
    }

    fn models(&self) -> Vec<String> {
        self.session.models()
    }

    fn canceller(&self) -> Arc<dyn Fn() + Send + Sync> {
        let session = self.session.clone();
        Arc::new(move || session.cancel())
    }
}

fn plain(error: flare::Error) -> Failure {
    Failure::new(error.to_string())
}

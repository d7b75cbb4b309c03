//! What a statement comes to: rows that were not computed yet, or what was done.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::record_batch::RecordBatch;
use ir::value::Value;

use crate::error::{Error, Result};
use crate::session::{Answer, Guard};
use crate::sql::{Rendered, Span};

/// The last statement of a text, see [`Session::sql`](crate::Session::sql).
///
/// A query keeps the tables and models as they were when it was made: models that are replaced or dropped before it runs do not
/// change what it returns.
#[derive(Debug)]
pub struct Query {
    state: State,
}

#[derive(Debug)]
enum State {
    /// A query, the SQL that was made of it, and its place in the caller's text. The statement is over when it is dropped.
    Planned { query: Box<flare::Query>, text: Rendered, span: Span, guard: Guard },
    /// A statement that was carried out.
    Done { answer: Answer, span: Option<Span> },
}

impl Query {
    pub(crate) fn planned(query: flare::Query, text: Rendered, span: Span, guard: Guard) -> Query {
        Query { state: State::Planned { query: Box::new(query), text, span, guard } }
    }

    pub(crate) fn done(answer: Answer, span: Option<Span>) -> Query {
        Query { state: State::Done { answer, span } }
    }

    /// Gives the parameters values: `$1`, or the first `?`, is the first. A value is cast to the type that its use demands.
    ///
    /// # Errors
    /// Another number of values than the statement has parameters; a value that does not cast.
    pub fn bind(self, values: &[Value]) -> Result<Query> {
        match self.state {
            State::Planned { query, text, span, guard } => {
                let query = query.bind(values).map_err(|error| Error::from_engine(error, &text).at(span))?;
                Ok(Query { state: State::Planned { query: Box::new(query), text, span, guard } })
            }
            State::Done { span, .. } if !values.is_empty() => {
                Err(Error::model("this statement has no parameters", span))
            }
            done @ State::Done { .. } => Ok(Query { state: done }),
        }
    }

    /// What a statement without rows did, as `created table t`.
    pub fn message(&self) -> Option<&str> {
        match &self.state {
            State::Done { answer: Answer::Done(text), .. } => Some(text),
            State::Done { answer: Answer::Rows(_) | Answer::Text(_), .. } | State::Planned { .. } => None,
        }
    }

    /// Runs the query, and gives what the statement returned.
    ///
    /// # Errors
    /// What the query raises; a limit that was reached; cancellation.
    pub fn answer(self) -> Result<Answer> {
        match self.state {
            State::Planned { query, text, span, guard: _guard } => {
                let rows = query.stream().map_err(|error| Error::from_engine(error, &text).at(span))?;
                Ok(Answer::Rows(rows))
            }
            State::Done { answer, .. } => Ok(answer),
        }
    }

    /// Runs the query; all its rows, in one batch at least, so that there is a schema. The lines of EXPLAIN are rows, too.
    ///
    /// # Errors
    /// As for [`Query::answer`]; a statement that returns no rows.
    pub fn collect(self) -> Result<Vec<RecordBatch>> {
        let span = match &self.state {
            State::Planned { span, .. } => Some(*span),
            State::Done { span, .. } => *span,
        };
        match self.answer()? {
            Answer::Rows(rows) => {
                let schema = rows.schema().clone();
                let batches: flare::Result<Vec<RecordBatch>> = rows.collect();
                let mut batches = batches.map_err(|error| Error::Engine { error, span })?;
                if batches.is_empty() {
                    batches.push(RecordBatch::new_empty(schema));
                }
                Ok(batches)
            }
            Answer::Text(text) => {
                let lines: ArrayRef = Arc::new(StringArray::from(text.lines().collect::<Vec<_>>()));
                let batch = RecordBatch::try_from_iter([("explain", lines)]);
                Ok(vec![batch.map_err(|e| Error::model(e.to_string(), span))?])
            }
            Answer::Done(_) => Err(Error::model("the statement returns no rows", span)),
        }
    }
}

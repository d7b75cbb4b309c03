//! Predicting from Rust.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::record_batch::RecordBatch;
use flare::Engine;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::predict::{self, Predict};
use crate::session::Session;
use crate::sql::Expansion;

/// A model of a session, to predict with from Rust. The model stays as it was when this was made. Threads may share one.
#[derive(Debug, Clone)]
pub struct Predictor {
    session: Session,
    model: Arc<Model>,
    /// Has the model's functions and workers of its own, whatever becomes of the session's.
    engine: Engine,
    /// Held while rows are registered and their query is planned, which takes a snapshot of them.
    planning: Arc<Mutex<()>>,
}

/// The rows' name while their query is planned.
const INPUT: &str = "input";

impl Predictor {
    pub(crate) fn new(session: Session, model: Arc<Model>) -> Result<Predictor> {
        let engine = Engine::with_settings(session.engine().settings());
        for function in Predict::all(&model) {
            engine.register_function(function).map_err(plain)?;
        }
        Ok(Predictor { session, model, engine, planning: Arc::default() })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The rows with the columns that ML.PREDICT adds. The columns are found by their names.
    ///
    /// # Errors
    /// A column that is missing, of another type, or NULL where the model takes none.
    pub fn predict(&self, rows: &RecordBatch) -> Result<Vec<RecordBatch>> {
        for (name, _) in self.model.inputs() {
            if rows.schema().column_with_name(name).is_none() {
                let message = format!("the model {} reads the column '{name}', which is missing", self.model.name);
                return Err(Error::model(message, None));
            }
        }
        self.plan(rows)?.collect().map_err(plain)
    }

    fn plan(&self, rows: &RecordBatch) -> Result<flare::Query> {
        let text = match predict::expansion(&self.model, None)? {
            Expansion::Around { before, after } => format!("SELECT * FROM {before}{INPUT}{after}"),
            Expansion::Table(_) | Expansion::Call { .. } => return Err(Error::model("no query to predict with", None)),
        };
        let _planning = self.planning.lock().unwrap_or_else(PoisonError::into_inner);
        self.engine.set_settings(self.session.engine().settings());
        self.engine.sql(&format!("DROP TABLE IF EXISTS {INPUT}")).map_err(plain)?;
        self.engine.register_arrow(INPUT, std::slice::from_ref(rows)).map_err(plain)?;
        self.engine.sql(&text).map_err(plain)
    }
}

fn plain(error: flare::Error) -> Error {
    Error::Engine { error, span: None }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, RecordBatch};

    use crate::Session;

    fn rows(x: &[f64]) -> RecordBatch {
        RecordBatch::try_from_iter([("x", Arc::new(Float64Array::from(x.to_vec())) as _)]).expect("one column")
    }

    #[test]
    fn threads_may_predict_different_rows_at_once() {
        let session = Session::new();
        let text = "CREATE MODEL m OPTIONS (model_type = 'linear_reg', input_label_cols = ['y'], max_iterations = 2)
                    AS SELECT x, 2 * x AS y FROM (VALUES (0.5e0), (1.5e0), (2.5e0), (3.5e0)) AS v(x)";
        session.sql(text).expect("it trains");
        let predictor = session.model("m").expect("it is there");
        let answers = |x: &[f64]| {
            let batches = predictor.predict(&rows(x)).expect("rows");
            let column = batches[0].column_by_name("predicted_y").expect("the answer");
            column.as_any().downcast_ref::<Float64Array>().expect("numbers").values().to_vec()
        };
        let (apart, together) = ([answers(&[0.5]), answers(&[7.0])], answers(&[0.5, 7.0]));
        assert_eq!(apart.concat(), together);
        assert!(together[0] != together[1]);
        let threads = std::thread::scope(|scope| {
            let work = |x: f64| scope.spawn(move || (0..8).map(|_| answers(&[x])[0]).collect::<Vec<f64>>());
            [work(0.5), work(7.0)].map(|t| t.join().expect("no panic"))
        });
        // A model that goes leaves those who have it alone.
        session.sql("DROP MODEL m").expect("it goes");
        assert_eq!(answers(&[0.5, 7.0]), together);
        assert_eq!(threads, [vec![together[0]; 8], vec![together[1]; 8]]);
    }
}

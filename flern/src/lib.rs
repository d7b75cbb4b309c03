//! SQL and machine learning compiled as one program.
//!
//! ```
//! let session = flern::Session::new();
//! session.sql("CREATE TABLE t AS SELECT * FROM (VALUES (1, 2), (2, 4), (3, 6), (4, 8)) AS v(x, y)")?;
//! session.sql(
//!     "CREATE MODEL m OPTIONS (model_type = 'linear_reg', input_label_cols = ['y'], data_split_method = 'no_split',
//!                              max_iterations = 200, learn_rate = 0.05, early_stop = FALSE) AS SELECT * FROM t",
//! )?;
//! let rows = session.query("SELECT x, predicted_y FROM ML.PREDICT(MODEL m, TABLE t) WHERE predicted_y > 5")?;
//! assert_eq!(rows[0].num_rows(), 2);
//! # Ok::<(), flern::Error>(())
//! ```

mod codes;
pub mod data;
mod describe;
pub mod error;
mod evaluate;
mod features;
mod model;
mod predict;
mod predictor;
mod query;
mod run;
mod session;
pub mod sql;
mod store;
mod train;
mod transform;

pub use error::{Error, Result, SqlError};
pub use flare::Costs;
pub use ir::value::Value;
pub use model::{Epoch, Label, Model};
pub use predictor::Predictor;
pub use query::Query;
pub use session::{Answer, Precision, Ran, Session, Settings, Step};

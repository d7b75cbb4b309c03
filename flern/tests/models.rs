//! Models over tables that a statement writes out.

use arrow::array::{Array, BooleanArray, Float64Array};
use arrow::util::pretty::pretty_format_batches;
use flern::{Session, Settings};

fn session() -> Session {
    Session::with_settings(Settings { threads: 2, seed: 7, interpret: true, ..Settings::default() })
}

const POINTS: &str = "CREATE TABLE points AS SELECT v.i AS i, v.i % 10 AS x, (v.i * 7) % 11 AS y, \
     (v.i % 10) > 4 AS is_right FROM (VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9),(10),(11),(12),(13),(14),(15),\
     (16),(17),(18),(19),(20),(21),(22),(23),(24),(25),(26),(27),(28),(29)) AS v(i)";

#[test]
fn a_classifier_learns_and_predicts() {
    let session = session();
    session.sql(POINTS).unwrap();
    session
        .sql(
            "CREATE MODEL m OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['is_right'],
               hidden_units = [8], batch_size = 10, max_iterations = 60, learn_rate = 0.05,
               data_split_method = 'no_split', early_stop = FALSE) AS SELECT x, y, is_right FROM points",
        )
        .unwrap();
    let rows = session.query("SELECT * FROM ML.PREDICT(MODEL m, TABLE points) ORDER BY i").unwrap();
    let printed = pretty_format_batches(&rows).unwrap().to_string();
    let right = rows[0].column_by_name("is_right").unwrap().as_any().downcast_ref::<BooleanArray>().unwrap();
    let predicted = rows[0].column_by_name("predicted_is_right").unwrap();
    assert_eq!(predicted.as_any().downcast_ref::<BooleanArray>().unwrap(), right, "{printed}");
    let evaluated = session.query("SELECT accuracy, roc_auc FROM ML.EVALUATE(MODEL m, TABLE points)").unwrap();
    let metric = |i: usize| evaluated[0].column(i).as_any().downcast_ref::<Float64Array>().unwrap().value(0);
    assert_eq!((metric(0), metric(1)), (1.0, 1.0));
    let losses = session.query("SELECT loss FROM ML.TRAINING_INFO(MODEL m) ORDER BY iteration").unwrap();
    let losses = losses[0].column(0).as_any().downcast_ref::<Float64Array>().unwrap();
    assert_eq!(losses.len(), 60);
    assert!(losses.value(59) < losses.value(0) / 4.0);
}

//! The session from Rust: functions as models, threads, batches.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use flern::{Predictor, Query, Session};
use lantern::{Params, stage, value};
use ndarray::array;

use crate::{doubles, failure, number, rows, run, session, texts, with_points};

/// A session is shared by threads.
#[test]
fn sessions_are_send_and_sync() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<Session>();
    shared::<Predictor>();
    shared::<flern::Model>();
    sent::<Query>();
    shared::<flern::Error>();
    let session = with_points();
    run(
        &session,
        "CREATE MODEL m OPTIONS (model_type = 'linear_reg', input_label_cols = ['z'], max_iterations = 2) AS SELECT x, z FROM points",
    );
    let sums = std::thread::scope(|scope| {
        let work = || number(&session, "SELECT sum(predict('m', x)) FROM points");
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect::<Vec<f64>>()
    });
    assert!(sums.windows(2).all(|w| w[0] == w[1]), "{sums:?}");
}

#[test]
fn a_lantern_function_is_a_model() {
    let session = with_points();
    // Two tensors of features, one of them a column alone and of integers; a parameter between them.
    let f = stage("f", ["a: f32[n, 2]", "w: f32[2]", "b: i64[n]"], |t| {
        (&t[0] * &t[1]).sum(1) + t[2].cast(ir::types::ScalarType::F32)
    });
    let params = Params::new().with("w", value(array![2f32, -3.0]));
    session.register_function("f", &f.unwrap(), &params, &["x", "y", "i"]).unwrap();
    let found = rows(&session, "SELECT predict('f', x, y, i) AS p, 2.0e0 * x - 3.0e0 * y + i AS q FROM points");
    assert_eq!(doubles(&found, "p"), doubles(&found, "q"));
    let found = rows(&session, "SELECT * FROM ML.PREDICT(MODEL f, TABLE points) WHERE predicted_label > 50");
    assert!(found.num_rows() > 0 && doubles(&found, "predicted_label").iter().all(|p| *p > 50.0));
    // It is judged against a column `label`, shown, exported and dropped as any other.
    let r2 = "SELECT r2_score FROM ML.EVALUATE(MODEL f, (SELECT *, 2 * x - 3 * y + i AS label FROM points))";
    assert_eq!(number(&session, r2), 1.0);
    assert_eq!(texts(&rows(&session, "SHOW MODELS"), "model_type"), ["function"]);
    run(&session, "DROP MODEL f");
    assert!(session.models().is_empty());
}

#[test]
fn a_function_that_does_not_fit_is_refused() {
    let session = session();
    let none = Params::new();
    let refused = |specs: &[&str], columns: &[&str], why: &str| {
        let f = stage("f", specs.iter().copied(), |t| t[0].clone()).unwrap();
        let error = session.register_function("f", &f, &none, columns).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    refused(&["x: f32[n, 2]"], &["a", "b"], "one number for each row");
    refused(&["x: f32[2]"], &["a", "b"], "features [n] or [n, k]");
    refused(&["x: f32[n]"], &["a", "b"], "1 features and 2 columns");
    refused(&["x: f32[n]", "y: f32[m]"], &["a", "b"], "another number of rows");
    let f = stage("f", ["x: f32[n]"], |t| t[0].clone()).unwrap();
    let params = Params::new().with("w", value(array![1f32]));
    assert!(
        session
            .register_function("f", &f, &params, &["a"])
            .unwrap_err()
            .to_string()
            .contains("no input for the parameter 'w'")
    );
    session.register_function("f", &f, &none, &["a"]).unwrap();
    assert!(session.register_function("f", &f, &none, &["a"]).unwrap_err().to_string().contains("already"));
    let (message, place, _) = failure(&session, "SELECT predict('f', 'no number')");
    assert!(message.contains("argument 1 (a) is VARCHAR, not DOUBLE"), "{message}");
    assert_eq!(place, "'no number'");
}

#[test]
fn batches_are_predicted() {
    let session = with_points();
    run(
        &session,
        "CREATE MODEL m OPTIONS (model_type = 'logistic_reg', input_label_cols = ['late'], max_iterations = 3,
           data_split_method = 'no_split') AS SELECT x, size, late FROM points",
    );
    let x: ArrayRef = Arc::new(Int64Array::from(vec![1, 9]));
    let size: ArrayRef = Arc::new(StringArray::from(vec!["small", "unheard of"]));
    let other: ArrayRef = Arc::new(BooleanArray::from(vec![true, false]));
    let batch = RecordBatch::try_from_iter([("other", other), ("size", size), ("x", x.clone())]).unwrap();
    let model = session.model("m").unwrap();
    let found = model.predict(&batch).unwrap();
    let names: Vec<String> = found[0].schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["other", "size", "x", "predicted_late", "predicted_late_prob"]);
    assert_eq!(doubles(&found[0], "predicted_late_prob")[0], number(&session, "SELECT predict('m', 1, 'small')"));
    let lacking = RecordBatch::try_from_iter([("x", x)]).unwrap();
    assert!(model.predict(&lacking).unwrap_err().to_string().contains("'size', which is missing"));
    let error = session.model("n").unwrap_err();
    assert_eq!(error.help().unwrap(), "did you mean 'm'?");
}

//! The four kinds of models, and what training keeps to.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use flern::{Precision, Session, Settings};
use ir::value::TensorData;
use lantern::Params;

use crate::{assert_near, doubles, number, rows, run, session, texts, with_points};

/// A table of scikit-learn's that Lantern's tests hold, with the coefficients that scikit-learn found: see
/// `lantern/tests/lantern/regression.rs`.
fn committed(name: &str) -> Params {
    Params::load(Path::new(env!("CARGO_MANIFEST_DIR")).join("../lantern/tests/data").join(name)).unwrap()
}

fn values(params: &Params, name: &str) -> Vec<f64> {
    match &params.get(name).unwrap().data {
        TensorData::F32(v) => v.iter().map(|x| f64::from(*x)).collect(),
        TensorData::F64(v) => v.clone(),
        other => panic!("{other:?}"),
    }
}

/// Registers the features as `x0`, `x1`, … and the label as `y`.
fn register(session: &Session, data: &Params) -> usize {
    let width = data.get("x").unwrap().shape[1];
    let (x, y) = (values(data, "x"), values(data, "y"));
    let column = |i: usize| -> ArrayRef { Arc::new(Float64Array::from_iter_values(x.chunks(width).map(|r| r[i]))) };
    let mut columns: Vec<(String, ArrayRef)> = (0..width).map(|i| (format!("x{i}"), column(i))).collect();
    columns.push(("y".into(), Arc::new(Float64Array::from(y))));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    session.engine().register_arrow("data", &[batch]).unwrap();
    width
}

fn in_doubles(interpret: bool) -> Session {
    let settings = Settings { threads: 2, seed: 7, precision: Precision::Double, interpret, ..Settings::default() };
    Session::with_settings(settings)
}

#[test]
fn linear_regression_has_the_coefficients_of_scikit_learn() {
    let session = in_doubles(false);
    let data = committed("diabetes.safetensors");
    let width = register(&session, &data);
    run(
        &session,
        "CREATE MODEL m OPTIONS (model_type = 'linear_reg', input_label_cols = ['y'], data_split_method = 'no_split',
           optimizer = 'momentum', learn_rate = 0.4, batch_size = 1000, max_iterations = 600, early_stop = FALSE)
         AS SELECT * FROM data",
    );
    // scikit-learn's are for standardized features: those of one deviation more in each.
    let found = rows(&session, "SELECT w.weight * s.d AS w FROM (SELECT feature, weight FROM ML.WEIGHTS(MODEL m)
        WHERE tensor = 'l0.w') AS w, (SELECT stddev_pop(y) AS d FROM data) AS s ORDER BY CAST(substr(feature, 2) AS INTEGER)");
    let found = doubles(&found, "w");
    assert_eq!(found.len(), width);
    for (got, want) in found.iter().zip(values(&data, "coef")) {
        assert_near(*got, want, 1e-5 * want.abs().max(1.0));
    }
    let mean = number(&session, "SELECT avg(predicted_y) FROM ML.PREDICT(MODEL m, TABLE data)");
    assert_near(mean, values(&data, "intercept")[0], 1e-5);
}

/// The weights that Newton's method finds for a logistic regression over standardized features, the intercept last.
fn newton(x: &[Vec<f64>], y: &[f64]) -> Vec<f64> {
    let n = x[0].len() + 1;
    let mut w = vec![0.0; n];
    for _ in 0..30 {
        let mut system = vec![vec![0.0; n + 1]; n];
        for (row, y) in x.iter().zip(y) {
            let row: Vec<f64> = row.iter().copied().chain([1.0]).collect();
            let p = 1.0 / (1.0 + (-row.iter().zip(&w).map(|(a, b)| a * b).sum::<f64>()).exp());
            for i in 0..n {
                for j in 0..n {
                    system[i][j] += row[i] * row[j] * p * (1.0 - p);
                }
                system[i][n] += row[i] * (y - p);
            }
        }
        // Gauss and Jordan; the matrix is positive definite.
        for i in 0..n {
            let pivot = system[i][i];
            system[i].iter_mut().for_each(|v| *v /= pivot);
            let row = system[i].clone();
            for (j, other) in system.iter_mut().enumerate() {
                let factor = other[i];
                if j != i {
                    other.iter_mut().zip(&row).for_each(|(o, r)| *o -= factor * r);
                }
            }
        }
        w.iter_mut().zip(&system).for_each(|(w, row)| *w += row[n]);
    }
    w
}

#[test]
fn logistic_regression_has_the_weights_of_newtons_method() {
    let session = in_doubles(false);
    let data = committed("diabetes.safetensors");
    register(&session, &data);
    run(
        &session,
        "CREATE MODEL m OPTIONS (model_type = 'logistic_reg', input_label_cols = ['high'], data_split_method = 'no_split',
           optimizer = 'momentum', learn_rate = 1, batch_size = 1000, max_iterations = 400, early_stop = FALSE)
         AS SELECT x2, x3, x8, y > 140 AS high FROM data",
    );
    let found =
        doubles(&rows(&session, "SELECT weight FROM ML.WEIGHTS(MODEL m) ORDER BY tensor DESC, input"), "weight");
    let table = rows(&session, "SELECT x2, x3, x8, y > 140 AS high FROM data");
    let mut x: Vec<Vec<f64>> = ["x2", "x3", "x8"].map(|c| doubles(&table, c)).to_vec();
    for column in &mut x {
        let n = column.len() as f64;
        let mean = column.iter().sum::<f64>() / n;
        let deviation = (column.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
        column.iter_mut().for_each(|v| *v = (*v - mean) / deviation);
    }
    let x: Vec<Vec<f64>> = (0..x[0].len()).map(|i| x.iter().map(|c| c[i]).collect()).collect();
    let want = newton(&x, &doubles(&table, "high"));
    assert_eq!(found.len(), want.len());
    for (got, want) in found.iter().zip(want) {
        assert_near(*got, want, 1e-6);
    }
}

#[test]
fn a_network_learns_classes() {
    let session = with_points();
    run(
        &session,
        "CREATE MODEL m OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['late'], hidden_units = [8],
           batch_size = 10, max_iterations = 60, learn_rate = 0.05, data_split_method = 'no_split', early_stop = FALSE)
         AS SELECT x, y, late FROM points",
    );
    let found = rows(&session, "SELECT * FROM ML.PREDICT(MODEL m, TABLE points) ORDER BY i");
    assert_eq!(texts(&found, "predicted_late"), texts(&found, "late"));
    let metrics = rows(&session, "SELECT * FROM ML.EVALUATE(MODEL m, TABLE points)");
    assert_eq!((doubles(&metrics, "accuracy")[0], doubles(&metrics, "roc_auc")[0]), (1.0, 1.0));
    let info = rows(&session, "SELECT * FROM ML.TRAINING_INFO(MODEL m) ORDER BY iteration");
    let losses = doubles(&info, "loss");
    assert_eq!(losses.len(), 60);
    assert!(losses[59] < losses[0] / 4.0, "{losses:?}");
    assert!(doubles(&info, "eval_loss").iter().all(|l| l.is_nan()));
    assert!(doubles(&info, "duration_ms").iter().all(|ms| *ms > 0.0));
}

#[test]
fn a_network_learns_numbers() {
    let session = with_points();
    run(
        &session,
        "CREATE MODEL m OPTIONS (model_type = 'dnn_regressor', input_label_cols = ['z'], hidden_units = [16],
           activation_fn = 'tanh', batch_size = 20, max_iterations = 200, learn_rate = 0.02, data_split_method = 'no_split',
           early_stop = FALSE)
         AS SELECT x, y, z FROM points",
    );
    assert!(number(&session, "SELECT r2_score FROM ML.EVALUATE(MODEL m, TABLE points)") > 0.99);
}

const TRAIN: &str = "CREATE OR REPLACE MODEL m OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['size'],
    hidden_units = [6], batch_size = 16, max_iterations = 3, data_split_method = 'random',
    data_split_eval_fraction = 0.25, seed = 11) AS SELECT x, y, size FROM points";

#[test]
fn the_same_seed_gives_the_same_bits() {
    let weights = |session: &Session| session.model("m").unwrap().model().params().clone();
    let first = with_points();
    run(&first, TRAIN);
    let before = weights(&first);
    run(&first, TRAIN);
    assert_eq!(before, weights(&first));
    run(&first, &TRAIN.replace("seed = 11", "seed = 12"));
    assert_ne!(before, weights(&first));
    // The seed of the session stands in for that of the statement.
    run(&first, &format!("SET seed = 11; {}", TRAIN.replace(", seed = 11", "")));
    assert_eq!(before, weights(&first));
}

/// Twenty steps over a slice, in doubles: compiled code and the interpreter come to the same weights.
#[test]
fn training_compiled_is_training_interpreted() {
    let train = "CREATE MODEL m TRANSFORM (ML.STANDARD_SCALER(x) OVER() AS x, ML.MIN_MAX_SCALER(y) OVER() AS y,
           ML.ONE_HOT_ENCODER(size) OVER() AS size, late)
         OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['late'], hidden_units = [8, 4], batch_size = 12,
           max_iterations = 4, early_stop = FALSE, data_split_method = 'no_split', seed = 3) AS SELECT * FROM points";
    let params = |interpret: bool| {
        let session = in_doubles(interpret);
        run(&session, crate::POINTS);
        run(&session, train);
        let found = session.model("m").unwrap().model().params().clone();
        let rows = rows(&session, "SELECT predicted_late_prob AS p FROM ML.PREDICT(MODEL m, TABLE points) ORDER BY i");
        (found, doubles(&rows, "p"))
    };
    let ((compiled, p), (interpreted, q)) = (params(false), params(true));
    for ((name, a), (_, b)) in compiled.iter().zip(interpreted.iter()) {
        let (TensorData::F64(a), TensorData::F64(b)) = (&a.data, &b.data) else { panic!("{name} is not in doubles") };
        a.iter().zip(b).for_each(|(a, b)| assert_near(*a, *b, 1e-8));
    }
    p.iter().zip(&q).for_each(|(p, q)| assert_near(*p, *q, 1e-8));
}

/// The loss of the held-out rows says when to stop, and TRAINING_INFO has it.
#[test]
fn an_early_stop_follows_the_held_out_rows() {
    let session = session();
    run(
        &session,
        "CREATE TABLE t AS SELECT i AS x, i * 1.0e0 AS y, FALSE AS held FROM (VALUES (1), (2), (3), (4), (5), (6), (7), (8)) AS v(i)
         UNION ALL SELECT i, i * -50.0e0, TRUE FROM (VALUES (9), (10)) AS v(i)",
    );
    let train = |stop: bool| {
        run(
            &session,
            &format!(
                "CREATE OR REPLACE MODEL m OPTIONS (model_type = 'linear_reg', input_label_cols = ['y'], optimizer = 'sgd',
                   learn_rate = 0.1, batch_size = 8, max_iterations = 12, early_stop = {stop}, data_split_method = 'custom',
                   data_split_col = 'held') AS SELECT * FROM t"
            ),
        );
        let info = rows(&session, "SELECT * FROM ML.TRAINING_INFO(MODEL m) ORDER BY iteration");
        (doubles(&info, "loss"), doubles(&info, "eval_loss"))
    };
    let (losses, held) = train(false);
    assert_eq!((losses.len(), held.len()), (12, 12));
    assert!(losses.windows(2).all(|w| w[1] < w[0]), "{losses:?}");
    // What the last pass left is what the model has.
    let mse = number(&session, "SELECT mean_squared_error FROM ML.EVALUATE(MODEL m)");
    assert_near(held[11], mse, 1e-3 * mse);
    let stop = (1..12).find(|i| held[i - 1] - held[*i] <= 0.01 * held[i - 1]).unwrap();
    let (losses, stopped) = train(true);
    assert_eq!((losses.len(), stopped.as_slice()), (stop + 1, &held[..=stop]));
}

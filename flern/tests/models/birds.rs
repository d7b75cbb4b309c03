//! A second data set of another shape: three kinds by name, NULLs, and an island that training does not see. See
//! `flern/tests/data/birds.py`.

use flern::Session;

use crate::{doubles, failure, number, rows, run, session, texts};

fn with_birds() -> Session {
    let session = session();
    session.engine().register_csv("birds", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/birds.csv")).unwrap();
    session
}

const TRAIN: &str = "CREATE MODEL kinds
    TRANSFORM (
      ML.STANDARD_SCALER(bill_length) OVER() AS bill_length,
      ML.MIN_MAX_SCALER(bill_depth) OVER() AS bill_depth,
      ML.STANDARD_SCALER(ML.IMPUTER(flipper_length, 'median') OVER()) OVER() AS flipper_length,
      ML.STANDARD_SCALER(ML.IMPUTER(mass, 'mean') OVER()) OVER() AS mass,
      ML.ONE_HOT_ENCODER(ML.IMPUTER(sex, 'most_frequent') OVER()) OVER() AS sex,
      ML.ONE_HOT_ENCODER(island) OVER() AS island,
      kind, is_new
    )
    OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['kind'], hidden_units = [16], batch_size = 32,
      max_iterations = 60, learn_rate = 0.01, data_split_method = 'custom', data_split_col = 'is_new', seed = 1)
    AS SELECT * FROM birds";

#[test]
fn three_kinds_are_told_apart() {
    let session = with_birds();
    run(&session, TRAIN);
    let metrics = rows(&session, "SELECT * FROM ML.EVALUATE(MODEL kinds)");
    for (metric, least) in
        [("accuracy", 0.9), ("precision", 0.85), ("recall", 0.85), ("f1_score", 0.85), ("roc_auc", 0.95)]
    {
        let value = doubles(&metrics, metric)[0];
        assert!((least..=1.0).contains(&value), "{metric} {value}");
    }
    assert!(doubles(&metrics, "log_loss")[0] < 0.4);
    // An island that training did not see is none of those it saw: the rows are predicted all the same.
    let unseen = rows(
        &session,
        "SELECT kind, predicted_kind, predict('kinds', bill_length, bill_depth, flipper_length, mass, sex, island) AS p
         FROM ML.PREDICT(MODEL kinds, (SELECT * FROM birds WHERE island = 'Signy'))",
    );
    assert_eq!(unseen.num_rows(), 2);
    assert_eq!(texts(&unseen, "kind"), texts(&unseen, "predicted_kind"));
    assert_eq!(texts(&unseen, "p"), texts(&unseen, "predicted_kind"));
    let features = rows(&session, "SELECT DISTINCT feature FROM ML.WEIGHTS(MODEL kinds) WHERE feature LIKE 'island%'");
    assert_eq!(features.num_rows(), 3, "the islands of the training rows");
}

/// The metrics of several classes, counted by SQL from the predictions.
#[test]
fn metrics_of_several_classes_are_means_over_the_classes() {
    let session = with_birds();
    run(&session, TRAIN);
    run(&session, "CREATE TABLE p AS SELECT kind AS k, predicted_kind AS q FROM ML.PREDICT(MODEL kinds, TABLE birds)");
    let counted = rows(
        &session,
        "SELECT avg(CAST(hit AS DOUBLE) / named) AS precision, avg(CAST(hit AS DOUBLE) / so) AS recall FROM (
           SELECT c.k, (SELECT count(*) FROM p WHERE p.k = c.k AND p.q = c.k) AS hit,
             (SELECT count(*) FROM p WHERE p.q = c.k) AS named, (SELECT count(*) FROM p WHERE p.k = c.k) AS so
           FROM (SELECT DISTINCT k FROM p) AS c) AS classes",
    );
    let metrics = rows(&session, "SELECT * FROM ML.EVALUATE(MODEL kinds, TABLE birds)");
    for metric in ["precision", "recall"] {
        crate::assert_near(doubles(&metrics, metric)[0], doubles(&counted, metric)[0], 1e-12);
    }
    let right = number(&session, "SELECT avg(CASE WHEN k = q THEN 1e0 ELSE 0e0 END) FROM p");
    crate::assert_near(doubles(&metrics, "accuracy")[0], right, 1e-12);
}

#[test]
fn a_null_that_nothing_imputes_is_an_error_with_its_column() {
    let session = with_birds();
    let (message, ..) = failure(
        &session,
        "CREATE MODEL m OPTIONS (model_type = 'logistic_reg', input_label_cols = ['kind']) AS SELECT kind, bill_length,
           mass FROM birds",
    );
    assert!(message.contains("NULL") && message.contains("mass"), "{message}");
    // A NULL category is none of the categories; a NULL number at prediction is an error, too.
    run(
        &session,
        "CREATE MODEL m OPTIONS (model_type = 'logistic_reg', input_label_cols = ['kind'], max_iterations = 2)
         AS SELECT kind, bill_length, mass, sex FROM birds WHERE mass IS NOT NULL",
    );
    let (message, ..) = failure(&session, "SELECT * FROM ML.PREDICT(MODEL m, TABLE birds)");
    assert!(message.contains("NULL") && message.contains("mass"), "{message}");
    assert_eq!(
        rows(&session, "SELECT * FROM ML.PREDICT(MODEL m, (SELECT * FROM birds WHERE mass > 0))").num_columns(),
        10
    );
}

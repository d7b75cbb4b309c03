//! The functions of TRANSFORM: a linear model whose weights pick one feature shows what each gives.

use flern::Session;

use crate::{assert_near, doubles, failure, rows, run, session};

fn with_values() -> Session {
    let session = session();
    run(
        &session,
        "CREATE TABLE t AS SELECT * FROM (VALUES (1, 10, 'b', 1.0e0), (2, NULL, 'a', 2.0e0), (3, 30, NULL, 3.0e0), (4, 30, 'b', 4.0e0),
           (10, 40, 'c', 5.0e0)) AS v(x, n, s, y)",
    );
    session
}

/// The columns of a feature over the rows of `t`, found with weights that pick one column after the other.
fn feature(session: &Session, item: &str) -> Vec<Vec<f64>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("w.safetensors");
    let mut found = vec![];
    for width in 1..9usize {
        let mut picked = vec![];
        for column in 0..width {
            let mut w = ndarray::Array2::<f32>::zeros((1, width));
            w[[0, column]] = 1.0;
            let params = lantern::Params::new()
                .with("l0.w", lantern::value(w))
                .with("l0.b", lantern::value(ndarray::array![0f32]));
            params.save(&file).unwrap();
            let create = format!(
                "CREATE OR REPLACE MODEL m TRANSFORM ({item} AS f, y) OPTIONS (model_type = 'linear_reg', input_label_cols = ['y'],
                   path = '{}') AS SELECT * FROM t",
                file.display()
            );
            if session.sql(&create).is_err() {
                break;
            }
            picked.push(doubles(
                &rows(session, "SELECT predicted_y FROM ML.PREDICT(MODEL m, TABLE t) ORDER BY y"),
                "predicted_y",
            ));
        }
        if picked.len() == width {
            found = picked;
        }
    }
    found
}

#[track_caller]
fn check(item: &str, expected: &[&[f64]]) {
    let found = feature(&with_values(), item);
    assert_eq!(found.len(), expected.len(), "{item}: {found:?}");
    for (found, expected) in found.iter().zip(expected) {
        found.iter().zip(*expected).for_each(|(f, e)| assert_near(*f, *e, 1e-6));
    }
}

#[test]
fn each_function_gives_what_it_says() {
    let deviation = (((1.0f64 - 4.0).powi(2) + 4.0 + 1.0 + 0.0 + 36.0) / 5.0).sqrt();
    let standard: Vec<f64> = [1.0, 2.0, 3.0, 4.0, 10.0].map(|x| (x - 4.0) / deviation).to_vec();
    check("ML.STANDARD_SCALER(x) OVER()", &[&standard]);
    check("ML.MIN_MAX_SCALER(x) OVER()", &[&[0.0, 1.0 / 9.0, 2.0 / 9.0, 3.0 / 9.0, 1.0]]);
    check("ML.IMPUTER(n, 'mean') OVER()", &[&[10.0, 27.5, 30.0, 30.0, 40.0]]);
    check("ML.IMPUTER(n, 'median') OVER()", &[&[10.0, 30.0, 30.0, 30.0, 40.0]]);
    check("ML.IMPUTER(n, 'most_frequent') OVER()", &[&[10.0, 30.0, 30.0, 30.0, 40.0]]);
    check("x * 2 + 1", &[&[3.0, 5.0, 7.0, 9.0, 21.0]]);
    // Categories in ascending order; NULL is none of them.
    let (a, b, c) = ([0.0, 1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]);
    check("ML.ONE_HOT_ENCODER(s) OVER()", &[&a, &b, &c]);
    check("s", &[&a, &b, &c]);
    check("ML.IMPUTER(s, 'most_frequent') OVER()", &[&a, &[1.0, 0.0, 1.0, 1.0, 0.0], &c]);
    // Buckets: below 2, from 2 to below 4, from 4 on.
    check(
        "ML.BUCKETIZE(x, [2, 4])",
        &[&[1.0, 0.0, 0.0, 0.0, 0.0], &[0.0, 1.0, 1.0, 0.0, 0.0], &[0.0, 0.0, 0.0, 1.0, 1.0]],
    );
    check("ML.MIN_MAX_SCALER(ML.IMPUTER(n, 'median') OVER()) OVER()", &[&[0.0, 2.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0, 1.0]]);
    check("x > 2", &[&[0.0, 0.0, 1.0, 1.0, 1.0]]);
}

#[test]
fn without_a_transform_numbers_are_standardized_and_text_is_one_hot() {
    let session = with_values();
    run(
        &session,
        "CREATE MODEL m OPTIONS (model_type = 'linear_reg', input_label_cols = ['y'], max_iterations = 1) AS SELECT x, s, y FROM t",
    );
    let described = rows(&session, "DESCRIBE MODEL m");
    let of = |name: &str| {
        let at = crate::texts(&described, "property").iter().position(|p| p == name).unwrap();
        crate::texts(&described, "value")[at].clone()
    };
    assert!(of("feature x").contains("4e0") && of("feature x").contains("3.1622776601683795e0"), "{}", of("feature x"));
    assert_eq!(of("network"), "4 -> 1");
}

/// More categories than are counted in one pass, with a NULL and values that held-out rows alone have, and a label of classes.
#[test]
fn many_categories_are_counted_in_the_training_rows() {
    let session = with_values();
    run(
        &session,
        "CREATE MODEL m OPTIONS (model_type = 'logistic_reg', input_label_cols = ['big'], max_iterations = 1,
           data_split_method = 'custom', data_split_col = 'held')
         AS SELECT s, s || 'x' AS s2, 'k' || s AS s3, upper(s) AS s4, CASE WHEN x < 3 THEN 'low' ELSE 'high' END AS s5, s AS s6,
              y > 2 AS big, x = 10 AS held FROM t",
    );
    let described = rows(&session, "DESCRIBE MODEL m");
    let at = crate::texts(&described, "property").iter().position(|p| p == "network").unwrap();
    // The row of 'c' is held out.
    assert_eq!(crate::texts(&described, "value")[at], "12 -> 1");
    let losses = rows(&session, "SELECT eval_loss FROM ML.TRAINING_INFO(MODEL m)");
    assert!(doubles(&losses, "eval_loss").iter().all(|l| l.is_finite()));
}

#[test]
fn what_cannot_become_a_number_is_refused_with_its_place() {
    let session = with_values();
    let create = |items: &str| {
        format!(
            "CREATE MODEL m TRANSFORM ({items}, y) OPTIONS (model_type = 'linear_reg', input_label_cols = ['y']) AS SELECT * FROM t"
        )
    };
    for (items, why, place) in [
        (
            "ML.STANDARD_SCALER(s) OVER() AS f",
            "'f' scales or imputes numbers, and this is text",
            "ML.STANDARD_SCALER(s) OVER()",
        ),
        ("CAST('2013-01-01' AS DATE) AS d", "the feature 'd' is a date", "CAST('2013-01-01' AS DATE)"),
        ("ML.STANDARD_SCALER(nn) OVER() AS f", "nn", "ML.STANDARD_SCALER(nn) OVER()"),
        ("ML.STANDARD_SCALER(x) OVER() AS f, lower(x, 3) AS g", "lower", "lower(x, 3)"),
        ("* EXCEPT (xx)", "no column 'xx'", "xx"),
        ("1 AS one", "no feature reads a column", "m"),
    ] {
        let (message, at, _) = failure(&session, &create(items));
        assert!(message.contains(why), "{message}, expected {why}");
        assert_eq!(at, place);
    }
}

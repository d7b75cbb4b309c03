//! How rows are held out.

use crate::{failure, number, rows, run, session, texts, with_points};

/// How many of the 60 rows are trained on: a category for each of them becomes a column of the first layer.
fn trained_on(options: &str) -> usize {
    let session = with_points();
    run(
        &session,
        &format!(
            "CREATE MODEL m TRANSFORM (ML.ONE_HOT_ENCODER(i) OVER() AS i, late, z)
             OPTIONS (model_type = 'linear_reg', input_label_cols = ['z'], max_iterations = 1, {options}) AS SELECT * FROM points"
        ),
    );
    let categories = number(&session, "SELECT count(*) FROM ML.WEIGHTS(MODEL m) WHERE feature LIKE 'i.%'") as usize;
    let rows: usize = texts(&rows(&session, "SHOW MODELS"), "training_rows")[0].parse().unwrap();
    assert_eq!(categories, rows);
    rows
}

#[test]
fn every_method_holds_out_what_it_says() {
    assert_eq!(trained_on("data_split_method = 'no_split'"), 60);
    // Below 500 rows `auto_split` holds out none.
    assert_eq!(trained_on("data_split_method = 'auto_split'"), 60);
    assert_eq!(trained_on("data_split_method = 'custom', data_split_col = 'late'"), 30);
    let random = trained_on("data_split_method = 'random', data_split_eval_fraction = 0.5, seed = 4");
    assert!((20..=40).contains(&random), "{random}");
    assert_eq!(random, trained_on("data_split_method = 'random', data_split_eval_fraction = 0.5, seed = 4"));
}

#[test]
fn seq_holds_out_the_largest_values() {
    let session = with_points();
    run(
        &session,
        "CREATE MODEL m OPTIONS (model_type = 'linear_reg', input_label_cols = ['z'], max_iterations = 1,
           data_split_method = 'seq', data_split_col = 'i', data_split_eval_fraction = 0.1) AS SELECT i, x, y, z FROM points",
    );
    let held = "SELECT mean_squared_error FROM ML.EVALUATE(MODEL m)";
    let named = "SELECT mean_squared_error FROM ML.EVALUATE(MODEL m, (SELECT * FROM points WHERE i >= 54))";
    assert_eq!(number(&session, held), number(&session, named));
    assert_eq!(texts(&rows(&session, "SHOW MODELS"), "training_rows"), ["54"]);
    let inputs = session.model("m").unwrap().model().inputs().map(|(n, _)| n.to_string()).collect::<Vec<_>>();
    assert_eq!(inputs, ["x", "y"], "the column of the split is no feature");
}

#[test]
fn auto_split_holds_out_a_fifth_of_a_middling_table() {
    let session = with_points();
    run(
        &session,
        "CREATE MODEL m OPTIONS (model_type = 'linear_reg', input_label_cols = ['z'], max_iterations = 1)
         AS SELECT a.x, b.y, a.z FROM points AS a, points AS b",
    );
    let trained: f64 = texts(&rows(&session, "SHOW MODELS"), "training_rows")[0].parse().unwrap();
    assert!((2750.0..=3010.0).contains(&trained), "{trained} of 3600");
}

/// The statistics of TRANSFORM are those of the training rows: other values of the held-out rows change no weight.
#[test]
fn held_out_rows_do_not_leak() {
    let weights = |held: &str| {
        let session = session();
        run(
            &session,
            &format!(
                "CREATE TABLE t AS SELECT i AS a, i * 2 AS b, i AS c, CASE WHEN i % 3 = 0 THEN NULL ELSE i END AS d, 'k' || (i % 3) AS e,
                   i * 1.5e0 AS y, FALSE AS held FROM (VALUES (1), (2), (3), (4), (5), (6), (7), (8)) AS v(i)
                 UNION ALL SELECT {held}, TRUE FROM (VALUES (1), (2), (3)) AS v(i)"
            ),
        );
        run(
            &session,
            "CREATE MODEL m TRANSFORM (ML.STANDARD_SCALER(a) OVER() AS a, ML.MIN_MAX_SCALER(b) OVER() AS b,
               ML.STANDARD_SCALER(ML.IMPUTER(c, 'mean') OVER()) OVER() AS c, ML.IMPUTER(d, 'median') OVER() AS d,
               ML.ONE_HOT_ENCODER(ML.IMPUTER(e, 'most_frequent') OVER()) OVER() AS e, y, held)
             OPTIONS (model_type = 'linear_reg', input_label_cols = ['y'], max_iterations = 5, data_split_method = 'custom',
               data_split_col = 'held', early_stop = FALSE) AS SELECT * FROM t",
        );
        let model = session.model("m").unwrap();
        let eval: Vec<Option<f64>> = model.model().epochs().iter().map(|e| e.eval_loss).collect();
        let described = texts(&rows(&session, "DESCRIBE MODEL m"), "value").join("\n");
        (model.model().params().clone(), described, eval)
    };
    let (first, first_text, first_eval) = weights("i AS a, i AS b, i AS c, i AS d, 'k0', i * 1.5e0");
    let (other, other_text, other_eval) = weights("i * 1000, -i * 500, NULL, 77, 'unseen' || i, i * -9.0e0");
    assert_eq!(first, other);
    assert_eq!(first_text, other_text);
    assert_ne!(first_eval, other_eval);
}

#[test]
fn a_split_that_does_not_fit_is_refused() {
    let session = with_points();
    let train = |options: &str| {
        failure(
            &session,
            &format!(
                "CREATE MODEL m OPTIONS (model_type = 'linear_reg', input_label_cols = ['z'], {options}) AS SELECT * FROM points"
            ),
        )
    };
    let (message, place, _) = train("data_split_method = 'custom', data_split_col = 'x'");
    assert_eq!((message.as_str(), place.as_str()), ("data_split_col must be a boolean column", "'x'"));
    let (message, place, help) = train("data_split_method = 'seq', data_split_col = 'ii'");
    assert_eq!(
        (message.as_str(), place.as_str(), help.as_str()),
        ("the query has no column 'ii'", "'ii'", "did you mean 'i'?")
    );
    let (message, ..) = train("data_split_method = 'custom'");
    assert!(message.contains("'data_split_col' is missing"), "{message}");
    let (message, ..) = train("data_split_eval_fraction = 1");
    assert!(message.contains("a number between 0 and 1"), "{message}");
    let (message, ..) = train("data_split_method = 'random', data_split_col = 'x'");
    assert!(message.contains("only with 'custom' or 'seq'"), "{message}");
}

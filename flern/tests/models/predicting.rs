//! Predictions inside of queries.

use flern::{Session, Value};

use crate::{doubles, explained, failure, number, rows, run, texts, with_points};

fn with_models() -> Session {
    let session = with_points();
    run(
        &session,
        "CREATE MODEL late OPTIONS (model_type = 'logistic_reg', input_label_cols = ['late'], max_iterations = 5,
           data_split_method = 'no_split') AS SELECT y, x, late FROM points;
         CREATE MODEL size OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['size'], hidden_units = [5],
           max_iterations = 5, batch_size = 8, data_split_method = 'no_split') AS SELECT x, y, size FROM points;
         CREATE MODEL z OPTIONS (model_type = 'linear_reg', input_label_cols = ['z'], max_iterations = 5,
           data_split_method = 'no_split') AS SELECT x, y, z FROM points",
    );
    session
}

/// `predict` gives the column that ML.PREDICT gives, for every kind of model, by position and by name.
#[test]
fn the_scalar_is_the_column_of_ml_predict() {
    let session = with_models();
    let found = rows(
        &session,
        "SELECT predicted_late_prob AS a, predict('late', y, x) AS b, predict('late', x => x, y => y) AS c
         FROM ML.PREDICT(MODEL late, TABLE points) ORDER BY i",
    );
    assert_eq!(doubles(&found, "a"), doubles(&found, "b"));
    assert_eq!(doubles(&found, "a"), doubles(&found, "c"));
    let found = rows(
        &session,
        "SELECT s.predicted_size AS a, predict('size', s.x, s.y) AS b, z.predicted_z AS c, predict('z', s.x, s.y) AS d
         FROM ML.PREDICT(MODEL size, TABLE points) AS s JOIN ML.PREDICT(MODEL z, TABLE points) AS z ON s.i = z.i",
    );
    assert_eq!(found.num_rows(), 60);
    assert_eq!(texts(&found, "a"), texts(&found, "b"));
    assert_eq!(doubles(&found, "c"), doubles(&found, "d"));
    // Names fold as everywhere in SQL, unless a model is called so.
    assert_eq!(number(&session, "SELECT PREDICT('Z', 1, 2)"), number(&session, "SELECT predict('z', 1, 2)"));
    // Its column is called as it is.
    assert_eq!(rows(&session, "SELECT predict('z', 1, 2)").schema().field(0).name(), "predict");
}

/// Scaling is in the weights, and conditions on a probability are conditions on its logit: the same rows pass. So it is for a
/// model that is an expression of its row and for one that runs over tiles, whatever the constant, and whether or not the answer
/// is a result too.
#[test]
fn conditions_on_a_probability_keep_the_rows_that_its_values_pass() {
    let session = with_models();
    run(
        &session,
        "CREATE MODEL deep OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['late'], hidden_units = [20, 20],
           max_iterations = 5, data_split_method = 'no_split') AS SELECT x, y, late FROM points;
         CREATE TABLE p AS SELECT i, predict('late', y, x) AS small, predict('deep', x, y) AS big FROM points",
    );
    for (column, call) in [("small", "predict('late', y, x)"), ("big", "predict('deep', x, y)")] {
        let condition = format!("SELECT count(*) FROM points WHERE {call} > 0.5");
        let explained = explained(&session, &format!("EXPLAIN (GRAPH) {condition}"));
        assert!(explained.contains("B7: weights scale 2 of 2 features: 4 operations a row less"), "{explained}");
        assert!(explained.contains("one on its logit") && !explained.contains("sigmoid"), "{explained}");
        // Constants between the values, and values themselves.
        let stored = rows(&session, &format!("SELECT {column} AS p FROM p ORDER BY p LIMIT 20"));
        let constants =
            doubles(&stored, "p").into_iter().map(|p| format!("{p:e}")).chain(["0.5".into(), "0.49".into()]);
        for constant in constants {
            for op in ["<", "<=", ">", ">=", "= 0 OR p <"] {
                let kept = |from: &str| {
                    number(
                        &session,
                        &format!("SELECT coalesce(sum(i), 0e0) FROM ({from}) AS q WHERE p {op} {constant}"),
                    )
                };
                let stored = kept(&format!("SELECT CAST(i AS DOUBLE) AS i, {column} AS p FROM p"));
                assert_eq!(
                    kept(&format!("SELECT CAST(i AS DOUBLE) AS i, {call} AS p FROM points")),
                    stored,
                    "{op} {constant}"
                );
            }
        }
    }
}

/// Wherever an expression may stand.
#[test]
fn the_scalar_stands_in_every_clause() {
    let session = with_models();
    run(&session, "CREATE TABLE p AS SELECT *, predict('late', y, x) AS p, predict('size', x, y) AS s FROM points");
    for (query, plain) in [
        (
            "SELECT count(*) FROM points WHERE predict('late', y, x) > 0.5 AND x > 2",
            "SELECT count(*) FROM p WHERE p > 0.5 AND x > 2",
        ),
        ("SELECT sum(predict('late', y, x)) FROM points", "SELECT sum(p) FROM p"),
        (
            "SELECT max(n) FROM (SELECT count(*) AS n FROM points GROUP BY predict('size', x, y)) AS g",
            "SELECT max(n) FROM (SELECT count(*) AS n FROM p GROUP BY s) AS g",
        ),
        (
            "SELECT i FROM points ORDER BY predict('late', y, x) DESC, i LIMIT 1",
            "SELECT i FROM p ORDER BY p DESC, i LIMIT 1",
        ),
        (
            "SELECT count(*) FROM points GROUP BY x > 3 HAVING avg(predict('late', y, x)) > 0.5",
            "SELECT count(*) FROM p GROUP BY x > 3 HAVING avg(p) > 0.5",
        ),
        (
            "SELECT sum(CASE WHEN predict('size', x, y) = 'small' THEN 1 ELSE 0 END) FROM points",
            "SELECT sum(CASE WHEN s = 'small' THEN 1 ELSE 0 END) FROM p",
        ),
        (
            "SELECT count(*) FROM points AS a JOIN points AS b ON a.i = b.i AND predict('late', a.y, b.x) > 0.5",
            "SELECT count(*) FROM p WHERE p > 0.5",
        ),
        ("SELECT (SELECT max(predict('late', y, x)) FROM points)", "SELECT max(p) FROM p"),
        (
            "WITH c AS (SELECT predict('z', x, CAST(10 * predict('late', y, x) AS BIGINT)) AS v FROM points) SELECT sum(v) FROM c",
            "SELECT sum(predict('z', x, CAST(10 * p AS BIGINT))) FROM p",
        ),
    ] {
        assert_eq!(number(&session, query), number(&session, plain), "{query}");
    }
}

/// One program: the model is a step of the pipeline, and no table is made for what it says.
#[test]
fn filters_joins_and_aggregates_over_predictions_are_one_program() {
    let session = with_models();
    for query in [
        "SELECT count(*) FROM points WHERE predict('late', y, x) > 0.5",
        "SELECT p.size, avg(predict('late', p.y, p.x)) FROM points AS p JOIN points AS q ON p.i = q.x GROUP BY p.size",
        "SELECT size, avg(predicted_late_prob) FROM ML.PREDICT(MODEL late, TABLE points) WHERE predicted_late GROUP BY size",
        // Twice in a query is once a row.
        "SELECT x, max(predict('late', y, x)) FROM points WHERE predict('late', y, x) > 0.2 AND i > 3 GROUP BY x",
    ] {
        let graph = explained(&session, &format!("EXPLAIN (GRAPH) {query}"));
        // A small model may be inlined as expressions of the row.
        let models = graph.matches("= apply ").count();
        assert!(models <= 1, "{graph}");
        let plan = explained(&session, &format!("EXPLAIN (PLAN) {query}"));
        let stored: Vec<&str> = plan.lines().filter(|l| l.contains(": rows,")).collect();
        assert!(stored.len() <= 1, "only the result is stored as rows:\n{plan}");
        if models == 1 {
            assert_eq!(plan.matches("by tiles").count(), 1, "{plan}");
        }
    }
}

#[test]
fn wrong_arguments_are_shown_with_their_place() {
    let session = with_models();
    let wanted = "predict('late', …) takes y ";
    let (message, place, help) = failure(&session, "SELECT predict('late', y) FROM points");
    assert!(message.contains("takes 2 arguments, not 1") && help.starts_with(wanted), "{message}; {help}");
    assert_eq!(place, "predict('late', y)");
    let (message, place, _) = failure(&session, "SELECT predict('late', y, x, i, z) FROM points");
    assert!(message.contains("takes 2 arguments, not 4"), "{message}");
    assert_eq!(place, "i, z");
    let (message, place, _) = failure(&session, "SELECT i, predict('late', y, size) FROM points");
    assert!(message.contains("argument 2 (x) is VARCHAR, not BIGINT") && message.starts_with(wanted), "{message}");
    assert_eq!(place, "size");
    let (message, place, help) = failure(&session, "SELECT predict('late', y => 1, xx => 2)");
    assert!(message.contains("no input 'xx'; did you mean 'x'?"), "{message}; {help}");
    assert_eq!(place, "xx");
    let (message, place, _) = failure(&session, "SELECT predict('late', y => 1)");
    assert_eq!((message.as_str(), place.as_str()), ("the argument 'x' is missing", "predict('late', y => 1)"));
    let (message, place, help) = failure(&session, "SELECT predict('lte', 1, 2)");
    assert_eq!((message.as_str(), place.as_str()), ("there is no model 'lte'", "'lte'"));
    assert_eq!(help, "did you mean 'late'?");
    // Another fault of the same statement keeps its own place.
    let (_, place, _) = failure(&session, "SELECT predict('late', y, x), nope FROM points");
    assert_eq!(place, "nope");
    let (message, ..) = failure(&session, "SELECT predict('late', NULL, 1)");
    assert!(message.contains("NULL") && message.contains('y'), "{message}");
}

#[test]
fn parameters_are_bound() {
    let session = with_models();
    let query = |bound: f64| {
        let query =
            session.sql("SELECT count(*) AS n FROM points WHERE predict('late', y, x) > $1 AND size <> $2").unwrap();
        let query = query.bind(&[Value::F64(bound), Value::Text("small".into())]).unwrap();
        doubles(&query.collect().unwrap()[0], "n")[0]
    };
    assert!(query(0.1) > query(0.9));
    let plain = number(&session, "SELECT count(*) FROM points WHERE predict('late', y, x) > 0.5 AND size <> 'small'");
    assert_eq!(query(0.5), plain);
    let unbound = session.sql("SELECT $1 + 1").unwrap().bind(&[]);
    assert!(unbound.unwrap_err().to_string().contains("1 parameters, 0 values"));
    let error = session.sql("SHOW MODELS").unwrap().bind(&[Value::I64(1)]).unwrap_err();
    assert!(error.to_string().contains("no parameters"), "{error}");
    // A parameter may be an argument of the model.
    let query = session.sql("SELECT predict('z', $1, $2) AS z").unwrap();
    let one = query.bind(&[Value::I64(3), Value::I64(4)]).unwrap().collect().unwrap();
    assert_eq!(doubles(&one[0], "z")[0], number(&session, "SELECT predict('z', 3, 4)"));
}

/// A query that was made keeps its model, whatever becomes of the name.
#[test]
fn a_query_keeps_its_model() {
    let session = with_models();
    let text = "SELECT sum(predict('z', x, y)) AS s FROM points";
    let before = number(&session, text);
    let (replaced, dropped) = (session.sql(text).unwrap(), session.sql(text).unwrap());
    let predictor = session.model("z").unwrap();
    run(
        &session,
        "CREATE VIEW v AS SELECT sum(predict('z', x, y)) AS s FROM points;
         CREATE OR REPLACE MODEL z OPTIONS (model_type = 'linear_reg', input_label_cols = ['x'], max_iterations = 2)
         AS SELECT x, y FROM points",
    );
    assert_eq!(doubles(&replaced.collect().unwrap()[0], "s")[0], before);
    run(&session, "DROP MODEL z");
    assert_eq!(doubles(&dropped.collect().unwrap()[0], "s")[0], before);
    assert_eq!(number(&session, "SELECT s FROM v"), before, "a view keeps it, too");
    let points = session.query("SELECT x, y FROM points").unwrap();
    let kept: f64 = doubles(&predictor.predict(&points[0]).unwrap()[0], "predicted_z").iter().sum();
    crate::assert_near(kept, before, 1e-9 * before.abs());
    assert!(session.model("z").is_err());
    assert!(failure(&session, text).0.contains("there is no model 'z'"));
}

/// A column that is called as a text in a feature is no input.
#[test]
fn names_inside_of_texts_are_no_inputs() {
    let session = with_points();
    run(
        &session,
        "CREATE MODEL m TRANSFORM (x, CASE WHEN size = 'y' THEN 1 ELSE 0 END AS \"i\", z)
         OPTIONS (model_type = 'linear_reg', input_label_cols = ['z'], max_iterations = 1) AS SELECT * FROM points",
    );
    let model = session.model("m").unwrap();
    let inputs: Vec<&str> = model.model().inputs().map(|(name, _)| name).collect();
    assert_eq!(inputs, ["x", "size"]);
}

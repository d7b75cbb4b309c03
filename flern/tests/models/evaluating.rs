//! ML.EVALUATE, ML.TRAINING_INFO, ML.WEIGHTS, EXPLAIN, and the progress of a training.

use std::sync::Mutex;

use flern::Settings;
use flern::sql::parse;

use crate::{assert_near, doubles, explained, failure, number, rows, run, texts, with_points};

const LATE: &str =
    "CREATE MODEL late OPTIONS (model_type = 'logistic_reg', input_label_cols = ['late'], max_iterations = 4,
    batch_size = 20, early_stop = FALSE, data_split_method = 'random', data_split_eval_fraction = 0.25)
    AS SELECT x, y, late FROM points";

/// The rows that a model is judged by may come from models themselves.
#[test]
fn the_rows_may_come_from_model_functions() {
    let session = with_points();
    // Scaling is folded into weights where rows are not evaluated (rule B7): equal in real numbers, near in doubles.
    run(&session, "SET precision = 'double'");
    run(&session, LATE);
    run(
        &session,
        "CREATE MODEL z OPTIONS (model_type = 'linear_reg', input_label_cols = ['z'], max_iterations = 4) AS SELECT x, y, z FROM points",
    );
    let nested = number(
        &session,
        "WITH likely AS (SELECT * FROM ML.PREDICT(MODEL late, TABLE points) WHERE predict('late', x, y) > 0.3)
         SELECT mean_squared_error FROM ML.EVALUATE(MODEL z, (SELECT x, y, z FROM likely))",
    );
    run(&session, "CREATE TABLE likely AS SELECT x, y, z FROM points WHERE predict('late', x, y) > 0.3");
    let plain = number(&session, "SELECT mean_squared_error FROM ML.EVALUATE(MODEL z, TABLE likely)");
    assert_near(nested, plain, 1e-9 * plain);
    let counted = number(&session, "SELECT avg((predict('z', x, y) - z) * (predict('z', x, y) - z)) FROM likely");
    assert_near(plain, counted, 1e-9 * plain);
}

#[test]
fn metrics_of_two_classes_are_those_that_sql_counts() {
    let session = with_points();
    run(&session, LATE);
    run(
        &session,
        "CREATE TABLE p AS SELECT CASE WHEN late THEN 1 ELSE 0 END AS so, predicted_late_prob AS p,
           CASE WHEN predicted_late_prob >= 0.4 THEN 1 ELSE 0 END AS said FROM ML.PREDICT(MODEL late, TABLE points)",
    );
    let metrics = rows(&session, "SELECT * FROM ML.EVALUATE(MODEL late, TABLE points, STRUCT(0.4 AS threshold))");
    for (metric, counted) in [
        ("precision", "SELECT CAST(sum(so * said) AS DOUBLE) / sum(said) FROM p"),
        ("recall", "SELECT CAST(sum(so * said) AS DOUBLE) / sum(so) FROM p"),
        ("accuracy", "SELECT avg(CASE WHEN so = said THEN 1e0 ELSE 0e0 END) FROM p"),
        ("f1_score", "SELECT 2e0 * sum(so * said) / (sum(so) + sum(said)) FROM p"),
        ("log_loss", "SELECT -avg(CASE WHEN so = 1 THEN ln(p) ELSE ln(1 - p) END) FROM p"),
        (
            "roc_auc",
            "SELECT avg(CASE WHEN a.p > b.p THEN 1e0 WHEN a.p = b.p THEN 0.5e0 ELSE 0e0 END) FROM p AS a, p AS b WHERE a.so = 1 AND b.so = 0",
        ),
    ] {
        assert_near(doubles(&metrics, metric)[0], number(&session, counted), 1e-9);
    }
    // Without rows the held-out ones are taken.
    let held = rows(&session, "SELECT * FROM ML.EVALUATE(MODEL late)");
    let info = rows(&session, "SELECT eval_loss FROM ML.TRAINING_INFO(MODEL late) WHERE iteration = 3");
    assert_near(doubles(&held, "log_loss")[0], doubles(&info, "eval_loss")[0], 1e-5);
}

#[test]
fn metrics_of_numbers_are_those_that_sql_counts() {
    let session = with_points();
    // As above: features may be scaled in the weights of one program and in the rows of the other.
    run(&session, "SET precision = 'double'");
    run(
        &session,
        "CREATE MODEL z OPTIONS (model_type = 'linear_reg', input_label_cols = ['z'], max_iterations = 4) AS SELECT x, z FROM points;
         CREATE TABLE p AS SELECT z, predicted_z AS p FROM ML.PREDICT(MODEL z, TABLE points)",
    );
    let metrics = rows(&session, "SELECT * FROM ML.EVALUATE(MODEL z, TABLE points)");
    for (metric, counted) in [
        ("mean_absolute_error", "SELECT avg(abs(p - z)) FROM p"),
        ("mean_squared_error", "SELECT avg((p - z) * (p - z)) FROM p"),
        (
            "r2_score",
            "SELECT 1 - sum((p - z) * (p - z)) / sum((z - m) * (z - m)) FROM p, (SELECT avg(z) AS m FROM p) AS means",
        ),
    ] {
        assert_near(doubles(&metrics, metric)[0], number(&session, counted), 1e-9);
    }
    let (message, _, help) = failure(&session, "SELECT * FROM ML.EVALUATE(MODEL z)");
    assert!(message.contains("no held-out rows") && help.contains("TABLE t"), "{message}; {help}");
    let (message, ..) = failure(&session, "SELECT * FROM ML.EVALUATE(MODEL z, (SELECT * FROM points WHERE i < 0))");
    assert!(message.contains("no rows to evaluate"), "{message}");
}

#[test]
fn weights_are_rows() {
    let session = with_points();
    run(
        &session,
        "CREATE MODEL m OPTIONS (model_type = 'dnn_regressor', input_label_cols = ['z'], hidden_units = [3], max_iterations = 1)
         AS SELECT x, size, z FROM points",
    );
    let found = rows(
        &session,
        "SELECT tensor, count(*) AS n, max(output) AS o, max(input) AS i FROM ML.WEIGHTS(MODEL m) GROUP BY tensor ORDER BY tensor",
    );
    assert_eq!(texts(&found, "tensor"), ["l0.b", "l0.w", "l1.b", "l1.w"]);
    assert_eq!(doubles(&found, "n"), [3.0, 12.0, 1.0, 3.0]);
    assert_eq!(texts(&found, "i"), ["", "3", "", "2"]);
    let names =
        rows(&session, "SELECT DISTINCT feature FROM ML.WEIGHTS(MODEL m) WHERE tensor = 'l0.w' ORDER BY feature");
    assert_eq!(texts(&names, "feature"), ["size.0", "size.1", "size.2", "x"]);
    // Nothing of it stays behind; twice in one statement is the same table.
    assert_eq!(
        number(
            &session,
            "SELECT count(*) FROM ML.WEIGHTS(MODEL m) AS a JOIN ML.WEIGHTS(MODEL m) AS b ON a.weight = b.weight"
        ),
        19.0
    );
    assert_eq!(texts(&rows(&session, "SHOW TABLES"), "name"), ["points"]);
    run(&session, "CREATE TABLE w AS SELECT * FROM ML.WEIGHTS(MODEL m)");
    assert_eq!(number(&session, "SELECT count(*) FROM w"), 19.0);
    let (message, place, _) = failure(&session, "CREATE VIEW v AS SELECT * FROM ML.WEIGHTS(MODEL m)");
    assert!(message.contains("not supported: ML.WEIGHTS in a view"), "{message}");
    assert_eq!(place, "ML.WEIGHTS(MODEL m)");
}

#[test]
fn explain_shows_the_program_of_a_training() {
    let session = with_points();
    let graph = explained(&session, &format!("EXPLAIN {LATE}"));
    assert!(graph.contains("to_tensor") && graph.contains("for_batches") && graph.contains("scan"), "{graph}");
    assert_eq!(graph.matches("= to_tensor").count(), 2, "training rows and held-out rows:\n{graph}");
    // Held out by a column: the table is scanned for each part, and nothing is stored but the tensors and the held-out rows.
    let by_column = LATE.replace("'random', data_split_eval_fraction = 0.25", "'custom', data_split_col = 'held'");
    let by_column = by_column.replace("y, late FROM points", "y, late, held FROM marked");
    run(&session, "CREATE TABLE marked AS SELECT *, i > 50 AS held FROM points");
    let plan = explained(&session, &format!("EXPLAIN (PLAN) {by_column}"));
    let states: Vec<&str> = plan.lines().filter(|line| line.starts_with("state")).collect();
    let tensors = states.iter().filter(|s| s.contains(": tensors of")).count();
    assert_eq!((states.len(), tensors), (3, 2), "{plan}");
    let joined =
        LATE.replace("x, y, late FROM points", "p.x, q.y, p.late FROM points AS p JOIN points AS q ON p.i = q.x");
    let graph = explained(&session, &format!("EXPLAIN {joined}"));
    assert!(graph.contains("\n-- join_order: "), "the notes of the optimizer:\n{graph}");
    for (level, sign) in [("PLAN", "stage 0"), ("KERNEL", "fn"), ("CLIF", "function"), ("ASM", "ret")] {
        let text = explained(&session, &format!("EXPLAIN ({level}) {LATE}"));
        assert!(text.contains(sign), "{level}: {text}");
    }
    let analyzed = explained(&session, &format!("EXPLAIN ANALYZE {LATE}"));
    assert!(analyzed.starts_with("compile ") && analyzed.contains("60 rows"), "{analyzed}");
    assert!(session.models().is_empty(), "EXPLAIN keeps no model");
    run(&session, LATE);
    let query = "SELECT x, predict('late', x, y) FROM points WHERE y > 3";
    for level in ["GRAPH", "PLAN", "KERNEL", "CLIF", "ASM"] {
        assert!(explained(&session, &format!("EXPLAIN ({level}) {query}")).len() > 50);
    }
    let analyzed = explained(&session, &format!("EXPLAIN ANALYZE {query}"));
    assert!(analyzed.contains(" rows in ") && analyzed.contains("compiled "), "{analyzed}");
    let (_, place, _) = failure(&session, "EXPLAIN SELECT predict('late', x, size) FROM points");
    assert!(place.contains("predict"), "{place}");
    let (_, place, _) = failure(&session, "EXPLAIN SELECT predict('late', x, y), nope FROM points");
    assert_eq!(place, "nope");
}

#[test]
fn a_training_reports_each_pass() {
    for interpret in [false, true] {
        let session = with_points();
        session.set_settings(Settings { interpret, ..session.settings() });
        let steps = Mutex::new(vec![]);
        let statements = parse(LATE).unwrap();
        session.run(&statements[0], &|step| steps.lock().unwrap().push(step)).unwrap();
        let steps = steps.into_inner().unwrap();
        let ends: Vec<_> = steps.iter().filter(|s| s.rows * 4 == s.total_rows * s.epoch as u64).collect();
        assert_eq!(ends.iter().map(|s| s.epoch).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(steps.iter().all(|s| s.epochs == 4 && s.loss.is_finite()));
        assert!(steps.windows(2).all(|w| w[0].rows < w[1].rows));
        let losses = "SELECT loss FROM ML.TRAINING_INFO(MODEL late) ORDER BY iteration";
        let losses = doubles(&rows(&session, losses), "loss");
        ends.iter().zip(losses).for_each(|(s, loss)| assert_near(s.loss, loss, 1e-6));
    }
}

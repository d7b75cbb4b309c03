//! What shows each rule.

use ir::opt::{Exactness, PASSES};

/// A rule, and a program that shows it.
#[derive(Debug, Clone)]
pub(super) struct Case {
    /// Its letter and number.
    pub(super) rule: &'static str,
    /// What `IR_OFF` calls it; `None` for a rule that cannot be switched off.
    pub(super) switch: Option<&'static str>,
    /// What is measured, or why nothing is.
    pub(super) shown: &'static str,
    /// By what share results may differ: 0 for a rule that keeps every bit.
    pub(super) tolerance: f64,
    pub(super) work: Work,
}

/// What is run.
#[derive(Debug, Clone)]
pub(super) enum Work {
    /// Statements that are run once, the statement that is measured, and the one whose numbers are compared, if that is
    /// another.
    Sql { setup: Vec<String>, measured: String, compared: Option<String> },
    /// Products with one-hot rows and their gradients.
    OneHot,
    /// Nothing.
    None,
}

/// By what share results of real-exact rules may differ: sums of single precision in another order.
const REAL: f64 = 1e-5;

/// The flights as they are stored: raw features, no NULL.
const FLIGHTS: &str = "CREATE TABLE f AS
    SELECT CAST(distance AS DOUBLE) AS distance, CAST(hour AS INTEGER) AS hour, CAST(minute AS INTEGER) AS minute,
           CAST(month AS INTEGER) AS month, CAST(day AS INTEGER) AS day, CAST(dep_delay AS DOUBLE) AS dep_delay,
           CAST(sched_dep_time AS INTEGER) AS sched, CAST(sched_arr_time AS INTEGER) AS arrives,
           origin, carrier, arr_delay > 15 AS late
    FROM flights WHERE arr_delay IS NOT NULL AND dep_delay IS NOT NULL";

/// The inputs of the models over `f`, in the order of `predict`.
const INPUTS: &str = "distance, hour, minute, month, day, dep_delay, sched, arrives";

/// A model that is trained on a little: what it learned does not matter here.
fn model(kind: &str, hidden: &str) -> String {
    let scaled: Vec<String> = INPUTS.split(", ").map(|c| format!("ML.STANDARD_SCALER({c}) OVER() AS {c}")).collect();
    format!(
        "CREATE MODEL m TRANSFORM ({}, late) OPTIONS (model_type = '{kind}', {hidden} input_label_cols = ['late'],
         max_iterations = 1, data_split_method = 'no_split', seed = 7)
         AS SELECT {INPUTS}, CAST(late AS INTEGER) AS late FROM f WHERE month = 1 AND day <= 7",
        scaled.join(", ")
    )
}

fn network() -> String {
    model("dnn_classifier", "hidden_units = [64, 64],")
}

fn over_flights(model: String, measured: &str) -> Work {
    let measured = measured.replace("PREDICT", &format!("predict('m', {INPUTS})"));
    Work::Sql { setup: vec![FLIGHTS.into(), model], measured, compared: None }
}

/// The same network with the weights of half its features zero.
fn sparse() -> Work {
    let create = network().replace("seed = 7", "path = 'SPARSE'");
    over_flights(create, "SELECT sum(PREDICT) FROM f")
}

/// All rules of the design that stand.
pub(super) fn cases() -> Vec<Case> {
    let training = "CREATE OR REPLACE MODEL t TRANSFORM (distance / 700 AS distance, hour / 24e0 AS hour, dep_delay / 60 AS delay,
         month / 12e0 AS month, late) OPTIONS (model_type = 'logistic_reg', input_label_cols = ['late'], max_iterations = 1,
         early_stop = FALSE, data_split_method = 'no_split', seed = 7)
         AS SELECT f.*, a.lat FROM f JOIN airlines USING (carrier) LEFT JOIN airports AS a ON f.origin = a.faa";
    let training = Work::Sql {
        setup: vec![FLIGHTS.into()],
        measured: training.into(),
        compared: Some("SELECT loss FROM ML.TRAINING_INFO(MODEL t)".into()),
    };
    let epoch = Work::Sql {
        setup: vec![FLIGHTS.into()],
        measured: network().replace("CREATE MODEL m", "CREATE OR REPLACE MODEL m").replace(" AND day <= 7", ""),
        compared: Some("SELECT loss FROM ML.TRAINING_INFO(MODEL m)".into()),
    };
    let case = |rule, switch: &'static str, shown, work| {
        let real = PASSES.iter().any(|p| p.name == switch && p.exactness == Exactness::Real);
        Case { rule, switch: Some(switch), shown, tolerance: if real { REAL } else { 0.0 }, work }
    };
    let fixed = |rule, shown| Case { rule, switch: None, shown, tolerance: 0.0, work: Work::None };
    vec![
        case("B1", "cross_batch", "training over joins, one epoch", training),
        fixed("B2", "no switch: a tensor is written in some order, and another one would have to be turned"),
        case(
            "B3",
            "cross_tile",
            "mean probability of a network, 64 x 64",
            over_flights(network(), "SELECT sum(PREDICT) FROM f"),
        ),
        fixed("B5", "no switch: the query would run again for each epoch"),
        case("B6", "batch_parts", "training a network, 64 x 64, one epoch of the flights of January", epoch),
        case(
            "B7",
            "cross_scale",
            "mean probability of a logistic regression over scaled columns",
            over_flights(model("logistic_reg", ""), "SELECT sum(PREDICT) FROM f"),
        ),
        case("M1", "cross_unused", "the same network with half its features without weight", sparse()),
        case(
            "M4",
            "cross_logit",
            "rows with a probability above a threshold, by a logistic regression",
            over_flights(model("logistic_reg", ""), "SELECT count(*) FROM f WHERE PREDICT > 0.3"),
        ),
        case(
            "M5",
            "cross_inline",
            "mean prediction of a linear regression",
            over_flights(model("linear_reg", ""), "SELECT sum(PREDICT) FROM f"),
        ),
        case(
            "M7",
            "cross_late",
            "likely delays of one airport, the condition on it behind the model",
            over_flights(
                network(),
                "SELECT count(*) FROM (SELECT origin, PREDICT AS p FROM f) AS scored WHERE origin = 'JFK' AND p > 0.3e0",
            ),
        ),
        case("T3", "cross_onehot", "one-hot rows of 256 categories times a matrix, and its gradient", Work::OneHot),
    ]
}

//! Bad input ends in a clear error, and nothing is lost.

use flern::{Session, Settings};

use crate::{failure, number, rows, run, session, texts, with_points};

const GOOD: &str = "CREATE MODEL good OPTIONS (model_type = 'linear_reg', input_label_cols = ['z'], max_iterations = 2) AS SELECT x, z FROM points";

#[test]
fn data_that_cannot_be_trained_on() {
    let session = with_points();
    run(&session, GOOD);
    let before = number(&session, "SELECT sum(predict('good', x)) FROM points");
    let train = |kind: &str, label: &str, query: &str| {
        let text = format!(
            "CREATE OR REPLACE MODEL good OPTIONS (model_type = '{kind}', input_label_cols = ['{label}'], max_iterations = 2) AS {query}"
        );
        failure(&session, &text)
    };
    for (kind, label, query, why, place) in [
        ("linear_reg", "z", "SELECT x, z FROM points WHERE x < 0", "there are no training rows", "good"),
        (
            "logistic_reg",
            "late",
            "SELECT x, late FROM points WHERE late",
            "has 1 class in the training rows; it takes two",
            "['late']",
        ),
        ("linear_reg", "zz", "SELECT x, z FROM points", "the query has no column 'zz'", "['zz']"),
        ("linear_reg", "size", "SELECT x, size FROM points", "a regression predicts numbers", "['size']"),
        ("logistic_reg", "z", "SELECT x, z FROM points", "classes are booleans, whole numbers or texts", "['z']"),
        ("linear_reg", "z", "SELECT z FROM points", "no column is left as a feature", "good"),
        ("linear_reg", "z", "SELECT CAST('nan' AS DOUBLE) AS x, z FROM points", "'x' has NaN or an infinity", ""),
        (
            "linear_reg",
            "z",
            "SELECT CASE WHEN i = 3 THEN CAST('inf' AS DOUBLE) ELSE x END AS x, z FROM points",
            "'x' has NaN or an infinity",
            "",
        ),
        (
            "linear_reg",
            "z",
            "SELECT CAST(NULL AS DOUBLE) AS x, z FROM points",
            "all training rows have NULL for 'x'",
            "",
        ),
        ("linear_reg", "z", "SELECT x, CASE WHEN i = 3 THEN NULL ELSE z END AS z FROM points", "NULL", ""),
        ("linear_reg", "z", "SELECT nope, z FROM points", "nope", "nope"),
        ("linear_reg", "z", "SELECT x, z FROM pints", "pints", "pints"),
        ("linear_reg", "z", "SELECT 1 / (x - x) AS x, z FROM points", "division by zero", ""),
    ] {
        let (message, at, _) = train(kind, label, query);
        assert!(message.contains(why), "{query}: {message}, expected {why}");
        assert!(place.is_empty() || at == place, "{query}: the place is {at}");
    }
    // NaN behind a TRANSFORM without statistics shows in the loss.
    let (message, _, help) = failure(
        &session,
        "CREATE OR REPLACE MODEL good TRANSFORM (sqrt(-1.0e0 - x) AS x, z) OPTIONS (model_type = 'linear_reg', input_label_cols = ['z'])
         AS SELECT x, z FROM points",
    );
    assert!(message.contains("range of numbers") || message.contains("sqrt"), "{message} {help}");
    assert_eq!(
        number(&session, "SELECT sum(predict('good', x)) FROM points"),
        before,
        "the model is the one from before"
    );
}

#[test]
fn names_and_statements() {
    let session = with_points();
    run(&session, GOOD);
    let (message, place, help) = failure(&session, GOOD);
    assert_eq!((message.as_str(), place.as_str()), ("there is a model 'good' already", "good"));
    assert!(help.contains("OR REPLACE"), "{help}");
    let kept = number(&session, "SELECT sum(predict('good', x)) FROM points");
    run(
        &session,
        &GOOD.replace("CREATE MODEL", "CREATE MODEL IF NOT EXISTS").replace("max_iterations = 2", "max_iterations = 1"),
    );
    assert_eq!(number(&session, "SELECT sum(predict('good', x)) FROM points"), kept);
    run(
        &session,
        &GOOD.replace("CREATE MODEL", "CREATE OR REPLACE MODEL").replace("max_iterations = 2", "max_iterations = 1"),
    );
    assert_ne!(number(&session, "SELECT sum(predict('good', x)) FROM points"), kept);
    for (statement, message, place, help) in [
        ("DROP MODEL god", "there is no model 'god'", "god", "did you mean 'good'?"),
        ("DESCRIBE MODEL god", "there is no model 'god'", "god", "did you mean 'good'?"),
        ("EXPORT MODEL god TO 'x'", "there is no model 'god'", "god", "did you mean 'good'?"),
        ("SELECT * FROM ML.PREDICT(MODEL god, TABLE points)", "there is no model 'god'", "god", "did you mean 'good'?"),
        (
            "SELECT * FROM ML.PREDCT(MODEL good, TABLE points)",
            "there is no model function 'ML.PREDCT'",
            "ML.PREDCT",
            "did you mean 'ML.PREDICT'?",
        ),
        ("SELECT * FROM ML.PREDICT(MODEL good, TABLE pints)", "there is no table \"pints\"", "pints", ""),
        (
            "SELECT ML.PREDICT(MODEL good, TABLE points)",
            "ML.PREDICT belongs in FROM",
            "ML.PREDICT(MODEL good, TABLE points)",
            "",
        ),
    ] {
        let (found, at, said) = failure(&session, statement);
        assert!(found.contains(message), "{statement}: {found}");
        assert_eq!(at, place, "{statement}");
        assert!(said.contains(help), "{statement}: {said}");
    }
    run(&session, "DROP MODEL good; DROP MODEL IF EXISTS good");
    assert_eq!(rows(&session, "SHOW MODELS").num_rows(), 0);
    let (message, ..) = failure(&session, "SELECT * FROM ML.PREDICT(MODEL good, TABLE points)");
    assert!(message.contains("there is no model 'good'"), "{message}");
}

/// Each option: a value of the wrong type or out of range is refused where it stands; a name one letter off is put right.
#[test]
fn every_option_is_checked() {
    let session = with_points();
    let wrong = [
        ("model_type", "'dnn_clasifier'", "dnn_classifier"),
        ("input_label_cols", "[1]", "list of texts"),
        ("hidden_units", "[0]", "whole numbers from 1"),
        ("activation_fn", "'rely'", "relu"),
        ("batch_size", "0", "whole number from 1"),
        ("learn_rate", "-1", "above 0"),
        ("max_iterations", "1.5", "whole number from 1"),
        ("optimizer", "'adm'", "adam"),
        ("early_stop", "'yes'", "TRUE or FALSE"),
        ("data_split_method", "'rndom'", "random"),
        ("data_split_col", "3", "text in quotes"),
        ("data_split_eval_fraction", "0", "between 0 and 1"),
        ("seed", "-1", "whole number from 0"),
        ("path", "TRUE", "text in quotes"),
    ];
    assert_eq!(wrong.map(|w| w.0).to_vec(), flern::sql::OPTIONS.iter().map(|o| o.name).collect::<Vec<_>>());
    for (name, value, wanted) in wrong {
        let options = format!("{name} = {value}");
        let more = if name == "model_type" { String::new() } else { "model_type = 'linear_reg', ".into() };
        let text = format!("CREATE MODEL m OPTIONS ({more}{options}) AS SELECT * FROM points");
        let (message, place, help) = failure(&session, &text);
        assert!(format!("{message} {help}").contains(wanted), "{options}: {message}; {help}");
        assert_eq!(place, value, "{options}");
        let misspelt = format!("{}_{}", &name[..2], &name[2..]);
        let text = format!("CREATE MODEL m OPTIONS ({more}{misspelt} = {value}) AS SELECT * FROM points");
        let (message, place, help) = failure(&session, &text);
        assert!(
            message.contains("there is no model option") && help.contains(&format!("'{name}'")),
            "{message}; {help}"
        );
        assert_eq!(place, misspelt);
    }
    for (options, why) in [
        ("model_type = 'dnn_classifier', input_label_cols = ['late']", "'hidden_units' is missing"),
        ("model_type = 'linear_reg', input_label_cols = ['z'], hidden_units = [3]", "has no hidden layers"),
        ("model_type = 'linear_reg', input_label_cols = ['z'], activation_fn = 'relu'", "no activation"),
        ("model_type = 'linear_reg', input_label_cols = ['z', 'x']", "several labels"),
        ("model_type = 'linear_reg', model_type = 'linear_reg'", "given twice"),
        ("model_type = 'linear_reg', l2_reg = 3", "'l2_reg' is not supported"),
        ("batch_size = 3", "'model_type' is missing"),
    ] {
        let (message, ..) =
            failure(&session, &format!("CREATE MODEL m OPTIONS ({options}) AS SELECT x, z, late FROM points"));
        assert!(message.contains(why), "{message}");
    }
    // Every optimizer and activation trains.
    for optimizer in ["sgd", "momentum", "adam"] {
        for activation in ["relu", "tanh", "sigmoid", "gelu"] {
            run(
                &session,
                &format!(
                    "CREATE OR REPLACE MODEL m OPTIONS (model_type = 'dnn_regressor', input_label_cols = ['z'], hidden_units = 3,
                       activation_fn = '{activation}', optimizer = '{optimizer}', learn_rate = 0.01, max_iterations = 2, seed = 1,
                       early_stop = FALSE) AS SELECT x, y, z FROM points"
                ),
            );
            let losses = crate::doubles(
                &rows(&session, "SELECT loss FROM ML.TRAINING_INFO(MODEL m) ORDER BY iteration"),
                "loss",
            );
            assert!(losses.len() == 2 && losses[1] < losses[0], "{optimizer}, {activation}: {losses:?}");
        }
    }
}

/// A training over the memory limit ends in an error; tables and models are as before.
#[test]
fn a_training_over_the_memory_limit() {
    let session = Session::with_settings(Settings { threads: 2, seed: 7, ..Settings::default() });
    run(&session, crate::POINTS);
    run(&session, GOOD);
    let before = number(&session, "SELECT sum(predict('good', x)) FROM points");
    run(&session, "SET memory_limit = 20000000");
    let large = "CREATE OR REPLACE MODEL good OPTIONS (model_type = 'dnn_regressor', input_label_cols = ['z'], hidden_units = [2000, 2000],
        max_iterations = 1) AS SELECT x, z FROM points";
    let (message, ..) = failure(&session, large);
    assert!(message.contains("memory"), "{message}");
    assert_eq!(number(&session, "SELECT sum(predict('good', x)) FROM points"), before);
    assert_eq!(texts(&rows(&session, "SHOW MODELS"), "model_type"), ["linear_reg"]);
}

/// A training that is cancelled from another thread stops.
#[test]
fn a_training_is_cancelled() {
    let session = session();
    run(&session, crate::POINTS);
    let statements =
        flern::sql::parse(&GOOD.replace("max_iterations = 2", "max_iterations = 1000000, early_stop = FALSE")).unwrap();
    let error = session.run(&statements[0], &|_| session.cancel()).unwrap_err();
    assert!(error.to_string().contains("cancel"), "{error}");
    run(&session, GOOD);
}

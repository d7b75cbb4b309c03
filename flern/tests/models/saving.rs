//! EXPORT MODEL, IMPORT MODEL, and the option `path`.

use std::fs;
use std::path::Path;

use flern::Session;
use tempfile::TempDir;

use crate::{assert_near, doubles, failure, number, rows, run, session, texts, with_points};

fn exported(session: &Session, model: &str, folder: &TempDir) -> String {
    let path = folder.path().join(model);
    run(session, &format!("EXPORT MODEL {model} TO '{}'", path.display()));
    path.display().to_string()
}

const MODELS: [(&str, &str, &str); 3] = [
    ("late", "CREATE MODEL late TRANSFORM (ML.STANDARD_SCALER(x) OVER() AS x, ML.BUCKETIZE(y, [3, 6]) AS y, sin(i) AS s, late)
        OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['late'], hidden_units = [7, 3], max_iterations = 3)
        AS SELECT * FROM points", "predicted_late_prob"),
    ("size", "CREATE MODEL size OPTIONS (model_type = 'logistic_reg', input_label_cols = ['size'], max_iterations = 3)
        AS SELECT x, y, late, size FROM points", "predicted_size"),
    ("z", "CREATE MODEL z OPTIONS (model_type = 'linear_reg', input_label_cols = ['z'], max_iterations = 3)
        AS SELECT x, y, size, z FROM points", "predicted_z"),
];

#[test]
fn what_is_exported_predicts_the_same_bits_when_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    for (name, create, column) in MODELS {
        let session = with_points();
        run(&session, create);
        let query =
            |model: &str| format!("SELECT {column} AS p FROM ML.PREDICT(MODEL {model}, TABLE points) ORDER BY i");
        let want = texts(&rows(&session, &query(name)), "p");
        let path = exported(&session, name, &folder);
        let other = with_points();
        run(&other, &format!("IMPORT MODEL again FROM '{path}'; CREATE MODEL third OPTIONS (path = '{path}')"));
        for model in ["again", "third"] {
            assert_eq!(texts(&rows(&other, &query(model)), "p"), want, "{name}");
        }
        // What was read is evaluated, described and written as what was trained.
        let metric = if name == "z" { "mean_squared_error" } else { "log_loss" };
        let evaluate = |model: &str| format!("SELECT {metric} FROM ML.EVALUATE(MODEL {model}, TABLE points)");
        assert_eq!(number(&other, &evaluate("again")), number(&session, &evaluate(name)));
        assert!(texts(&rows(&other, "DESCRIBE MODEL again"), "property").contains(&"input x".to_string()));
        let second = tempfile::tempdir().unwrap();
        let path = exported(&other, "again", &second);
        run(&other, &format!("IMPORT MODEL fourth FROM '{path}'"));
        assert_eq!(texts(&rows(&other, &query("fourth")), "p"), want);
        let (message, ..) = failure(&other, "SELECT * FROM ML.TRAINING_INFO(MODEL again)");
        assert!(message.contains("was not trained here"), "{message}");
    }
}

#[test]
fn the_option_path_reads_weights() {
    let session = with_points();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("w.safetensors");
    let weights = lantern::Params::new()
        .with("l0.w", lantern::value(ndarray::array![[2f32, -3.0]]))
        .with("l0.b", lantern::value(ndarray::array![1f32]));
    weights.save(&file).unwrap();
    let create = |features: &str| {
        format!(
            "CREATE OR REPLACE MODEL m TRANSFORM ({features}, z) OPTIONS (model_type = 'linear_reg', input_label_cols = ['z'],
               path = '{}') AS SELECT * FROM points",
            file.display()
        )
    };
    // Weights from elsewhere give the number itself, not its distance from the mean.
    run(&session, &create("x, y"));
    let found = rows(&session, "SELECT z, predicted_z FROM ML.PREDICT(MODEL m, TABLE points)");
    doubles(&found, "z").iter().zip(doubles(&found, "predicted_z")).for_each(|(z, p)| assert_near(p, *z, 1e-5));
    let (message, place, _) = failure(&session, &create("x, y, i"));
    assert!(message.contains("'l0.w' is f32[1, 2], and the features and hidden_units make it f32[1, 3]"), "{message}");
    assert_eq!(place, format!("'{}'", file.display()));
    assert_eq!(
        number(&session, "SELECT count(*) FROM ML.PREDICT(MODEL m, TABLE points)"),
        60.0,
        "the old one is there"
    );
    // Without a query there are no features to hang the weights on.
    let (message, _, help) =
        failure(&session, &format!("CREATE MODEL n OPTIONS (model_type = 'linear_reg', path = '{}')", file.display()));
    assert!(
        message.contains("not the folder of an exported model") && help.contains("AS and a query"),
        "{message} {help}"
    );
    let (message, ..) = failure(&session, &create("x, y").replace("w.safetensors", "none.safetensors"));
    assert!(message.contains("none.safetensors"), "{message}");
}

#[test]
fn a_folder_that_lies_is_refused() {
    let session = with_points();
    let folder = tempfile::tempdir().unwrap();
    run(&session, MODELS[0].1);
    let path = exported(&session, "late", &folder);
    let (_, _, help) = failure(&session, &format!("IMPORT MODEL late FROM '{path}'"));
    assert!(help.contains("OR REPLACE"), "{help}");
    let (message, ..) = failure(&session, &format!("EXPORT MODEL late TO '{path}'"));
    assert!(message.contains("is not empty"), "{message}");
    let import = format!("IMPORT MODEL m FROM '{path}'");
    let broken = |file: &str, change: &dyn Fn(&str) -> String, why: &str| {
        let file = Path::new(&path).join(file);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, change(&String::from_utf8_lossy(&whole))).unwrap();
        let (message, ..) = failure(&session, &import);
        assert!(message.contains(why), "{message}, expected {why}");
        fs::write(&file, whole).unwrap();
    };
    broken("model.json", &|_| "{".into(), "EOF");
    broken("model.json", &|t| t.replace("\"format\": 1", "\"format\": 2"), "format 1");
    broken("model.json", &|t| t.replace("BIGINT", "BIGGEST"), "no type BIGGEST");
    broken("model.json", &|t| t.replacen("sin(i)", "(SELECT max(i) FROM points)", 1), "subquery");
    broken("model.json", &|t| t.replacen("sin(i)", "1) AS a, (2", 1), "expected");
    broken("model.json", &|t| t.replacen("sin(i)", "avg(i)", 1), "");
    broken("model.json", &|t| t.replacen("sin(i)", "nope", 1), "nope");
    broken("model.json", &|t| t.replacen("\"sql\": \"", "\"sql\": \"1 FROM points; --", 1), "");
    broken("network.graph", &|_| "nothing".into(), "network.graph");
    broken("network.graph", &|t| t.replace("\"l1.w\"", "\"l9.w\""), "network.graph");
    broken("weights.safetensors", &|_| "nothing".into(), "weights.safetensors");
    assert_eq!(session.models(), ["late"]);
    run(&session, &import);
    let (message, ..) = failure(&session, &format!("IMPORT MODEL n FROM '{path}/none'"));
    assert!(message.contains("model.json"), "{message}");
    let (message, place, _) = failure(&session, &format!("CREATE MODEL n OPTIONS (path = '{path}', batch_size = 3)"));
    assert!(message.contains("its own TRANSFORM and OPTIONS"), "{message}");
    assert_eq!(place, "batch_size");
}

#[test]
fn a_function_from_rust_is_exported_too() {
    let folder = tempfile::tempdir().unwrap();
    let f =
        lantern::stage("f", ["a: f64[n]", "w: f64[]", "b: f64[n, 1]"], |t| (&t[0] * &t[1]) + t[2].squeeze(-1)).unwrap();
    let params = lantern::Params::new().with("w", 0.1f64);
    let first = session();
    first.register_function("f", &f, &params, &["a", "b"]).unwrap();
    let path = exported(&first, "f", &folder);
    let second = session();
    run(&second, &format!("IMPORT MODEL g FROM '{path}'"));
    assert_eq!(number(&second, "SELECT predict('g', 3, 0.7)"), number(&first, "SELECT predict('f', 3, 0.7)"));
}

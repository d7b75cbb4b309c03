//! The command as others call it: arguments, standard input and output, exit status.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn command(arguments: &[&str], folder: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_flern"))
        .args(arguments)
        .current_dir(folder)
        // Where the shell keeps its history.
        .env("FLERN_HISTORY", folder.join("history"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn flern_in(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = command(arguments, folder);
    // The command may leave without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn flern(arguments: &[&str], input: &str) -> Output {
    flern_in(&std::env::temp_dir(), arguments, input)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// What a run that succeeds prints.
fn printed(arguments: &[&str], input: &str) -> String {
    let output = flern(arguments, input);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "{arguments:?}");
    text(&output.stdout).to_string()
}

/// What a run that fails says, with exit status 1 and no trace of a panic; blanks and line ends are single blanks.
fn said(output: &Output) -> String {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked") && !said.contains("internal error"), "{said}");
    said.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn wrong_arguments_are_refused_with_their_reason() {
    for (arguments, reason) in [
        (&["--memory-limit", "4XB", "-c", "SELECT 1"][..], "no unit 'xb'"),
        (&["--format", "xml"], "xml"),
        (&["--threads", "many"], "many"),
        (&["rum", "x.sql"], "rum"),
        (&["run"], "FILE"),
    ] {
        let output = flern(arguments, "");
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(reason), "{arguments:?}: {said}");
    }
}

#[test]
fn sql_comes_from_arguments_files_and_the_standard_input() {
    let table = "┌────────┐\n│    n   │\n│ bigint │\n├────────┤\n│      2 │\n└────────┘\n";
    assert_eq!(printed(&["-c", "SELECT 1 + 1 AS n"], ""), table);
    assert_eq!(printed(&[], "SELECT 1 + 1 AS n"), table);
    assert_eq!(printed(&["run", "-"], "SELECT 1 + 1 AS n;"), table);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file.sql");
    std::fs::write(&file, "-- what it is for\nCREATE TABLE t AS SELECT 1 AS x;\nSELECT x + 1 AS n FROM t").unwrap();
    assert_eq!(printed(&["run", file.to_str().unwrap()], ""), format!("created table t\n{table}"));
    // What stands in several arguments shares its tables.
    let arguments = ["-c", "CREATE TABLE t AS SELECT 7 AS x", "--format", "csv", "-c", "SELECT x FROM t"];
    assert_eq!(printed(&arguments, ""), "x\n7\n");
    assert_eq!(printed(&["-c", ""], ""), "");
    assert_eq!(printed(&[], "-- nothing\n;;"), "");
}

#[test]
fn results_have_the_form_that_was_asked_for() {
    let sql = "SELECT * FROM (VALUES (1, 'a \"quoted\", text', DATE '2013-01-01'), (NULL, NULL, NULL)) AS v(n, t, d)";
    assert_eq!(printed(&["--format", "csv", "-c", sql], ""), "n,t,d\n1,\"a \"\"quoted\"\", text\",2013-01-01\n,,\n");
    assert_eq!(
        printed(&["-c", sql, "--format", "json"], ""),
        "[{\"n\":1,\"t\":\"a \\\"quoted\\\", text\",\"d\":\"2013-01-01\"},{\"n\":null,\"t\":null,\"d\":null}]\n"
    );
    let long = printed(
        &[
            "-c",
            "SELECT a.i FROM (VALUES (1),(2),(3),(4),(5),(6),(7)) AS a(i), \
        (VALUES (1),(2),(3),(4),(5),(6),(7)) AS b(i) ORDER BY 1",
        ],
        "",
    );
    assert!(long.ends_with("49 rows (40 shown)\n"), "{long}");
}

#[test]
fn settings_of_the_command_reach_statements() {
    assert_eq!(printed(&["--threads", "1", "--format", "csv", "-c", "SELECT 1 AS x"], ""), "x\n1\n");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("n.csv");
    let rows: String = (0..200_000).map(|i| format!("{i},{}\n", i % 1000)).collect();
    std::fs::write(&file, format!("a,b\n{rows}")).unwrap();
    let sql = "SELECT a, row_number() OVER (ORDER BY b, a) AS r FROM 'n.csv' ORDER BY r DESC LIMIT 1";
    let output = flern_in(folder.path(), &["--memory-limit", "1MB", "-c", sql], "");
    let said = said(&output);
    assert!(said.contains("memory") && said.contains("limit"), "{said}");
    let output = flern_in(folder.path(), &["--memory-limit", "1GB", "--format", "csv", "-c", sql], "");
    assert_eq!(text(&output.stdout), "a,r\n199999,200000\n", "{}", text(&output.stderr));
}

#[test]
fn errors_point_into_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.sql");
    for (script, place, message) in [
        ("SELECT 1;\n\nSELECT *\nFROM nowhere;\nSELECT 3", "[x.sql:4:6]", "there is no table \"nowhere\""),
        ("SELECT 1;\nSELECT a FROM (VALUES (1)) AS v(b)", "[x.sql:2:8]", "there is no column \"a\""),
        ("SELECT 1;\nSELECT 1 +;", "[x.sql:2:", "found"),
        ("SELECT 1;\nSELECT 'open", "[x.sql:2:8]", "nterminated"),
        ("SELECT 1;\nSELECT x / (x - 1) FROM (VALUES (1)) AS v(x)", "[x.sql:2:", "division by zero"),
        ("SELECT 1;\nSELECT CAST(t AS INTEGER) FROM (VALUES ('x')) AS v(t)", "[x.sql:2:", "cannot cast"),
        ("SELECT 1;\nSELECT * FROM 'no.parquet'", "[x.sql:2:", "no.parquet: No such file"),
        ("SELECT 1;\nCREATE MODEL m OPTIONS (model_typ = 'x') AS SELECT 1", "[x.sql:2:25]", "model_typ"),
        ("SELECT 1;\nSELECT * FROM ML.PREDICT(MODEL m, TABLE t)", "[x.sql:2:", "there is no model 'm'"),
    ] {
        std::fs::write(&file, script).unwrap();
        let output = flern_in(folder.path(), &["run", "x.sql"], "");
        let said = said(&output);
        assert!(said.contains(place) && said.contains(message), "{script}: {said}");
    }
    let output = flern(&["-c", "SELECT 1", "-c", "SELECT 2 FROM"], "");
    assert!(said(&output).contains("[command:1:"), "{}", text(&output.stderr));
}

#[test]
fn an_error_ends_the_script_and_keeps_what_was_printed() {
    let output = flern(&["--format", "csv"], "SELECT 1 AS x; SELECT 1 / 0 AS x; SELECT 3 AS x");
    assert_eq!(text(&output.stdout), "x\n1\n");
    assert!(said(&output).contains("division by zero"));
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("folder.parquet")).unwrap();
    std::fs::create_dir(at("folder.csv")).unwrap();
    for (name, bytes) in [
        ("text.parquet", &b"this is no Parquet file"[..]),
        ("empty.parquet", b""),
        ("cut.parquet", &flern::data::NYCFLIGHTS13[2].parquet[..5000]),
        ("ragged.csv", b"a,b\n1,2\n3\n"),
        ("latin.csv", b"a,b\n1,caf\xe9\n"),
        ("empty.csv", b""),
        ("notes.txt", b"a,b\n1,2\n"),
    ] {
        std::fs::write(at(name), bytes).unwrap();
    }
    for (name, message) in [
        ("none.parquet", "none.parquet: No such file"),
        ("none.csv", "none.csv: No such file"),
        ("folder.parquet", "this is a folder, not a file"),
        ("folder.csv", "this is a folder, not a file"),
        ("text.parquet", "text.parquet: "),
        ("empty.parquet", "empty.parquet: "),
        ("cut.parquet", "cut.parquet: "),
        ("ragged.csv", "ragged.csv, line 3: "),
        ("latin.csv", "latin.csv, line 2: "),
        ("empty.csv", "empty.csv: the file is empty"),
        ("notes.txt", "only .parquet, .csv and .tsv are read by their name"),
    ] {
        // A table that was made before still answers in the statement behind the error.
        let sql = format!("SELECT * FROM '{name}'");
        let output = flern_in(folder.path(), &["-c", &sql], "");
        let said = said(&output);
        assert!(said.contains(message) && said.contains("[command:1:16]"), "{name}: {said}");
    }
    let output = flern_in(folder.path(), &["run", "none.sql"], "");
    assert!(said(&output).contains("none.sql: No such file"));
    let output = flern_in(folder.path(), &["run", "folder.csv"], "");
    assert!(said(&output).contains("folder.csv: Is a directory"));
    std::fs::write(at("latin.sql"), b"SELECT 'caf\xe9'").unwrap();
    let output = flern_in(folder.path(), &["run", "latin.sql"], "");
    assert!(said(&output).contains("latin.sql: "));
}

#[cfg(unix)]
#[test]
fn a_file_without_permission_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret.csv");
    std::fs::write(&file, "a\n1\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o000)).unwrap();
    // Some users may read everything: then there is nothing to see.
    if std::fs::File::open(&file).is_err() {
        let output = flern_in(folder.path(), &["-c", "SELECT * FROM 'secret.csv'"], "");
        assert!(said(&output).contains("secret.csv: Permission denied"));
    }
}

#[test]
fn long_and_deep_statements_run_or_are_refused() {
    let sum = format!("SELECT {} AS n", vec!["1"; 5_000].join(" + "));
    assert_eq!(printed(&["--format", "csv"], &sum), "n\n5000\n");
    let list = format!("SELECT 7 IN ({}) AS x", (0..20_000).map(|i| i.to_string()).collect::<Vec<_>>().join(", "));
    assert_eq!(printed(&["--format", "csv"], &list), "x\ntrue\n");
    for depth in [100_000, 1_000_000] {
        let deep = format!("SELECT {}1{}", "(".repeat(depth), ")".repeat(depth));
        assert!(said(&flern(&[], &deep)).contains("deep"));
        let calls = format!("SELECT {}1{}", "abs(".repeat(depth), ")".repeat(depth));
        assert!(said(&flern(&[], &calls)).contains("deep"));
    }
    let subqueries = format!("{}SELECT 1{}", "SELECT * FROM (".repeat(3_000), ") AS t".repeat(3_000));
    assert!(!said(&flern(&[], &subqueries)).is_empty());
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..300_000).map(|i| format!("{i}\n")).collect();
    std::fs::write(folder.path().join("n.csv"), format!("n\n{rows}")).unwrap();
    for format in ["csv", "json"] {
        let mut child = command(&["--format", format, "-c", "SELECT * FROM 'n.csv'"], folder.path());
        let mut first = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{format}: {}", text(&output.stderr));
    }
}

/// Ctrl-C ends what runs, a query, a table or a training, and the command says so.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_statement() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..40_000).map(|i| format!("{i},{},{}\n", i % 7, i % 2)).collect();
    std::fs::write(folder.path().join("n.csv"), format!("n,x,y\n{rows}")).unwrap();
    for long in [
        "SELECT COUNT(*) FROM t AS a, t AS b, t AS c WHERE a.n + b.n + c.n < 0",
        "CREATE TABLE u AS SELECT COUNT(*) AS n FROM t AS a, t AS b, t AS c WHERE a.n + b.n + c.n < 0",
        "CREATE MODEL m OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['y'], hidden_units = [256, 256], \
         max_iterations = 100000, early_stop = FALSE, data_split_method = 'no_split') AS SELECT n, x, y FROM t",
    ] {
        let script = format!("CREATE TABLE t AS SELECT * FROM 'n.csv'; SELECT 1 AS ready; {long}");
        let mut child = command(&["--threads", "2", "-c", &script], folder.path());
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("└") {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0, "the first statements run");
        }
        // The last statement begins when the one before it is printed.
        std::thread::sleep(Duration::from_millis(500));
        let start = Instant::now();
        let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let output = child.wait_with_output().unwrap();
        assert!(said(&output).contains("cancelled"), "{long}: {}", text(&output.stderr));
        assert!(start.elapsed() < Duration::from_secs(60), "{long}");
    }
}

#[test]
fn the_demonstration_is_written_out() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("demo");
    let output = flern(&["demo", "--write", inside.to_str().unwrap()], "");
    assert!(output.status.success(), "{output:?}");
    assert!(inside.join("demo.sql").is_file() && inside.join("nycflights13/flights.parquet").is_file());
    // A file where the folder should be.
    let output = flern(&["demo", "--write", inside.join("demo.sql").to_str().unwrap()], "");
    assert!(said(&output).contains("demo.sql"));
}

//! The command as others call it: arguments, standard input and output, exit status.

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn flern(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_flern"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The command may leave without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn wrong_arguments_are_refused_with_their_reason() {
    for (arguments, reason) in [
        (&["--memory-limit", "4XB", "-c", "SELECT 1"][..], "no unit 'xb'"),
        (&["--format", "xml"], "xml"),
        (&["rum", "x.sql"], "rum"),
        (&["run"], "FILE"),
    ] {
        let output = flern(arguments, "");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(reason), "{arguments:?}: {said}");
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
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("demo.sql"));
}

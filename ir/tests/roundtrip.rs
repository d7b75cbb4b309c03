//! Graph text: what is printed parses back to the same program, and what is wrong is refused with its line.

use ir::Error;
use ir::graph::rewrite::canonical;
use ir::opt::OptOptions;
use ir::text::{parse, parse_inputs, print, print_outputs};

/// Every operation at least once.
const ALL: &str = include_str!("every_operation.ir");

#[test]
fn every_operation_parses_and_prints_the_same() {
    let program = parse(ALL).unwrap();
    let text = print(&program);
    for (printed, written) in text.lines().zip(ALL.lines()) {
        assert_eq!(printed, written);
    }
    assert_eq!(text.len(), ALL.len());
    let again = parse(&text).unwrap();
    assert!(canonical(&again).unwrap() == canonical(&program).unwrap());
}

#[test]
fn types_may_be_left_out() {
    let full = "program {
  input in0 \"t\": table(\"a\": i32?)
  column c0 \"a\": i32
  func @main() -> (table(c0: i32?)) {
    %0 = scan in0 (0 -> c0) : table(c0: i32?)
    %1 = filter %0 {
      %2 = col c0 : i32?
      %3 = is_not_null %2 : bool
      yield %3
    } : table(c0: i32?)
    yield %1
  }
  entry @main
  result \"a\"
}
";
    let short =
        full.replace("(0 -> c0) : table(c0: i32?)", "(0 -> c0)").replace(" : i32?\n", "\n").replace(" : bool\n", "\n");
    assert_ne!(full, short);
    assert_eq!(print(&parse(&short).unwrap()), full);
}

#[test]
fn constants_keep_every_bit() {
    let text = "program {
  func @main() -> (f32[5], f64[4], i64[2], bool[2]) {
    %0 = const<f32> [5] [0.1, -0.0, inf, nan, nan(4290772993)] : f32[5]
    %1 = const<f64> [4] [5e-324, -inf, 1.7976931348623157e308, 0.30000000000000004] : f64[4]
    %2 = const<i64> [2] [-9223372036854775808, 9223372036854775807] : i64[2]
    %3 = const<bool> [2] [true, false] : bool[2]
    yield %0, %1, %2, %3
  }
  entry @main
  result \"a\"
  result \"b\"
  result \"c\"
  result \"d\"
}
";
    assert_eq!(print(&parse(text).unwrap()), text);
}

/// A body of `@main` in a program with an input, columns and symbols; line 8 is its first line.
fn error_of(body: &str) -> (usize, String) {
    let text = format!(
        "program {{
  input in0 \"t\": table(\"a\": i32, \"b\": text?)
  column c0 \"a\": i32
  column c1 \"b\": text
  column c2 \"x\": bool
  symbol s0 \"n\"
  func @main() -> () {{
{body}
    yield
  }}
  entry @main
}}"
    );
    match parse(&text) {
        Err(Error::Parse { line, message }) => (line, message),
        Err(Error::Type(message)) => (0, message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn wrong_text_is_refused_with_its_line() {
    let cases = [
        ("%0 = scan in1 (0 -> c0)", 8, "input in1 is not declared"),
        ("%0 = scan in0 (0 -> c9)", 8, "column c9 is not declared"),
        ("%0 = scan in0 (7 -> c0)", 8, "in0 has no column number 7"),
        ("%0 = scan in0 (0 -> c0) : table(c0: i64)", 8, "the type is table(c0: i32), not table(c0: i64)"),
        ("\n%0 = frobnicate", 9, "there is no operation `frobnicate` of this form"),
        ("%0 = filter %4 { yield }", 8, "%4 is not defined here"),
        ("%0 = literal 1.5 : i32", 8, "expected an integer of 32 bits, found `1.5`"),
        ("%0 = literal 12.345 : decimal(4,2)", 8, "12.345 does not fit decimal(4,2)"),
        ("%0 = literal \"2013-02-30\" : date", 8, "this is not a date"),
        ("%0 = literal 1 : i32\n%0 = literal 2 : i32", 9, "%0 is defined twice"),
        ("%0, %1 = literal 1 : i32", 8, "2 results where there are 1"),
        ("%0 = const<f32> [2, 2] [1.0, 2.0]", 8, "2 elements do not fill the shape [2, 2]"),
        ("%0 = iota<0>", 9, "iota needs the type of its result"),
        ("%0 = literal 1 : i32 at p0", 8, "place p0 is not declared"),
        ("%0 = literal 1 : i32\n%1 = neg %0, %0, %0, %0", 9, "an operation with 4 operands, which it cannot have"),
        ("%0 = scan in0 (0 -> c0)\n%1 = filter %0 {\n%2 = col c1\nyield %2 }", 10, "column c1 is not visible here"),
        ("%0 = call<@nobody>", 8, "there is no function @nobody"),
    ];
    for (body, line, message) in cases {
        let (at, found) = error_of(body);
        assert!(found.contains(message), "{body}: {found}");
        assert_eq!(at, line, "{body}: {found}");
    }
}

#[test]
fn what_does_not_hold_is_refused() {
    let cases = [
        (
            "%0 = scan in0 (0 -> c0)\n%1 = scan in0 (0 -> c0)",
            "column c0 is made by `%0 = scan in0 (0 -> c0) : table(…)` too",
        ),
        ("%0 = scan in0 (0 -> c1)", "column c1 is declared as text, here it is i32"),
        ("%0 = iota<0> : f32[s0]", "symbol s0 is not bound here"),
        (
            "%0 = literal true : bool\nif %0 {\n%2 = literal 1 : i32\nyield } else { yield }\n%3 = neg %2",
            "operand 0 is not visible here",
        ),
        ("call<@main>", "the entry is called"),
    ];
    for (body, message) in cases {
        let (line, found) = error_of(body);
        let found = format!("{line}: {found}");
        assert!(found.contains(message), "{body}: {found}");
    }
}

#[test]
fn deep_nesting_is_refused() {
    let (open, close) = ("if %0 {\n".repeat(5000), "}".repeat(5000));
    assert!(error_of(&format!("%0 = literal true : bool\n{open}{close}")).1.contains("deep"));
    let dim = "(".repeat(5000);
    assert!(error_of(&format!("%0 = iota<0> : f32[{dim}")).1.contains("deep"));
}

/// Words and signs of a text, so that joining them gives it back.
fn pieces(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_ascii_alphanumeric() || "_%@.".contains(c);
        let end = if word(first) { rest.find(|c| !word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        let (piece, behind) = rest.split_at(end);
        out.push(piece);
        rest = behind;
    }
    out
}

/// Inputs for [`ALL`] and for what damage makes of it.
const INPUTS: &str = "inputs {
  \"t\": table(\"a\": i32, \"b\": text?, \"d\": date?, \"p\": decimal(12,2)) [(1, \"N\", \"2013-01-01\", 1.50), (2, null, null, -7.25), (0, \"N\", \"2014-02-28\", 0.00)]
  \"w\": const<f32> [3, 4] [0.1, 0.2, 0.3, 0.4, 1.1, 1.2, 1.3, 1.4, 2.1, 2.2, 2.3, 2.4]
  \"$1\": literal 5 : i64
  \"x\": const<f64> [3] [1.0, 2.0, 3.0]
}";

#[test]
fn every_operation_runs_and_is_optimized() {
    let program = parse(ALL).unwrap();
    let inputs = parse_inputs(INPUTS).unwrap();
    let before = print_outputs(&program.interpret(&inputs).unwrap());
    let mut after = program.clone();
    let report = after.optimize(&OptOptions::default()).unwrap();
    assert!(report.passes.iter().any(|p| p.rewrites > 0));
    assert_eq!(print_outputs(&after.interpret(&inputs).unwrap()), before);
}

#[test]
fn damaged_programs_never_panic() {
    let inputs = parse_inputs(INPUTS).unwrap();
    // Without the `while`, which may run for ever when it is damaged.
    let (head, rest) = ALL.split_once("    %77 = while").unwrap();
    let text = format!("{head}{}", &rest[rest.find("    %85 = ").unwrap()..]);
    let pieces = pieces(&text);
    let words: Vec<usize> = (0..pieces.len()).filter(|i| !pieces[*i].trim().is_empty()).collect();
    let (mut refused, mut ran) = (0, 0);
    for (n, i) in words.iter().enumerate() {
        // Take one away, or put another in its place: near ones and far ones.
        let other = words[(n * 7919 + 13) % words.len()];
        let next = words[(n + 2) % words.len()];
        for with in ["", pieces[other], pieces[next], "99999999999"] {
            let text: String = (0..pieces.len()).map(|k| if k == *i { with } else { pieces[k] }).collect();
            let Ok(mut program) = parse(&text) else {
                refused += 1;
                continue;
            };
            let what = format!("{:?} -> {with:?}", pieces[*i]);
            assert!(parse(&print(&program)).is_ok(), "{what}");
            let before = (!with.starts_with("999")).then(|| program.interpret(&inputs));
            let options = OptOptions { verify: true, ..OptOptions::default() };
            program.optimize(&options).unwrap_or_else(|e| panic!("{what}: {e}"));
            match before {
                Some(Ok(before)) => {
                    ran += 1;
                    let after = program.interpret(&inputs).unwrap_or_else(|e| panic!("{what}: {e}"));
                    assert_eq!(print_outputs(&after), print_outputs(&before), "{what}");
                }
                Some(Err(Error::Bug(e))) => panic!("{what}: {e}"),
                Some(Err(_)) | None => {}
            }
        }
    }
    assert!(refused > words.len() && ran > 100, "{refused} refused, {ran} ran");
}

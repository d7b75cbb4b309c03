//! Functions of integers of few combinations come from tables: compiled against the graph interpreter.

use std::sync::Arc;

use ir::exec::run::{CompileOptions, Executable, Resources};
use ir::exec::{Inputs, column_value, table_of_values};
use ir::types::ScalarType;
use ir::value::Value;
use runtime::column::Table;
use runtime::scheduler::WorkerPool;

/// `a` has values from -3 to 8, `b` as many as asked for, NULLs among them where wanted.
fn table(rows: i64, b: i64, nulls: bool) -> Table {
    let first: Vec<Value> = (0..rows).map(|i| Value::I64(i * 7 % 12 - 3)).collect();
    let null = |i: i64| nulls && i % 5 == 0;
    let second: Vec<Value> =
        (0..rows).map(|i| if null(i) { Value::Null } else { Value::I32((i * 11 % b) as i32 + 100) }).collect();
    let columns: [(&str, ScalarType, &[Value]); 2] = [("a", ScalarType::I64, &first), ("b", ScalarType::I32, &second)];
    table_of_values(&columns, rows as usize).expect("a table")
}

fn program(nullable: bool) -> String {
    let mark = if nullable { "?" } else { "" };
    format!(
        r#"program {{
  input in0 "t": table("a": i64, "b": i32{mark})
  column c0 "a": i64
  column c1 "b": i32
  column c2 "s": f32
  column c3 "e": f64
  func @main() -> (table(c0: i64, c1: i32{mark}, c2: f32{mark}, c3: f64)) {{
    %0 = scan in0 (0 -> c0, 1 -> c1) : table(c0: i64, c1: i32{mark})
    %1 = extend %0 (c2, c3) {{
      %2 = col c0 : i64
      %3 = cast<f64> %2 : f64
      %4 = col c1 : i32{mark}
      %5 = cast<f64> %4 : f64{mark}
      %6 = div %3, %5 : f64{mark}
      %7 = sin %6 : f64{mark}
      %8 = cast<f32> %7 : f32{mark}
      %9 = exp %3 : f64
      yield %8, %9
    }} : table(c0: i64, c1: i32{mark}, c2: f32{mark}, c3: f64)
    yield %1
  }}
  entry @main
  result "a", "b", "s", "e"
}}"#
    )
}

fn rows(table: &Table) -> Vec<String> {
    (0..table.rows())
        .map(|r| table.columns().iter().map(|c| format!("{:?} ", column_value(&c.1, r))).collect())
        .collect()
}

/// Runs the program and compares with the interpreter. Whether the kernels call the sine, and the exponential.
fn calls(count: i64, b: i64, nulls: bool) -> [bool; 2] {
    let program = Arc::new(ir::text::parse(&program(nulls)).expect("parses"));
    program.verify().expect("is well formed");
    let inputs = Inputs::new().table("t", Arc::new(table(count, b, nulls)));
    let exe = Executable::compile(Arc::clone(&program), &inputs, &CompileOptions::default()).expect("compiles");
    let resources = Resources::new(Arc::new(WorkerPool::new(2)), None);
    let made = exe.run(&inputs, &resources).expect("runs");
    let wanted = program.interpret(&inputs).expect("is interpreted");
    assert_eq!(rows(made.table(0).expect("a table")), rows(wanted.table(0).expect("a table")));
    let kernels = exe.module().to_string();
    ["sin_f64", "exp_f64"].map(|function| kernels.contains(function))
}

#[test]
fn few_combinations_are_evaluated_before_the_run() {
    assert_eq!(calls(50_000, 60, false), [false, false]);
}

#[test]
fn rows_have_to_pay_for_the_combinations() {
    assert_eq!(calls(10_000, 60, false), [true, false], "720 combinations for 10,000 rows, 12 for the exponential");
    assert_eq!(calls(50, 60, false), [true, true]);
}

#[test]
fn many_combinations_are_not_evaluated_before_the_run() {
    assert_eq!(calls(150_000, 200, false), [true, false]);
}

#[test]
fn nulls_are_no_combination() {
    assert_eq!(calls(50_000, 60, true), [true, false]);
}

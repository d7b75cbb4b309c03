//! Limits: what is not wanted is not read, and not kept.

use std::sync::Arc;

use ir::exec::run::{CompileOptions, Executable, Resources, StageTime};
use ir::exec::{Inputs, column_value, table_of_values};
use ir::types::ScalarType;
use ir::value::Value;
use runtime::column::Table;
use runtime::scheduler::WorkerPool;

const ROWS: i64 = 200_000;

fn table() -> Table {
    let keys: Vec<Value> =
        (0..ROWS).map(|i| if i % 1000 == 7 { Value::Null } else { Value::I32((i * 7919 % 5003) as i32) }).collect();
    let numbers: Vec<Value> = (0..ROWS).map(Value::I64).collect();
    table_of_values(&[("k", ScalarType::I32, &keys), ("n", ScalarType::I64, &numbers)], ROWS as usize).expect("a table")
}

struct Ran {
    rows: Vec<Vec<Value>>,
    stages: Vec<StageTime>,
    peak: usize,
    expected: Vec<Vec<Value>>,
}

/// Runs `body` over the scan `%0`, of columns `c0` (nullable) and `c1`.
fn run(body: &str, threads: usize) -> Ran {
    let text = format!(
        "program {{\n  input in0 \"t\": table(\"k\": i32?, \"n\": i64)\n  column c0 \"k\": i32\n  column c1 \"n\": i64\n  \
         func @main() -> (table(c0: i32?, c1: i64)) {{\n    %0 = scan in0 (0 -> c0, 1 -> c1) : table(c0: i32?, c1: \
         i64)\n{body}  }}\n  entry @main\n  result \"k\", \"n\"\n}}"
    );
    let program = Arc::new(ir::text::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}")));
    let inputs = Inputs::new().table("t", Arc::new(table()));
    let rows = |table: &Table| -> Vec<Vec<Value>> {
        (0..table.rows()).map(|r| table.columns().iter().map(|c| column_value(&c.1, r)).collect()).collect()
    };
    let expected = rows(program.interpret(&inputs).expect("interprets").table(0).expect("a table"));
    let exe = Executable::compile(program, &inputs, &CompileOptions::default()).expect("compiles");
    let mut resources = Resources::new(Arc::new(WorkerPool::new(threads)), None);
    resources.morsel_rows = 4096;
    let (outputs, stages) = exe.run_timed(&inputs, &resources).expect("runs");
    Ran { rows: rows(outputs.table(0).expect("a table")), stages, peak: resources.memory.peak(), expected }
}

const LIMIT: &str = "    %1 = limit %0 offset 5 count 10 : table(c0: i32?, c1: i64)\n    yield %1\n";

#[test]
fn a_limit_stops_reading() {
    let ran = run(LIMIT, 1);
    assert_eq!(ran.rows, ran.expected);
    assert_eq!(ran.rows.len(), 10);
    assert_eq!(ran.stages[0].rows, 4096, "one range of {ROWS} rows");
    for threads in [2, 4] {
        assert_eq!(run(LIMIT, threads).rows, ran.rows);
    }
    let none = LIMIT.replace("count 10", "count 0").replace("offset 5", "offset 0");
    assert_eq!(run(&none, 1).stages[0].rows, 0);
    let late = LIMIT.replace("offset 5", "offset 100000");
    let ran = run(&late, 3);
    assert_eq!(ran.rows, ran.expected);
}

#[test]
fn a_limit_behind_a_filter_goes_on_until_there_are_enough() {
    let body = "    %1 = filter %0 {\n      %2 = col c1 : i64\n      %3 = literal 150000 : i64\n      %4 = ge %2, %3 : bool\n      \
                yield %4\n    } : table(c0: i32?, c1: i64)\n    %5 = limit %1 offset 0 count 3 : table(c0: i32?, c1: i64)\n    \
                yield %5\n";
    let ran = run(body, 1);
    assert_eq!(ran.rows, ran.expected);
    assert_eq!(ran.rows.len(), 3);
    assert!((150_000..160_000).contains(&ran.stages[0].rows), "{} rows", ran.stages[0].rows);
    assert_eq!(run(body, 3).rows, ran.rows);
}

#[test]
fn few_rows_of_an_order_need_little_memory() {
    for order in ["c0 desc", "c0 asc", "c0 asc nulls_first, c1 desc", "c1 desc"] {
        for limit in [0, 1, 10, 1000] {
            let sort = format!("    %1 = sort %0 ({order}) limit {limit} : table(c0: i32?, c1: i64)\n    yield %1\n");
            let one = run(&sort, 1);
            assert_eq!(one.rows, one.expected, "{order} limit {limit}");
            assert_eq!(run(&sort, 3).rows, one.rows, "{order} limit {limit}");
            if limit <= 10 {
                // All rows and their keys would take 8 MB at least; each of 49 ranges keeps one small block.
                assert!(one.peak < 4 << 20, "{order} limit {limit}: {} bytes", one.peak);
            }
        }
    }
}

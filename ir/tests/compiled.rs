//! Relational programs through plan, kernels and machine code.

use std::sync::Arc;

use ir::exec::run::{CompileOptions, Executable, Resources};
use ir::exec::{Inputs, column_value, table_of_values};
use ir::types::ScalarType;
use ir::value::Value;
use runtime::column::Table;
use runtime::scheduler::WorkerPool;

fn orders() -> Table {
    let n = 1000;
    let keys: Vec<Value> = (0..n).map(|i| Value::I32(i % 7)).collect();
    let names: Vec<Value> = (0..n)
        .map(|i| if i % 11 == 0 { Value::Null } else { Value::Text(format!("name of {}", i % 5).into()) })
        .collect();
    let prices: Vec<Value> = (0..n).map(|i| Value::Decimal(i128::from(i) * 100 + 25)).collect();
    let weights: Vec<Value> =
        (0..n).map(|i| if i % 3 == 0 { Value::Null } else { Value::F64(f64::from(i) / 4.0) }).collect();
    table_of_values(
        &[
            ("k", ScalarType::I32, &keys),
            ("name", ScalarType::Text, &names),
            ("price", ScalarType::Decimal { precision: 12, scale: 2 }, &prices),
            ("w", ScalarType::F64, &weights),
        ],
        n as usize,
    )
    .expect("a table")
}

fn run(text: &str, morsel: usize) -> Vec<Vec<Value>> {
    let program = Arc::new(ir::text::parse(text).expect("parses"));
    let inputs = Inputs::new().table("t", Arc::new(orders()));
    let exe = Executable::compile(Arc::clone(&program), &inputs, &CompileOptions::default()).expect("compiles");
    let mut resources = Resources::new(Arc::new(WorkerPool::new(2)), None);
    resources.morsel_rows = morsel;
    let outputs = exe.run(&inputs, &resources).expect("runs");
    let table = outputs.table(0).expect("a table").clone();
    (0..table.rows()).map(|r| table.columns().iter().map(|c| column_value(&c.1, r)).collect()).collect()
}

const HEAD: &str = r#"program {
  input in0 "t": table("k": i32, "name": text?, "price": decimal(12,2), "w": f64?)
  column c0 "k": i32
  column c1 "name": text
  column c2 "price": decimal(12,2)
  column c3 "w": f64
  column c4 "a": decimal(25,4)
  column c5 "n": i64
  column c6 "s": decimal(38,4)
  column c7 "m": f64
  column c8 "k2": i32
  column c9 "name2": text
  column c10 "x": text
"#;

const T: &str = "table(c0: i32, c1: text?, c2: decimal(12,2), c3: f64?)";

#[test]
fn filters_computes_and_groups() {
    let text = format!(
        r#"{HEAD}
  func @main() -> (table(c1: text?, c5: i64, c6: decimal(38,4), c7: f64?)) {{
    %0 = scan in0 (0 -> c0, 1 -> c1, 2 -> c2, 3 -> c3) : {T}
    %1 = filter %0 {{
      %2 = col c0 : i32
      %3 = literal 5 : i32
      %4 = lt %2, %3 : bool
      yield %4
    }} : {T}
    %5 = extend %1 (c4) {{
      %6 = col c2 : decimal(12,2)
      %7 = literal 1.50 : decimal(12,2)
      %8 = mul %6, %7 : decimal(24,4)
      yield %8
    }} : table(c0: i32, c1: text?, c2: decimal(12,2), c3: f64?, c4: decimal(24,4))
    %9 = group %5 (c1) (c5 = count_all(), c6 = sum(c4), c7 = avg(c3)) : table(c1: text?, c5: i64, c6: decimal(38,4), c7: f64?)
    %10 = sort %9 (c1 asc) : table(c1: text?, c5: i64, c6: decimal(38,4), c7: f64?)
    yield %10
  }}
  entry @main
  result "name", "n", "s", "m"
}}"#
    )
    .replace("decimal(25,4)", "decimal(24,4)");
    for morsel in [3, 64, 1 << 16] {
        let rows = run(&text, morsel);
        assert_eq!(rows.len(), 6);
        for (i, row) in rows.iter().enumerate() {
            let mine: Vec<i64> = (0..1000)
                .filter(|i| i % 7 < 5)
                .filter(|x| if i == 5 { x % 11 == 0 } else { x % 11 != 0 && x % 5 == i as i64 })
                .collect();
            assert_eq!(row[1], Value::I64(mine.len() as i64));
            let sum: i128 = mine.iter().map(|x| (i128::from(*x) * 100 + 25) * 150).sum();
            assert_eq!(row[2], Value::Decimal(sum));
            let known: Vec<f64> = mine.iter().filter(|x| *x % 3 != 0).map(|x| *x as f64 / 4.0).collect();
            let Value::F64(avg) = row[3] else { panic!("an average") };
            assert!((avg - known.iter().sum::<f64>() / known.len() as f64).abs() < 1e-9);
        }
    }
}

#[test]
fn joins_and_limits() {
    let text = format!(
        r#"{HEAD}
  func @main() -> (table(c0: i32, c5: i64)) {{
    %0 = scan in0 (0 -> c0, 1 -> c1, 2 -> c2, 3 -> c3) : {T}
    %1 = values (c8: i32, c9: text?) [(1, "one"), (1, "uno"), (3, "three, as a longer text"), (9, "none")] : table(c8: i32, c9: text?)
    %2 = join<left> %0, %1 {{
      %3 = col c0 : i32
      %4 = col c8 : i32
      %5 = eq %3, %4 : bool
      yield %5
    }} : table(c0: i32, c1: text?, c2: decimal(12,2), c3: f64?, c8: i32?, c9: text?)
    %6 = group %2 (c0) (c5 = count(c9)) : table(c0: i32, c5: i64)
    %7 = sort %6 (c5 desc, c0 asc) limit 3 : table(c0: i32, c5: i64)
    yield %7
  }}
  entry @main
  result "k", "n"
}}"#
    );
    for morsel in [3, 1 << 16] {
        let rows = run(&text, morsel);
        let want = [(1, 286), (3, 143), (0, 0)];
        let want: Vec<Vec<Value>> = want.iter().map(|(k, n)| vec![Value::I32(*k), Value::I64(*n)]).collect();
        assert_eq!(rows, want);
    }
}

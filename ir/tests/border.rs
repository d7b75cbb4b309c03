//! The plan's rules at the border of query and model: on and off they give the same bits, and the plan says which it is.

use std::sync::Arc;

use ir::Program;
use ir::exec::run::{CompileOptions, Executable, Resources};
use ir::exec::{Inputs, Outputs, table_of_values};
use ir::opt::OptOptions;
use ir::plan::border::RULES;
use ir::plan::{Source, Stage};
use ir::text::print_outputs;
use ir::types::ScalarType;
use ir::value::{TensorData, Value};
use runtime::scheduler::WorkerPool;

/// A model that a query trains on the rows that it filters and joins, and one that it runs.
const TEXT: &str = r#"program {
  symbol s0 "rows"
  symbol s1 "cut"
  symbol s2 "batch"
  input in0 "t": table("k": i32, "x": f64)
  column c0 "k": i32
  column c1 "x": f64
  column c2 "k": i32
  column c3 "x": f64
  column c4 "y": f64
  func @main() -> (f64[1], f64[3], table(c2: i32, c3: f64, c4: f64)) {
    %0 = scan in0 (0 -> c0, 1 -> c1)
    %1 = filter %0 {
      %2 = col c0
      %3 = literal 2 : i32
      %4 = ge %2, %3
      yield %4
    }
    %5 = to_tensor %1 rows s0 (f64 [c1, c0])
    %6 = const<f64> [1] [0.5]
    %7, %8 = for_batches %5, %6 sources 1 batch s2 size 16 epochs 3 shuffle 7 |%9: i64[], %10: i64[], %11: f64[s2, 2], %12: f64[1]| {
      %13 = reduce<sum> %11 [0, 1]
      %14 = view %12 (reshape [])
      %15 = map %13, %14 [] |%16: f64, %17: f64| {
        %18 = literal 0.25 : f64
        %19 = mul %16, %18
        %20 = add %19, %17
        yield %20
      }
      %21 = view %15 (reshape [1])
      %22 = map %15 [] |%23: f64| {
        yield %23
      }
      yield %21, %22
    }
    %24 = scan in0 (0 -> c2, 1 -> c3)
    %25 = apply %24 rows s1 (f64 [c3, c2]) (c4) |%26: f64[s1, 2]| {
      %27 = reduce<max> %26 [1]
      yield %27
    }
    %28 = filter %25 {
      %29 = col c4
      %30 = literal 10.0 : f64
      %31 = gt %29, %30
      yield %31
    }
    yield %7, %8, %28
  }
  entry @main
  result "w"
  result "loss"
  result "k", "x", "y"
}"#;

fn inputs() -> Inputs {
    let n = 5000;
    let keys: Vec<Value> = (0..n).map(|i| Value::I32(i % 7)).collect();
    let values: Vec<Value> = (0..n).map(|i| Value::F64(f64::from(i % 101) / 8.0)).collect();
    let table = table_of_values(&[("k", ScalarType::I32, &keys), ("x", ScalarType::F64, &values)], n as usize);
    Inputs::new().table("t", Arc::new(table.expect("a table")))
}

fn run(off: &[&str]) -> (Executable, Outputs) {
    let program = Arc::new(Program::parse(TEXT).expect("parses"));
    let options = CompileOptions { off: off.iter().map(|n| (*n).to_string()).collect(), ..CompileOptions::default() };
    let inputs = inputs();
    let exe = Executable::compile(program, &inputs, &options).expect("compiles");
    let outputs = exe.run(&inputs, &Resources::new(Arc::new(WorkerPool::new(2)), None)).expect("runs");
    (exe, outputs)
}

fn note<'a>(exe: &'a Executable, rule: &str) -> &'a str {
    let found = exe.plan().notes.iter().find(|n| n.starts_with(rule));
    found.unwrap_or_else(|| panic!("no note of {rule}: {:?}", exe.plan().notes))
}

/// How many pipelines read rows of inputs, and how many rows that were stored.
fn sources(exe: &Executable) -> (usize, usize) {
    let pipelines = exe.plan().stages.iter().filter_map(|s| match s {
        Stage::Pipeline(p) => Some(&p.source),
        _ => None,
    });
    let stored = pipelines.clone().filter(|s| matches!(s, Source::State(_))).count();
    (pipelines.count() - stored, stored)
}

#[test]
fn rules_on_and_off_give_the_same_bits() {
    let (on, with) = run(&[]);
    let with = print_outputs(&with);
    let program = Program::parse(TEXT).expect("parses");
    assert_eq!(with, print_outputs(&program.interpret(&inputs()).expect("interprets")));
    for rule in RULES {
        let (off, without) = run(&[rule.name]);
        assert_eq!(with, print_outputs(&without), "without {}", rule.name);
        assert_ne!(on.plan().notes, off.plan().notes, "{} says nothing", rule.name);
    }
}

#[test]
fn the_query_writes_the_batch_tensor() {
    let (on, _) = run(&[]);
    assert_eq!(note(&on, "B1"), "B1: the query writes f64[rows, 2]; a table of 16 bytes a row is not stored");
    assert_eq!(
        note(&on, "B2"),
        "B2: 2 columns are written row by row, as the first product reads them, 1 of them converted on the way"
    );
    assert_eq!(sources(&on), (2, 0));
    let (off, _) = run(&["cross_batch"]);
    assert!(note(&off, "B1").contains("off"));
    assert_eq!(sources(&off), (2, 1));
}

#[test]
fn a_model_runs_over_tiles() {
    let (on, _) = run(&[]);
    assert_eq!(note(&on, "B3"), "B3: the model runs over tiles of 1024 rows, 16 KiB of features");
    let (off, _) = run(&["cross_tile"]);
    assert_eq!(note(&off, "B3"), "B3 is off: the model runs over tiles of 65536 rows, 1024 KiB of features");
}

#[test]
fn shuffled_epochs_read_features_that_were_computed_once() {
    let (on, _) = run(&[]);
    let text = "B5: 3 epochs gather batches of 16 rows from the query's rows, computed once, by permutations of seed 7";
    assert_eq!(note(&on, "B5"), text);
}

#[test]
fn the_optimizer_knows_the_names_of_the_rules() {
    let mut program = Program::parse(TEXT).expect("parses");
    let off = RULES.iter().map(|r| r.name.to_string()).collect();
    program.optimize(&OptOptions { off, ..OptOptions::default() }).expect("every name is known");
}

/// Tensors of the rows of which `k` is above 2, and of their pairs with all rows of the same `k`: fewer and more than are read.
const FEWER_AND_MORE: &str = r#"program {
  symbol s0 "rows"
  symbol s1 "pairs"
  input in0 "t": table("k": i32, "x": f64)
  column c0 "k": i32
  column c1 "x": f64
  column c2 "k": i32
  column c3 "x": f64
  func @main() -> (f64[s0, 2], i32[s0], f64[s1, 2]) {
    %0 = scan in0 (0 -> c0, 1 -> c1)
    %1 = filter %0 {
      %2 = col c0
      %3 = literal 2 : i32
      %4 = gt %2, %3
      yield %4
    }
    %5, %6 = to_tensor %1 rows s0 (f64 [c1, c0], i32 c0)
    %7 = scan in0 (0 -> c2, 1 -> c3)
    %8 = join<inner> %1, %7 {
      %9 = col c0
      %10 = col c2
      %11 = eq %9, %10
      yield %11
    }
    %12 = to_tensor %8 rows s1 (f64 [c1, c3])
    yield %5, %6, %12
  }
  entry @main
  result "some"
  result "keys"
  result "pairs"
}"#;

#[test]
fn ranges_write_tensors_of_fewer_and_of_more_rows_than_they_read() {
    let program = Program::parse(FEWER_AND_MORE).expect("parses");
    let n = 1000;
    let keys: Vec<Value> = (0..n).map(|i| Value::I32(i % 7)).collect();
    let values: Vec<Value> = (0..n).map(|i| Value::F64(f64::from(i))).collect();
    let table = table_of_values(&[("k", ScalarType::I32, &keys), ("x", ScalarType::F64, &values)], n as usize);
    let inputs = Inputs::new().table("t", Arc::new(table.expect("a table")));
    // Rows stand in the order of the table; the order of a row's partners is not said.
    let ordered = |outputs: &Outputs| {
        let tensors: Vec<String> = (0..2).map(|i| format!("{:?}", outputs.tensor(i).expect("a tensor"))).collect();
        let Some(TensorData::F64(pairs)) = outputs.tensor(2).map(|t| t.data.clone()) else { panic!("no doubles") };
        let mut pairs: Vec<(i64, i64)> = pairs.chunks(2).map(|p| (p[0] as i64, p[1] as i64)).collect();
        pairs.sort_unstable();
        (tensors, pairs)
    };
    let expected = ordered(&program.interpret(&inputs).expect("interprets"));
    assert!(expected.1.len() > 10 * n as usize);
    let exe = Executable::compile(Arc::new(program), &inputs, &CompileOptions::default()).expect("compiles");
    for (threads, morsel_rows) in [(1, 1 << 16), (3, 1 << 16), (1, 50), (3, 50)] {
        let resources = Resources::new(Arc::new(WorkerPool::new(threads)), None);
        let outputs = exe.run(&inputs, &Resources { morsel_rows, ..resources }).expect("runs");
        let (tensors, pairs) = ordered(&outputs);
        assert_eq!(tensors, expected.0, "{threads} threads, morsels of {morsel_rows} rows");
        assert!(pairs == expected.1, "{threads} threads, morsels of {morsel_rows} rows: {} pairs", pairs.len());
    }
}

//! Control flow compiled: the programs of `text/run` give what the interpreter gives.

use std::sync::Arc;

use ir::error::{Error, Trap, TrapKind};
use ir::exec::Inputs;
use ir::exec::run::{CompileOptions, Executable, Resources};
use ir::value::{TensorData, TensorValue};
use ir::{Program, Result};
use runtime::scheduler::WorkerPool;

fn program(text: &str) -> Program {
    let source = text.split("\n---- ").next().unwrap_or_default();
    let program = Program::parse(source).expect("the program parses");
    program.verify().expect("the program is well formed");
    program
}

fn compiled(program: &Program, inputs: &Inputs, memory: Option<usize>) -> Result<Vec<TensorValue>> {
    let mut program = program.clone();
    program.optimize(&ir::opt::OptOptions { verify: true, ..ir::opt::OptOptions::default() })?;
    let exe = Executable::compile(Arc::new(program), inputs, &CompileOptions::default())?;
    tensors(exe.run(inputs, &Resources::new(Arc::new(WorkerPool::new(2)), memory))?)
}

fn tensors(outputs: ir::exec::Outputs) -> Result<Vec<TensorValue>> {
    let tensor = |o: ir::exec::Output| match o.datum {
        ir::exec::Datum::Tensor(t) => Ok(t.as_ref().clone()),
        _ => Err(Error::Bug("no tensor".into())),
    };
    outputs.list.into_iter().map(tensor).collect()
}

#[track_caller]
fn same(text: &str, inputs: &Inputs) {
    let program = program(text);
    let want = program.interpret(inputs).and_then(tensors);
    let got = compiled(&program, inputs, None);
    assert_eq!(got, want);
}

fn x(values: &[f64]) -> Inputs {
    let data = TensorData::F64(values.to_vec());
    Inputs::new().tensor("x", TensorValue { shape: vec![values.len()], data })
}

#[test]
fn loops_calls_and_branches() {
    same(include_str!("text/run/control.ir"), &x(&[1.0, 10.0, 100.0]));
}

#[test]
fn tapes_and_sums() {
    same(include_str!("text/run/tape.ir"), &x(&[1.0, 0.25]));
}

#[test]
fn endless_recursion_is_an_error() {
    let program = program(include_str!("text/run/endless_recursion.ir"));
    let want = Error::Trap(Trap { kind: TrapKind::RecursionDepth(4096), place: None });
    assert_eq!(program.interpret(&Inputs::new()).map(|_| ()), Err(want.clone()));
    assert_eq!(compiled(&program, &Inputs::new(), None), Err(want));
}

/// Pushes for as long as `x` is positive: for ever.
const ENDLESS_TAPE: &str = r#"program {
  input in0 "x": f64[1000]
  func @main() -> (i64[]) {
    %0 = input in0
    %1 = tape_new
    %2 = const<i64> [] [0]
    %3, %4 = while %2, %1 |%5: i64[], %6: tape| {
      %7 = const<bool> [] [true]
      yield %7
    } |%8: i64[], %9: tape| {
      %10 = push<1> %9, %0
      %11 = map %8 [] |%12: i64| {
        %13 = literal 1 : i64
        %14 = add %12, %13
        yield %14
      }
      yield %11, %10
    }
    %15, %16 = pop<1> %4 (f64[1000])
    %17 = map %3, %3 [] |%18: i64, %19: i64| {
      %20 = add %18, %19
      yield %20
    }
    %21 = reduce<sum> %16 [0]
    yield %17
  }
  entry @main
  result "steps"
}
"#;

#[test]
fn a_tape_stays_within_the_memory_limit() {
    let limit = 1 << 20;
    let e = compiled(&program(ENDLESS_TAPE), &x(&vec![1.0; 1000]), Some(limit));
    assert_eq!(e, Err(Error::Trap(Trap { kind: TrapKind::MemoryLimit { limit: limit as u64 }, place: None })));
}

#[test]
fn a_frame_that_was_not_pushed_is_an_error() {
    let text = ENDLESS_TAPE.replace("[true]", "[false]");
    let e = compiled(&program(&text), &x(&vec![1.0; 1000]), None);
    assert!(e.is_ok(), "the pop is not used, so it is gone: {e:?}");
    let text = text.replace("yield %17", "yield %21").replace("(i64[]) {", "(f64[]) {");
    let e = compiled(&program(&text), &x(&vec![1.0; 1000]), None);
    let program = program(&text);
    let inputs = x(&vec![1.0; 1000]);
    let want = Err("invalid argument: the tape is empty".to_string());
    assert_eq!(program.interpret(&inputs).map(|_| ()).map_err(|e| e.to_string()), want);
    assert_eq!(e.map(|_| ()).map_err(|e| e.to_string()), want);
}

#[test]
fn what_is_used_once_is_not_used_twice() {
    let wrong = |text: &str| {
        let program = Program::parse(text).and_then(|p| p.verify().map(|()| p));
        program.expect_err("the verifier finds it").to_string()
    };
    let twice = ENDLESS_TAPE.replace("push<1> %9, %0", "push<1> %9, %0\n      %30 = push<2> %9, %0");
    assert!(wrong(&twice).contains("a value of type tape is used twice"), "{}", wrong(&twice));
    let outside = ENDLESS_TAPE.replace("push<1> %9, %0", "push<1> %1, %0");
    let outside =
        outside.replace("while %2, %1", "while %2, %31").replace("%1 = tape_new", "%1 = tape_new\n    %31 = tape_new");
    assert!(wrong(&outside).contains("used by a loop that it comes from outside of"), "{}", wrong(&outside));
}

//! One side of a case: a process that answers each line on its standard input with a run.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ::tests::oracle;
use ir::Program;
use ir::exec::Inputs;
use ir::exec::run::{CompileOptions, Executable, Resources};
use ir::opt::OptOptions;
use ir::value::{TensorData, TensorValue};
use lantern::Params;
use runtime::scheduler::WorkerPool;
use serde_json::{Value, json};

use super::Arguments;
use super::cases::{Case, Work};
use crate::data::{self, FLIGHTS, Format};
use crate::engine::Flern;
use crate::measure::{milliseconds, timed};
use crate::pipelines::Host;
use crate::{Error, Result};

/// A process that runs a case with its rule on or off.
pub(super) struct Worker {
    child: Child,
    told: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// A run.
pub(super) struct Ran {
    pub(super) time: Duration,
    /// What is compared.
    pub(super) values: Vec<f64>,
}

impl Worker {
    /// Starts the process and waits until its first run, which compiles, is over.
    pub(super) fn start(case: &Case, off: bool, arguments: &Arguments) -> Result<Worker> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--worker", case.rule]);
        command.args(["--copies", &arguments.copies.to_string(), "--threads", &arguments.threads.to_string()]);
        command.env_remove("IR_OFF");
        if let (true, Some(switch)) = (off, case.switch) {
            command.env("IR_OFF", switch);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let told = child.stdin.take();
        let answers = child.stdout.take().ok_or("a process without an output")?;
        let mut worker = Worker { child, told, answers: BufReader::new(answers) };
        worker.run()?;
        Ok(worker)
    }

    /// One run.
    pub(super) fn run(&mut self) -> Result<Ran> {
        let told = self.told.as_mut().ok_or("a process without an input")?;
        writeln!(told)?;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("one side of a case ended; its message is above".into());
        }
        let answer: Value = serde_json::from_str(&line)?;
        let time = answer["ms"].as_f64().ok_or("a run without a time")?;
        let values = answer["values"].as_array().into_iter().flatten();
        let values = values.map(|v| v.as_f64().unwrap_or(f64::NAN)).collect();
        Ok(Ran { time: Duration::from_secs_f64(time / 1e3), values })
    }
}

impl Drop for Worker {
    /// Its input ends, and with it the process.
    fn drop(&mut self) {
        self.told.take();
        self.child.wait().ok();
    }
}

/// Be one side: prepare, then run once for each line.
pub(super) fn serve(case: &Case, folder: &Path, threads: usize) -> Result<()> {
    let mut run = prepare(&case.work, folder, threads)?;
    for line in std::io::stdin().lines() {
        line?;
        let ran = run()?;
        println!("{}", json!({ "ms": milliseconds(ran.time), "values": ran.values }));
    }
    Ok(())
}

type Run = Box<dyn FnMut() -> Result<Ran>>;

fn prepare(work: &Work, folder: &Path, threads: usize) -> Result<Run> {
    match work {
        Work::Sql { setup, measured, compared } => sql(setup, measured.clone(), compared.clone(), folder, threads),
        Work::OneHot => one_hot(threads),
        Work::None => Err("this rule has no switch".into()),
    }
}

fn sql(setup: &[String], measured: String, compared: Option<String>, folder: &Path, threads: usize) -> Result<Run> {
    let mut host = Flern::new(threads);
    host.begin()?;
    for table in FLIGHTS {
        host.table(table, &data::file(folder, table, Format::Parquet), Format::Parquet)?;
    }
    let weights = tempfile::tempdir()?;
    for statement in setup {
        let path = weights.path().join("sparse.safetensors");
        if statement.contains("'SPARSE'") {
            sparse()?.save(&path)?;
        }
        host.run(&statement.replace("'SPARSE'", &format!("'{}'", path.display())))?;
    }
    Ok(Box::new(move || {
        let (ran, time) = timed(|| host.run(&measured));
        let mut batches = ran?.batches;
        if let Some(compared) = &compared {
            batches = host.run(compared)?.batches;
        }
        let cells = oracle::cells(&batches)?;
        let values = cells.iter().flatten().map(|cell| cell.parse().unwrap_or(f64::NAN)).collect();
        Ok(Ran { time, values })
    }))
}

/// A network over eight features, of which the last four have no weight.
fn sparse() -> Result<Params> {
    const FEATURES: usize = 8;
    let mut params = Params::mlp(ir::types::ScalarType::F32, &[FEATURES, 64, 64, 1], 7)?;
    let first = params.iter().next().map(|(name, value)| (name.to_owned(), value.clone()));
    let Some((name, TensorValue { shape, data: TensorData::F32(mut weights) })) = first else {
        return Err("the first weights of a network are single floats".into());
    };
    weights.iter_mut().enumerate().filter(|(at, _)| at % FEATURES >= FEATURES / 2).for_each(|(_, w)| *w = 0.0);
    params.set(name, TensorValue { shape, data: TensorData::F32(weights) });
    Ok(params)
}

/// Rows, categories and outputs of the one-hot products.
const ONE_HOT: [usize; 3] = [65_536, 256, 64];

/// `codes` as one-hot rows times `w`, and the gradient of `w` for that of the product.
const ONE_HOT_PROGRAM: &str = r#"program {
  input in0 "codes": i64[65536]
  input in1 "w": f32[256, 64]
  input in2 "d": f32[65536, 64]
  func @main() -> (f32[65536, 64], f32[256, 64]) {
    %0 = input in0
    %1 = input in1
    %2 = input in2
    %3 = view %0 (reshape [65536, 1], broadcast [65536, 256] dims [0, 1])
    %4 = iota<0> : i64[256]
    %5 = view %4 (broadcast [65536, 256] dims [1])
    %6 = map %3, %5 [65536, 256] |%7: i64, %8: i64| {
      %9 = literal 1.0 : f32
      %10 = literal 0.0 : f32
      %11 = eq %7, %8
      %12 = select %11, %9, %10
      yield %12
    }
    %13 = contract<"nv,vk->nk"> %6, %1
    %14 = contract<"nv,nk->vk"> %6, %2
    yield %13, %14
  }
  entry @main
  result "y"
  result "dw"
}"#;

fn one_hot(threads: usize) -> Result<Run> {
    let mut program = Program::parse(ONE_HOT_PROGRAM)?;
    program.optimize(&OptOptions::default())?;
    let [rows, categories, outputs] = ONE_HOT;
    // Small whole numbers: their sums are exact in any order.
    let floats = |n: usize| TensorData::F32((0..n).map(|i| (i % 13) as f32 - 6.0).collect());
    let codes = TensorData::I64((0..rows).map(|i| (i * 7919 % categories) as i64).collect());
    let inputs = Inputs::new()
        .tensor("codes", TensorValue { shape: vec![rows], data: codes })
        .tensor("w", TensorValue { shape: vec![categories, outputs], data: floats(categories * outputs) })
        .tensor("d", TensorValue { shape: vec![rows, outputs], data: floats(rows * outputs) });
    let options = CompileOptions { threads, ..CompileOptions::default() };
    let executable = Executable::compile(Arc::new(program), &inputs, &options)?;
    let resources = Resources::new(Arc::new(WorkerPool::new(threads)), None);
    Ok(Box::new(move || {
        let (ran, time) = timed(|| executable.run(&inputs, &resources));
        let ran = ran?;
        let sum = |i: usize| -> Result<f64, Error> {
            match ran.tensor(i).map(|t| &t.data) {
                Some(TensorData::F32(v)) => Ok(v.iter().enumerate().map(|(i, x)| f64::from(*x) * (i % 7) as f64).sum()),
                _ => Err("a tensor of single floats is expected".into()),
            }
        };
        Ok(Ran { time, values: vec![sum(0)?, sum(1)?] })
    }))
}

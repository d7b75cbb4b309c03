//! Scalar operations and reducers as generated code and in the kernel interpreter, against `eval`: every operation, every
//! signature of the samples, values at the edges of their types.

use std::mem::discriminant;
use std::sync::Arc;

use runtime::column::Column;
use runtime::pool::QueryMemory;
use runtime::trap::{CancelToken, WorkerBlock};

use super::convert;
use crate::codegen::{Backend, CompiledModule, CpuBackend, Options};
use crate::entity::InputId;
use crate::error::{Error, Result, Trap, TrapKind};
use crate::graph::Program;
use crate::interp::kernel as interpreter;
use crate::kernel::{FunctionRef, Module, Signature, Type as K, Value as KernelValue};
use crate::lower::context::{Context, Slot};
use crate::lower::row::{Cell, Inputs, RowLower};
use crate::lower::scalar::HOST_AREA;
use crate::plan::register_type;
use crate::scalar::reduce::{Evaluator, Reducer};
use crate::scalar::tests::{edges, every_op, operand_lists, sample_types, signatures};
use crate::scalar::{self, ScalarOp};
use crate::types::{RowType, ScalarType as S};
use crate::value::Value;

/// Bytes of a value in a test's record: 16 of value, then a valid byte.
const CELL: i32 = 32;

/// The cell of the record that results go to; operands and states come first.
const RESULT: i32 = 12;

struct NoInputs;

impl Inputs for NoInputs {
    fn column(&self, input: InputId, _: u32) -> Result<Arc<Column>> {
        Err(Error::Bug(format!("{input} in a test without inputs")))
    }
}

/// Functions over one record each, under one context.
#[derive(Default)]
struct Functions {
    module: Module,
    context: Context,
}

/// How a function's operands look.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Shape {
    Plain,
    Nullable,
    /// Not NULL, with bounds that every value keeps.
    Bounded,
    /// Not NULL, the second of two known when the code is made.
    Constant,
}

impl Functions {
    /// A function `(ctx, worker, record, area)`.
    fn add(&mut self, body: impl FnOnce(&mut RowLower<'_>, KernelValue) -> Result<()>) -> Result<FunctionRef> {
        let name = format!("f{}", self.module.len());
        let function = self.module.declare(&name, Signature::pipeline());
        let mut b = self.module.builder(&function);
        let (ctx, worker, record, area) = (b.param(0), b.param(1), b.param(2), b.param(3));
        let (record, area) = (b.bitcast(record, K::Ptr), b.bitcast(area, K::Ptr));
        let program = Program::default();
        let mut r = RowLower {
            p: &program,
            inputs: &NoInputs,
            b,
            context: &mut self.context,
            ctx,
            worker,
            area: Some(area),
            rows: 0,
        };
        body(&mut r, record)?;
        let zero = r.b.iconst(K::I32, 0);
        let body = r.b.finish(Some(zero)).map_err(|e| Error::Bug(e.to_string()))?;
        self.module.define(&function, body);
        Ok(function)
    }

    fn compile(self) -> Runner {
        let backend = CpuBackend::shared().expect("this machine has a backend");
        let options = Options { threads: 2, verify: true, ..Options::default() };
        let code = backend.compile(&self.module, &options).unwrap_or_else(|e| panic!("{e}"));
        let hosts: Vec<convert::Host> = self
            .context
            .slots()
            .iter()
            .map(|slot| match slot {
                Slot::Host(op) => *convert::Host::new(op.clone()),
                other => panic!("{other:?} in a test of scalars"),
            })
            .collect();
        let slots = hosts.iter().map(|h| std::ptr::from_ref(h).expose_provenance() as u64).collect();
        let memory = QueryMemory::unlimited();
        let worker = WorkerBlock::new(&[], &CancelToken::new(), &memory);
        Runner { module: self.module, code, slots, _hosts: hosts, worker, memory }
    }
}

fn load(
    r: &mut RowLower<'_>,
    record: KernelValue,
    index: usize,
    ty: S,
    shape: Shape,
    range: Option<(i128, i128)>,
) -> Cell {
    let at = index as i32 * CELL;
    let value = r.b.load(register_type(ty), record, at);
    let valid = (shape == Shape::Nullable).then(|| r.b.load(K::I8, record, at + 16));
    Cell { value, valid, ty, range: range.filter(|_| shape == Shape::Bounded) }
}

fn store(r: &mut RowLower<'_>, record: KernelValue, index: i32, cell: &Cell) -> Result<()> {
    let value = r.to_register(cell, register_type(cell.ty))?;
    let valid = r.valid_flag(cell);
    r.b.store(value, record, index * CELL);
    r.b.store(valid, record, index * CELL + 16);
    Ok(())
}

/// Compiled functions, and what they need to run.
struct Runner {
    module: Module,
    code: CompiledModule,
    slots: Vec<u64>,
    _hosts: Vec<convert::Host>,
    worker: WorkerBlock,
    memory: Arc<QueryMemory>,
}

impl Runner {
    /// Runs a function over a record of these values, compiled or interpreted; the record afterwards.
    fn run(&mut self, f: &FunctionRef, values: &[(usize, Value)], compiled: bool) -> Result<Record> {
        let mut record = Record::default();
        for (i, v) in values {
            record.set(*i, v);
        }
        let mut area = [0u128; HOST_AREA / 16];
        let args = [
            self.slots.as_ptr().expose_provenance() as u64,
            self.worker.as_mut_ptr().expose_provenance() as u64,
            record.words.as_mut_ptr().expose_provenance() as u64,
            area.as_mut_ptr().expose_provenance() as u64,
        ];
        let status = if compiled {
            let entry = self.code.entry(f.id());
            // SAFETY: the function reads and writes the record, the area and the worker block only, which are large enough.
            unsafe { entry.run(self.slots.as_ptr(), self.worker.as_mut_ptr(), args[2] as i64, args[3] as i64) }
        } else {
            // SAFETY: as above.
            let result = unsafe { interpreter::run(&self.module, f.id(), &args) };
            result.map_err(|e| Error::Bug(e.to_string()))?.unwrap_or(0) as i32
        };
        match self.worker.check(status) {
            Ok(()) => Ok(record),
            Err(trap) => Err(convert::trap(&[], &self.memory, trap)),
        }
    }
}

/// Cells of two words and a flag.
#[derive(Default)]
struct Record {
    words: [u128; 2 * (RESULT as usize + 1)],
    texts: Vec<Arc<str>>,
}

impl Record {
    fn set(&mut self, index: usize, v: &Value) {
        let (lo, hi) = convert::words(v, &mut self.texts);
        self.words[2 * index] = u128::from(hi) << 64 | u128::from(lo);
        self.words[2 * index + 1] = u128::from(!v.is_null());
    }

    fn get(&self, index: usize, ty: S) -> Value {
        if self.words[2 * index + 1] as u8 == 0 {
            return Value::Null;
        }
        let word = self.words[2 * index];
        // SAFETY: texts are those of the record, or in the worker's arena.
        unsafe { convert::value_of_words(ty, word as u64, (word >> 64) as u64) }
    }
}

/// The same value; any NaN is as good as another.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::F32(a), Value::F32(b)) if a.is_nan() => b.is_nan(),
        (Value::F64(a), Value::F64(b)) if a.is_nan() => b.is_nan(),
        _ => a == b,
    }
}

/// The same outcome: the value, or the kind of trap.
fn same_outcome(got: &Result<Value>, want: &Result<Value, Trap>) -> bool {
    match (got, want) {
        (Ok(a), Ok(b)) => same(a, b),
        (Err(Error::Trap(a)), Err(b)) => discriminant(&a.kind) == discriminant(&b.kind),
        _ => false,
    }
}

fn bounds(values: &[Value]) -> Option<(i128, i128)> {
    let numbers: Option<Vec<i128>> = values
        .iter()
        .map(|v| match v {
            Value::I32(v) | Value::Date(v) => Some(i128::from(*v)),
            Value::I64(v) | Value::Timestamp(v) => Some(i128::from(*v)),
            Value::Decimal(v) => Some(*v),
            _ => None,
        })
        .collect();
    let numbers = numbers?;
    Some((*numbers.iter().min()?, *numbers.iter().max()?))
}

/// Few small values, for bounds that prove something.
fn small(ty: S) -> Vec<Value> {
    let near = |v: &Value| bounds(std::slice::from_ref(v)).is_none_or(|(v, _)| v.abs() <= 1000);
    edges(ty).into_iter().filter(near).collect()
}

struct Case {
    function: FunctionRef,
    types: Vec<S>,
    shape: Shape,
    /// The second operand, where it is a constant.
    constant: Option<Value>,
    out: S,
}

impl Case {
    fn new(functions: &mut Functions, op: ScalarOp, types: &[S], shape: Shape, constant: Option<Value>) -> Self {
        let row: Vec<RowType> = types.iter().map(|t| t.nullable(shape == Shape::Nullable)).collect();
        let out = scalar::result_type(op, &row).expect("the signature is defined");
        let function = functions.add(|r, record| {
            let mut args = vec![];
            for (i, ty) in types.iter().enumerate() {
                args.push(match &constant {
                    Some(v) if i == 1 => r.literal(v, *ty)?,
                    _ => load(r, record, i, *ty, shape, bounds(&small(*ty))),
                });
            }
            let cell = r.scalar(op, &args, out, None)?;
            store(r, record, RESULT, &cell)
        });
        let function = function.unwrap_or_else(|e| panic!("{op:?} of {types:?} ({shape:?}): {e}"));
        Self { function, types: types.to_vec(), shape, constant, out: out.ty }
    }

    /// Whether the function is one for these operands.
    fn takes(&self, values: &[Value]) -> bool {
        match self.shape {
            Shape::Nullable => true,
            Shape::Plain => !values.iter().any(Value::is_null),
            Shape::Bounded => values.iter().zip(&self.types).all(|(v, ty)| small(*ty).contains(v)),
            Shape::Constant => !values.iter().any(Value::is_null) && values.get(1) == self.constant.as_ref(),
        }
    }
}

fn check_op(op: ScalarOp) -> usize {
    let mut functions = Functions::default();
    let mut cases = vec![];
    for types in signatures(op) {
        for shape in [Shape::Plain, Shape::Nullable, Shape::Bounded] {
            cases.push(Case::new(&mut functions, op, &types, shape, None));
        }
        // Long texts stand in slots, which these functions have not.
        let short = |v: &Value| !matches!(v, Value::Text(text) if text.len() > 12);
        if let [_, second] = types[..] {
            for v in edges(second).into_iter().filter(short) {
                cases.push(Case::new(&mut functions, op, &types, Shape::Constant, Some(v)));
            }
        }
    }
    let mut runner = functions.compile();
    let mut checked = 0;
    for case in cases {
        for values in operand_lists(&case.types).into_iter().filter(|values| case.takes(values)) {
            let want = scalar::eval(op, &values, &case.types, case.out);
            let given: Vec<(usize, Value)> = values.iter().cloned().enumerate().collect();
            for compiled in [true, false] {
                let got = runner.run(&case.function, &given, compiled).map(|r| r.get(RESULT as usize, case.out));
                assert!(
                    same_outcome(&got, &want),
                    "{op:?} of {values:?} as {:?} ({:?}, {}): {got:?}, eval says {want:?}",
                    case.types,
                    case.shape,
                    if compiled { "compiled" } else { "interpreted" },
                );
            }
            checked += 1;
        }
    }
    checked
}

#[test]
fn operations_compute_what_eval_says() {
    let checked: usize = every_op().into_iter().map(check_op).sum();
    assert!(checked > 20_000, "{checked}");
}

/// Init, steps over some rows, a merge with the steps over the others, finish: all in generated code.
#[test]
fn reducers_compute_what_their_evaluator_says() {
    for reducer in Reducer::ALL {
        let types = sample_types();
        let args: Vec<Option<S>> =
            if reducer == Reducer::CountAll { vec![None] } else { types.into_iter().map(Some).collect() };
        for arg in args {
            for nullable in [false, true] {
                let arg_type = arg.map(|a| a.nullable(nullable));
                if reducer.result_type(arg_type).is_ok() {
                    check_reducer(reducer, arg_type);
                }
            }
        }
    }
}

fn check_reducer(reducer: Reducer, arg: Option<RowType>) {
    let fields = reducer.state_fields(arg).expect("a result has a state");
    let out = reducer.result_type(arg).expect("defined");
    let shape = if arg.is_some_and(|a| a.nullable) { Shape::Nullable } else { Shape::Plain };
    let mut functions = Functions::default();
    // Cells 0 to 3: the state. Cells 4 to 7: another. Cell 8: the argument.
    let state = |r: &mut RowLower<'_>, record, first: usize| -> Vec<KernelValue> {
        let at = |i: usize| ((first + i) as i32) * CELL;
        fields.iter().enumerate().map(|(i, f)| r.b.load(register_type(*f), record, at(i))).collect()
    };
    let keep = |r: &mut RowLower<'_>, record, values: Vec<KernelValue>| {
        let yes = r.b.bool_const(true);
        for (i, v) in values.into_iter().enumerate() {
            r.b.store(v, record, i as i32 * CELL);
            r.b.store(yes, record, i as i32 * CELL + 16);
        }
    };
    let init = functions.add(|r, record| {
        let values = r.reduce_init(reducer, arg)?;
        keep(r, record, values);
        Ok(())
    });
    let step = functions.add(|r, record| {
        let old = state(r, record, 0);
        let cell = arg.map(|a| load(r, record, 8, a.ty, shape, None));
        let values = r.reduce_step(reducer, cell.as_ref(), &old)?;
        keep(r, record, values);
        Ok(())
    });
    let merge = functions.add(|r, record| {
        let (x, y) = (state(r, record, 0), state(r, record, 4));
        let values = r.reduce_merge(reducer, arg.map(|a| a.ty), &x, &y)?;
        keep(r, record, values);
        Ok(())
    });
    let finish = functions.add(|r, record| {
        let s = state(r, record, 0);
        let cell = r.reduce_finish(reducer, arg, &s, out)?;
        store(r, record, RESULT, &cell)
    });
    let all: Result<Vec<FunctionRef>> = [init, step, merge, finish].into_iter().collect();
    let [init, step, merge, finish]: [FunctionRef; 4] = match all {
        Ok(list) => list.try_into().expect("four"),
        // A product of integers and an index over rows have no user yet.
        Err(Error::Unsupported(what)) => {
            let known = matches!(reducer, Reducer::Product | Reducer::ArgMax | Reducer::ArgMin);
            assert!(known, "{reducer:?} of {arg:?}: {what}");
            return;
        }
        Err(e) => panic!("{reducer:?} of {arg:?}: {e}"),
    };
    let mut runner = functions.compile();
    let evaluator = Evaluator::new(reducer, arg.map(|a| a.ty));
    let mut lists: Vec<Vec<Value>> = vec![vec![]];
    let values = arg.map_or(vec![Value::Bool(true); 3], |a| edges(a.ty));
    lists.extend(values.iter().map(|v| vec![v.clone()]));
    lists.push(values.clone());
    lists.push(values.iter().rev().cloned().collect());
    lists.extend(values.windows(2).map(<[Value]>::to_vec));
    if shape == Shape::Nullable {
        lists.extend([vec![Value::Null], vec![Value::Null, values[0].clone(), Value::Null, values[1].clone()]]);
    }
    for rows in lists {
        for cut in [0, rows.len() / 2, rows.len()] {
            for compiled in [true, false] {
                let want = reference(evaluator, &rows, cut);
                let part = |runner: &mut Runner, rows: &[Value]| -> Result<Vec<Value>> {
                    let get = |r: &Record| fields.iter().enumerate().map(|(i, f)| r.get(i, *f)).collect::<Vec<_>>();
                    let mut s = get(&runner.run(&init, &[], compiled)?);
                    for v in rows {
                        if v.is_null() && !reducer.sees_null() {
                            continue;
                        }
                        let mut given: Vec<(usize, Value)> = s.into_iter().enumerate().collect();
                        given.push((8, v.clone()));
                        s = get(&runner.run(&step, &given, compiled)?);
                    }
                    Ok(s)
                };
                let mut whole = || {
                    let (left, right) = (part(&mut runner, &rows[..cut])?, part(&mut runner, &rows[cut..])?);
                    let given: Vec<(usize, Value)> = left
                        .into_iter()
                        .enumerate()
                        .chain(right.into_iter().enumerate().map(|(i, v)| (4 + i, v)))
                        .collect();
                    let merged = runner.run(&merge, &given, compiled)?;
                    let s = fields.iter().enumerate().map(|(i, f)| (i, merged.get(i, *f))).collect::<Vec<_>>();
                    Ok(runner.run(&finish, &s, compiled)?.get(RESULT as usize, out.ty))
                };
                let got = whole();
                assert!(
                    same_outcome(&got, &want),
                    "{reducer:?} of {arg:?} over {rows:?}, cut at {cut}, {}: {got:?}, eval says {want:?}",
                    if compiled { "compiled" } else { "interpreted" },
                );
            }
        }
    }
}

fn reference(e: Evaluator, rows: &[Value], cut: usize) -> Result<Value, Trap> {
    let mut parts = [e.init(), e.init()];
    for (i, v) in rows.iter().enumerate() {
        e.step(&mut parts[usize::from(i >= cut)], v)?;
    }
    let [mut left, right] = parts;
    e.merge(&mut left, &right)?;
    e.finish(&left)
}

#[test]
fn errors_keep_their_words() {
    let decimal = S::Decimal { precision: 4, scale: 2 };
    for (to, name) in [(S::I32, "i32"), (decimal, "decimal(4,2)"), (S::Date, "date"), (S::Bool, "bool")] {
        let mut functions = Functions::default();
        let function = functions.add(|r, record| {
            let arg = load(r, record, 0, S::Text, Shape::Plain, None);
            let cell = r.scalar(ScalarOp::Cast(to), &[arg], to.nullable(false), None)?;
            store(r, record, RESULT, &cell)
        });
        let function = function.expect("a cast is lowered");
        let mut runner = functions.compile();
        let given = [(0, Value::Text("seven".into()))];
        for compiled in [true, false] {
            match runner.run(&function, &given, compiled).map(|r| r.get(RESULT as usize, to)) {
                Err(Error::Trap(Trap { kind: TrapKind::InvalidCast { value, to }, .. })) => {
                    assert_eq!((value.as_str(), to.as_str()), ("'seven'", name));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

//! Tensor programs: compiled, they do what the interpreter does.

use std::sync::Arc;

use ir::entity::ValueId;
use ir::exec::run::{CompileOptions, Executable, Resources};
use ir::exec::{Datum, Inputs, Outputs, column_value, table_of_values};
use ir::graph::bridge::TensorColumns;
use ir::graph::tensor::{ContractSpec, Distribution, Move};
use ir::graph::{BridgeOp, Builder, ControlOp, InputKind, Op, Program, RelOp, TensorOp};
use ir::opt::OptOptions;
use ir::scalar::ScalarOp;
use ir::scalar::reduce::Reducer;
use ir::types::{Dim, ScalarType, TensorType, Type};
use ir::value::{TensorData, TensorValue, Value};
use runtime::kernels::random::Philox;
use runtime::scheduler::WorkerPool;

const F64: ScalarType = ScalarType::F64;

fn c(n: usize) -> Dim {
    Dim::Const(n)
}

fn numbers(ty: ScalarType, shape: &[usize], stream: u64) -> TensorValue {
    let r = Philox::new(17, stream);
    let n: usize = shape.iter().product();
    let v = (0..n as u64).map(|i| r.normal_f64(i));
    let data = match ty {
        ScalarType::F32 => TensorData::F32(v.map(|x| x as f32).collect()),
        ScalarType::F64 => TensorData::F64(v.collect()),
        ScalarType::I32 => TensorData::I32(v.map(|x| (x * 10.0) as i32).collect()),
        ScalarType::I64 => TensorData::I64(v.map(|x| (x * 10.0) as i64).collect()),
        _ => TensorData::Bool(v.map(|x| x > 0.0).collect()),
    };
    TensorValue::new(shape.to_vec(), data).expect("sizes agree")
}

fn run(program: &Arc<Program>, inputs: &Inputs, threads: usize) -> Result<Outputs, ir::Error> {
    let exe = Executable::compile(Arc::clone(program), inputs, &CompileOptions::default())?;
    exe.run(inputs, &Resources::new(Arc::new(WorkerPool::new(threads)), None))
}

fn compare(a: &TensorValue, b: &TensorValue, tolerance: f64, what: &str) {
    assert_eq!(a.shape, b.shape, "{what}");
    let near = |x: f64, y: f64| {
        let bound = tolerance * (1.0 + x.abs().max(y.abs()));
        x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= bound
    };
    match (&a.data, &b.data) {
        (TensorData::F32(x), TensorData::F32(y)) => {
            for (i, (x, y)) in x.iter().zip(y).enumerate() {
                assert!(near(f64::from(*x), f64::from(*y)), "{what}: element {i} is {x}, not {y}");
            }
        }
        (TensorData::F64(x), TensorData::F64(y)) => {
            for (i, (x, y)) in x.iter().zip(y).enumerate() {
                assert!(near(*x, *y), "{what}: element {i} is {x}, not {y}");
            }
        }
        (x, y) => assert_eq!(x, y, "{what}"),
    }
}

/// Compiled on one and on several threads, and interpreted: the threads change no bit.
fn check(program: Program, inputs: &Inputs, tolerance: f64) -> Outputs {
    program.verify().expect("a program");
    let text = program.print();
    let program = Arc::new(program);
    let want = program.interpret(inputs).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let one = run(&program, inputs, 1).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let four = run(&program, inputs, 4).unwrap_or_else(|e| panic!("{e}\n{text}"));
    for i in 0..want.list.len() {
        let (x, y, z) = (one.tensor(i), want.tensor(i), four.tensor(i));
        let (x, y, z) = (x.expect("a tensor"), y.expect("a tensor"), z.expect("a tensor"));
        compare(x, y, tolerance, &format!("result {i} of\n{text}"));
        compare(z, x, 0.0, &format!("result {i} on four threads of\n{text}"));
    }
    one
}

/// A program of one function over tensor inputs.
struct Case {
    b: Builder,
    inputs: Inputs,
}

impl Case {
    fn new() -> Self {
        let mut b = Builder::new();
        b.begin_func(&[]);
        Self { b, inputs: Inputs::new() }
    }

    fn input(&mut self, name: &str, t: TensorValue) -> ValueId {
        let dims: Vec<Dim> = t.shape.iter().map(|n| c(*n)).collect();
        self.typed(name, TensorType::new(t.data.dtype(), dims), t)
    }

    /// With a first dimension that is known at run time only.
    fn rows(&mut self, name: &str, rows: ir::entity::SymId, t: TensorValue) -> ValueId {
        let dims = std::iter::once(Dim::Sym(rows)).chain(t.shape[1..].iter().map(|n| c(*n)));
        self.typed(name, TensorType::new(t.data.dtype(), dims), t)
    }

    fn typed(&mut self, name: &str, ty: TensorType, t: TensorValue) -> ValueId {
        let id = self.b.program_mut().new_input(name, InputKind::Tensor(ty));
        self.inputs.set(name, Datum::Tensor(Arc::new(t)));
        self.b.input(id).expect("an input")
    }

    fn finish(mut self, results: &[ValueId]) -> (Program, Inputs) {
        let f = self.b.end_func("main", results);
        self.b.program_mut().entry = Some(f);
        self.b.program_mut().result_names = (0..results.len()).map(|i| vec![format!("r{i}")]).collect();
        (self.b.finish(), self.inputs)
    }

    fn check(self, results: &[ValueId], tolerance: f64) -> Outputs {
        let (program, inputs) = self.finish(results);
        check(program, &inputs, tolerance)
    }
}

fn view(b: &mut Builder, v: ValueId, moves: Vec<Move>) -> ValueId {
    b.tensor(TensorOp::View(moves), &[v]).expect("a view")
}

fn binary(b: &mut Builder, op: ScalarOp, x: ValueId, y: ValueId) -> ValueId {
    b.map(&[x, y], |b, v| Ok(vec![b.scalar(op, v)?])).expect("a map")[0]
}

fn unary(b: &mut Builder, op: ScalarOp, x: ValueId) -> ValueId {
    b.map(&[x], |b, v| Ok(vec![b.scalar(op, v)?])).expect("a map")[0]
}

fn reduce(b: &mut Builder, reducer: Reducer, axes: &[usize], v: ValueId) -> ValueId {
    b.tensor(TensorOp::Reduce { reducer, axes: axes.to_vec() }, &[v]).expect("a reduction")
}

fn contract(b: &mut Builder, spec: &str, x: ValueId, y: ValueId) -> ValueId {
    b.tensor(TensorOp::Contract(ContractSpec::parse(spec).expect("a contraction")), &[x, y]).expect("a contraction")
}

fn shape_of(b: &Builder, v: ValueId) -> Vec<Dim> {
    b.ty(v).as_tensor().expect("a tensor").shape.clone()
}

/// `v` repeated to a shape, its dimensions going to `dims`.
fn broadcast(b: &mut Builder, v: ValueId, shape: &[Dim], dims: &[usize]) -> ValueId {
    view(b, v, vec![Move::Broadcast { shape: shape.to_vec(), dims: dims.to_vec() }])
}

#[test]
fn maps_and_views() {
    let mut case = Case::new();
    let rows = case.b.program_mut().new_symbol("rows");
    let x = case.rows("x", rows, numbers(F64, &[7, 5], 0));
    let y = case.input("y", numbers(F64, &[5], 1));
    let b = &mut case.b;
    let shape = shape_of(b, x);
    let wide = broadcast(b, y, &shape, &[1]);
    let sum = binary(b, ScalarOp::Add, x, wide);
    let relu = b
        .map(&[sum], |b, v| {
            let zero = b.literal(Value::F64(0.0), F64)?;
            Ok(vec![b.scalar(ScalarOp::Max, &[v[0], zero])?])
        })
        .expect("a map")[0];
    let t = view(b, relu, vec![Move::Permute(vec![1, 0])]);
    let e = unary(b, ScalarOp::Exp, t);
    let s = view(b, sum, vec![Move::Slice { dim: 1, start: c(1), len: c(2), step: 2 }, Move::Reverse(1)]);
    let p = view(b, s, vec![Move::Pad { dim: 1, before: 2, after: 1 }]);
    let flat = view(b, sum, vec![Move::Reshape(vec![Dim::Sym(rows).times(c(5))])]);
    let neg = unary(b, ScalarOp::Neg, flat);
    case.check(&[relu, e, s, p, flat, neg, x, wide], 1e-12);
}

/// Functions that run in strips, over lengths around a strip's.
#[test]
fn block_functions() {
    for ty in [ScalarType::F32, F64] {
        for shape in [vec![3], vec![40, 7], vec![1500], vec![3, 515], vec![600, 2, 40]] {
            let mut case = Case::new();
            let x = case.input("x", numbers(ty, &shape, 50));
            let y = case.input("y", numbers(ty, &shape[..1], 51));
            let b = &mut case.b;
            let dims = shape_of(b, x);
            let wide = broadcast(b, y, &dims, &[0]);
            let gate = b
                .map(&[x, wide], |b, v| {
                    let e = b.scalar(ScalarOp::Exp, &[v[0]])?;
                    let t = b.scalar(ScalarOp::Tanh, &[v[1]])?;
                    let l = b.scalar(ScalarOp::Log1p, &[e])?;
                    let s = b.scalar(ScalarOp::Sigmoid, &[l])?;
                    Ok(vec![b.scalar(ScalarOp::Mul, &[s, t])?, b.scalar(ScalarOp::Sin, &[l])?])
                })
                .expect("a map");
            let axes: Vec<usize> = (1..shape.len()).collect();
            let sum = reduce(b, Reducer::Sum, &axes, gate[0]);
            let c = unary(b, ScalarOp::Cos, gate[1]);
            case.check(&[gate[0], sum, c], if ty == F64 { 1e-12 } else { 1e-5 });
        }
    }
}

/// Work that is split over threads.
#[test]
fn large_work() {
    let mut case = Case::new();
    let x = case.input("x", numbers(F64, &[1200, 96], 52));
    let b = &mut case.b;
    let square = binary(b, ScalarOp::Mul, x, x);
    let gram = contract(b, "bi,ci->bc", x, x);
    let rows = reduce(b, Reducer::Sum, &[1], gram);
    let columns = reduce(b, Reducer::Max, &[0], gram);
    let root = b
        .map(&[gram], |b, v| {
            let s = b.scalar(ScalarOp::Abs, v)?;
            let r = b.scalar(ScalarOp::Sqrt, &[s])?;
            Ok(vec![b.scalar(ScalarOp::Div, &[v[0], r])?])
        })
        .expect("a map")[0];
    case.check(&[square, rows, columns, root], 1e-10);
}

/// Programs of random operations over random shapes.
#[test]
fn random_programs() {
    for seed in 0..150 {
        let random = Philox::new(seed, 99);
        let mut draw = 0;
        let mut below = |n: usize| {
            draw += 1;
            (random.u64_at(draw) % n as u64) as usize
        };
        let mut case = Case::new();
        let rows = case.b.program_mut().new_symbol("rows");
        let mut pool = vec![
            case.rows("a", rows, numbers(F64, &[7, 5], 60)),
            case.rows("b", rows, numbers(F64, &[7, 5], 61)),
            case.input("c", numbers(F64, &[5], 62)),
            case.input("d", numbers(F64, &[5, 4], 63)),
            case.rows("e", rows, numbers(F64, &[7, 1], 64)),
            case.input("f", numbers(F64, &[4, 1, 5], 65)),
        ];
        let b = &mut case.b;
        for _ in 0..14 {
            let x = pool[below(pool.len())];
            let shape = shape_of(b, x);
            let rank = shape.len();
            let dim = if rank > 0 { below(rank) } else { 0 };
            let size = shape.get(dim).and_then(Dim::as_const);
            let made = match below(11) {
                0 => unary(b, [ScalarOp::Neg, ScalarOp::Tanh, ScalarOp::Abs, ScalarOp::Sigmoid][below(4)], x),
                1 | 2 => {
                    let same: Vec<ValueId> = pool.iter().copied().filter(|v| shape_of(b, *v) == shape).collect();
                    let y = same[below(same.len())];
                    let op = [ScalarOp::Add, ScalarOp::Sub, ScalarOp::Mul, ScalarOp::Min, ScalarOp::Max][below(5)];
                    let z = binary(b, op, x, y);
                    if op == ScalarOp::Mul { unary(b, ScalarOp::Tanh, z) } else { z }
                }
                3 if rank > 0 => {
                    let perm = (0..rank).map(|d| (d + 1 + dim) % rank).collect();
                    view(b, x, vec![Move::Permute(perm)])
                }
                4 if rank < 3 => {
                    let mut to = shape.clone();
                    let at = below(rank + 1);
                    to.insert(at, [c(3), Dim::Sym(rows), c(1)][below(3)].clone());
                    let dims: Vec<usize> = (0..=rank).filter(|d| *d != at).collect();
                    broadcast(b, x, &to, &dims)
                }
                5 if size.is_some_and(|n| n > 1) => {
                    let n = size.unwrap_or(0);
                    let (start, step) = (below(n - 1), 1 + below(2));
                    let len = (n - start).div_ceil(step);
                    view(b, x, vec![Move::Slice { dim, start: c(start), len: c(len), step }])
                }
                6 if rank > 0 => view(b, x, vec![Move::Reverse(dim)]),
                7 if rank > 0 => view(b, x, vec![Move::Pad { dim, before: below(2), after: below(3) }]),
                8 if rank > 0 => reduce(b, [Reducer::Sum, Reducer::Max, Reducer::Min][below(3)], &[dim], x),
                9 => {
                    let flat = shape.iter().cloned().fold(c(1), Dim::times);
                    view(b, x, vec![Move::Reshape(vec![flat])])
                }
                10 if rank == 2 => {
                    let fits = |v: &ValueId| {
                        let s = shape_of(b, *v);
                        s.len() == 2 && s[1] == shape[1]
                    };
                    let others: Vec<ValueId> = pool.iter().copied().filter(|v| fits(v)).collect();
                    let z = contract(b, "ij,kj->ik", x, others[below(others.len())]);
                    unary(b, ScalarOp::Tanh, z)
                }
                _ => continue,
            };
            pool.push(made);
        }
        let results: Vec<ValueId> = pool[6..].iter().copied().filter(|_| below(3) == 0).collect();
        case.check(&results, 1e-12);
    }
}

#[test]
fn reductions() {
    use Reducer as R;
    for ty in [ScalarType::F32, F64, ScalarType::I32, ScalarType::I64] {
        let mut case = Case::new();
        let x = case.input("x", numbers(ty, &[3, 70, 5], 2));
        let b = &mut case.b;
        let mut out = vec![];
        let t = view(b, x, vec![Move::Permute(vec![2, 0, 1])]);
        let n = unary(b, ScalarOp::Neg, t);
        let few = view(b, x, vec![Move::Slice { dim: 1, start: c(0), len: c(4), step: 9 }]);
        for axes in [vec![], vec![0], vec![1], vec![2], vec![0, 1], vec![1, 2], vec![0, 2], vec![0, 1, 2]] {
            for r in [R::Sum, R::Min, R::Max] {
                out.push(reduce(b, r, &axes, x));
                out.push(reduce(b, r, &axes, n));
            }
            if ty.is_float() {
                out.push(reduce(b, R::Product, &axes, few));
            }
        }
        for axis in 0..3 {
            out.push(reduce(b, R::ArgMax, &[axis], x));
            out.push(reduce(b, R::ArgMin, &[axis], n));
            for reducer in [R::Sum, R::Max] {
                out.push(b.tensor(TensorOp::Prefix { reducer, axis }, &[n]).expect("a prefix"));
            }
        }
        case.check(&out, if ty == ScalarType::F32 { 1e-5 } else { 1e-12 });
    }
    let mut case = Case::new();
    let x = case.input("x", numbers(ScalarType::Bool, &[4, 6], 3));
    let out = [R::BoolAnd, R::BoolOr].map(|r| reduce(&mut case.b, r, &[1], x));
    case.check(&out, 0.0);
}

/// Rows shorter and longer than a strip, of numbers, infinities, NaN and zeros, of stored values and of maps.
#[test]
fn a_maximum_of_rows_knows_nan() {
    for ty in [ScalarType::F32, F64] {
        for columns in [1, 3, 31, 65, 511, 512, 513, 1200] {
            let mut rows = numbers(F64, &[7, columns], 5);
            if let TensorData::F64(v) = &mut rows.data {
                v[columns - 1] = f64::NAN;
                v[columns] = f64::INFINITY;
                v[2 * columns..3 * columns].fill(f64::NEG_INFINITY);
                v[3 * columns..4 * columns].fill(-0.0);
                v[4 * columns + columns / 2] = f64::NAN;
            }
            if let (ScalarType::F32, TensorData::F64(v)) = (ty, &rows.data) {
                rows.data = TensorData::F32(v.iter().map(|x| *x as f32).collect());
            }
            let mut g = Case::new();
            let x = g.input("x", rows);
            let plain = reduce(&mut g.b, Reducer::Max, &[1], x);
            let twice = binary(&mut g.b, ScalarOp::Add, x, x);
            let mapped = reduce(&mut g.b, Reducer::Max, &[1], twice);
            let down = reduce(&mut g.b, Reducer::Max, &[0], x);
            let all = reduce(&mut g.b, Reducer::Max, &[0, 1], x);
            g.check(&[plain, mapped, down, all], 0.0);
        }
    }
}

#[test]
fn a_minimum_knows_nan() {
    let mut case = Case::new();
    let nan = f64::NAN;
    let data = vec![nan, 1.0, 2.0, 3.0, nan, -1.0, nan, nan, nan];
    let x = case.input("x", TensorValue::new(vec![3, 3], TensorData::F64(data)).expect("sizes agree"));
    let b = &mut case.b;
    let mut out = vec![];
    for r in [Reducer::Min, Reducer::Max, Reducer::ArgMax, Reducer::ArgMin] {
        out.push(reduce(b, r, &[0], x));
        out.push(reduce(b, r, &[1], x));
    }
    case.check(&out, 0.0);
}

#[test]
fn contractions() {
    for ty in [ScalarType::F32, F64] {
        let mut case = Case::new();
        let rows = case.b.program_mut().new_symbol("rows");
        let x = case.rows("x", rows, numbers(ty, &[33, 20], 4));
        let w = case.input("w", numbers(ty, &[17, 20], 5));
        let g = case.rows("g", rows, numbers(ty, &[33, 17], 6));
        let q = case.input("q", numbers(ty, &[2, 9, 3, 8], 7));
        let k = case.input("k", numbers(ty, &[2, 11, 3, 8], 8));
        let v = case.input("v", numbers(ty, &[20], 9));
        let d = case.input("d", numbers(ty, &[6, 6], 10));
        let b = &mut case.b;
        let mut out = vec![
            contract(b, "bi,oi->bo", x, w),
            contract(b, "bo,oi->bi", g, w),
            contract(b, "bo,bi->oi", g, x),
            contract(b, "bi,bo->io", x, g),
            contract(b, "bi,oi->ob", x, w),
            contract(b, "bi,i->b", x, v),
            contract(b, "i,bi->b", v, x),
            contract(b, "i,j->ij", v, v),
            contract(b, "i,i->", v, v),
            contract(b, "bi,bi->b", x, x),
            contract(b, "bi,bi->bi", x, x),
            contract(b, "bqhd,bkhd->bhqk", q, k),
            contract(b, "bqhd,bkhd->hq", q, k),
            contract(b, "bqhd,bqhd->h", q, q),
            contract(b, "ii,ij->j", d, d),
        ];
        let t = view(b, w, vec![Move::Permute(vec![1, 0]), Move::Slice { dim: 0, start: c(2), len: c(9), step: 2 }]);
        let xs = view(b, x, vec![Move::Slice { dim: 1, start: c(1), len: c(9), step: 1 }]);
        out.push(contract(b, "bi,io->bo", xs, t));
        let r = view(b, q, vec![Move::Reshape(vec![c(18), c(24)])]);
        out.push(contract(b, "ij,kj->ik", r, r));
        let h = unary(b, ScalarOp::Neg, w);
        out.push(contract(b, "bi,oi->bo", x, h));
        case.check(&out, if ty == ScalarType::F32 { 1e-5 } else { 1e-12 });
    }
}

#[test]
fn rows_by_index() {
    let mut case = Case::new();
    let table = case.input("table", numbers(F64, &[6, 3], 11));
    let at = TensorValue::new(vec![2, 2], TensorData::I64(vec![5, 0, 3, 3])).expect("sizes agree");
    let at = case.input("at", at);
    let b = &mut case.b;
    let g = b.tensor(TensorOp::Gather, &[table, at]).expect("a gather");
    let s = b.tensor(TensorOp::ScatterAdd, &[table, at, g]).expect("a scatter");
    let j0 = b.tensor(TensorOp::Concat { axis: 0 }, &[table, s]).expect("a concat");
    let j1 = b.tensor(TensorOp::Concat { axis: 1 }, &[table, s, table]).expect("a concat");
    let ty = |d| TensorType::new(d, [c(3), c(4)]);
    let iota = b.tensor(TensorOp::Iota { ty: ty(ScalarType::F64), dim: 1 }, &[]).expect("an iota");
    let random = |d, distribution| TensorOp::Random { ty: ty(d), distribution, seed: 3, stream: 4 };
    let r0 = b.tensor(random(F64, Distribution::Normal), &[]).expect("numbers");
    let uniform = Distribution::Uniform { low: -1.0, high: 2.0 };
    let r1 = b.tensor(random(ScalarType::F32, uniform), &[]).expect("numbers");
    let sum = binary(b, ScalarOp::Add, iota, r0);
    case.check(&[g, s, j0, j1, iota, r0, r1, sum], 1e-15);
}

#[test]
fn an_index_out_of_range_raises() {
    let mut case = Case::new();
    let table = case.input("table", numbers(F64, &[6, 3], 11));
    let at = case.input("at", TensorValue::new(vec![1], TensorData::I32(vec![6])).expect("sizes agree"));
    let g = case.b.tensor(TensorOp::Gather, &[table, at]).expect("a gather");
    let (program, inputs) = case.finish(&[g]);
    let error = run(&Arc::new(program), &inputs, 1).expect_err("raises");
    assert!(error.to_string().contains("index 6 is outside of a tensor of 6 rows"), "{error}");
}

fn scalar_f64(b: &mut Builder, x: f64) -> ValueId {
    b.tensor(TensorOp::Const(Arc::new(TensorValue::scalar_f64(x))), &[]).expect("a constant")
}

#[test]
fn control_flow() {
    let mut case = Case::new();
    let x = case.input("x", numbers(F64, &[8, 3], 12));
    let b = &mut case.b;
    let scalar = Type::Tensor(TensorType::new(F64, []));
    // Newton's iteration for the square root of 2, until it stands.
    let start = scalar_f64(b, 1.0);
    let go_on = b
        .region(std::slice::from_ref(&scalar), vec![], |b, v| {
            let two = scalar_f64(b, 2.0);
            let square = binary(b, ScalarOp::Mul, v[0], v[0]);
            let off = binary(b, ScalarOp::Sub, square, two);
            let off = unary(b, ScalarOp::Abs, off);
            let bound = scalar_f64(b, 1e-14);
            Ok(vec![binary(b, ScalarOp::Gt, off, bound)])
        })
        .expect("a region");
    let next = b
        .region(std::slice::from_ref(&scalar), vec![], |b, v| {
            let two = scalar_f64(b, 2.0);
            let q = binary(b, ScalarOp::Div, two, v[0]);
            let s = binary(b, ScalarOp::Add, v[0], q);
            Ok(vec![binary(b, ScalarOp::Div, s, two)])
        })
        .expect("a region");
    let root = b.push(Op::Control(ControlOp::While), &[start], &[go_on, next]).expect("a loop")[0];
    // A sum over slices that depends on what is outside, and is stacked.
    let mut loops = vec![root];
    for reverse in [false, true] {
        let zero = b.tensor(TensorOp::Const(Arc::new(numbers(F64, &[3], 13))), &[]).expect("a constant");
        let op = ControlOp::For { length: c(8), state: 2, reverse };
        let params = op.region_params(&[b.ty(zero), b.ty(zero), b.ty(x)]).expect("parameters");
        let body = b
            .region(&params, vec![], |b, v| {
                let scale = broadcast(b, root, &[c(3)], &[]);
                let x = binary(b, ScalarOp::Mul, v[3], scale);
                let sum = binary(b, ScalarOp::Add, v[1], x);
                let positive = reduce(b, Reducer::Sum, &[0], sum);
                let null = scalar_f64(b, 0.0);
                let test = binary(b, ScalarOp::Gt, positive, null);
                let then = b.region(&[], vec![], |b, _| Ok(vec![unary(b, ScalarOp::Neg, sum)]))?;
                let other = b.region(&[], vec![], |_, _| Ok(vec![v[2]]))?;
                let chosen = b.push(Op::Control(ControlOp::If), &[test], &[then, other])?[0];
                Ok(vec![sum, chosen, x, v[0]])
            })
            .expect("a region");
        loops.extend(b.push(Op::Control(op), &[zero, zero, x], &[body]).expect("a loop"));
    }
    case.check(&loops, 1e-12);
}

/// One linear layer's parameters and gradients, with Adam's moments: what a front end derives.
struct Layer {
    weight: usize,
    bias: usize,
}

fn adam(b: &mut Builder, rate: f64, step: ValueId, g: ValueId, p: ValueId, m: ValueId, v: ValueId) -> [ValueId; 3] {
    let shape = shape_of(b, p);
    let ty = b.ty(p).as_tensor().expect("a tensor").dtype;
    let number =
        move |b: &mut Builder, x: f64| b.literal(if ty == F64 { Value::F64(x) } else { Value::F32(x as f32) }, ty);
    let correction = b
        .map(&[step], |b, s| {
            let s = b.scalar(ScalarOp::Cast(ty), &[s[0]])?;
            let one = number(b, 1.0)?;
            let s = b.scalar(ScalarOp::Add, &[s, one])?;
            let mut out = vec![];
            for beta in [0.9, 0.999] {
                let beta = number(b, beta)?;
                let power = b.scalar(ScalarOp::Pow, &[beta, s])?;
                out.push(b.scalar(ScalarOp::Sub, &[one, power])?);
            }
            Ok(out)
        })
        .expect("a map");
    let wide: Vec<ValueId> = correction.iter().map(|x| broadcast(b, *x, &shape, &[])).collect();
    let moment = |b: &mut Builder, beta: f64, square: bool, m: ValueId| {
        b.map(&[m, g], |b, x| {
            let (keep, add) = (number(b, beta)?, number(b, 1.0 - beta)?);
            let g = if square { b.scalar(ScalarOp::Mul, &[x[1], x[1]])? } else { x[1] };
            let (a, c) = (b.scalar(ScalarOp::Mul, &[keep, x[0]])?, b.scalar(ScalarOp::Mul, &[add, g])?);
            Ok(vec![b.scalar(ScalarOp::Add, &[a, c])?])
        })
        .expect("a map")[0]
    };
    let (m, v) = (moment(b, 0.9, false, m), moment(b, 0.999, true, v));
    let p = b
        .map(&[p, m, v, wide[0], wide[1]], |b, x| {
            let (rate, epsilon) = (number(b, rate)?, number(b, 1e-8)?);
            let m = b.scalar(ScalarOp::Div, &[x[1], x[3]])?;
            let v = b.scalar(ScalarOp::Div, &[x[2], x[4]])?;
            let root = b.scalar(ScalarOp::Sqrt, &[v])?;
            let below = b.scalar(ScalarOp::Add, &[root, epsilon])?;
            let above = b.scalar(ScalarOp::Mul, &[rate, m])?;
            let change = b.scalar(ScalarOp::Div, &[above, below])?;
            Ok(vec![b.scalar(ScalarOp::Sub, &[x[0], change])?])
        })
        .expect("a map")[0];
    [p, m, v]
}

/// A program that trains widths[0] - … - 1 by Adam on squared error.
fn training(ty: ScalarType, rows: usize, size: usize, epochs: usize, widths: &[usize]) -> (Program, Inputs) {
    let mut case = Case::new();
    let n = case.b.program_mut().new_symbol("rows");
    let batch = case.b.program_mut().new_symbol("batch");
    let x = case.rows("x", n, numbers(ty, &[rows, widths[0]], 20));
    let y = case.rows("y", n, numbers(ty, &[rows, 1], 21));
    let mut operands = vec![x, y];
    let mut layers = vec![];
    let layer_sizes: Vec<(usize, usize)> = widths.iter().copied().zip(widths[1..].iter().copied().chain([1])).collect();
    for (i, (from, to)) in layer_sizes.iter().enumerate() {
        let mut w = numbers(ty, &[*from, *to], 30 + i as u64);
        let scale = (1.0 / *from as f64).sqrt();
        match &mut w.data {
            TensorData::F32(w) => w.iter_mut().for_each(|x| *x *= scale as f32),
            TensorData::F64(w) => w.iter_mut().for_each(|x| *x *= scale),
            _ => {}
        }
        let zeros = |shape: &[usize]| {
            let n = shape.iter().product();
            let data = if ty == F64 { TensorData::F64(vec![0.0; n]) } else { TensorData::F32(vec![0.0; n]) };
            TensorValue::new(shape.to_vec(), data).expect("sizes agree")
        };
        let (sw, sb) = ([*from, *to], [*to]);
        layers.push(Layer { weight: operands.len() - 2, bias: operands.len() + 1 });
        operands.push(case.input(&format!("w{i}"), w));
        for name in ["mw", "vw"] {
            operands.push(case.input(&format!("{name}{i}"), zeros(&sw)));
        }
        for name in ["b", "mb", "vb"] {
            operands.push(case.input(&format!("{name}{i}"), zeros(&sb)));
        }
    }
    let op =
        BridgeOp::ForBatches { batch, sources: 2, size, epochs, shuffle: Some(5), drop_last: false, early_stop: None };
    let b = &mut case.b;
    let types: Vec<&Type> = operands.iter().map(|v| b.ty(*v)).collect();
    let params = op.region_params(&types).expect("parameters");
    let body = b
        .region(&params, vec![], |b, v| {
            let (step, x, y) = (v[1], v[2], v[3]);
            let state = &v[4..];
            let mut h = x;
            let mut kept = vec![];
            for (i, l) in layers.iter().enumerate() {
                let z = contract(b, "bi,io->bo", h, state[l.weight]);
                let shape = shape_of(b, z);
                let bias = broadcast(b, state[l.bias], &shape, &[1]);
                let z = binary(b, ScalarOp::Add, z, bias);
                kept.push((h, z));
                h = z;
                if i + 1 < layers.len() {
                    h = b.map(&[z], |b, v| {
                        let zero = b.literal(if ty == F64 { Value::F64(0.0) } else { Value::F32(0.0) }, ty)?;
                        Ok(vec![b.scalar(ScalarOp::Max, &[v[0], zero])?])
                    })?[0];
                }
            }
            let off = binary(b, ScalarOp::Sub, h, y);
            let square = binary(b, ScalarOp::Mul, off, off);
            let total = reduce(b, Reducer::Sum, &[0, 1], square);
            let ones = b.tensor(
                TensorOp::Const(Arc::new(TensorValue {
                    shape: vec![],
                    data: if ty == F64 { TensorData::F64(vec![1.0]) } else { TensorData::F32(vec![1.0]) },
                })),
                &[],
            )?;
            let ones = broadcast(b, ones, &[Dim::Sym(batch)], &[]);
            let count = reduce(b, Reducer::Sum, &[0], ones);
            let loss = binary(b, ScalarOp::Div, total, count);
            let shape = shape_of(b, off);
            let wide = broadcast(b, count, &shape, &[]);
            let mut g = b.map(&[off, wide], |b, v| {
                let two = b.literal(if ty == F64 { Value::F64(2.0) } else { Value::F32(2.0) }, ty)?;
                let d = b.scalar(ScalarOp::Mul, &[v[0], two])?;
                Ok(vec![b.scalar(ScalarOp::Div, &[d, v[1]])?])
            })?[0];
            let mut out = state.to_vec();
            for (i, l) in layers.iter().enumerate().rev() {
                let (h, z) = kept[i];
                if i + 1 < layers.len() {
                    g = b.map(&[z, g], |b, v| {
                        let zero = b.literal(if ty == F64 { Value::F64(0.0) } else { Value::F32(0.0) }, ty)?;
                        let on = b.scalar(ScalarOp::Gt, &[v[0], zero])?;
                        Ok(vec![b.scalar(ScalarOp::Select, &[on, v[1], zero])?])
                    })?[0];
                }
                let gw = contract(b, "bi,bo->io", h, g);
                let gb = reduce(b, Reducer::Sum, &[0], g);
                for (at, grad) in [(l.weight, gw), (l.bias, gb)] {
                    let done = adam(b, 1e-2, step, grad, state[at], state[at + 1], state[at + 2]);
                    out[at..at + 3].copy_from_slice(&done);
                }
                g = contract(b, "bo,io->bi", g, state[l.weight]);
            }
            out.push(loss);
            Ok(out)
        })
        .expect("a region");
    let results = b.push(Op::Bridge(op), &operands, &[body]).expect("a loop");
    case.finish(&results)
}

#[test]
fn a_network_trains() {
    // 6 batches an epoch, the last one smaller.
    let (program, inputs) = training(F64, 170, 32, 4, &[6, 16, 8]);
    let out = check(program, &inputs, 1e-8);
    let losses = out.list.last().expect("losses");
    let Datum::Tensor(losses) = &losses.datum else { panic!("losses are a tensor") };
    let TensorData::F64(losses) = &losses.data else { panic!("losses are f64") };
    assert!(losses[3] < losses[0], "{losses:?}");
}

#[test]
fn a_step_by_parts_is_the_step() {
    // Batches of three parts, the last batch of one; parts and batches that are not full.
    let (plain, inputs) = training(F64, 650, 300, 2, &[64, 64]);
    let want = plain.interpret(&inputs).expect("a run");
    let mut program = plain;
    let options = OptOptions { only: Some(vec!["batch_parts".into()]), ..OptOptions::default() };
    let report = program.optimize(&options).expect("passes");
    assert_eq!(report.rewrites("batch_parts"), 1);
    let out = check(program, &inputs, 1e-10);
    for i in 0..want.list.len() {
        compare(out.tensor(i).expect("a tensor"), want.tensor(i).expect("a tensor"), 1e-8, &format!("result {i}"));
    }
}

#[test]
fn a_part_that_raises_ends_the_loop() {
    let mut case = Case::new();
    let n = case.b.program_mut().new_symbol("n");
    let part = case.b.program_mut().new_symbol("part");
    let mut indices: Vec<i64> = (0..40).map(|i| i % 8).collect();
    (indices[17], indices[31]) = (8, 9);
    let indices = TensorValue::new(vec![40], TensorData::I64(indices)).expect("sizes agree");
    let (table, indices) = (case.input("table", numbers(F64, &[8, 3], 3)), case.rows("indices", n, indices));
    let op = ControlOp::ForParts { part, rows: 4, joined: 0 };
    let b = &mut case.b;
    let params = op.region_params(&[b.ty(indices)]).expect("parameters");
    let body = b
        .region(&params, vec![], |b, v| {
            let rows = b.tensor(TensorOp::Gather, &[table, v[0]])?;
            Ok(vec![reduce(b, Reducer::Sum, &[0], rows)])
        })
        .expect("a region");
    let sums = b.push(Op::Control(op), &[indices], &[body]).expect("a loop");
    let (program, inputs) = case.finish(&sums);
    let program = Arc::new(program);
    let want = program.interpret(&inputs).expect_err("an index out of range").to_string();
    assert!(want.contains("index 8"), "{want}");
    for threads in [1, 4] {
        // Of several parts that raise, the first one is told.
        let found = run(&program, &inputs, threads).expect_err("an index out of range").to_string();
        assert!(found.contains(&want), "{found}, not {want}");
    }
}

#[test]
fn progress_is_told() {
    let (program, inputs) = training(F64, 100, 25, 2, &[3, 4]);
    let exe = Executable::compile(Arc::new(program), &inputs, &CompileOptions::default()).expect("compiles");
    let seen = Arc::new(std::sync::Mutex::new(vec![]));
    let mut resources = Resources::new(Arc::new(WorkerPool::new(1)), None);
    let list = Arc::clone(&seen);
    resources.progress = Some(Arc::new(move |p| list.lock().expect("a list").push(p)));
    exe.run(&inputs, &resources).expect("runs");
    let seen = seen.lock().expect("a list");
    assert_eq!(seen.len(), 8);
    assert!(seen.iter().all(|p| p.epochs == 2 && p.total == 100 && p.loss.is_some_and(f64::is_finite)));
    assert_eq!((seen[7].epoch, seen[7].rows), (1, 100));
    resources.cancel.cancel();
    assert_eq!(exe.run(&inputs, &resources).expect_err("stops").to_string(), "cancelled");
}

/// How long a step takes: `cargo test --release -p flern-ir --test tensor -- --ignored --nocapture step`.
#[test]
#[ignore = "a measurement"]
fn time_of_a_step() {
    for ty in [ScalarType::F32, F64] {
        let (rows, size, epochs) = (64 << 10, 1024, 4);
        for off in [vec!["batch_parts".to_string()], vec![]] {
            let (mut program, inputs) = training(ty, rows, size, epochs, &[30, 64, 64]);
            println!("{ty}, without {off:?}");
            program.optimize(&OptOptions { off, ..OptOptions::default() }).expect("passes");
            let exe = Executable::compile(Arc::new(program), &inputs, &CompileOptions::default()).expect("compiles");
            for threads in [1, 2, 4] {
                let resources = Resources::new(Arc::new(WorkerPool::new(threads)), None);
                let mut best = f64::INFINITY;
                for _ in 0..5 {
                    let start = std::time::Instant::now();
                    exe.run(&inputs, &resources).expect("runs");
                    best = best.min(start.elapsed().as_secs_f64());
                }
                println!("{ty}, {threads} threads: {:.3} ms a step", best * 1e3 / (rows / size * epochs) as f64);
            }
        }
    }
}

#[test]
fn a_model_runs_in_a_query() {
    let rows = 2500;
    let values = |f: &dyn Fn(usize) -> f64| (0..rows).map(|i| Value::F64(f(i))).collect::<Vec<Value>>();
    let keys: Vec<Value> = (0..rows).map(|i| Value::I64(i as i64)).collect();
    let (p, q) = (values(&|i| (i as f64).sin()), values(&|i| (i as f64).cos()));
    let table = table_of_values(&[("k", ScalarType::I64, &keys), ("p", F64, &p), ("q", F64, &q)], rows);
    let mut case = Case::new();
    let w = case.input("w", numbers(F64, &[2, 3], 40));
    let b = &mut case.b;
    let types = [("k", ScalarType::I64), ("p", F64), ("q", F64)];
    let columns: Vec<ir::graph::InputColumn> =
        types.iter().map(|(n, t)| ir::graph::InputColumn { name: (*n).into(), ty: t.nullable(false) }).collect();
    let t = b.program_mut().new_input("t", InputKind::Table(columns));
    let ids: Vec<_> = types.iter().map(|(n, t)| b.program_mut().new_column(*n, *t)).collect();
    let scan = RelOp::Scan {
        input: t,
        columns: ids
            .iter()
            .enumerate()
            .map(|(i, id)| ir::graph::rel::ScanColumn { source: i as u32, id: *id })
            .collect(),
    };
    let scan = b.rel(scan, &[], &[]).expect("a scan");
    let few = b
        .filter(scan, |b| {
            let k = b.col(ids[0])?;
            let bound = b.literal(Value::I64(2300), ScalarType::I64)?;
            b.scalar(ScalarOp::Lt, &[k, bound])
        })
        .expect("a filter");
    let n = b.program_mut().new_symbol("n");
    let out: Vec<_> = ["a", "b", "c"].iter().map(|name| b.program_mut().new_column(*name, F64)).collect();
    let inputs = vec![TensorColumns { columns: vec![ids[1], ids[2]], dtype: F64, flat: false }];
    let op = BridgeOp::Apply { rows: n, inputs, columns: out };
    let params = op.region_params(&[b.ty(few)]).expect("parameters");
    let body = b
        .region(&params, vec![], |b, v| {
            let z = contract(b, "ni,io->no", v[0], w);
            Ok(vec![unary(b, ScalarOp::Tanh, z)])
        })
        .expect("a region");
    let applied = b.push(Op::Bridge(op), &[few], &[body]).expect("an apply")[0];
    let inputs = case.inputs.clone().table("t", Arc::new(table.expect("a table")));
    let (mut program, _) = case.finish(&[applied]);
    program.result_names = vec![["k", "p", "q", "a", "b", "c"].map(String::from).to_vec()];
    program.verify().expect("a program");
    let program = Arc::new(program);
    let want = program.interpret(&inputs).expect("runs");
    let have = run(&program, &inputs, 2).expect("runs");
    let (want, have) = (want.table(0).expect("a table"), have.table(0).expect("a table"));
    assert_eq!((have.rows(), want.rows()), (2300, 2300));
    for column in 0..6 {
        for row in 0..2300 {
            let (x, y) = (column_value(have.column(column), row), column_value(want.column(column), row));
            match (&x, &y) {
                (Value::F64(x), Value::F64(y)) => assert!((x - y).abs() < 1e-12, "{x} is not {y}"),
                _ => assert_eq!(x, y),
            }
        }
    }
}

//! The interpreter and the compiled code of one program leave the same memory.

use super::{Backend, CompiledModule, CpuBackend, Options};
use crate::interp;
use crate::kernel::{
    BinaryOp, Builder, CheckedOp, Cmp, ConvertOp, Function, FunctionId, LoopKind, Module, OptLevel, RuntimeFn,
    Signature, TrapCode, Type, UnaryOp, Value, eval, simplify_module,
};
use proptest::prelude::*;
use runtime::abi::layout;
use runtime::buffer::RowBuffer;
use runtime::pool::{MemoryPool, QueryMemory};
use runtime::trap::{CancelToken, Trap, WorkerBlock};

/// What a run leaves: status, trap code and location, output.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Outcome {
    status: i32,
    trap: [u64; 2],
    output: Vec<u128>,
}

/// `ctx` slot 0: the input; slot 1: the output; slot 2: the number of inputs.
const INPUT: i32 = 0;
const OUTPUT: i32 = 8;

fn outcome(input: &[u128], output: usize, run: impl FnOnce(*const u64, *mut u64) -> i32) -> Outcome {
    let mut output = vec![0u128; output];
    let ctx =
        [input.as_ptr().expose_provenance() as u64, output.as_mut_ptr().expose_provenance() as u64, input.len() as u64];
    let mut worker = [0u64; 16];
    let status = run(ctx.as_ptr(), worker.as_mut_ptr());
    Outcome { status, trap: [worker[1], worker[2]], output }
}

fn interpret(module: &Module, id: FunctionId, input: &[u128], output: usize, (begin, end): (i64, i64)) -> Outcome {
    outcome(input, output, |ctx, worker| {
        let args = [ctx.expose_provenance() as u64, worker.expose_provenance() as u64, begin as u64, end as u64];
        // SAFETY: the tests' programs stay within input, output and worker block.
        let status = unsafe { interp::kernel::run(module, id, &args) };
        status.unwrap().unwrap() as i32
    })
}

fn execute(code: &CompiledModule, id: FunctionId, input: &[u128], output: usize, (begin, end): (i64, i64)) -> Outcome {
    outcome(input, output, |ctx, worker| {
        // SAFETY: the tests' programs stay within input, output and worker block.
        unsafe { code.entry(id).run(ctx, worker, begin, end) }
    })
}

fn compile(module: &Module, opt: OptLevel) -> CompiledModule {
    let options = Options { threads: 2, opt: Some(opt), keep_text: false, verify: true };
    CpuBackend::shared().unwrap().compile(module, &options).unwrap()
}

/// Runs both ways, at both levels, and returns the common outcome.
fn same(module: &Module, id: FunctionId, input: &[u128], output: usize, range: (i64, i64)) -> Outcome {
    let expected = interpret(module, id, input, output, range);
    for opt in [OptLevel::None, OptLevel::Speed] {
        let code = compile(module, opt);
        let found = execute(&code, id, input, output, range);
        assert_eq!(found, expected, "{opt:?}\n{module}");
    }
    expected
}

/// A pipeline function that is the closure's code; the closure gets input and output.
fn pipeline(name: &str, body: impl FnOnce(&mut Builder, Value, Value)) -> Function {
    let mut b = Builder::new(name, Signature::pipeline());
    let ctx = b.param(0);
    let input = b.load_always(Type::Ptr, ctx, INPUT);
    let output = b.load_always(Type::Ptr, ctx, OUTPUT);
    body(&mut b, input, output);
    let ok = b.iconst(Type::I32, 0);
    b.finish(Some(ok)).unwrap()
}

fn one(function: Function) -> (Module, FunctionId) {
    let mut module = Module::new();
    let id = module.add(function).id();
    (module, id)
}

/// Values at the edges of a type, as bits.
fn edges(ty: Type) -> Vec<u128> {
    match ty {
        Type::F32 => [
            0.0f32,
            -0.0,
            1.0,
            -1.0,
            0.5,
            1.5,
            2.5,
            -2.5,
            1e10,
            -1e10,
            3e38,
            -3e38,
            1e-40,
            2147483648.0,
            -2147483648.0,
            9.3e18,
            -9.3e18,
            1.8e38,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            16777217.0,
        ]
        .iter()
        .map(|x| u128::from(x.to_bits()))
        .collect(),
        Type::F64 => [
            0.0f64,
            -0.0,
            1.0,
            -1.0,
            0.5,
            1.5,
            2.5,
            -2.5,
            1e10,
            -1e10,
            1e308,
            -1e308,
            5e-324,
            2147483647.5,
            -2147483649.0,
            9223372036854775807.0,
            -9223372036854775808.0,
            8.9e18,
            9.1e18,
            -9.1e18,
            1.8e38,
            -1.8e38,
            1e39,
            4503599627370497.5,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            0.1,
        ]
        .iter()
        .map(|x| u128::from(x.to_bits()))
        .collect(),
        _ => {
            let bits = ty.bits();
            let top = 1u128 << (bits - 1);
            let mut values =
                vec![0, 1, 2, 3, 7, 10, 100, top - 1, top, top + 1, u128::MAX, u128::MAX - 1, top >> 1, top / 3];
            for shift in [7, 8, 15, 16, 31, 32, 33, 47, 62, 63, 64, 65, 95, 96, 126] {
                if shift < bits {
                    values.push(1 << shift);
                    values.push((1 << shift) - 1);
                    values.push((1u128 << shift).wrapping_neg());
                }
            }
            let mut values: Vec<u128> = values.into_iter().map(|v| eval::mask(ty, v)).collect();
            values.sort_unstable();
            values.dedup();
            values
        }
    }
}

fn is_nan(ty: Type, bits: u128) -> bool {
    match ty {
        Type::F32 => f32::from_bits(bits as u32).is_nan(),
        Type::F64 => f64::from_bits(bits as u64).is_nan(),
        _ => false,
    }
}

/// Which NaN an op makes is not said.
fn same_nan(ty: Type, outcome: Outcome) -> Vec<u128> {
    assert_eq!(outcome.status, 0);
    let bits = outcome.output.into_iter();
    bits.map(|bits| if is_nan(ty, bits) { u128::MAX } else { bits }).collect()
}

/// Checks an op on rows of operands against its meaning: interpreted, compiled, and with its operands folded as constants.
/// `make` gets one value per operand type and gives one result.
fn check_op(
    name: &str,
    operands: &[Type],
    result: Type,
    rows: &[Vec<u128>],
    make: impl Fn(&mut Builder, &[Value]) -> Value,
    meaning: impl Fn(&[u128]) -> u128,
) {
    let width = operands.len();
    let function = pipeline(name, |b, input, output| {
        let (begin, end) = (b.param(2), b.param(3));
        b.for_loop(LoopKind::Serial, begin, end, 1, &[], |b, i, _| {
            let place = b.offset(input, i, 16 * width as i64, 0);
            let values: Vec<Value> =
                operands.iter().enumerate().map(|(number, &ty)| b.load(ty, place, 16 * number as i32)).collect();
            let made = make(b, &values);
            assert_eq!(b.ty(made), result, "{name}");
            let place = b.offset(output, i, 16, 0);
            b.store(made, place, 0);
            Vec::new()
        });
    });
    let (module, id) = one(function);
    let input: Vec<u128> = rows.iter().flatten().copied().collect();
    let range = (0, rows.len() as i64);
    let canonical = |bits: u128| {
        if is_nan(result, bits) { u128::MAX } else { bits }
    };
    let expected: Vec<u128> = rows.iter().map(|row| canonical(meaning(row))).collect();
    let report = |found: &[u128], how: &str| {
        for (row, (found, expected)) in rows.iter().zip(found.iter().zip(&expected)) {
            assert_eq!(found, expected, "{name} {how} of {row:x?}\n{module}");
        }
    };
    let interpreted = interpret(&module, id, &input, rows.len(), range);
    report(&same_nan(result, interpreted), "interpreted");
    for opt in [OptLevel::None, OptLevel::Speed] {
        let code = compile(&module, opt);
        let compiled = execute(&code, id, &input, rows.len(), range);
        report(&same_nan(result, compiled), "compiled");
    }
    // One operand constant at a time, then all: immediates and folding.
    for fixed in 0..=width {
        let mut b = Builder::new("constants", Signature::pipeline());
        let ctx = b.param(0);
        let input_base = b.load_always(Type::Ptr, ctx, INPUT);
        let output = b.load_always(Type::Ptr, ctx, OUTPUT);
        for (number, row) in rows.iter().enumerate().take(40) {
            let values: Vec<Value> = operands
                .iter()
                .enumerate()
                .map(|(operand, &ty)| {
                    if fixed == width || operand == fixed {
                        b.constant(ty, row[operand])
                    } else {
                        b.load(ty, input_base, (16 * (number * width + operand)) as i32)
                    }
                })
                .collect();
            let made = make(&mut b, &values);
            b.store(made, output, 16 * number as i32);
        }
        let ok = b.iconst(Type::I32, 0);
        let (module, id) = one(b.finish(Some(ok)).unwrap());
        let code = compile(&module, OptLevel::None);
        let found = same_nan(result, execute(&code, id, &input, rows.len().min(40), range));
        report(&found, "with constants");
    }
}

fn singles(ty: Type) -> Vec<Vec<u128>> {
    edges(ty).into_iter().map(|bits| vec![bits]).collect()
}

fn pairs(a: Type, b: Type) -> Vec<Vec<u128>> {
    let right = edges(b);
    edges(a).into_iter().flat_map(|x| right.iter().map(move |&y| vec![x, y]).collect::<Vec<_>>()).collect()
}

const INTS: [Type; 5] = [Type::I8, Type::I16, Type::I32, Type::I64, Type::I128];
const FLOATS: [Type; 2] = [Type::F32, Type::F64];

#[test]
fn unary_ops_on_edge_values() {
    let int_ops = [UnaryOp::Neg, UnaryOp::Not];
    let float_ops = [
        UnaryOp::FNeg,
        UnaryOp::FAbs,
        UnaryOp::FSqrt,
        UnaryOp::FFloor,
        UnaryOp::FCeil,
        UnaryOp::FTrunc,
        UnaryOp::FNearest,
    ];
    let cases = INTS
        .iter()
        .flat_map(|&ty| int_ops.map(|op| (op, ty)))
        .chain([(UnaryOp::PopCount, Type::I64)])
        .chain(FLOATS.iter().flat_map(|&ty| float_ops.map(|op| (op, ty))));
    for (op, ty) in cases {
        check_op(
            &format!("{op:?}_{ty}"),
            &[ty],
            ty,
            &singles(ty),
            |b, v| b.unary(op, v[0]),
            |row| eval::unary(op, ty, row[0]).unwrap(),
        );
    }
}

#[test]
fn integer_ops_on_edge_values() {
    let ops = [
        BinaryOp::Add,
        BinaryOp::Sub,
        BinaryOp::Mul,
        BinaryOp::And,
        BinaryOp::Or,
        BinaryOp::Xor,
        BinaryOp::SMin,
        BinaryOp::SMax,
        BinaryOp::UMulHi,
        BinaryOp::SDiv,
        BinaryOp::SRem,
    ];
    for ty in INTS {
        for op in ops {
            if op == BinaryOp::UMulHi && ty != Type::I64 {
                continue;
            }
            // Compiled code may only meet divisions that have a result.
            let mut rows = pairs(ty, ty);
            if op.is_partial() {
                rows.retain(|row| eval::binary(BinaryOp::SDiv, ty, row[0], row[1]).is_some());
            }
            check_op(
                &format!("{op:?}_{ty}"),
                &[ty, ty],
                ty,
                &rows,
                |b, v| b.binary(op, v[0], v[1]),
                |row| eval::binary(op, ty, row[0], row[1]).unwrap(),
            );
        }
    }
}

#[test]
fn shifts_on_edge_values() {
    for ty in INTS {
        for amount in [Type::I8, Type::I16, Type::I32, Type::I64] {
            for op in [BinaryOp::Shl, BinaryOp::SShr, BinaryOp::UShr, BinaryOp::Rotl] {
                if op == BinaryOp::Rotl && !matches!(ty, Type::I32 | Type::I64) {
                    continue;
                }
                check_op(
                    &format!("{op:?}_{ty}_{amount}"),
                    &[ty, amount],
                    ty,
                    &pairs(ty, amount),
                    |b, v| b.binary(op, v[0], v[1]),
                    |row| eval::binary(op, ty, row[0], row[1]).unwrap(),
                );
            }
        }
    }
}

#[test]
fn float_ops_on_edge_values() {
    let ops = [BinaryOp::FAdd, BinaryOp::FSub, BinaryOp::FMul, BinaryOp::FDiv, BinaryOp::FMin, BinaryOp::FMax];
    for ty in FLOATS {
        for op in ops {
            check_op(
                &format!("{op:?}_{ty}"),
                &[ty, ty],
                ty,
                &pairs(ty, ty),
                |b, v| b.binary(op, v[0], v[1]),
                |row| eval::binary(op, ty, row[0], row[1]).unwrap(),
            );
        }
        let few = [0usize, 1, 4, 6, 10, 12, 18, 20, 21];
        let values = edges(ty);
        let mut rows = Vec::new();
        for &x in &few {
            for &y in &few {
                for &z in &few {
                    rows.push(vec![values[x], values[y], values[z]]);
                }
            }
        }
        check_op(
            &format!("fma_{ty}"),
            &[ty, ty, ty],
            ty,
            &rows,
            |b, v| b.fma(v[0], v[1], v[2]),
            |row| eval::fma(ty, row[0], row[1], row[2]).unwrap(),
        );
    }
}

#[test]
fn checked_ops_on_edge_values() {
    for ty in [Type::I32, Type::I64, Type::I128] {
        for op in [CheckedOp::Add, CheckedOp::Sub, CheckedOp::Mul] {
            check_op(
                &format!("{op:?}_checked_{ty}"),
                &[ty, ty],
                ty,
                &pairs(ty, ty),
                |b, v| b.checked(op, v[0], v[1]).0,
                |row| eval::checked(op, ty, row[0], row[1]).unwrap().0,
            );
            check_op(
                &format!("{op:?}_overflow_{ty}"),
                &[ty, ty],
                Type::I8,
                &pairs(ty, ty),
                |b, v| b.checked(op, v[0], v[1]).1,
                |row| eval::checked(op, ty, row[0], row[1]).unwrap().1,
            );
        }
    }
}

#[test]
fn comparisons_and_choices_on_edge_values() {
    let signed = [Cmp::Eq, Cmp::Ne, Cmp::Lt, Cmp::Le, Cmp::Gt, Cmp::Ge];
    let unsigned = [Cmp::ULt, Cmp::ULe, Cmp::UGt, Cmp::UGe];
    for ty in Type::ALL {
        for cmp in signed.into_iter().chain(unsigned) {
            if eval::compare(cmp, ty, 0, 0).is_none() {
                continue;
            }
            check_op(
                &format!("{cmp:?}_{ty}"),
                &[ty, ty],
                Type::I8,
                &pairs(ty, ty),
                |b, v| b.compare(cmp, v[0], v[1]),
                |row| u128::from(eval::compare(cmp, ty, row[0], row[1]).unwrap()),
            );
        }
        let rows: Vec<Vec<u128>> = pairs(ty, ty)
            .into_iter()
            .enumerate()
            .map(|(number, row)| vec![[0, 1, 255, 128][number % 4], row[0], row[1]])
            .collect();
        check_op(
            &format!("select_{ty}"),
            &[Type::I8, ty, ty],
            ty,
            &rows,
            |b, v| b.select(v[0], v[1], v[2]),
            |row| if row[0] != 0 { row[1] } else { row[2] },
        );
        check_op(
            &format!("select_less_{ty}"),
            &[ty, ty],
            Type::I64,
            &pairs(ty, ty),
            |b, v| {
                let equal = b.compare(Cmp::Eq, v[0], v[1]);
                let (x, y) = (b.iconst(Type::I64, 11), b.iconst(Type::I64, -1));
                b.select(equal, x, y)
            },
            |row| match eval::compare(Cmp::Eq, ty, row[0], row[1]) {
                Some(true) => 11,
                _ => u128::from(u64::MAX),
            },
        );
    }
}

#[test]
fn conversions_on_edge_values() {
    let ops = [
        ConvertOp::SignExtend,
        ConvertOp::ZeroExtend,
        ConvertOp::Truncate,
        ConvertOp::IntToFloat,
        ConvertOp::FloatToInt,
        ConvertOp::Promote,
        ConvertOp::Demote,
        ConvertOp::Bitcast,
        ConvertOp::Lo64,
        ConvertOp::Hi64,
    ];
    let mut checked = 0;
    for op in ops {
        for from in Type::ALL {
            for to in Type::ALL {
                if !eval::convertible(op, from, to) {
                    continue;
                }
                checked += 1;
                check_op(
                    &format!("{op:?}_{from}_{to}"),
                    &[from],
                    to,
                    &singles(from),
                    |b, v| b.convert(op, v[0], to),
                    |row| eval::convert(op, from, to, row[0]).unwrap(),
                );
            }
        }
    }
    assert_eq!(checked, 56);
    check_op(
        "concat64",
        &[Type::I64, Type::I64],
        Type::I128,
        &pairs(Type::I64, Type::I64),
        |b, v| b.concat64(v[0], v[1]),
        |row| eval::concat64(row[0], row[1]),
    );
}

#[test]
fn a_trap_leaves_code_and_place() {
    let function = pipeline("trap", |b, input, output| {
        let (begin, end) = (b.param(2), b.param(3));
        let zero = b.iconst(Type::I64, 0);
        b.for_loop(LoopKind::Serial, begin, end, 1, &[zero], |b, i, sum| {
            let place = b.offset(input, i, 16, 0);
            let x = b.load(Type::I64, place, 0);
            let (sum, overflow) = b.add_checked(sum[0], x);
            b.trap_if(overflow, TrapCode::OutOfRange, 77);
            let negative = b.icmp_imm(Cmp::Lt, x, 0);
            b.trap_if(negative, TrapCode::NullFeature, 78);
            b.store(sum, output, 0);
            vec![sum]
        });
    });
    let (module, id) = one(function);
    let max = i64::MAX as u128;
    let fine = same(&module, id, &[1, 2, 3], 1, (0, 3));
    assert_eq!((fine.status, fine.output[0]), (0, 6));
    let overflow = same(&module, id, &[1, max, 3], 1, (0, 3));
    assert_eq!((overflow.status, overflow.trap), (4, [4, 77]));
    let minus = u128::from(-1i64 as u64);
    let negative = same(&module, id, &[1, minus, 3], 1, (0, 3));
    assert_eq!((negative.status, negative.trap), (9, [9, 78]));
    let empty = same(&module, id, &[], 1, (5, 3));
    assert_eq!((empty.status, empty.output[0]), (0, 0));
}

#[test]
fn a_hash_probe_stops_at_the_first_match_or_gap() {
    // Table of 16 entries {key, payload}; key 0 is a gap.
    let function = pipeline("probe", |b, input, output| {
        let (begin, end) = (b.param(2), b.param(3));
        b.for_loop(LoopKind::Serial, begin, end, 1, &[], |b, i, _| {
            let place = b.offset(input, i, 16, 16 * 16);
            let key = b.load(Type::I64, place, 0);
            let slot = b.and_imm(key, 15);
            let none = b.iconst(Type::I64, -1);
            let found = b.while_loop(&[slot, none], |b, state| {
                let entry = b.offset(input, state[0], 16, 0);
                let there = b.load(Type::I64, entry, 0);
                let hit = b.icmp(Cmp::Eq, there, key);
                let gap = b.icmp_imm(Cmp::Eq, there, 0);
                let payload = b.if_else(hit, &[Type::I64], |b| vec![b.load(Type::I64, entry, 8)], |_| vec![state[1]]);
                let stop = b.or(hit, gap);
                let go_on = b.bool_not(stop);
                let next = b.add_imm(state[0], 1);
                let next = b.and_imm(next, 15);
                (go_on, vec![next, payload[0]])
            });
            let place = b.offset(output, i, 16, 0);
            b.store(found[1], place, 0);
            Vec::new()
        });
    });
    let (module, id) = one(function);
    let mut input = vec![0u128; 16];
    for (slot, key) in [(3, 3u128), (4, 19), (5, 4), (15, 15), (0, 31)] {
        input[slot] = key | (key * 10) << 64;
    }
    input.extend([3, 19, 4, 15, 31, 35, 20, 7, 47]);
    let outcome = same(&module, id, &input, 9, (0, 9));
    let found: Vec<i64> = outcome.output.iter().map(|&x| x as u64 as i64).collect();
    assert_eq!(found, [30, 190, 40, 150, 310, -1, -1, -1, -1]);
}

#[test]
fn runtime_functions_are_called() {
    let function = pipeline("calls", |b, input, output| {
        let (begin, end) = (b.param(2), b.param(3));
        b.for_loop(LoopKind::Serial, begin, end, 1, &[], |b, i, _| {
            let place = b.offset(input, i, 32, 0);
            let words: Vec<Value> = (0..4).map(|n| b.load(Type::I64, place, n * 8)).collect();
            let equal = b.call(RuntimeFn::TextEqual, &words).unwrap();
            let order = b.call(RuntimeFn::TextCompare, &words).unwrap();
            let again = b.call(RuntimeFn::TextCompare, &words).unwrap();
            assert_eq!(order, again, "a pure call is shared");
            let hash = b.call(RuntimeFn::TextHash, &[i, words[0], words[1]]).unwrap();
            let place = b.offset(output, i, 16, 0);
            b.store(equal, place, 0);
            b.store(order, place, 4);
            b.store(hash, place, 8);
            Vec::new()
        });
    });
    let (module, id) = one(function);
    let text = |bytes: &[u8]| {
        let mut view = [0u8; 16];
        view[0] = bytes.len() as u8;
        view[4..4 + bytes.len()].copy_from_slice(bytes);
        u128::from_le_bytes(view)
    };
    let (a, b) = (text(b"apple"), text(b"pear"));
    let outcome = same(&module, id, &[a, a, a, b, b, a], 3, (0, 3));
    let found: Vec<(u8, i32)> = outcome.output.iter().map(|&bits| (bits as u8, (bits >> 32) as i32)).collect();
    assert_eq!(found, [(1, 0), (0, -1), (0, 1)]);
}

/// Runs a function on a worker block of the runtime, interpreted or compiled; the trap if there was one.
fn with_worker(module: &Module, id: FunctionId, limit: usize, compiled: bool) -> Result<(), Trap> {
    let pool = MemoryPool::new(limit);
    let memory = QueryMemory::new(&pool, limit);
    let cancel = CancelToken::new();
    let mut buffer = RowBuffer::new(64, &memory);
    let mut block = WorkerBlock::new(&[(&raw mut buffer).cast()], &cancel, &memory);
    let worker = block.as_mut_ptr();
    let status = if compiled {
        let code = compile(module, OptLevel::None);
        // SAFETY: the block lives; the program touches it and its row buffer only.
        unsafe { code.entry(id).run(std::ptr::null(), worker, 0, 1 << 14) }
    } else {
        let args = [0, worker.expose_provenance() as u64, 0, 1 << 14];
        // SAFETY: as above.
        let status = unsafe { interp::kernel::run(module, id, &args) };
        status.unwrap().unwrap() as i32
    };
    block.check(status)
}

#[test]
fn a_failing_runtime_function_ends_the_pipeline_with_its_place() {
    let mut b = Builder::new("append", Signature::pipeline());
    let (worker, begin, end) = (b.param(1), b.param(2), b.param(3));
    let buffer = b.load_always(Type::Ptr, worker, 64);
    b.for_loop(LoopKind::Serial, begin, end, 1, &[], |b, i, _| {
        let cur = b.load(Type::Ptr, buffer, layout::ROW_BUFFER_CUR.offset);
        let limit = b.load(Type::Ptr, buffer, layout::ROW_BUFFER_END.offset);
        let full = b.icmp(Cmp::Eq, cur, limit);
        let place = b.if_else(
            full,
            &[Type::Ptr],
            |b| {
                let args = [worker, buffer];
                vec![b.call_or_fail(RuntimeFn::RowBufferGrow, &args, 42).unwrap()]
            },
            |_| vec![cur],
        );
        b.store(i, place[0], 0);
        let next = b.displace(place[0], 64);
        b.store(next, buffer, layout::ROW_BUFFER_CUR.offset);
        Vec::new()
    });
    let ok = b.iconst(Type::I32, 0);
    let (module, id) = one(b.finish(Some(ok)).unwrap());
    for compiled in [false, true] {
        assert_eq!(with_worker(&module, id, 64 << 20, compiled), Ok(()));
        let trap = with_worker(&module, id, 100 << 10, compiled).unwrap_err();
        assert_eq!((trap.code, trap.location), (TrapCode::MemoryLimit, 42));
    }
}

#[test]
fn functions_of_a_module_call_each_other_and_themselves() {
    let mut module = Module::new();
    let fib = module.declare("fib", Signature::new(&[Type::I64], Some(Type::I64)));
    let mut b = module.builder(&fib);
    let n = b.param(0);
    let small = b.icmp_imm(Cmp::Lt, n, 2);
    let result = b.if_else(
        small,
        &[Type::I64],
        |_| vec![n],
        |b| {
            let (first, second) = (b.add_imm(n, -1), b.add_imm(n, -2));
            let x = b.call_function(&fib, &[first]).unwrap();
            let y = b.call_function(&fib, &[second]).unwrap();
            vec![b.add(x, y)]
        },
    );
    let body = b.finish(Some(result[0])).unwrap();
    module.define(&fib, body);
    let main = pipeline("main", |b, _, output| {
        let n = b.param(3);
        let x = b.call_function(&fib, &[n]).unwrap();
        b.store(x, output, 0);
    });
    let id = module.add(main).id();
    assert_eq!(same(&module, id, &[], 1, (0, 15)).output[0], 610);
}

#[test]
fn switches_take_their_case() {
    let function = pipeline("switch", |b, input, output| {
        let (begin, end) = (b.param(2), b.param(3));
        b.for_loop(LoopKind::Serial, begin, end, 1, &[], |b, i, _| {
            let place = b.offset(input, i, 16, 0);
            for (number, ty) in [Type::I8, Type::I32, Type::I64].into_iter().enumerate() {
                let x = b.load(ty, place, 0);
                b.begin_switch(x, -3, &[Type::I64]);
                let value = b.iconst(Type::I64, 100);
                b.begin_case(&[value], 5);
                let value = b.sext(x, Type::I64);
                let value = b.add_imm(value, 1);
                b.begin_case(&[value], 6);
                b.begin_default(&[i]);
                let value = b.iconst(Type::I64, -7);
                let results = b.end_switch(&[value]);
                let place = b.offset(output, i, 48, 16 * number as i64);
                b.store(results[0], place, 0);
            }
            Vec::new()
        });
    });
    let (module, id) = one(function);
    let minus = u128::from(-3i64 as u64);
    let outcome = same(&module, id, &[5, 6, minus, 9], 12, (0, 4));
    let found: Vec<i64> = outcome.output.iter().map(|&x| x as u64 as i64).collect();
    assert_eq!(found, [6, 6, 6, 1, 1, 1, 100, 100, 100, -7, -7, -7]);
}

#[test]
fn loops_of_every_kind_run_the_same_steps() {
    for kind in
        [LoopKind::Serial, LoopKind::Unrolled(1), LoopKind::Unrolled(4), LoopKind::Unrolled(7), LoopKind::Vector(0)]
    {
        for step in [1, 3] {
            let function = pipeline("steps", |b, _, output| {
                let (begin, end) = (b.param(2), b.param(3));
                let (zero, one) = (b.iconst(Type::I64, 0), b.iconst(Type::I64, 1));
                let last = b.for_loop(kind, begin, end, step, &[zero, one], |b, i, state| {
                    let scaled = b.mul(i, state[1]);
                    let sum = b.add(state[0], scaled);
                    let next = b.add_imm(state[1], 2);
                    vec![sum, next]
                });
                b.store(last[0], output, 0);
                b.store(last[1], output, 16);
                // Few steps, known when compiled.
                let (two, five) = (b.iconst(Type::I64, 2), b.iconst(Type::I64, 5));
                let last = b.for_loop(kind, two, five, step, &[zero], |b, i, state| {
                    let twice = b.add(state[0], state[0]);
                    vec![b.add(twice, i)]
                });
                b.store(last[0], output, 32);
            });
            let (module, id) = one(function);
            for range in [(0, 0), (0, 1), (0, 4), (3, 20), (-9, 5), (5, 0), (0, 28)] {
                let outcome = same(&module, id, &[], 3, range);
                let (mut sum, mut factor) = (0, 1);
                for i in (range.0..range.1).step_by(step as usize) {
                    sum += i * factor;
                    factor += 2;
                }
                assert_eq!(outcome.output[0] as u64 as i64, sum, "{kind:?} {range:?}");
            }
        }
    }
}

/// A function of about `size` instructions that the builder cannot shorten.
fn long_function(name: &str, size: usize) -> Function {
    pipeline(name, |b, input, output| {
        let mut values: Vec<Value> = (0..8).map(|i| b.load(Type::I64, input, i * 16)).collect();
        let mut number = 0;
        while b.inst_count() < size {
            let (x, y) = (values[number % 8], values[(number * 5 + 3) % 8]);
            let new = match number % 4 {
                0 => b.add(x, y),
                1 => b.mul(x, y),
                2 => b.xor(x, y),
                _ => b.sub(x, y),
            };
            values[(number * 3) % 8] = b.add_imm(new, number as i64);
            number += 1;
        }
        for (number, &value) in values.iter().enumerate() {
            b.store(value, output, number as i32 * 16);
        }
    })
}

#[test]
fn a_function_of_two_thousand_instructions() {
    let (module, id) = one(long_function("long", 2000));
    assert!(module.function(id).unwrap().inst_count() >= 2000);
    same(&module, id, &[1, 2, 3, 4, 5, 6, 7, 8], 8, (0, 0));
}

#[test]
fn functions_compile_in_parallel_to_the_same_code() {
    let mut module = Module::new();
    let ids: Vec<FunctionId> =
        (0..12).map(|number| module.add(long_function(&format!("f{number}"), 60 + number * 25)).id()).collect();
    let backend = CpuBackend::shared().unwrap();
    let compiled: Vec<CompiledModule> = [1, 4]
        .iter()
        .map(|&threads| {
            let options = Options { threads, ..Options::default() };
            backend.compile(&module, &options).unwrap()
        })
        .collect();
    let input = [9, 8, 7, 6, 5, 4, 3, 2];
    for &id in &ids {
        let expected = interpret(&module, id, &input, 8, (0, 0));
        for code in &compiled {
            assert_eq!(execute(code, id, &input, 8, (0, 0)), expected);
        }
    }
    let bytes = |code: &CompiledModule| -> Vec<usize> { code.stats().map(|stats| stats.code_bytes).collect() };
    assert_eq!(bytes(&compiled[0]), bytes(&compiled[1]));
    assert!(compiled[0].stats().all(|stats| stats.code_bytes > 0 && !stats.time.is_zero()));
}

#[test]
fn an_entry_outlives_its_module_and_runs_on_other_threads() {
    let (module, id) = one(pipeline("store", |b, _, output| {
        let x = b.param(3);
        b.store(x, output, 0);
    }));
    let entry = compile(&module, OptLevel::None).entry(id);
    let threads: Vec<_> = (0..4)
        .map(|number: i64| {
            let entry = entry.clone();
            std::thread::spawn(move || {
                let outcome = outcome(&[], 1, |ctx, worker| {
                    // SAFETY: the program stores one word of output.
                    unsafe { entry.run(ctx, worker, 0, number) }
                });
                outcome.output[0]
            })
        })
        .collect();
    for (number, thread) in threads.into_iter().enumerate() {
        assert_eq!(thread.join().unwrap(), number as u128);
    }
}

/// How many pages' worth of executable memory without a file this process has.
#[cfg(target_os = "linux")]
fn code_mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields[1].contains('x') && fields.len() == 5
        })
        .count()
}

#[cfg(target_os = "linux")]
#[test]
fn dropped_modules_give_their_memory_back() {
    let (module, id) = one(long_function("long", 100));
    let kept: Vec<CompiledModule> = (0..500).map(|_| compile(&module, OptLevel::None)).collect();
    let before = CompiledModule::live();
    assert!(before >= 500);
    let addresses: Vec<usize> = kept.iter().map(|code| code.entry(id).address().addr()).collect();
    drop(kept);
    assert!(CompiledModule::live() <= before - 500 + 50);
    // Other tests compile at the same time: only most of the places are surely free.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let still_there = addresses
        .iter()
        .filter(|&&address| {
            maps.lines().any(|line| {
                let (range, rest) = line.split_once(' ').unwrap();
                let (from, to) = range.split_once('-').unwrap();
                let bound = |text| usize::from_str_radix(text, 16).unwrap();
                rest.contains('x') && (bound(from)..bound(to)).contains(&address)
            })
        })
        .count();
    assert!(still_there < 100, "{still_there} of 500, {} mappings", code_mappings());
}

#[test]
fn texts_are_kept_when_asked_for() {
    let (module, id) = one(pipeline("texts", |b, input, output| {
        let x = b.load(Type::I64, input, 0);
        let hash = b.call(RuntimeFn::TextHash, &[x, x, x]).unwrap();
        b.store(hash, output, 0);
    }));
    let options = Options { keep_text: true, ..Options::default() };
    let code = CpuBackend::shared().unwrap().compile(&module, &options).unwrap();
    let text = code.text(id);
    assert!(text.backend.contains("load.i64"), "{}", text.backend);
    assert!(!text.assembly.is_empty());
    if cfg!(target_arch = "x86_64") {
        assert!(text.assembly.contains("text_hash"), "{}", text.assembly);
        assert!(text.assembly.contains("ret"), "{}", text.assembly);
    }
}

#[test]
fn a_module_with_a_missing_function_is_refused() {
    let mut module = Module::new();
    module.declare("missing", Signature::pipeline());
    let error = CpuBackend::shared().unwrap().compile(&module, &Options::default()).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

// ---- random programs ----

/// A small generator of numbers (xorshift; Marsaglia 2003), so that one seed is one program.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 11) as usize % limit
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}

const INPUTS: i64 = 64;
const OUTPUTS: i64 = 64;
const VALUE_TYPES: [Type; 7] = [Type::I8, Type::I16, Type::I32, Type::I64, Type::I128, Type::F32, Type::F64];

struct Program {
    random: Random,
    input: Value,
    output: Value,
    /// Values that may be used here.
    values: Vec<Value>,
    budget: usize,
}

impl Program {
    fn function(seed: u64, budget: usize) -> Function {
        pipeline("random", |b, input, output| {
            let mut program = Program {
                random: Random(seed.wrapping_mul(2) | 1),
                input,
                output,
                values: vec![b.param(2), b.param(3)],
                budget,
            };
            program.statements(b, 0);
            // Every value that is left has a place of its own.
            let values = program.values.clone();
            for (number, value) in values.into_iter().enumerate() {
                let value = program.settle(b, value);
                b.store(value, output, (number as i32 % OUTPUTS as i32) * 16);
            }
        })
    }

    fn value(&mut self, b: &mut Builder, ty: Type) -> Value {
        let fitting: Vec<Value> = self.values.iter().copied().filter(|&value| b.ty(value) == ty).collect();
        if fitting.is_empty() || self.random.below(5) == 0 {
            return match self.random.below(3) {
                0 => self.load(b, ty),
                _ => {
                    let edges = edges(ty);
                    let bits = self.random.pick(&edges);
                    b.constant(ty, bits)
                }
            };
        }
        // Late values more often.
        let back = self.random.below(fitting.len()).min(self.random.below(fitting.len()));
        fitting[fitting.len() - 1 - back]
    }

    fn flag(&mut self, b: &mut Builder) -> Value {
        let ty = self.random.pick(&VALUE_TYPES);
        let (x, y) = (self.value(b, ty), self.value(b, ty));
        let cmp = self.random.pick(&[Cmp::Eq, Cmp::Ne, Cmp::Lt, Cmp::Le, Cmp::Gt, Cmp::Ge]);
        b.compare(cmp, x, y)
    }

    fn place(&mut self, b: &mut Builder, base: Value, count: i64) -> Value {
        let index = self.value(b, Type::I64);
        let index = b.and_imm(index, count - 1);
        b.offset(base, index, 16, 0)
    }

    fn load(&mut self, b: &mut Builder, ty: Type) -> Value {
        match self.random.below(3) {
            0 => {
                let index = self.random.below(INPUTS as usize) as i32;
                b.load_always(ty, self.input, index * 16)
            }
            1 => {
                let fitting: Vec<Value> = self.values.clone();
                let index = fitting.into_iter().rfind(|&v| b.ty(v) == Type::I64);
                let index = index.unwrap_or_else(|| b.iconst(Type::I64, 5));
                let index = b.and_imm(index, INPUTS - 1);
                let place = b.offset(self.input, index, 16, 0);
                b.load_readonly(ty, place, 0)
            }
            _ => {
                let index = self.random.below(OUTPUTS as usize) as i32;
                let loaded = b.load(ty, self.output, index * 16);
                self.settle(b, loaded)
            }
        }
    }

    /// A float with one NaN, so that memory can be compared.
    fn settle(&mut self, b: &mut Builder, value: Value) -> Value {
        let ty = b.ty(value);
        if !ty.is_float() {
            return value;
        }
        let nan = b.fconst(ty, f64::NAN);
        let unordered = b.fcmp(Cmp::Ne, value, value);
        b.select(unordered, nan, value)
    }

    fn store(&mut self, b: &mut Builder, value: Value) {
        let value = self.settle(b, value);
        let output = self.output;
        let place = self.place(b, output, OUTPUTS);
        b.store(value, place, 0);
    }

    fn statements(&mut self, b: &mut Builder, depth: usize) {
        let count = match depth {
            0 => self.budget,
            _ => 2 + self.random.below(8),
        };
        for _ in 0..count {
            if self.budget == 0 {
                break;
            }
            self.budget -= 1;
            match self.random.below(if depth < 3 { 14 } else { 9 }) {
                0..=6 => {
                    let value = self.expression(b);
                    self.values.push(value);
                }
                7 => {
                    let ty = self.random.pick(&VALUE_TYPES);
                    let value = self.value(b, ty);
                    self.store(b, value);
                }
                8 => {
                    if self.random.below(4) == 0 {
                        let flag = self.flag(b);
                        let location = self.random.below(1000) as u32;
                        b.trap_if(flag, TrapCode::InvalidCast, location);
                    }
                }
                9 | 10 => self.branch(b, depth),
                11 | 12 => self.count(b, depth),
                _ => self.repeat(b, depth),
            }
        }
    }

    fn expression(&mut self, b: &mut Builder) -> Value {
        let ty = self.random.pick(&VALUE_TYPES);
        let int = ty.is_int();
        let (x, y) = (self.value(b, ty), self.value(b, ty));
        match self.random.below(10) {
            0..=3 if int => {
                let op = self.random.pick(&[
                    BinaryOp::Add,
                    BinaryOp::Sub,
                    BinaryOp::Mul,
                    BinaryOp::And,
                    BinaryOp::Or,
                    BinaryOp::Xor,
                    BinaryOp::SMin,
                    BinaryOp::SMax,
                ]);
                b.binary(op, x, y)
            }
            0..=3 => {
                let op = self.random.pick(&[
                    BinaryOp::FAdd,
                    BinaryOp::FSub,
                    BinaryOp::FMul,
                    BinaryOp::FDiv,
                    BinaryOp::FMin,
                    BinaryOp::FMax,
                ]);
                b.binary(op, x, y)
            }
            4 if int => {
                let op = self.random.pick(&[BinaryOp::Shl, BinaryOp::SShr, BinaryOp::UShr]);
                let amount_ty = self.random.pick(&[Type::I8, Type::I16, Type::I32, Type::I64]);
                let amount = self.value(b, amount_ty);
                b.binary(op, x, amount)
            }
            5 if int => {
                let mut op = self.random.pick(&[UnaryOp::Neg, UnaryOp::Not, UnaryOp::PopCount]);
                if b.ty(x) != Type::I64 && op == UnaryOp::PopCount {
                    op = UnaryOp::Not;
                }
                b.unary(op, x)
            }
            4 | 5 => {
                let op = self.random.pick(&[
                    UnaryOp::FNeg,
                    UnaryOp::FAbs,
                    UnaryOp::FSqrt,
                    UnaryOp::FFloor,
                    UnaryOp::FNearest,
                ]);
                b.unary(op, x)
            }
            6 => {
                let flag = self.flag(b);
                b.select(flag, x, y)
            }
            7 if matches!(ty, Type::I32 | Type::I64 | Type::I128) => {
                let op = self.random.pick(&[CheckedOp::Add, CheckedOp::Sub, CheckedOp::Mul]);
                let (value, overflow) = b.checked(op, x, y);
                self.values.push(overflow);
                value
            }
            8 if int => self.division(b, ty, x, y),
            9 => self.load(b, ty),
            _ => self.conversion(b, x),
        }
    }

    fn division(&mut self, b: &mut Builder, ty: Type, x: Value, y: Value) -> Value {
        let zero = b.iconst(ty, 0);
        let safe = b.icmp(Cmp::Gt, y, zero);
        let op = self.random.pick(&[BinaryOp::SDiv, BinaryOp::SRem]);
        b.if_else(safe, &[ty], |b| vec![b.binary(op, x, y)], |_| vec![x])[0]
    }

    fn conversion(&mut self, b: &mut Builder, x: Value) -> Value {
        let from = b.ty(x);
        let to = self.random.pick(&VALUE_TYPES);
        for op in [
            ConvertOp::SignExtend,
            ConvertOp::Truncate,
            ConvertOp::IntToFloat,
            ConvertOp::FloatToInt,
            ConvertOp::Promote,
            ConvertOp::Demote,
        ] {
            if eval::convertible(op, from, to) {
                return b.convert(op, x, to);
            }
        }
        x
    }

    /// The last value of each of some types, to be handed out of a region.
    fn yields(&mut self, b: &mut Builder, types: &[Type]) -> Vec<Value> {
        types.iter().map(|&ty| self.value(b, ty)).collect()
    }

    fn some_types(&mut self) -> Vec<Type> {
        (0..self.random.below(4)).map(|_| self.random.pick(&VALUE_TYPES)).collect()
    }

    fn branch(&mut self, b: &mut Builder, depth: usize) {
        let condition = self.flag(b);
        let types = self.some_types();
        let visible = self.values.len();
        b.begin_if(condition, &types);
        self.statements(b, depth + 1);
        let values = self.yields(b, &types);
        self.values.truncate(visible);
        b.begin_else(&values);
        if self.random.below(2) == 0 {
            self.statements(b, depth + 1);
        }
        let values = self.yields(b, &types);
        self.values.truncate(visible);
        let results = b.end_if(&values);
        self.values.extend(results);
    }

    fn count(&mut self, b: &mut Builder, depth: usize) {
        let begin = self.value(b, Type::I64);
        let begin = b.and_imm(begin, 7);
        let length = self.value(b, Type::I64);
        let length = b.and_imm(length, 7);
        let end = b.add(begin, length);
        let types = self.some_types();
        let init = self.yields(b, &types);
        let kind = self.random.pick(&[LoopKind::Serial, LoopKind::Unrolled(2), LoopKind::Unrolled(3)]);
        let step = 1 + self.random.below(2) as i64;
        let visible = self.values.len();
        let inner = b.begin_for(kind, begin, end, step, &init);
        self.values.push(inner.index);
        self.values.extend(inner.carried);
        self.statements(b, depth + 1);
        let next = self.yields(b, &types);
        self.values.truncate(visible);
        let results = b.end_for(&next);
        self.values.extend(results);
    }

    fn repeat(&mut self, b: &mut Builder, depth: usize) {
        let types = self.some_types();
        let mut init = self.yields(b, &types);
        init.insert(0, b.iconst(Type::I64, 0));
        let visible = self.values.len();
        let carried = b.begin_while(&init);
        self.values.extend(&carried);
        self.statements(b, depth + 1);
        let wish = self.flag(b);
        let mut next = self.yields(b, &types);
        self.values.truncate(visible);
        // At most five rounds.
        let round = b.add_imm(carried[0], 1);
        let allowed = b.icmp_imm(Cmp::Lt, round, 5);
        let go_on = b.and(wish, allowed);
        next.insert(0, round);
        let results = b.end_while(go_on, &next);
        self.values.extend(results);
    }
}

fn random_input(seed: u64) -> Vec<u128> {
    let mut random = Random(seed | 1);
    (0..INPUTS)
        .map(|number| match number % 4 {
            0 => edges(Type::I64)[random.below(20)],
            1 => edges(Type::F64)[random.below(20)],
            2 => u128::from(random.next()) << 64 | u128::from(random.next()),
            _ => edges(Type::F32)[random.below(20)],
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_programs_run_the_same(seed in 0u64..1 << 40, budget in 5usize..120) {
        let (module, id) = one(Program::function(seed, budget));
        let input = random_input(seed);
        let range = (seed as i64 % 5, seed as i64 % 11);
        let outcome = same(&module, id, &input, OUTPUTS as usize, range);
        let mut simplified = module.clone();
        simplify_module(&mut simplified).unwrap();
        let again = interpret(&simplified, id, &input, OUTPUTS as usize, range);
        assert_eq!(again, outcome, "before {module} after {simplified}");
        let insts = |module: &Module| module.function(id).unwrap().inst_count();
        assert!(insts(&simplified) <= insts(&module));
    }
}

// ---- vector loops ----

const LANE_TYPES: [Type; 6] = [Type::I8, Type::I16, Type::I32, Type::I64, Type::F32, Type::F64];

/// Whether the code of a function has lanes.
fn has_lanes(module: &Module, id: FunctionId) -> bool {
    let options = Options { keep_text: true, ..Options::default() };
    let code = CpuBackend::shared().unwrap().compile(module, &options).unwrap();
    let text = &code.text(id).backend;
    ["i8x16", "i16x8", "i32x4", "i64x2", "f32x4", "f64x2"].iter().any(|name| text.contains(name))
}

/// Columns of 128 values of each type of [`LANE_TYPES`], each in 128 inputs of 16 bytes; the column of a type.
fn column(b: &mut Builder, input: Value, ty: Type) -> Value {
    let number = LANE_TYPES.iter().position(|&other| other == ty).unwrap();
    b.displace(input, number as i64 * 16 * 128)
}

fn columns(seed: u64) -> Vec<u128> {
    let mut random = Random(seed | 1);
    let mut bytes = Vec::new();
    for ty in LANE_TYPES {
        let edges = edges(ty);
        let mut column = Vec::new();
        for _ in 0..128 {
            let mut bits = random.pick(&edges);
            if random.below(2) == 0 {
                // Small numbers, so that results are not all extreme.
                let small = random.below(200) as i64 - 100;
                bits = match ty {
                    Type::F32 => u128::from((small as f32 / 4.0).to_bits()),
                    Type::F64 => u128::from((small as f64 / 4.0).to_bits()),
                    _ => eval::from_signed(ty, i128::from(small)),
                };
            }
            column.extend_from_slice(&bits.to_le_bytes()[..ty.bytes() as usize]);
        }
        column.resize(16 * 128, 0);
        bytes.extend(column);
    }
    bytes.chunks(16).map(|chunk| u128::from_le_bytes(chunk.try_into().unwrap())).collect()
}

/// Runs a vector loop over `begin .. end` whose body is the closure's, which gets a loader of the step's value of a type and gives values
/// to store; checks that interpreted and compiled code agree.
fn check_lanes(
    name: &str,
    expect_lanes: bool,
    body: impl Fn(&mut Builder, &dyn Fn(&mut Builder, Type) -> Value) -> Vec<Value>,
) {
    let function = pipeline(name, |b, input, output| {
        let (begin, end) = (b.param(2), b.param(3));
        b.for_loop(LoopKind::Vector(0), begin, end, 1, &[], |b, i, _| {
            let load = |b: &mut Builder, ty: Type| {
                let column = column(b, input, ty);
                let place = b.offset(column, i, i64::from(ty.bytes()), 0);
                b.load(ty, place, 0)
            };
            let values = body(b, &load);
            for (number, value) in values.into_iter().enumerate() {
                let ty = b.ty(value);
                let value = if ty.is_float() {
                    let nan = b.fconst(ty, f64::NAN);
                    let unordered = b.fcmp(Cmp::Ne, value, value);
                    b.select(unordered, nan, value)
                } else {
                    value
                };
                let column = b.displace(output, number as i64 * 16 * 128);
                let place = b.offset(column, i, i64::from(ty.bytes()), 0);
                b.store(value, place, 0);
            }
            Vec::new()
        });
    });
    let (module, id) = one(function);
    assert_eq!(has_lanes(&module, id), expect_lanes, "{name}\n{module}");
    let input = columns(7);
    for range in [(0, 128), (0, 0), (3, 4), (1, 17), (5, 100), (0, 37)] {
        same(&module, id, &input, 128 * 4, range);
    }
}

#[test]
fn arithmetic_in_lanes() {
    for ty in [Type::I8, Type::I16, Type::I32, Type::I64] {
        for op in [
            BinaryOp::Add,
            BinaryOp::Sub,
            BinaryOp::Mul,
            BinaryOp::And,
            BinaryOp::Or,
            BinaryOp::Xor,
            BinaryOp::SMin,
            BinaryOp::SMax,
        ] {
            let fits = !(op == BinaryOp::Mul && ty == Type::I8);
            check_lanes(&format!("{op:?}_{ty}"), fits, |b, load| {
                let x = load(b, ty);
                let seven = b.iconst(ty, 7);
                let y = b.add(x, seven);
                let z = b.xor(y, x);
                vec![b.binary(op, x, z), b.binary(op, y, seven)]
            });
        }
        for op in [UnaryOp::Neg, UnaryOp::Not] {
            check_lanes(&format!("{op:?}_{ty}"), true, |b, load| {
                let x = load(b, ty);
                vec![b.unary(op, x)]
            });
        }
        if ty == Type::I64 {
            check_lanes("PopCount_i64", false, |b, load| {
                let x = load(b, ty);
                vec![b.pop_count(x)]
            });
        }
        for op in [BinaryOp::Shl, BinaryOp::SShr, BinaryOp::UShr] {
            let fits = matches!(ty, Type::I32 | Type::I64);
            check_lanes(&format!("{op:?}_{ty}"), fits, |b, load| {
                let x = load(b, ty);
                let begin = b.param(2);
                let constant = b.iconst(Type::I32, 5);
                let beyond = b.iconst(Type::I8, 67);
                vec![b.binary(op, x, begin), b.binary(op, x, constant), b.binary(op, x, beyond)]
            });
        }
    }
    for ty in FLOATS {
        for op in [BinaryOp::FAdd, BinaryOp::FSub, BinaryOp::FMul, BinaryOp::FDiv, BinaryOp::FMin, BinaryOp::FMax] {
            check_lanes(&format!("{op:?}_{ty}"), true, |b, load| {
                let x = load(b, ty);
                let half = b.fconst(ty, 0.5);
                let y = b.fmul(x, half);
                vec![b.binary(op, x, y), b.binary(op, half, x)]
            });
        }
        for op in [
            UnaryOp::FNeg,
            UnaryOp::FAbs,
            UnaryOp::FSqrt,
            UnaryOp::FFloor,
            UnaryOp::FCeil,
            UnaryOp::FTrunc,
            UnaryOp::FNearest,
        ] {
            check_lanes(&format!("{op:?}_{ty}"), true, |b, load| {
                let x = load(b, ty);
                vec![b.unary(op, x)]
            });
        }
        check_lanes("fma", true, |b, load| {
            let x = load(b, ty);
            let c = b.fconst(ty, 1.25);
            vec![b.fma(x, x, c)]
        });
    }
    for ty in [Type::I32, Type::I64] {
        for op in [CheckedOp::Add, CheckedOp::Sub] {
            check_lanes("checked", true, |b, load| {
                let x = load(b, ty);
                let y = b.not(x);
                let big = b.iconst(ty, if ty == Type::I32 { i64::from(i32::MAX) } else { i64::MAX });
                let (first, flag) = b.checked(op, x, big);
                let (second, other) = b.checked(op, y, x);
                vec![first, flag, second, other]
            });
        }
    }
}

#[test]
fn comparisons_and_choices_in_lanes() {
    for ty in LANE_TYPES {
        for cmp in [Cmp::Eq, Cmp::Ne, Cmp::Lt, Cmp::Le, Cmp::Gt, Cmp::Ge, Cmp::ULt, Cmp::ULe, Cmp::UGt, Cmp::UGe] {
            if eval::compare(cmp, ty, 0, 0).is_none() {
                continue;
            }
            let unsigned = matches!(cmp, Cmp::ULt | Cmp::ULe | Cmp::UGt | Cmp::UGe);
            check_lanes(&format!("{cmp:?}_{ty}"), !(unsigned && ty == Type::I64), |b, load| {
                let x = load(b, ty);
                let y = if ty.is_float() { b.fconst(ty, 0.25) } else { b.iconst(ty, 3) };
                let flag = b.compare(cmp, x, y);
                let wide = b.zext(flag, Type::I32);
                vec![flag, b.select(flag, x, y), wide]
            });
        }
        // Flags of different widths, from memory and from outside.
        for other in LANE_TYPES {
            check_lanes(&format!("flags_{ty}_{other}"), true, |b, load| {
                let (x, y, byte) = (load(b, ty), load(b, other), load(b, Type::I8));
                let zero = b.constant(ty, 0);
                let one = b.constant(other, 1);
                let first = b.compare(Cmp::Gt, x, zero);
                let second = b.compare(Cmp::Ge, y, one);
                let range = b.param(2);
                let outside = b.icmp_imm(Cmp::Gt, range, 2);
                let both = b.and(first, second);
                let not = b.bool_not(second);
                let mixed = b.or(both, outside);
                let chosen = b.select(not, first, both);
                vec![b.select(both, x, zero), b.select(byte, one, y), b.select(mixed, y, one), chosen]
            });
        }
    }
}

#[test]
fn conversions_in_lanes() {
    for from in LANE_TYPES {
        for to in LANE_TYPES {
            for op in [
                ConvertOp::SignExtend,
                ConvertOp::ZeroExtend,
                ConvertOp::Truncate,
                ConvertOp::IntToFloat,
                ConvertOp::FloatToInt,
                ConvertOp::Promote,
                ConvertOp::Demote,
                ConvertOp::Bitcast,
            ] {
                if !eval::convertible(op, from, to) {
                    continue;
                }
                let fits = match op {
                    ConvertOp::IntToFloat => from != Type::I64,
                    ConvertOp::FloatToInt => from == Type::F32 && to == Type::I32,
                    _ => true,
                };
                check_lanes(&format!("{op:?}_{from}_{to}"), fits, |b, load| {
                    let x = load(b, from);
                    vec![b.convert(op, x, to)]
                });
            }
        }
    }
}

#[test]
fn the_index_in_lanes() {
    let function = pipeline("index", |b, _, output| {
        let (begin, end) = (b.param(2), b.param(3));
        b.for_loop(LoopKind::Vector(0), begin, end, 1, &[], |b, i, _| {
            let shifted = b.sub(i, begin);
            let three = b.iconst(Type::I64, 3);
            let scaled = b.mul(i, three);
            let small = b.trunc(scaled, Type::I32);
            let float = b.int_to_float(small, Type::F32);
            let place = b.offset(output, shifted, 8, 0);
            b.store(scaled, place, 0);
            let place = b.offset(output, i, 4, 2048);
            b.store(float, place, 0);
            Vec::new()
        });
    });
    let (module, id) = one(function);
    assert!(has_lanes(&module, id));
    for range in [(0, 100), (7, 90), (3, 5)] {
        same(&module, id, &[], 512, range);
    }
}

#[test]
fn reductions_in_lanes() {
    for ty in LANE_TYPES {
        let ops: &[BinaryOp] = if ty.is_float() {
            &[BinaryOp::FAdd, BinaryOp::FSub, BinaryOp::FMin, BinaryOp::FMax, BinaryOp::FMul]
        } else {
            &[
                BinaryOp::Add,
                BinaryOp::Sub,
                BinaryOp::Mul,
                BinaryOp::And,
                BinaryOp::Or,
                BinaryOp::Xor,
                BinaryOp::SMin,
                BinaryOp::SMax,
            ]
        };
        for &op in ops {
            for swapped in [false, true] {
                let no_product = op == BinaryOp::Mul && ty == Type::I8;
                let fits = !(no_product || swapped && matches!(op, BinaryOp::Sub | BinaryOp::FSub));
                let function = pipeline(&format!("{op:?}_{ty}"), |b, input, output| {
                    let (begin, end) = (b.param(2), b.param(3));
                    let first = if ty.is_float() { b.fconst(ty, 1.0) } else { b.iconst(ty, 29) };
                    let zero = b.constant(ty, 0);
                    let init = [first, zero];
                    let last = b.for_loop(LoopKind::Vector(0), begin, end, 1, &init, |b, i, carried| {
                        let column = column(b, input, ty);
                        let place = b.offset(column, i, i64::from(ty.bytes()), 0);
                        let x = b.load(ty, place, 0);
                        let one = if ty.is_float() { b.fconst(ty, 1.0) } else { b.iconst(ty, 1) };
                        let flag = b.compare(Cmp::Gt, x, one);
                        let counted = b.select(flag, one, zero);
                        let next = match swapped {
                            false => b.binary(op, carried[0], x),
                            true => b.binary(op, x, carried[0]),
                        };
                        let add = if ty.is_float() { BinaryOp::FAdd } else { BinaryOp::Add };
                        vec![next, b.binary(add, carried[1], counted)]
                    });
                    b.store(last[0], output, 0);
                    b.store(last[1], output, 16);
                });
                let (module, id) = one(function);
                assert_eq!(has_lanes(&module, id), fits, "{op:?} {ty} {swapped}");
                // Numbers whose sums and products are exact in any order.
                let mut input = vec![0u128; 128 * 6];
                let number = LANE_TYPES.iter().position(|&other| other == ty).unwrap();
                let mut bytes = Vec::new();
                for step in 0..128i64 {
                    let small = match op {
                        BinaryOp::FMul => [1, 2, -1, 1, 1, 1, 1, 1][(step % 8) as usize],
                        _ => step * 7 % 23 - 9,
                    };
                    let bits = match ty {
                        Type::F32 => u128::from((small as f32).to_bits()),
                        Type::F64 => u128::from((small as f64).to_bits()),
                        _ => eval::from_signed(ty, i128::from(small)),
                    };
                    bytes.extend_from_slice(&bits.to_le_bytes()[..ty.bytes() as usize]);
                }
                for (n, chunk) in bytes.chunks(16).enumerate() {
                    input[number * 128 + n] = u128::from_le_bytes(chunk.try_into().unwrap());
                }
                for range in [(0, 128), (0, 0), (5, 6), (2, 99), (0, 35)] {
                    same(&module, id, &input, 2, range);
                }
            }
        }
    }
}

#[test]
fn a_known_number_of_steps_leaves_no_serial_rest() {
    for steps in [4, 8, 12, 20, 21] {
        let function = pipeline("known", |b, input, output| {
            let (zero, end) = (b.iconst(Type::I64, 0), b.iconst(Type::I64, steps));
            b.for_loop(LoopKind::Vector(0), zero, end, 1, &[], |b, i, _| {
                let place = b.offset(input, i, 4, 0);
                let x = b.load(Type::F32, place, 0);
                let y = b.fmul(x, x);
                let place = b.offset(output, i, 4, 0);
                b.store(y, place, 0);
                Vec::new()
            });
        });
        let (module, id) = one(function);
        let options = Options { keep_text: true, ..Options::default() };
        let code = CpuBackend::shared().unwrap().compile(&module, &options).unwrap();
        let text = &code.text(id).backend;
        let scalar_rest = text.contains("load.f32 ");
        assert_eq!(scalar_rest, steps % 4 != 0, "{text}");
        let input: Vec<u128> = (0..8).map(|n| u128::from(((n * n) as f32).to_bits()) << 32).collect();
        same(&module, id, &input, 8, (0, 0));
    }
}

#[test]
fn loops_that_do_not_fit_run_serially() {
    // A carried value that is not a reduction, a strided load, a store in one place, a trap.
    let function = pipeline("serial", |b, input, output| {
        let (begin, end) = (b.param(2), b.param(3));
        let zero = b.iconst(Type::I64, 0);
        let last = b.for_loop(LoopKind::Vector(0), begin, end, 1, &[zero], |b, i, carried| {
            let x = b.add(carried[0], i);
            let y = b.mul(x, x);
            vec![b.add(y, x)]
        });
        b.store(last[0], output, 0);
        let sum = b.for_loop(LoopKind::Vector(0), begin, end, 1, &[zero], |b, i, carried| {
            let place = b.offset(input, i, 16, 0);
            let x = b.load(Type::I64, place, 0);
            vec![b.add(carried[0], x)]
        });
        b.store(sum[0], output, 16);
        b.for_loop(LoopKind::Vector(0), begin, end, 1, &[], |b, i, _| {
            let big = b.icmp_imm(Cmp::Gt, i, 90);
            b.trap_if(big, TrapCode::OutOfRange, 5);
            b.store(i, output, 32);
            Vec::new()
        });
    });
    let (module, id) = one(function);
    assert!(!has_lanes(&module, id));
    let input: Vec<u128> = (0..128).collect();
    for range in [(0, 50), (0, 0), (80, 100)] {
        same(&module, id, &input, 4, range);
    }
}

/// A random body of a vector loop over the columns.
fn random_lanes(seed: u64) -> Function {
    let mut random = Random(seed.wrapping_mul(2) | 1);
    pipeline("lanes", |b, input, output| {
        let (begin, end) = (b.param(2), b.param(3));
        let zero = b.iconst(Type::I64, 0);
        let false_flag = b.bool_const(false);
        let kind = LoopKind::Vector(random.pick(&[0, 0, 4, 16]));
        let last = b.for_loop(kind, begin, end, 1, &[zero, false_flag], |b, i, carried| {
            let mut values = vec![i, begin];
            for _ in 0..2 + random.below(3) {
                let ty = random.pick(&LANE_TYPES);
                let column = column(b, input, ty);
                let place = b.offset(column, i, i64::from(ty.bytes()), 0);
                values.push(b.load(ty, place, 0));
            }
            let mut flags = Vec::new();
            for _ in 0..random.below(14) {
                let x = values[random.below(values.len())];
                let ty = b.ty(x);
                let same: Vec<Value> = values.iter().copied().filter(|&v| b.ty(v) == ty).collect();
                let y = random.pick(&same);
                let made = match random.below(6) {
                    0 | 1 if ty.is_float() => {
                        let op = random.pick(&[BinaryOp::FAdd, BinaryOp::FMul, BinaryOp::FMin, BinaryOp::FSub]);
                        b.binary(op, x, y)
                    }
                    0 | 1 => {
                        let op = random.pick(&[BinaryOp::Add, BinaryOp::Sub, BinaryOp::Xor, BinaryOp::SMax]);
                        b.binary(op, x, y)
                    }
                    2 => {
                        let to = random.pick(&LANE_TYPES);
                        let op = [
                            ConvertOp::SignExtend,
                            ConvertOp::Truncate,
                            ConvertOp::IntToFloat,
                            ConvertOp::Promote,
                            ConvertOp::Demote,
                        ]
                        .into_iter()
                        .find(|&op| eval::convertible(op, ty, to));
                        match op {
                            Some(op) => b.convert(op, x, to),
                            None => x,
                        }
                    }
                    3 => {
                        let flag = b.compare(Cmp::Le, x, y);
                        flags.push(flag);
                        flag
                    }
                    4 if flags.len() > 1 => {
                        let (f, g) = (random.pick(&flags), random.pick(&flags));
                        let op = random.pick(&[BinaryOp::And, BinaryOp::Or, BinaryOp::Xor]);
                        let flag = b.binary(op, f, g);
                        flags.push(flag);
                        flag
                    }
                    _ if !flags.is_empty() => {
                        let flag = random.pick(&flags);
                        b.select(flag, x, y)
                    }
                    _ => x,
                };
                values.push(made);
            }
            for (number, &value) in values.iter().rev().take(3).enumerate() {
                let ty = b.ty(value);
                let value = if ty.is_float() {
                    let nan = b.fconst(ty, f64::NAN);
                    let unordered = b.fcmp(Cmp::Ne, value, value);
                    b.select(unordered, nan, value)
                } else {
                    value
                };
                let column = b.displace(output, number as i64 * 16 * 128 + 16);
                let place = b.offset(column, i, i64::from(ty.bytes()), 0);
                b.store(value, place, 0);
            }
            let whole: Vec<Value> = values.iter().copied().filter(|&v| b.ty(v) == Type::I64).collect();
            let whole = random.pick(&whole);
            let flag = flags.last().copied().unwrap_or(false_flag);
            vec![b.add(carried[0], whole), b.or(carried[1], flag)]
        });
        b.store(last[0], output, 0);
        b.store(last[1], output, 8);
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_vector_loops_run_the_same(seed in 0u64..1 << 40, begin in 0i64..20, steps in 0i64..108) {
        let (module, id) = one(random_lanes(seed));
        same(&module, id, &columns(seed), 128 * 4, (begin, begin + steps));
    }
}

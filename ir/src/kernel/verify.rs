//! Checks that a function or a module is well formed. What holds afterwards:
//!
//! 1. Every operand is a constant, or defined earlier in its region or in a region around it.
//! 2. Every op has operands of the types that it takes, and results of the types that it makes.
//! 3. Every region belongs to one instruction (the body to the function), and yields what that instruction hands on: an `if` and
//!    a `switch` the same types from each region, loops their carried types, the body the function's result.
//! 4. `trap_if` and `fail_if` stand only in functions with a worker block, whose result is I32; `return_if` gives the result's type.
//! 5. I128 is in no signature.
//! 6. A `for` has a positive step, a `switch` distinct cases.
//! 7. In a module every declared function has a body of the declared signature, and calls name its functions.

use super::{
    BinaryOp, CheckedOp, Cmp, ConvertOp, Definition, Function, Inst, Module, Op, Region, Signature, Type, UnaryOp,
    Value, eval, runtime_params, runtime_result,
};

/// A mistake in a function of the kernel level: always a bug of the program that built it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kernel function `{function}`: {mistake} (this is a bug in lowering)")]
pub struct KernelError {
    function: String,
    mistake: String,
}

impl KernelError {
    pub(crate) fn new(function: &str, mistake: impl Into<String>) -> KernelError {
        KernelError { function: function.to_string(), mistake: mistake.into() }
    }
}

type Check = Result<(), String>;

/// Checks every function of a module, and that all declared ones are there.
///
/// # Errors
/// The first mistake.
pub fn verify_module(module: &Module) -> Result<(), KernelError> {
    for id in module.ids() {
        let name = module.name(id);
        let Some(function) = module.function(id) else {
            return Err(KernelError::new(name, "declared, but not defined"));
        };
        if *function.signature != *module.signature(id) {
            return Err(KernelError::new(name, "defined with another signature"));
        }
        verify_function(function)?;
        for inst in &function.insts {
            if let Op::Call(callee, _) = &inst.op {
                let known = callee.id().index() < module.len() && module.signature(callee.id()) == callee.signature();
                if !known {
                    return Err(KernelError::new(name, "calls a function of another module"));
                }
            }
        }
    }
    Ok(())
}

/// Checks one function; calls are checked against the signatures that they carry.
///
/// # Errors
/// The first mistake.
pub fn verify_function(function: &Function) -> Result<(), KernelError> {
    let mut verifier = Verifier {
        function,
        visible: vec![false; function.value_count()],
        entered: vec![false; function.regions.len()],
    };
    verifier.check().map_err(|mistake| KernelError::new(&function.name, mistake))
}

struct Verifier<'a> {
    function: &'a Function,
    /// Values that may be used at the place being checked.
    visible: Vec<bool>,
    entered: Vec<bool>,
}

impl Verifier<'_> {
    fn check(&mut self) -> Check {
        let signature = &*self.function.signature;
        check_signature(signature)?;
        for index in 0..self.function.value_count() {
            let value = Value::new(index);
            if matches!(self.function.definition(value), Definition::Constant(_)) {
                self.visible[index] = true;
            }
        }
        let expected: Vec<Type> = signature.result.into_iter().collect();
        self.region(self.function.body(), &signature.params, &expected)
    }

    /// Checks a region that takes and yields values of the given types.
    fn region(&mut self, region: Region, params: &[Type], yields: &[Type]) -> Check {
        if std::mem::replace(&mut self.entered[region.index()], true) {
            return Err("a region belongs to two instructions".to_string());
        }
        let data = self.function.region(region);
        self.expect_types("region parameters", &data.params, params)?;
        let mut defined: Vec<Value> = data.params.clone();
        self.show(&data.params);
        for &inst in &data.insts {
            self.inst(inst).map_err(|mistake| format!("{}: {mistake}", self.describe(inst)))?;
            let results = &self.function.inst(inst).results;
            defined.extend(results);
            self.show(results);
        }
        for &value in &data.yields {
            self.usable(value)?;
        }
        self.expect_types("values yielded", &data.yields, yields)?;
        for value in defined {
            self.visible[value.index()] = false;
        }
        Ok(())
    }

    fn describe(&self, inst: Inst) -> String {
        super::print::inst_text(self.function, inst)
    }

    fn show(&mut self, values: &[Value]) {
        for value in values {
            self.visible[value.index()] = true;
        }
    }

    fn usable(&self, value: Value) -> Check {
        match self.visible.get(value.index()) {
            Some(true) => Ok(()),
            _ => Err(format!("value {} is not defined here", value.index())),
        }
    }

    fn expect_types(&self, what: &str, values: &[Value], expected: &[Type]) -> Check {
        let found: Vec<Type> = values.iter().map(|&v| self.function.ty(v)).collect();
        if found == expected { Ok(()) } else { Err(format!("{what} have types {found:?}, expected {expected:?}")) }
    }

    fn expect(&self, what: &str, value: Value, expected: Type) -> Check {
        let found = self.function.ty(value);
        if found == expected { Ok(()) } else { Err(format!("{what} is {found}, expected {expected}")) }
    }

    fn types(&self, values: &[Value]) -> Vec<Type> {
        values.iter().map(|&v| self.function.ty(v)).collect()
    }

    fn inst(&mut self, inst: Inst) -> Check {
        let function = self.function;
        let data = function.inst(inst);
        let mut used = Ok(());
        data.op.each_operand(|value| {
            if used.is_ok() {
                used = self.usable(value);
            }
        });
        used?;
        let results = self.results_of(&data.op)?;
        self.expect_types("results", &data.results, &results)
    }

    /// Checks operands and regions, and gives the result types.
    fn results_of(&mut self, op: &Op) -> Result<Vec<Type>, String> {
        let function = self.function;
        let ty = |value: Value| function.ty(value);
        match op {
            Op::Unary(unary, a) => {
                check_unary(*unary, ty(*a))?;
                Ok(vec![ty(*a)])
            }
            Op::Binary(binary, a, b) => {
                check_binary(*binary, ty(*a), ty(*b))?;
                Ok(vec![ty(*a)])
            }
            Op::Checked(CheckedOp::Add | CheckedOp::Sub | CheckedOp::Mul, a, b) => {
                if !matches!(ty(*a), Type::I32 | Type::I64 | Type::I128) {
                    return Err(format!("no checked arithmetic on {}", ty(*a)));
                }
                self.expect("second operand", *b, ty(*a))?;
                Ok(vec![ty(*a), Type::I8])
            }
            Op::Fma(a, b, c) => {
                if !ty(*a).is_float() {
                    return Err(format!("no fma on {}", ty(*a)));
                }
                self.expect("second operand", *b, ty(*a))?;
                self.expect("third operand", *c, ty(*a))?;
                Ok(vec![ty(*a)])
            }
            Op::Compare(cmp, a, b) => {
                self.expect("second operand", *b, ty(*a))?;
                check_compare(*cmp, ty(*a))?;
                Ok(vec![Type::I8])
            }
            Op::Select(condition, a, b) => {
                self.expect("condition", *condition, Type::I8)?;
                self.expect("third operand", *b, ty(*a))?;
                Ok(vec![ty(*a)])
            }
            Op::Convert(convert, a, to) => {
                check_convert(*convert, ty(*a), *to)?;
                Ok(vec![*to])
            }
            Op::Concat64(lo, hi) => {
                self.expect("low half", *lo, Type::I64)?;
                self.expect("high half", *hi, Type::I64)?;
                Ok(vec![Type::I128])
            }
            Op::Offset { base, index, .. } => {
                self.expect("base", *base, Type::Ptr)?;
                self.expect("index", *index, Type::I64)?;
                Ok(vec![Type::Ptr])
            }
            Op::Load { ty, pointer, .. } => {
                self.expect("address", *pointer, Type::Ptr)?;
                Ok(vec![*ty])
            }
            Op::Store { pointer, .. } => {
                self.expect("address", *pointer, Type::Ptr)?;
                Ok(Vec::new())
            }
            Op::CallRuntime(callee, args) => {
                self.expect_types("arguments", args, &runtime_params(*callee))?;
                Ok(runtime_result(*callee).into_iter().collect())
            }
            Op::Call(callee, args) => {
                self.expect_types("arguments", args, &callee.signature().params)?;
                Ok(callee.signature().result.into_iter().collect())
            }
            Op::TrapIf { condition, .. } => {
                self.trap(*condition)?;
                Ok(Vec::new())
            }
            Op::FailIf { condition, status, .. } => {
                self.trap(*condition)?;
                if let Some(status) = status {
                    self.expect("status", *status, Type::I32)?;
                }
                Ok(Vec::new())
            }
            Op::ReturnIf { condition, value } => {
                self.expect("condition", *condition, Type::I8)?;
                match function.signature.result {
                    Some(result) => self.expect("result", *value, result)?,
                    None => return Err("the function has no result".to_string()),
                }
                Ok(Vec::new())
            }
            Op::If { condition, then_region, else_region } => {
                self.expect("condition", *condition, Type::I8)?;
                let types = self.types(&function.region(*then_region).yields);
                self.region(*then_region, &[], &types)?;
                self.region(*else_region, &[], &types)?;
                Ok(types)
            }
            Op::Switch { selector, cases, default } => {
                check_cases(ty(*selector), cases)?;
                let types = self.types(&function.region(*default).yields);
                for (_, region) in cases {
                    self.region(*region, &[], &types)?;
                }
                self.region(*default, &[], &types)?;
                Ok(types)
            }
            Op::For { begin, end, step, init, body, .. } => {
                self.expect("begin", *begin, Type::I64)?;
                self.expect("end", *end, Type::I64)?;
                if *step <= 0 {
                    return Err("the step is not positive".to_string());
                }
                let types = self.types(init);
                let mut params = vec![Type::I64];
                params.extend(&types);
                self.region(*body, &params, &types)?;
                Ok(types)
            }
            Op::While { init, body } => {
                let types = self.types(init);
                let mut yields = vec![Type::I8];
                yields.extend(&types);
                self.region(*body, &types, &yields)?;
                Ok(types)
            }
        }
    }

    /// What stops the function under a condition writes into the worker's block.
    fn trap(&self, condition: Value) -> Check {
        self.expect("condition", condition, Type::I8)?;
        match self.function.signature.worker {
            Some(_) => Ok(()),
            None => Err("a trap in a function without a worker block".to_string()),
        }
    }
}

/// The values of a switch are distinct numbers of its selector's type.
fn check_cases(selector: Type, cases: &[(i64, Region)]) -> Check {
    if !selector.is_int() || selector == Type::I128 {
        return Err(format!("no switch on {selector}"));
    }
    let mut values: Vec<i64> = cases.iter().map(|case| case.0).collect();
    values.sort_unstable();
    if values.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("two cases of one value".to_string());
    }
    let fits = |value: i128| eval::signed(selector, eval::from_signed(selector, value)) == value;
    if let Some(value) = values.iter().find(|&&value| !fits(i128::from(value))) {
        return Err(format!("case {value} does not fit {selector}"));
    }
    Ok(())
}

fn check_signature(signature: &Signature) -> Check {
    if signature.params.contains(&Type::I128) || signature.result == Some(Type::I128) {
        return Err("i128 in a signature".to_string());
    }
    if let Some(worker) = signature.worker {
        if signature.params.get(worker) != Some(&Type::Ptr) {
            return Err("the worker block is not a pointer parameter".to_string());
        }
        if signature.result != Some(Type::I32) {
            return Err("a function with a worker block returns a status (i32)".to_string());
        }
    }
    Ok(())
}

fn check_unary(op: UnaryOp, ty: Type) -> Check {
    let fits = match op {
        UnaryOp::Neg | UnaryOp::Not => ty.is_int(),
        UnaryOp::PopCount => ty == Type::I64,
        UnaryOp::FNeg
        | UnaryOp::FAbs
        | UnaryOp::FSqrt
        | UnaryOp::FFloor
        | UnaryOp::FCeil
        | UnaryOp::FTrunc
        | UnaryOp::FNearest => ty.is_float(),
    };
    if fits { Ok(()) } else { Err(format!("no {op:?} on {ty}")) }
}

fn check_binary(op: BinaryOp, a: Type, b: Type) -> Check {
    let fits = match op {
        BinaryOp::Shl | BinaryOp::SShr | BinaryOp::UShr => {
            return if a.is_int() && b.is_int() && b != Type::I128 {
                Ok(())
            } else {
                Err(format!("no shift of {a} by {b}"))
            };
        }
        BinaryOp::Rotl => {
            return if matches!(a, Type::I32 | Type::I64) && b.is_int() && b != Type::I128 {
                Ok(())
            } else {
                Err(format!("no rotation of {a} by {b}"))
            };
        }
        BinaryOp::UMulHi => a == Type::I64,
        BinaryOp::Add
        | BinaryOp::Sub
        | BinaryOp::Mul
        | BinaryOp::SDiv
        | BinaryOp::SRem
        | BinaryOp::And
        | BinaryOp::Or
        | BinaryOp::Xor
        | BinaryOp::SMin
        | BinaryOp::SMax => a.is_int(),
        BinaryOp::FAdd | BinaryOp::FSub | BinaryOp::FMul | BinaryOp::FDiv | BinaryOp::FMin | BinaryOp::FMax => {
            a.is_float()
        }
    };
    if fits && a == b { Ok(()) } else { Err(format!("no {op:?} of {a} and {b}")) }
}

fn check_compare(cmp: Cmp, ty: Type) -> Check {
    if eval::compare(cmp, ty, 0, 0).is_some() { Ok(()) } else { Err(format!("no comparison {cmp:?} on {ty}")) }
}

fn check_convert(op: ConvertOp, from: Type, to: Type) -> Check {
    if eval::convertible(op, from, to) { Ok(()) } else { Err(format!("no {op:?} from {from} to {to}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Builder, LoopKind, RuntimeFn, TrapCode};
    use std::sync::Arc;

    /// The mistake that is found in a function with these parameters.
    fn mistake(params: &[Type], build: impl FnOnce(&mut Builder, Vec<Value>)) -> String {
        let mut b = Builder::new("wrong", Signature::new(params, None));
        let values = (0..params.len()).map(|n| b.param(n)).collect();
        build(&mut b, values);
        match b.finish(None) {
            Ok(function) => panic!("no mistake was found in {function}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn each_kind_of_op_has_its_types() {
        let (i32, i64, f64, ptr, i8) = (Type::I32, Type::I64, Type::F64, Type::Ptr, Type::I8);
        type Make = fn(&mut Builder, Vec<Value>) -> Option<Value>;
        let cases: &[(&[Type], Make, &str)] = &[
            (&[i32, i64], |b, v| Some(b.add(v[0], v[1])), "no Add of i32 and i64"),
            (&[f64, f64], |b, v| Some(b.add(v[0], v[1])), "no Add of f64 and f64"),
            (&[i32, i32], |b, v| Some(b.fadd(v[0], v[1])), "no FAdd of i32 and i32"),
            (&[i32, f64], |b, v| Some(b.shl(v[0], v[1])), "no shift of i32 by f64"),
            (&[i8], |b, v| Some(b.rotl(v[0], v[0])), "no rotation of i8 by i8"),
            (&[i32], |b, v| Some(b.umulhi(v[0], v[0])), "no UMulHi of i32 and i32"),
            (&[i32], |b, v| Some(b.pop_count(v[0])), "no PopCount on i32"),
            (&[i32], |b, v| Some(b.fneg(v[0])), "no FNeg on i32"),
            (&[i8], |b, v| Some(b.add_checked(v[0], v[0]).0), "no checked arithmetic on i8"),
            (&[i32], |b, v| Some(b.fma(v[0], v[0], v[0])), "no fma on i32"),
            (&[i32, i64], |b, v| Some(b.icmp(Cmp::Eq, v[0], v[1])), "second operand is i64, expected i32"),
            (&[ptr, ptr], |b, v| Some(b.icmp(Cmp::Lt, v[0], v[1])), "no comparison Lt on ptr"),
            (&[i32, i64, i64], |b, v| Some(b.select(v[0], v[1], v[2])), "condition is i32, expected i8"),
            (&[i64], |b, v| Some(b.sext(v[0], Type::I32)), "no SignExtend from i64 to i32"),
            (&[i64], |b, v| Some(b.bitcast(v[0], Type::F32)), "no Bitcast from i64 to f32"),
            (&[i64], |b, v| Some(b.load(Type::I64, v[0], 0)), "address is i64, expected ptr"),
            (
                &[i64, i64],
                |b, v| {
                    b.store(v[0], v[1], 0);
                    None
                },
                "address is i64, expected ptr",
            ),
            (&[ptr, i32], |b, v| Some(b.offset(v[0], v[1], 8, 0)), "index is i32, expected i64"),
            (&[i32], |b, v| Some(b.concat64(v[0], v[0])), "low half is i32, expected i64"),
            (&[i32], |b, v| b.call(RuntimeFn::TextHash, &[v[0]]), "arguments have types"),
            (
                &[i8],
                |b, v| {
                    b.trap_if(v[0], TrapCode::Overflow, 1);
                    None
                },
                "a trap in a function without a worker block",
            ),
            (
                &[i8],
                |b, v| {
                    b.return_if(v[0], v[0]);
                    None
                },
                "the function has no result",
            ),
        ];
        for (params, make, expected) in cases {
            let found = mistake(params, |b, values| {
                make(b, values);
            });
            assert!(found.contains(expected), "found: {found}, expected: {expected}");
        }
    }

    #[test]
    fn regions_yield_what_they_promise() {
        let found = mistake(&[Type::I64, Type::I8], |b, v| {
            let (x, c) = (v[0], v[1]);
            b.if_else(c, &[Type::I64], |_| vec![x], |_| vec![c]);
        });
        assert!(found.contains("values yielded have types"), "{found}");
        let found = mistake(&[Type::I64], |b, v| {
            b.for_loop(LoopKind::Serial, v[0], v[0], 1, &[v[0]], |_, _, _| Vec::new());
        });
        assert!(found.contains("values yielded have types"), "{found}");
        let found = mistake(&[Type::I64], |b, v| {
            b.for_loop(LoopKind::Serial, v[0], v[0], 0, &[], |_, _, _| Vec::new());
        });
        assert!(found.contains("the step is not positive"), "{found}");
        let found = mistake(&[Type::I64], |b, v| {
            b.while_loop(&[], |_, _| (v[0], Vec::new()));
        });
        assert!(found.contains("values yielded have types"), "{found}");
        let found = mistake(&[Type::I8], |b, v| {
            b.begin_switch(v[0], 3, &[]);
            b.begin_case(&[], 3);
            b.begin_default(&[]);
            b.end_switch(&[]);
        });
        assert!(found.contains("two cases of one value"), "{found}");
        let found = mistake(&[Type::I8], |b, v| {
            b.begin_switch(v[0], 300, &[]);
            b.begin_default(&[]);
            b.end_switch(&[]);
        });
        assert!(found.contains("case 300 does not fit i8"), "{found}");
    }

    #[test]
    fn signatures_have_no_wide_integers_and_a_worker_that_is_an_address() {
        for signature in [
            Signature::new(&[Type::I128], None),
            Signature::new(&[], Some(Type::I128)),
            Signature::new(&[Type::I64], Some(Type::I32)).with_worker(0),
            Signature::new(&[Type::Ptr], Some(Type::I64)).with_worker(0),
            Signature::new(&[Type::Ptr], Some(Type::I32)).with_worker(1),
        ] {
            let function = Function::empty("f", Arc::new(signature));
            assert!(verify_function(&function).is_err());
        }
    }

    #[test]
    fn a_module_knows_what_its_functions_call() {
        let mut other = Module::new();
        other.declare("first", Signature::new(&[], None));
        let far = other.declare("far", Signature::new(&[], None));
        let mut b = Builder::new("caller", Signature::new(&[], None));
        b.call_function(&far, &[]);
        let mut module = Module::new();
        module.add(b.finish(None).unwrap());
        let error = verify_module(&module).unwrap_err().to_string();
        assert!(error.contains("calls a function of another module"), "{error}");
    }
}

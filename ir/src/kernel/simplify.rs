//! Cleans functions after they were built, for builders that cannot know what will be used.
//!
//! What is done:
//! - Ops whose results nobody needs go, loop-carried values and results of branches included; so do loops and branches that are
//!   left with nothing to do.
//! - A branch on a constant becomes the region that it takes; a loop that runs no step becomes its initial values.
//! - The rest is built anew, so that folding, sharing and hoisting see what the steps above uncovered.
//!
//! Loads count as droppable, and a `while` loop without effects too, even if it would not end.

use super::{Builder, Definition, Function, Inst, KernelError, Module, Op, Region, Type, Value, eval};

/// Simplifies every function of a verified module.
///
/// # Errors
/// A mistake in a function, if the module was not verified.
pub fn simplify_module(module: &mut Module) -> Result<(), KernelError> {
    for id in module.ids() {
        if let Some(function) = module.function(id) {
            let simplified = simplify(function)?;
            module.replace(id, simplified);
        }
    }
    Ok(())
}

/// A function that does the same with fewer instructions.
///
/// # Errors
/// A mistake in the function, if it was not verified.
pub fn simplify(function: &Function) -> Result<Function, KernelError> {
    let live = Liveness::of(function);
    let mut builder = Builder::with_signature(&function.name, function.signature.clone());
    builder.set_opt_level(function.opt);
    let mut rebuild = Rebuild { function, live: &live, builder, values: vec![None; function.value_count()] };
    for (index, &param) in function.params().iter().enumerate() {
        rebuild.values[param.index()] = Some(rebuild.builder.param(index));
    }
    let results = rebuild.region(function.body(), None);
    rebuild.builder.finish(results.first().copied())
}

/// Which instructions and values matter.
struct Liveness<'a> {
    function: &'a Function,
    values: Vec<bool>,
    insts: Vec<bool>,
    /// The instruction that holds each region, and the region that holds each instruction.
    owner: Vec<Option<Inst>>,
    home: Vec<Option<Region>>,
    work: Vec<Value>,
}

impl<'a> Liveness<'a> {
    fn of(function: &'a Function) -> Self {
        let mut live = Liveness {
            function,
            values: vec![false; function.value_count()],
            insts: vec![false; function.arena().len()],
            owner: vec![None; function.regions.len()],
            home: vec![None; function.arena().len()],
            work: Vec::new(),
        };
        let mut effects = Vec::new();
        live.place(function.body(), &mut effects);
        live.need_all(&function.region(function.body()).yields);
        for inst in effects {
            live.need_inst(inst);
        }
        while let Some(value) = live.work.pop() {
            live.need_definition(value);
        }
        live
    }

    fn place(&mut self, region: Region, effects: &mut Vec<Inst>) {
        let function = self.function;
        for &inst in &function.region(region).insts {
            self.home[inst.index()] = Some(region);
            let op = &function.inst(inst).op;
            let mut holds_regions = false;
            op.each_region(|inner| {
                holds_regions = true;
                self.owner[inner.index()] = Some(inst);
                self.place(inner, effects);
            });
            if !holds_regions && !op.is_droppable() {
                effects.push(inst);
            }
        }
    }

    fn need(&mut self, value: Value) {
        if !std::mem::replace(&mut self.values[value.index()], true) {
            self.work.push(value);
        }
    }

    fn need_all(&mut self, values: &[Value]) {
        for &value in values {
            self.need(value);
        }
    }

    /// The instruction runs: so does what it stands in.
    fn need_inst(&mut self, inst: Inst) {
        if std::mem::replace(&mut self.insts[inst.index()], true) {
            return;
        }
        let function = self.function;
        match &function.inst(inst).op {
            Op::For { begin, end, .. } => self.need_all(&[*begin, *end]),
            Op::While { body, .. } => self.need(function.region(*body).yields[0]),
            op => op.each_operand(|value| self.need(value)),
        }
        let around = self.home[inst.index()].and_then(|region| self.owner[region.index()]);
        if let Some(around) = around {
            self.need_inst(around);
        }
    }

    fn need_definition(&mut self, value: Value) {
        let function = self.function;
        match function.definition(value) {
            Definition::Constant(_) => {}
            Definition::Parameter(region, number) => {
                if let Some(inst) = self.owner[region.index()] {
                    self.need_inst(inst);
                    self.need_carried(inst, number as usize, true);
                }
            }
            Definition::Result(inst, number) => {
                self.need_inst(inst);
                self.need_carried(inst, number as usize, false);
            }
        }
    }

    /// What feeds a parameter of the instruction's region, or a result of the instruction.
    fn need_carried(&mut self, inst: Inst, number: usize, parameter: bool) {
        let function = self.function;
        let mut regions = Vec::new();
        match &function.inst(inst).op {
            Op::For { init, body, .. } => {
                // Parameter 0 is the index.
                let number = match (parameter, number) {
                    (true, 0) => return,
                    (true, number) => number - 1,
                    (false, number) => number,
                };
                self.need_all(&[init[number], function.region(*body).yields[number]]);
            }
            Op::While { init, body } => {
                self.need_all(&[init[number], function.region(*body).yields[number + 1]]);
            }
            op => op.each_region(|region| regions.push(region)),
        }
        for region in regions {
            self.need(function.region(region).yields[number]);
        }
    }

    /// Which of a loop's carried values matter: those whose result, parameter or both do.
    fn carried(&self, results: &[Value], params: &[Value]) -> Vec<usize> {
        (0..results.len()).filter(|&n| self.values[results[n].index()] || self.values[params[n].index()]).collect()
    }
}

struct Rebuild<'a> {
    function: &'a Function,
    live: &'a Liveness<'a>,
    builder: Builder,
    /// The new value of each old one.
    values: Vec<Option<Value>>,
}

impl Rebuild<'_> {
    fn get(&mut self, value: Value) -> Value {
        if let Definition::Constant(bits) = self.function.definition(value) {
            return self.builder.constant(self.function.ty(value), bits);
        }
        self.values[value.index()].expect("a live value is defined before its use")
    }

    fn all(&mut self, values: &[Value]) -> Vec<Value> {
        values.iter().map(|&value| self.get(value)).collect()
    }

    fn define(&mut self, old: &[Value], new: &[Value]) {
        for (old, new) in old.iter().zip(new) {
            self.values[old.index()] = Some(*new);
        }
    }

    /// Builds what a region does; returns its yields, or those numbered in `only`.
    fn region(&mut self, region: Region, only: Option<&[usize]>) -> Vec<Value> {
        let function = self.function;
        let data = function.region(region);
        for &inst in &data.insts {
            if self.live.insts[inst.index()] {
                self.inst(inst);
            }
        }
        match only {
            None => self.all(&data.yields),
            Some(numbers) => numbers.iter().map(|&n| self.get(data.yields[n])).collect(),
        }
    }

    fn inst(&mut self, inst: Inst) {
        let function = self.function;
        let data = function.inst(inst);
        let results = &data.results;
        match &data.op {
            Op::If { condition, then_region, else_region } => {
                let wanted = self.wanted(results);
                let condition = self.get(*condition);
                if let Some(bits) = self.builder.constant_bits(condition) {
                    let taken = if bits != 0 { *then_region } else { *else_region };
                    let values = self.region(taken, Some(&wanted));
                    self.define(&pick(results, &wanted), &values);
                    return;
                }
                self.builder.begin_if(condition, &self.types(results, &wanted));
                let values = self.region(*then_region, Some(&wanted));
                self.builder.begin_else(&values);
                let values = self.region(*else_region, Some(&wanted));
                let values = self.builder.end_if(&values);
                self.define(&pick(results, &wanted), &values);
            }
            Op::Switch { selector, cases, default } => self.switch(*selector, cases, *default, results),
            Op::For { kind, begin, end, step, init, body } => {
                let params = &function.region(*body).params;
                let wanted = self.live.carried(results, &params[1..]);
                let old = pick(results, &wanted);
                let init = self.all(&pick(init, &wanted));
                let (begin, end) = (self.get(*begin), self.get(*end));
                if self.runs_never(begin, end) {
                    self.define(&old, &init);
                    return;
                }
                let inner = self.builder.begin_for(*kind, begin, end, *step, &init);
                self.define(&params[..1], &[inner.index]);
                self.define(&pick(&params[1..], &wanted), &inner.carried);
                let next = self.region(*body, Some(&wanted));
                let last = self.builder.end_for(&next);
                self.define(&old, &last);
            }
            Op::While { init, body } => {
                let region = function.region(*body);
                let wanted = self.live.carried(results, &region.params);
                let init = self.all(&pick(init, &wanted));
                let carried = self.builder.begin_while(&init);
                self.define(&pick(&region.params, &wanted), &carried);
                let shifted: Vec<usize> = std::iter::once(0).chain(wanted.iter().map(|&n| n + 1)).collect();
                let yields = self.region(*body, Some(&shifted));
                let last = self.builder.end_while(yields[0], &yields[1..]);
                self.define(&pick(results, &wanted), &last);
            }
            op => {
                let new = self.simple(op);
                self.define(results, &new);
            }
        }
    }

    /// The numbers of the results that matter.
    fn wanted(&self, results: &[Value]) -> Vec<usize> {
        (0..results.len()).filter(|&n| self.live.values[results[n].index()]).collect()
    }

    fn types(&self, results: &[Value], wanted: &[usize]) -> Vec<Type> {
        wanted.iter().map(|&n| self.function.ty(results[n])).collect()
    }

    fn runs_never(&self, begin: Value, end: Value) -> bool {
        match (self.builder.constant_bits(begin), self.builder.constant_bits(end)) {
            (Some(begin), Some(end)) => begin as u64 as i64 >= end as u64 as i64,
            _ => begin == end,
        }
    }

    fn switch(&mut self, selector: Value, cases: &[(i64, Region)], default: Region, results: &[Value]) {
        let wanted = self.wanted(results);
        let old = pick(results, &wanted);
        let ty = self.function.ty(selector);
        let selector = self.get(selector);
        if let Some(bits) = self.builder.constant_bits(selector) {
            let number = eval::signed(ty, bits);
            let taken = cases.iter().find(|case| i128::from(case.0) == number);
            let values = self.region(taken.map_or(default, |case| case.1), Some(&wanted));
            self.define(&old, &values);
            return;
        }
        let Some(((first, first_region), rest)) = cases.split_first() else {
            let values = self.region(default, Some(&wanted));
            self.define(&old, &values);
            return;
        };
        self.builder.begin_switch(selector, *first, &self.types(results, &wanted));
        let mut values = self.region(*first_region, Some(&wanted));
        for (value, region) in rest {
            self.builder.begin_case(&values, *value);
            values = self.region(*region, Some(&wanted));
        }
        self.builder.begin_default(&values);
        let values = self.region(default, Some(&wanted));
        let values = self.builder.end_switch(&values);
        self.define(&old, &values);
    }

    /// An op without regions, built anew.
    fn simple(&mut self, op: &Op) -> Vec<Value> {
        match op {
            Op::Unary(op, a) => {
                let a = self.get(*a);
                vec![self.builder.unary(*op, a)]
            }
            Op::Binary(op, a, b) => {
                let (a, b) = (self.get(*a), self.get(*b));
                vec![self.builder.binary(*op, a, b)]
            }
            Op::Checked(op, a, b) => {
                let (a, b) = (self.get(*a), self.get(*b));
                let (value, overflow) = self.builder.checked(*op, a, b);
                vec![value, overflow]
            }
            Op::Fma(a, b, c) => {
                let (a, b, c) = (self.get(*a), self.get(*b), self.get(*c));
                vec![self.builder.fma(a, b, c)]
            }
            Op::Compare(cmp, a, b) => {
                let (a, b) = (self.get(*a), self.get(*b));
                vec![self.builder.compare(*cmp, a, b)]
            }
            Op::Select(condition, a, b) => {
                let (condition, a, b) = (self.get(*condition), self.get(*a), self.get(*b));
                vec![self.builder.select(condition, a, b)]
            }
            Op::Convert(op, a, to) => {
                let a = self.get(*a);
                vec![self.builder.convert(*op, a, *to)]
            }
            Op::Concat64(lo, hi) => {
                let (lo, hi) = (self.get(*lo), self.get(*hi));
                vec![self.builder.concat64(lo, hi)]
            }
            Op::Offset { base, index, scale, displacement } => {
                let (base, index) = (self.get(*base), self.get(*index));
                vec![self.builder.offset(base, index, *scale, *displacement)]
            }
            Op::Load { ty, pointer, offset, flags } => {
                let pointer = self.get(*pointer);
                vec![self.builder.load_with(*ty, pointer, *offset, *flags)]
            }
            Op::CallRuntime(callee, args) => {
                let args = self.all(args);
                self.builder.call(*callee, &args).into_iter().collect()
            }
            Op::Call(callee, args) => {
                let args = self.all(args);
                let result = self.builder.call_function(callee, &args);
                result.into_iter().collect()
            }
            effect => {
                self.effect(effect);
                Vec::new()
            }
        }
    }

    /// An op without results.
    fn effect(&mut self, op: &Op) {
        match op {
            Op::Store { value, pointer, offset, flags } => {
                let (value, pointer) = (self.get(*value), self.get(*pointer));
                self.builder.store_with(value, pointer, *offset, *flags);
            }
            Op::TrapIf { condition, code, location } => {
                let condition = self.get(*condition);
                self.builder.trap_if(condition, *code, *location);
            }
            Op::FailIf { condition, status, location } => {
                let condition = self.get(*condition);
                let status = status.map(|status| self.get(status));
                self.builder.fail_if(condition, status, *location);
            }
            Op::ReturnIf { condition, value } => {
                let (condition, value) = (self.get(*condition), self.get(*value));
                self.builder.return_if(condition, value);
            }
            _ => {}
        }
    }
}

fn pick(values: &[Value], numbers: &[usize]) -> Vec<Value> {
    numbers.iter().map(|&n| values[n]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{LoopKind, Signature};
    use expect_test::expect;

    #[test]
    fn what_nobody_needs_goes() {
        let mut b = Builder::new("clean", Signature::pipeline());
        let (ctx, worker, begin, end) = (b.param(0), b.param(1), b.param(2), b.param(3));
        let column = b.load_always(Type::Ptr, ctx, 0);
        let unused = b.load_always(Type::Ptr, ctx, 8);
        let zero = b.iconst(Type::I64, 0);
        let yes = b.bool_const(true);
        let sums = b.for_loop(LoopKind::Serial, begin, end, 1, &[zero, zero, zero], |b, i, carried| {
            let place = b.offset(column, i, 8, 0);
            let x = b.load(Type::I64, place, 0);
            let other = b.offset(unused, i, 8, 0);
            let y = b.load(Type::I64, other, 0);
            let kept = b.if_else(yes, &[Type::I64, Type::I64], |b| vec![b.mul(x, x), b.mul(y, y)], |_| vec![x, y]);
            vec![b.add(carried[0], kept[0]), b.add(carried[1], kept[1]), b.add(carried[2], carried[1])]
        });
        let never = b.for_loop(LoopKind::Serial, zero, zero, 1, &[sums[0]], |b, i, c| vec![b.add(c[0], i)]);
        b.store(never[0], worker, 64);
        let ok = b.iconst(Type::I32, 0);
        let function = b.finish(Some(ok)).unwrap();
        let simplified = simplify(&function).unwrap();
        expect![[r#"
            func @clean(%0: ptr, %1: ptr worker, %2: i64, %3: i64) -> i32 {
              %4 = load.ptr always aligned [%0]
              for serial %2 .. %3 step 1 at %5 carry (%6: i64 = 0:i64) {
                %7 = offset %4 + %5 * 8
                %8 = load.i64 [%7]
                %9 = mul.i64 %8, %8
                %10 = add.i64 %6, %9
                yield %10
              } -> %11: i64
              store.i64 %11, [%1 + 64]
              return 0:i32
            }
        "#]]
        .assert_eq(&simplified.to_string());
    }
}

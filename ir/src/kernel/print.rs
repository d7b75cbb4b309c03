//! Kernel text. Values are numbered in the order in which the text defines them, so that the same program prints the same text
//! whatever built it; constants print as themselves.

use super::{
    BinaryOp, CheckedOp, Cmp, ConvertOp, Definition, Function, Inst, LoopKind, MemFlags, Module, Op, Region, Type,
    UnaryOp, Value, eval,
};
use std::collections::HashMap;
use std::fmt::{self, Display, Write};

impl Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, id) in self.ids().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            match self.function(id) {
                Some(function) => write!(f, "{function}")?,
                None => writeln!(f, "func @{} (not defined)", self.name(id))?,
            }
        }
        Ok(())
    }
}

impl Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printer = Printer::new(self);
        printer.function();
        f.write_str(&printer.text)
    }
}

/// One instruction alone, with the arena's value numbers.
pub(crate) fn inst_text(function: &Function, inst: Inst) -> String {
    let mut printer = Printer::new(function);
    printer.shallow = true;
    printer.inst(inst, 0);
    printer.text.trim().to_string()
}

struct Printer<'a> {
    function: &'a Function,
    text: String,
    numbers: HashMap<Value, usize>,
    /// Regions are left out, and numbers are those of the arena.
    shallow: bool,
}

impl<'a> Printer<'a> {
    fn new(function: &'a Function) -> Self {
        Printer { function, text: String::new(), numbers: HashMap::new(), shallow: false }
    }

    fn function(&mut self) {
        let signature = &self.function.signature;
        let params: Vec<String> = self
            .function
            .params()
            .iter()
            .enumerate()
            .map(|(index, &value)| {
                let note = if signature.worker == Some(index) { " worker" } else { "" };
                format!("{}: {}{note}", self.define(value), self.function.ty(value))
            })
            .collect();
        self.push(&format!("func @{}({})", self.function.name, params.join(", ")));
        if let Some(result) = signature.result {
            self.push(&format!(" -> {result}"));
        }
        self.push(" {\n");
        self.region_body(self.function.body(), 1, "return");
        self.push("}\n");
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn line(&mut self, indent: usize, text: &str) {
        for _ in 0..indent {
            self.text.push_str("  ");
        }
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn define(&mut self, value: Value) -> String {
        if self.shallow {
            return format!("%v{}", value.index());
        }
        let number = self.numbers.len();
        self.numbers.insert(value, number);
        format!("%{number}")
    }

    fn value(&self, value: Value) -> String {
        if let Definition::Constant(bits) = self.function.definition(value) {
            return constant_text(self.function.ty(value), bits);
        }
        match self.numbers.get(&value) {
            Some(number) => format!("%{number}"),
            None => format!("%v{}", value.index()),
        }
    }

    fn list(&self, values: &[Value]) -> String {
        let texts: Vec<String> = values.iter().map(|&value| self.value(value)).collect();
        texts.join(", ")
    }

    fn region_body(&mut self, region: Region, indent: usize, last: &str) {
        let data = self.function.region(region);
        for &inst in &data.insts {
            self.inst(inst, indent);
        }
        if !data.yields.is_empty() {
            let text = format!("{last} {}", self.list(&data.yields));
            self.line(indent, &text);
        }
    }

    fn inst(&mut self, inst: Inst, indent: usize) {
        let data = self.function.inst(inst);
        let operation = self.operation(&data.op);
        if !has_regions(&data.op) || self.shallow {
            let results: Vec<String> = data.results.iter().map(|&v| self.define(v)).collect();
            let text = join_results(&results, &operation);
            self.line(indent, &text);
            return;
        }
        // The results are numbered after what stands inside, in the order of definition; they are printed at the end.
        match &data.op {
            Op::If { then_region, else_region, .. } => {
                self.line(indent, &format!("{operation} {{"));
                self.region_body(*then_region, indent + 1, "yield");
                let other = self.function.region(*else_region);
                if !other.insts.is_empty() || !other.yields.is_empty() {
                    self.line(indent, "} else {");
                    self.region_body(*else_region, indent + 1, "yield");
                }
            }
            Op::Switch { cases, default, .. } => {
                self.line(indent, &format!("{operation} {{"));
                for (value, region) in cases {
                    self.line(indent, &format!("case {value}:"));
                    self.region_body(*region, indent + 1, "yield");
                }
                self.line(indent, "default:");
                self.region_body(*default, indent + 1, "yield");
            }
            Op::For { init, body, .. } => {
                let params = &self.function.region(*body).params;
                let index = self.define(params[0]);
                let carried = self.carried(&params[1..], init);
                self.line(indent, &format!("{operation} at {index}{carried} {{"));
                self.region_body(*body, indent + 1, "yield");
            }
            Op::While { init, body } => {
                let params = &self.function.region(*body).params;
                let carried = self.carried(params, init);
                self.line(indent, &format!("{operation}{carried} {{"));
                self.region_body(*body, indent + 1, "yield");
            }
            _ => {}
        }
        let results: Vec<String> =
            data.results.iter().map(|&v| format!("{}: {}", self.define(v), self.function.ty(v))).collect();
        if results.is_empty() {
            self.line(indent, "}");
        } else {
            self.line(indent, &format!("}} -> {}", results.join(", ")));
        }
    }

    fn carried(&mut self, params: &[Value], init: &[Value]) -> String {
        if params.is_empty() {
            return String::new();
        }
        let init: Vec<String> = init.iter().map(|&value| self.value(value)).collect();
        let pairs: Vec<String> = params
            .iter()
            .zip(init)
            .map(|(&param, init)| {
                let ty = self.function.ty(param);
                format!("{}: {ty} = {init}", self.define(param))
            })
            .collect();
        format!(" carry ({})", pairs.join(", "))
    }

    /// The op with its operands, without regions.
    fn operation(&self, op: &Op) -> String {
        let ty = |value: Value| self.function.ty(value);
        match op {
            Op::Unary(unary, a) => format!("{}.{} {}", unary_name(*unary), ty(*a), self.value(*a)),
            Op::Binary(binary, a, b) => {
                let text = self.list(&[*a, *b]);
                format!("{}.{} {text}", binary_name(*binary), ty(*a))
            }
            Op::Checked(checked, a, b) => {
                let name = match checked {
                    CheckedOp::Add => "add",
                    CheckedOp::Sub => "sub",
                    CheckedOp::Mul => "mul",
                };
                format!("{name}_checked.{} {}", ty(*a), self.list(&[*a, *b]))
            }
            Op::Fma(a, b, c) => format!("fma.{} {}", ty(*a), self.list(&[*a, *b, *c])),
            Op::Compare(cmp, a, b) => {
                format!("{}.{} {}", cmp_name(*cmp), ty(*a), self.list(&[*a, *b]))
            }
            Op::Select(condition, a, b) => {
                format!("select.{} {}", ty(*a), self.list(&[*condition, *a, *b]))
            }
            Op::Convert(convert, a, to) => {
                let name = convert_name(*convert);
                format!("{name}.{}.{to} {}", ty(*a), self.value(*a))
            }
            Op::Concat64(lo, hi) => format!("concat64 {}", self.list(&[*lo, *hi])),
            Op::Offset { base, index, scale, displacement } => {
                let mut text = format!("offset {}", self.value(*base));
                if *scale != 0 {
                    let _ = write!(text, " + {} * {scale}", self.value(*index));
                }
                if *displacement != 0 {
                    let _ = write!(text, " + {displacement}");
                }
                text
            }
            Op::Load { ty, pointer, offset, flags } => {
                format!("load.{ty}{} {}", flags_text(*flags), self.place(*pointer, *offset))
            }
            Op::Store { value, pointer, offset, flags } => format!(
                "store.{}{} {}, {}",
                ty(*value),
                flags_text(*flags),
                self.value(*value),
                self.place(*pointer, *offset)
            ),
            Op::CallRuntime(callee, args) => {
                format!("call runtime {}({})", callee.name(), self.list(args))
            }
            Op::Call(callee, args) => {
                format!("call #{}({})", callee.id().index(), self.list(args))
            }
            Op::TrapIf { condition, code, location } => {
                format!("trap_if {}, {code:?}, at {location}", self.value(*condition))
            }
            Op::FailIf { condition, status, location } => {
                let status = status.map_or(String::new(), |status| format!(", status {}", self.value(status)));
                format!("fail_if {}{status}, at {location}", self.value(*condition))
            }
            Op::ReturnIf { condition, value } => {
                format!("return_if {}", self.list(&[*condition, *value]))
            }
            Op::If { condition, .. } => format!("if {}", self.value(*condition)),
            Op::Switch { selector, .. } => {
                format!("switch.{} {}", ty(*selector), self.value(*selector))
            }
            Op::For { kind, begin, end, step, .. } => {
                let kind = match kind {
                    LoopKind::Serial => "serial".to_string(),
                    LoopKind::Vector(0) => "vector".to_string(),
                    LoopKind::Vector(lanes) => format!("vector({lanes})"),
                    LoopKind::Unrolled(times) => format!("unrolled({times})"),
                };
                let (begin, end) = (self.value(*begin), self.value(*end));
                format!("for {kind} {begin} .. {end} step {step}")
            }
            Op::While { .. } => "while".to_string(),
        }
    }

    fn place(&self, pointer: Value, offset: i32) -> String {
        match offset {
            0 => format!("[{}]", self.value(pointer)),
            _ => format!("[{} + {offset}]", self.value(pointer)),
        }
    }
}

fn has_regions(op: &Op) -> bool {
    let mut found = false;
    op.each_region(|_| found = true);
    found
}

fn join_results(results: &[String], operation: &str) -> String {
    if results.is_empty() { operation.to_string() } else { format!("{} = {operation}", results.join(", ")) }
}

/// A constant as it prints: `5:i64`, `1.5:f64`, `0x1f:ptr`.
fn constant_text(ty: Type, bits: u128) -> String {
    match ty {
        Type::F32 => format!("{:?}:f32", f32::from_bits(bits as u32)),
        Type::F64 => format!("{:?}:f64", f64::from_bits(bits as u64)),
        Type::Ptr => format!("{bits:#x}:ptr"),
        _ => format!("{}:{ty}", eval::signed(ty, bits)),
    }
}

fn flags_text(flags: MemFlags) -> String {
    let mut text = String::new();
    if flags.always {
        text.push_str(" always");
    } else if flags.readonly {
        text.push_str(" readonly");
    }
    if flags.aligned {
        text.push_str(" aligned");
    }
    text
}

pub(crate) fn unary_name(op: UnaryOp) -> &'static str {
    match op {
        UnaryOp::Neg => "neg",
        UnaryOp::Not => "not",
        UnaryOp::PopCount => "popcount",
        UnaryOp::FNeg => "fneg",
        UnaryOp::FAbs => "fabs",
        UnaryOp::FSqrt => "fsqrt",
        UnaryOp::FFloor => "ffloor",
        UnaryOp::FCeil => "fceil",
        UnaryOp::FTrunc => "ftrunc",
        UnaryOp::FNearest => "fnearest",
    }
}

pub(crate) fn binary_name(op: BinaryOp) -> &'static str {
    match op {
        BinaryOp::Add => "add",
        BinaryOp::Sub => "sub",
        BinaryOp::Mul => "mul",
        BinaryOp::SDiv => "sdiv",
        BinaryOp::SRem => "srem",
        BinaryOp::UMulHi => "umulhi",
        BinaryOp::And => "and",
        BinaryOp::Or => "or",
        BinaryOp::Xor => "xor",
        BinaryOp::Shl => "shl",
        BinaryOp::SShr => "sshr",
        BinaryOp::UShr => "ushr",
        BinaryOp::Rotl => "rotl",
        BinaryOp::SMin => "smin",
        BinaryOp::SMax => "smax",
        BinaryOp::FAdd => "fadd",
        BinaryOp::FSub => "fsub",
        BinaryOp::FMul => "fmul",
        BinaryOp::FDiv => "fdiv",
        BinaryOp::FMin => "fmin",
        BinaryOp::FMax => "fmax",
    }
}

fn cmp_name(cmp: Cmp) -> &'static str {
    match cmp {
        Cmp::Eq => "eq",
        Cmp::Ne => "ne",
        Cmp::Lt => "lt",
        Cmp::Le => "le",
        Cmp::Gt => "gt",
        Cmp::Ge => "ge",
        Cmp::ULt => "ult",
        Cmp::ULe => "ule",
        Cmp::UGt => "ugt",
        Cmp::UGe => "uge",
    }
}

fn convert_name(op: ConvertOp) -> &'static str {
    match op {
        ConvertOp::SignExtend => "sext",
        ConvertOp::ZeroExtend => "zext",
        ConvertOp::Truncate => "trunc",
        ConvertOp::IntToFloat => "int_to_float",
        ConvertOp::FloatToInt => "float_to_int",
        ConvertOp::Promote => "promote",
        ConvertOp::Demote => "demote",
        ConvertOp::Bitcast => "bitcast",
        ConvertOp::Lo64 => "lo64",
        ConvertOp::Hi64 => "hi64",
    }
}

#[cfg(test)]
mod tests {
    use crate::kernel::{Builder, Cmp, LoopKind, Signature, TrapCode, Type};
    use expect_test::expect;

    #[test]
    fn a_pipeline_prints_as_nested_regions() {
        let mut b = Builder::new("sum_positive", Signature::pipeline());
        let (ctx, worker, begin, end) = (b.param(0), b.param(1), b.param(2), b.param(3));
        let column = b.load_always(Type::Ptr, ctx, 16);
        let zero = b.iconst(Type::I64, 0);
        let half = b.fconst(Type::F64, 0.5);
        let sum = b.for_loop(LoopKind::Serial, begin, end, 1, &[zero, half], |b, i, carried| {
            let place = b.offset(column, i, 4, 0);
            let x = b.load(Type::I32, place, 0);
            let x = b.sext(x, Type::I64);
            let positive = b.icmp_imm(Cmp::Gt, x, 0);
            let (sum, overflow) = b.add_checked(carried[0], x);
            b.trap_if(overflow, TrapCode::Overflow, 7);
            let mut kept = b.if_else(positive, &[Type::I64], |_| vec![sum], |_| vec![carried[0]]);
            kept.push(carried[1]);
            kept
        });
        b.store(sum[0], worker, 64);
        let ok = b.iconst(Type::I32, 0);
        expect![[r#"
            func @sum_positive(%0: ptr, %1: ptr worker, %2: i64, %3: i64) -> i32 {
              %4 = load.ptr always aligned [%0 + 16]
              for serial %2 .. %3 step 1 at %5 carry (%6: i64 = 0:i64, %7: f64 = 0.5:f64) {
                %8 = offset %4 + %5 * 4
                %9 = load.i32 [%8]
                %10 = sext.i32.i64 %9
                %11 = gt.i64 %10, 0:i64
                %12, %13 = add_checked.i64 %6, %10
                trap_if %13, Overflow, at 7
                %14 = select.i64 %11, %12, %6
                yield %14, %7
              } -> %15: i64, %16: f64
              store.i64 %15, [%1 + 64]
              return 0:i32
            }
        "#]]
        .assert_eq(&b.finish(Some(ok)).unwrap().to_string());
    }
}

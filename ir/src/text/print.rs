//! The printer.

use std::collections::HashMap;
use std::fmt::Write;

use super::names;
use crate::entity::{ColumnId, NodeId, RegionId, ValueId};
use crate::exec::{Datum, Outputs, column_value};
use crate::graph::bridge::TensorColumns;
use crate::graph::rel::{Aggregate, Frame, FrameBound, FrameUnit, JoinKind, SortKey, WindowColumn, WindowFunc};
use crate::graph::tensor::{Distribution, Move};
use crate::graph::{BridgeOp, ControlOp, InputKind, Node, Op, Program, RelOp, TensorOp};
use crate::types::{Dim, RowType, ScalarType, Type};
use crate::value::{TensorData, TensorValue, Value};

/// What is printed.
#[derive(Clone, Copy, Debug)]
pub struct PrintOptions {
    /// The types of tables in full, rather than as `table(…)`, which does not parse.
    pub table_types: bool,
    /// Constants in full, rather than shortened to a few elements, which does not parse.
    pub constants: bool,
}

impl PrintOptions {
    /// Everything, so that it parses.
    pub const FULL: Self = Self { table_types: true, constants: true };
    /// What a reader wants.
    pub const SHORT: Self = Self { table_types: false, constants: false };
}

/// A program as text that parses back.
pub fn print(p: &Program) -> String {
    print_with(p, PrintOptions::FULL)
}

/// A program as text.
pub fn print_with(p: &Program, options: PrintOptions) -> String {
    let mut printer = Printer::new(p, options);
    printer.program();
    printer.out
}

/// The first line of a node as `print` shows it, for messages.
pub fn print_node(p: &Program, node: NodeId) -> String {
    // Numbers stand as in the whole text, so the whole text is printed first.
    let mut printer = Printer::new(p, PrintOptions::SHORT);
    printer.program();
    printer.out.clear();
    printer.indent = 0;
    printer.node(p.node(node));
    printer.out.lines().next().unwrap_or_default().to_string()
}

/// The results of a run, a line for each row.
pub fn print_outputs(outputs: &Outputs) -> String {
    let mut out = String::from("outputs {\n");
    for o in &outputs.list {
        let name = o.names.first().map(String::as_str).unwrap_or_default();
        let _ = match &o.datum {
            Datum::Table(t) => {
                let kinds: Vec<ScalarType> = t.columns().iter().map(|(_, c)| c.kind().into()).collect();
                let head = list(t.columns().iter().zip(&kinds), |((name, c), kind)| {
                    format!("{}: {}", quote(name), kind.nullable(c.validity().is_some()))
                });
                let row = |row: usize| {
                    list(t.columns().iter().zip(&kinds), |((_, c), kind)| value(&column_value(c, row), *kind))
                };
                let rows: String = (0..t.rows()).map(|r| format!("    ({}),\n", row(r))).collect();
                writeln!(out, "  table({head}) [\n{rows}  ]")
            }
            Datum::Tensor(t) => {
                let items = tensor_items(t, usize::MAX);
                writeln!(out, "  {}: const<{}> {:?} [{items}]", quote(name), t.data.dtype(), t.shape)
            }
            Datum::Scalar(v) => writeln!(out, "  {}: literal {}", quote(name), value(v, ScalarType::Text)),
        };
    }
    out.push_str("}\n");
    out
}

/// Elements, at most so many.
fn tensor_items(t: &TensorValue, limit: usize) -> String {
    let mut items: Vec<String> = match &t.data {
        TensorData::Bool(v) => v.iter().take(limit).map(|x| x.to_string()).collect(),
        TensorData::I32(v) => v.iter().take(limit).map(|x| x.to_string()).collect(),
        TensorData::I64(v) => v.iter().take(limit).map(|x| x.to_string()).collect(),
        TensorData::F32(v) => v.iter().take(limit).map(|x| float32(*x)).collect(),
        TensorData::F64(v) => v.iter().take(limit).map(|x| float64(*x)).collect(),
    };
    if t.data.len() > limit {
        items.push(format!("… {} elements", t.data.len()));
    }
    items.join(", ")
}

struct Printer<'a> {
    p: &'a Program,
    options: PrintOptions,
    out: String,
    indent: usize,
    numbers: HashMap<ValueId, usize>,
}

/// A text in quotes.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn is_word(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn func_name(name: &str) -> String {
    if is_word(name) { format!("@{name}") } else { format!("@{}", quote(name)) }
}

fn list<T>(items: impl IntoIterator<Item = T>, print: impl Fn(T) -> String) -> String {
    items.into_iter().map(print).collect::<Vec<_>>().join(", ")
}

fn columns(ids: &[ColumnId]) -> String {
    format!("({})", list(ids, |id| id.to_string()))
}

fn dims(shape: &[Dim]) -> String {
    format!("[{}]", list(shape, |d| d.to_string()))
}

/// A float such that reading it gives the same bits.
fn float(v: f64, bits: u64, canonical: u64, shortest: String) -> String {
    match (v.is_nan(), bits == canonical) {
        (true, true) => "nan".into(),
        (true, false) => format!("nan({bits})"),
        (false, _) => shortest,
    }
}

fn float32(v: f32) -> String {
    float(v.into(), v.to_bits().into(), f32::NAN.to_bits().into(), format!("{v:?}"))
}

fn float64(v: f64) -> String {
    float(v, v.to_bits(), f64::NAN.to_bits(), format!("{v:?}"))
}

/// A value of a known type.
pub(super) fn value(v: &Value, ty: ScalarType) -> String {
    use runtime::kernels::{date, decimal};
    match v {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::I32(n) => n.to_string(),
        Value::I64(n) => n.to_string(),
        Value::F32(x) => float32(*x),
        Value::F64(x) => float64(*x),
        Value::Decimal(n) => {
            let ScalarType::Decimal { scale, .. } = ty else { return n.to_string() };
            let mut text = String::new();
            decimal::print(*n, scale.into(), &mut text);
            text
        }
        Value::Date(days) => {
            let mut text = String::new();
            date::print_date(*days, &mut text);
            if date::parse_date(&text) == Some(*days) { quote(&text) } else { days.to_string() }
        }
        Value::Timestamp(micros) => {
            let mut text = String::new();
            date::print_timestamp(*micros, &mut text);
            if date::parse_timestamp(&text) == Some(*micros) { quote(&text) } else { micros.to_string() }
        }
        Value::Text(text) => quote(text),
    }
}

fn join_kind(kind: JoinKind) -> String {
    match kind {
        JoinKind::Inner => "inner".into(),
        JoinKind::Left => "left".into(),
        JoinKind::Right => "right".into(),
        JoinKind::Full => "full".into(),
        JoinKind::Semi => "semi".into(),
        JoinKind::Anti => "anti".into(),
        JoinKind::Mark(id) => format!("mark {id}"),
        JoinKind::Single => "single".into(),
    }
}

fn sort_keys(keys: &[SortKey]) -> String {
    let key = |k: &SortKey| {
        let direction = if k.descending { "desc" } else { "asc" };
        format!("{} {direction}{}", k.column, if k.nulls_first { " nulls_first" } else { "" })
    };
    format!("({})", list(keys, key))
}

fn aggregate(a: &Aggregate) -> String {
    let distinct = if a.distinct { "distinct " } else { "" };
    let arg = a.arg.map(|c| c.to_string()).unwrap_or_default();
    let filter = a.filter.map(|c| format!(" where {c}")).unwrap_or_default();
    format!("{} = {}({distinct}{arg}){filter}", a.out, a.reducer.name())
}

fn frame(f: &Frame) -> String {
    let bound = |b: FrameBound| match b {
        FrameBound::Unbounded => "unbounded".to_string(),
        FrameBound::CurrentRow => "current".to_string(),
        FrameBound::Offset(n) => n.to_string(),
    };
    let unit = match f.unit {
        FrameUnit::Rows => "rows",
        FrameUnit::Range => "range",
        FrameUnit::Groups => "groups",
    };
    format!("{unit} {} to {}", bound(f.start), bound(f.end))
}

fn view_move(m: &Move) -> String {
    match m {
        Move::Permute(perm) => format!("permute {perm:?}"),
        Move::Broadcast { shape, dims: to } => format!("broadcast {} dims {to:?}", dims(shape)),
        Move::Slice { dim, start, len, step } => format!("slice {dim} start {start} len {len} step {step}"),
        Move::Reshape(shape) => format!("reshape {}", dims(shape)),
        Move::Pad { dim, before, after } => format!("pad {dim} before {before} after {after}"),
        Move::Reverse(dim) => format!("reverse {dim}"),
    }
}

fn tensor_columns(groups: &[TensorColumns]) -> String {
    let group = |g: &TensorColumns| {
        let ids = list(&g.columns, |id| id.to_string());
        if g.flat { format!("{} {ids}", g.dtype) } else { format!("{} [{ids}]", g.dtype) }
    };
    format!("({})", list(groups, group))
}

impl<'a> Printer<'a> {
    fn new(p: &'a Program, options: PrintOptions) -> Self {
        Self { p, options, out: String::new(), indent: 0, numbers: HashMap::new() }
    }

    fn line(&mut self, text: &str) {
        self.start_line();
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn start_line(&mut self) {
        for _ in 0..self.indent {
            self.out.push_str("  ");
        }
    }

    fn v(&mut self, v: ValueId) -> String {
        let next = self.numbers.len();
        format!("%{}", self.numbers.entry(v).or_insert(next))
    }

    fn values(&mut self, values: &[ValueId]) -> String {
        values.iter().map(|v| self.v(*v)).collect::<Vec<_>>().join(", ")
    }

    fn ty(&self, ty: &Type) -> String {
        match ty {
            Type::Table(_) if !self.options.table_types => "table(…)".into(),
            Type::Scalar(_) | Type::Tensor(_) | Type::Table(_) | Type::Tape | Type::Acc(_) => ty.to_string(),
        }
    }

    fn types(&self, values: &[ValueId]) -> String {
        list(values, |v| self.ty(self.p.ty(*v)))
    }

    fn program(&mut self) {
        let p = self.p;
        self.line("program {");
        self.indent = 1;
        for (i, name) in p.symbols.iter().enumerate() {
            self.line(&format!("symbol s{i} {}", quote(name)));
        }
        for (i, input) in p.inputs.iter().enumerate() {
            let kind = match &input.kind {
                InputKind::Table(columns) => {
                    format!("table({})", list(columns, |c| format!("{}: {}", quote(&c.name), c.ty)))
                }
                InputKind::Tensor(t) => t.to_string(),
                InputKind::Scalar(t) => t.to_string(),
            };
            self.line(&format!("input in{i} {}: {kind}", quote(&input.name)));
        }
        let used = used_columns(p);
        for (i, c) in p.columns.iter().enumerate() {
            if used[i] {
                self.line(&format!("column c{i} {}: {}", quote(&c.name), c.ty));
            }
        }
        for (i, place) in p.places.iter().enumerate() {
            let span = place.span.map(|(a, b)| format!(" {a} to {b}")).unwrap_or_default();
            self.line(&format!("place p{i} {}{span}", quote(&place.text)));
        }
        for func in &p.funcs {
            let body = p.region(func.body);
            let params: Vec<String> =
                body.params.iter().map(|v| format!("{}: {}", self.v(*v), self.ty(p.ty(*v)))).collect();
            let results = self.types(&body.results);
            let head = format!("func {}({}) -> ({results}) {{", func_name(&func.name), params.join(", "));
            self.line(&head);
            self.body(func.body);
            self.line("}");
        }
        if let Some(entry) = p.entry {
            self.line(&format!("entry {}", func_name(&p.func(entry).name)));
        }
        for names in &p.result_names {
            let names = list(names, |n| quote(n));
            self.line(if names.is_empty() { "result".into() } else { format!("result {names}") }.as_str());
        }
        self.indent = 0;
        self.line("}");
    }

    fn body(&mut self, region: RegionId) {
        self.indent += 1;
        let p = self.p;
        for n in &p.region(region).nodes {
            self.node(p.node(*n));
        }
        let results = self.values(&p.region(region).results);
        self.line(&format!("yield {results}"));
        self.indent -= 1;
    }

    fn node(&mut self, node: &Node) {
        let p = self.p;
        let results = self.values(&node.results);
        let operands = self.values(&node.operands);
        let (name, attributes) = self.op(&node.op);
        self.start_line();
        if !results.is_empty() {
            let _ = write!(self.out, "{results} = ");
        }
        self.out.push_str(&name);
        for part in [operands, attributes] {
            if !part.is_empty() {
                let _ = write!(self.out, " {part}");
            }
        }
        for (i, r) in node.regions.iter().enumerate() {
            if i > 0 && matches!(node.op, Op::Control(ControlOp::If)) {
                self.out.push_str(" else");
            }
            let params = &p.region(*r).params;
            if !params.is_empty() {
                let params: Vec<String> =
                    params.iter().map(|v| format!("{}: {}", self.v(*v), self.ty(p.ty(*v)))).collect();
                let _ = write!(self.out, " |{}|", params.join(", "));
            }
            self.out.push_str(" {\n");
            self.body(*r);
            self.start_line();
            self.out.push('}');
        }
        if !node.results.is_empty() {
            let types = self.types(&node.results);
            let _ = write!(self.out, " : {types}");
        }
        if let Some(place) = node.place {
            let _ = write!(self.out, " at {place}");
        }
        self.out.push('\n');
    }

    /// The name with its variant, and the attributes.
    fn op(&self, op: &Op) -> (String, String) {
        let plain = |name: &str| (name.to_string(), String::new());
        match op {
            Op::Literal(v, ty) => ("literal".into(), value(v, ty.ty)),
            Op::Col(id) => ("col".into(), id.to_string()),
            Op::Scalar(op) => match names::attribute(*op) {
                names::Attribute::None => plain(op.name()),
                names::Attribute::Type(t) => plain(&format!("{}<{t}>", op.name())),
                names::Attribute::Field(f) => plain(&format!("{}<{}>", op.name(), names::field_name(f))),
            },
            Op::Input(id) => ("input".into(), id.to_string()),
            Op::Rel(op) => self.rel(op),
            Op::Tensor(op) => self.tensor(op),
            Op::Bridge(op) => bridge(op),
            Op::Control(op) => self.control(op),
        }
    }

    fn rel(&self, op: &RelOp) -> (String, String) {
        match op {
            RelOp::Scan { input, columns } => {
                let columns = list(columns, |c| format!("{} -> {}", c.source, c.id));
                ("scan".into(), format!("{input} ({columns})"))
            }
            RelOp::Values { columns, rows } => {
                let types: Vec<RowType> = columns.iter().map(|c| c.ty).collect();
                let head = list(columns, |c| format!("{}: {}", c.id, c.ty));
                let limit = if self.options.constants { usize::MAX } else { 3 };
                let mut texts: Vec<String> = rows
                    .iter()
                    .take(limit)
                    .map(|r| format!("({})", list(r.iter().zip(&types), |(v, t)| value(v, t.ty))))
                    .collect();
                if rows.len() > limit {
                    texts.push(format!("… {} rows", rows.len()));
                }
                ("values".into(), format!("({head}) [{}]", texts.join(", ")))
            }
            RelOp::Extend { columns: ids } => ("extend".into(), columns(ids)),
            RelOp::Project { columns: ids } => ("project".into(), columns(ids)),
            RelOp::Filter => ("filter".into(), String::new()),
            RelOp::Join { kind } => (format!("join<{}>", join_kind(*kind)), String::new()),
            RelOp::DependentJoin { kind } => (format!("dependent_join<{}>", join_kind(*kind)), String::new()),
            RelOp::Group { keys, aggregates } => {
                ("group".into(), format!("{} ({})", columns(keys), list(aggregates, aggregate)))
            }
            RelOp::Sort { keys, limit } => {
                let limit = limit.map(|n| format!(" limit {n}")).unwrap_or_default();
                ("sort".into(), format!("{}{limit}", sort_keys(keys)))
            }
            RelOp::Limit { offset, count } => {
                let count = count.map(|n| format!(" count {n}")).unwrap_or_default();
                ("limit".into(), format!("offset {offset}{count}"))
            }
            RelOp::Union { inputs, columns: ids } => {
                ("union".into(), format!("({}) -> {}", list(inputs, |ids| columns(ids)), columns(ids)))
            }
            RelOp::Recurse { base, working, columns: list_of, distinct, limit } => {
                let name = if *distinct { "recurse<distinct>" } else { "recurse<all>" };
                let carried: Vec<String> =
                    working.iter().zip(list_of).map(|(w, c)| format!("{w} -> {}: {}", c.id, c.ty)).collect();
                let limit = limit.map(|n| format!(" limit {n}")).unwrap_or_default();
                (name.into(), format!("{} ({}){limit}", columns(base), carried.join(", ")))
            }
            RelOp::Window { partition, order, columns: list_of } => {
                let functions = list(list_of, |c| self.window_column(c));
                ("window".into(), format!("partition {} order {} ({functions})", columns(partition), sort_keys(order)))
            }
        }
    }

    fn window_column(&self, c: &WindowColumn) -> String {
        let arg = c.arg.map(|id| id.to_string());
        let call = |name: &str, more: Vec<String>| {
            let args: Vec<String> = arg.iter().cloned().chain(more).collect();
            format!("{name}({})", args.join(", "))
        };
        let text = match &c.func {
            WindowFunc::RowNumber => call("row_number", vec![]),
            WindowFunc::Rank => call("rank", vec![]),
            WindowFunc::DenseRank => call("dense_rank", vec![]),
            WindowFunc::PercentRank => call("percent_rank", vec![]),
            WindowFunc::CumeDist => call("cume_dist", vec![]),
            WindowFunc::Ntile(n) => call("ntile", vec![n.to_string()]),
            WindowFunc::Lag { offset, default } => {
                let ty = c.arg.and_then(|id| self.p.columns.get(id.index())).map_or(ScalarType::I64, |c| c.ty);
                call("lag", vec![offset.to_string(), value(default, ty)])
            }
            WindowFunc::NthValue(n) => call("nth_value", vec![n.to_string()]),
            WindowFunc::LastValue => call("last_value", vec![]),
            WindowFunc::Concat { separator } => call("concat", vec![quote(separator)]),
            WindowFunc::Reduce(r) => call(r.name(), vec![]),
        };
        format!("{} = {text} {}", c.out, frame(&c.frame))
    }

    fn tensor(&self, op: &TensorOp) -> (String, String) {
        match op {
            TensorOp::Const(t) => {
                let limit = if self.options.constants { usize::MAX } else { 8 };
                (format!("const<{}>", t.data.dtype()), format!("{:?} [{}]", t.shape, tensor_items(t, limit)))
            }
            TensorOp::Iota { dim, .. } => (format!("iota<{dim}>"), String::new()),
            TensorOp::Random { distribution, seed, stream, .. } => {
                let distribution = match distribution {
                    Distribution::Uniform { low, high } => format!("uniform {} to {}", float64(*low), float64(*high)),
                    Distribution::Normal => "normal".into(),
                };
                (format!("random<{distribution}>"), format!("seed {seed} stream {stream}"))
            }
            TensorOp::Map { shape } => ("map".into(), dims(shape)),
            TensorOp::Reduce { reducer, axes } => (format!("reduce<{}>", reducer.name()), format!("{axes:?}")),
            TensorOp::Prefix { reducer, axis } => (format!("prefix<{}>", reducer.name()), format!("axis {axis}")),
            TensorOp::Contract(spec) => (format!("contract<\"{spec}\">"), String::new()),
            TensorOp::Attend(spec) | TensorOp::AttendGrad(spec) => {
                let name = if matches!(op, TensorOp::Attend(_)) { "attend" } else { "attend_grad" };
                (format!("{name}<\"{spec}\">"), format!("scale {} fill {}", float64(spec.scale), float64(spec.fill)))
            }
            TensorOp::View(moves) => ("view".into(), format!("({})", list(moves, view_move))),
            TensorOp::Gather => ("gather".into(), String::new()),
            TensorOp::ScatterAdd => ("scatter_add".into(), String::new()),
            TensorOp::Levels { pad } => ("levels".into(), format!("pad {pad}")),
            TensorOp::Concat { axis } => ("concat".into(), format!("axis {axis}")),
        }
    }

    fn control(&self, op: &ControlOp) -> (String, String) {
        match op {
            ControlOp::If => ("if".into(), String::new()),
            ControlOp::While => ("while".into(), String::new()),
            ControlOp::For { length, state, reverse } => {
                let reverse = if *reverse { " reverse" } else { "" };
                ("for".into(), format!("length {length} state {state}{reverse}"))
            }
            ControlOp::ForParts { part, rows, joined } => {
                ("for_parts".into(), format!("part {part} rows {rows} joined {joined}"))
            }
            ControlOp::Call(f) => (format!("call<{}>", func_name(&self.p.func(*f).name)), String::new()),
            ControlOp::TapeNew => ("tape_new".into(), String::new()),
            ControlOp::Push { tag } => (format!("push<{tag}>"), String::new()),
            ControlOp::Pop { tag, types } => (format!("pop<{tag}>"), format!("({})", list(types, |t| t.to_string()))),
            ControlOp::AccNew(ty) => ("acc_new".into(), ty.to_string()),
            ControlOp::AccAdd => ("acc_add".into(), String::new()),
            ControlOp::AccRows => ("acc_rows".into(), String::new()),
            ControlOp::AccRead => ("acc_read".into(), String::new()),
        }
    }
}

fn bridge(op: &BridgeOp) -> (String, String) {
    match op {
        BridgeOp::ToTensor { rows, groups } => ("to_tensor".into(), format!("rows {rows} {}", tensor_columns(groups))),
        BridgeOp::ToTable { columns: ids } => ("to_table".into(), columns(ids)),
        BridgeOp::Apply { rows, inputs, columns: ids } => {
            ("apply".into(), format!("rows {rows} {} {}", tensor_columns(inputs), columns(ids)))
        }
        BridgeOp::ForBatches { batch, sources, size, epochs, shuffle, drop_last, early_stop } => {
            let mut text = format!("sources {sources} batch {batch} size {size} epochs {epochs}");
            if let Some(seed) = shuffle {
                let _ = write!(text, " shuffle {seed}");
            }
            if *drop_last {
                text.push_str(" drop_last");
            }
            if let Some(share) = early_stop {
                let _ = write!(text, " early_stop {}", float64(*share));
            }
            ("for_batches".into(), text)
        }
        BridgeOp::RowCount => ("row_count".into(), String::new()),
    }
}

/// Which columns occur in what is printed.
pub(crate) fn used_columns(p: &Program) -> Vec<bool> {
    let mut used = vec![false; p.columns.len()];
    let mut mark = |id: ColumnId| {
        if let Some(u) = used.get_mut(id.index()) {
            *u = true;
        }
    };
    crate::graph::rewrite::reachable_nodes(p, |_, node| {
        for ty in node.results.iter().map(|v| p.ty(*v)) {
            if let Type::Table(t) = ty {
                t.columns.iter().for_each(|c| mark(c.id));
            }
        }
        crate::graph::rewrite::columns_of(&node.op, &mut mark);
    });
    for f in &p.funcs {
        for v in &p.region(f.body).params {
            if let Type::Table(t) = p.ty(*v) {
                t.columns.iter().for_each(|c| mark(c.id));
            }
        }
    }
    used
}

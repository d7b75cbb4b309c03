//! The parser of graph text. Its grammar is the printer's output, with types optional.

use std::collections::HashMap;
use std::sync::Arc;

use runtime::column::Table;
use smallvec::SmallVec;

use super::lexer::{Token, tokens};
use super::names::{self, Attribute};
use crate::entity::{ColumnId, FuncId, InputId, PlaceId, RegionId, SymId, ValueId};
use crate::error::{Error, Result};
use crate::exec::{Datum, Inputs, column_of_values};
use crate::graph::attend::AttendSpec;
use crate::graph::bridge::TensorColumns;
use crate::graph::rel::{
    Aggregate, Frame, FrameBound, FrameUnit, JoinKind, ScanColumn, SortKey, WindowColumn, WindowFunc,
};
use crate::graph::tensor::{ContractSpec, Distribution, Move};
use crate::graph::{
    BridgeOp, Builder, ColumnInfo, ControlOp, InputColumn, InputKind, Op, Place, Program, RelOp, TensorOp,
};
use crate::scalar::ScalarOp;
use crate::scalar::reduce::Reducer;
use crate::types::{Column, Dim, RowType, ScalarType, TableType, TensorType, Type};
use crate::value::{TensorData, TensorValue, Value};

/// Regions and dimensions nest no deeper.
const MAX_NESTING: usize = 200;
/// Ids are no greater.
const MAX_ID: u32 = 1 << 20;

/// Reads a program as [`super::print`] writes it.
///
/// The program is verified. Errors name the line.
pub fn parse(text: &str) -> Result<Program> {
    let mut parser = Parser::new(text)?;
    parser.program()?;
    let program = parser.b.finish();
    crate::graph::verify::verify(&program)?;
    Ok(program)
}

/// Reads inputs of a run as [`super::print_outputs`] writes results:
///
/// ```text
/// inputs {
///   "t": table("a": i32, "b": text?) [(1, "x"), (2, null)]
///   "w": const<f32> [2] [0.5, 1.0]
///   "limit": literal 10 : i64
/// }
/// ```
pub fn parse_inputs(text: &str) -> Result<Inputs> {
    let mut parser = Parser::new(text)?;
    parser.keyword("inputs")?;
    parser.punct('{')?;
    let mut inputs = Inputs::new();
    while !parser.eat('}') {
        let name = parser.text()?;
        parser.punct(':')?;
        let datum = parser.datum()?;
        inputs.set(name, datum);
    }
    if *parser.peek() == Token::End { Ok(inputs) } else { parser.expected("the end of the text") }
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    b: Builder,
    values: HashMap<u32, ValueId>,
    funcs: HashMap<String, FuncId>,
    /// Functions in order of their heads, with the positions behind `{`.
    declared: Vec<(FuncId, usize)>,
    depth: usize,
}

impl Parser {
    fn new(text: &str) -> Result<Self> {
        Ok(Self {
            tokens: tokens(text)?,
            at: 0,
            b: Builder::new().exact(),
            values: HashMap::new(),
            funcs: HashMap::new(),
            declared: Vec::new(),
            depth: 0,
        })
    }

    fn datum(&mut self) -> Result<Datum> {
        if self.eat_word("const") {
            let dtype = self.variant(Self::scalar_type)?;
            return Ok(Datum::Tensor(Arc::new(self.tensor_value(dtype)?)));
        }
        if self.eat_word("literal") {
            return Ok(Datum::Scalar(self.literal()?.0));
        }
        self.keyword("table")?;
        let columns = self.input_columns()?;
        let line = self.line();
        let types: Vec<ScalarType> = columns.iter().map(|c| c.ty.ty).collect();
        let rows = self.rows(&types)?;
        let mut table = Vec::new();
        for (i, c) in columns.into_iter().enumerate() {
            let values: Option<Vec<Value>> = rows.iter().map(|r| r.get(i).cloned()).collect();
            let Some(values) = values else { return self.fail_at(line, "a row has fewer values than columns") };
            if !c.ty.nullable && values.iter().any(Value::is_null) {
                return self.fail_at(line, format!("column \"{}\" is not nullable", c.name));
            }
            table.push((c.name, Arc::new(column_of_values(c.ty.ty, &values)?)));
        }
        Ok(Datum::Table(Arc::new(Table::new(table, rows.len()))))
    }

    fn input_columns(&mut self) -> Result<Vec<InputColumn>> {
        self.list('(', ')', |p| {
            let name = p.text()?;
            p.punct(':')?;
            Ok(InputColumn { name, ty: p.row_type()? })
        })
    }

    fn rows(&mut self, types: &[ScalarType]) -> Result<Vec<Vec<Value>>> {
        self.list('[', ']', |p| {
            let mut types = types.iter();
            p.list('(', ')', |p| match types.next() {
                Some(ty) => p.scalar(*ty),
                None => p.fail("more values than columns"),
            })
        })
    }

    fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    fn line(&self) -> usize {
        self.tokens[self.at].1
    }

    fn next(&mut self) -> Token {
        let token = self.tokens[self.at].0.clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::Parse { line: self.line(), message: message.into() })
    }

    /// An error of the line before the token that was just taken.
    fn fail_at<T>(&self, line: usize, message: impl Into<String>) -> Result<T> {
        Err(Error::Parse { line, message: message.into() })
    }

    fn expected<T>(&self, what: &str) -> Result<T> {
        self.fail(format!("expected {what}, found {}", self.peek()))
    }

    fn is(&self, c: char) -> bool {
        *self.peek() == Token::Punct(c)
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.is(c);
        if found {
            self.next();
        }
        found
    }

    fn punct(&mut self, c: char) -> Result<()> {
        if self.eat(c) { Ok(()) } else { self.expected(&format!("`{c}`")) }
    }

    fn arrow(&mut self) -> Result<()> {
        if *self.peek() != Token::Arrow {
            return self.expected("`->`");
        }
        self.next();
        Ok(())
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Token::Word(w) if w == word);
        if found {
            self.next();
        }
        found
    }

    fn keyword(&mut self, word: &str) -> Result<()> {
        if self.eat_word(word) { Ok(()) } else { self.expected(&format!("`{word}`")) }
    }

    fn word(&mut self) -> Result<String> {
        match self.peek() {
            Token::Word(w) => {
                let w = w.clone();
                self.next();
                Ok(w)
            }
            _ => self.expected("a word"),
        }
    }

    fn text(&mut self) -> Result<String> {
        match self.peek() {
            Token::Text(t) => {
                let t = t.clone();
                self.next();
                Ok(t)
            }
            _ => self.expected("a text in quotes"),
        }
    }

    fn func_name(&mut self) -> Result<String> {
        match self.peek() {
            Token::Func(t) => {
                let t = t.clone();
                self.next();
                Ok(t)
            }
            _ => self.expected("a function's name"),
        }
    }

    fn number<T: std::str::FromStr>(&mut self, what: &str) -> Result<T> {
        if let Token::Number(n) = self.peek()
            && let Ok(n) = n.parse()
        {
            self.next();
            return Ok(n);
        }
        self.expected(what)
    }

    fn usize(&mut self) -> Result<usize> {
        Ok(self.number::<u32>("a number")? as usize)
    }

    /// Items up to `close`, separated by commas; the opening is taken already.
    fn items<T>(&mut self, close: char, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut out = Vec::new();
        if self.eat(close) {
            return Ok(out);
        }
        loop {
            out.push(item(self)?);
            if self.eat(close) {
                return Ok(out);
            }
            if !self.eat(',') {
                return self.expected(&format!("`,` or `{close}`"));
            }
        }
    }

    fn list<T>(&mut self, open: char, close: char, item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        self.punct(open)?;
        self.items(close, item)
    }

    /// A word that is a prefix and a number: `c12`.
    fn id(&mut self, prefix: &str, what: &str) -> Result<u32> {
        if let Token::Word(w) = self.peek()
            && let Some(n) = w.strip_prefix(prefix).and_then(|n| n.parse::<u32>().ok())
            && n < MAX_ID
        {
            self.next();
            return Ok(n);
        }
        self.expected(what)
    }

    fn column(&mut self) -> Result<ColumnId> {
        let line = self.line();
        let id = self.id("c", "a column")?;
        if id as usize >= self.b.program().columns.len() {
            return self.fail_at(line, format!("column c{id} is not declared"));
        }
        Ok(ColumnId(id))
    }

    fn is_column(&self) -> bool {
        matches!(self.peek(), Token::Word(w) if w.strip_prefix('c').is_some_and(|n| n.parse::<u32>().is_ok()))
    }

    fn symbol(&mut self) -> Result<SymId> {
        let line = self.line();
        let id = self.id("s", "a symbol")?;
        if id as usize >= self.b.program().symbols.len() {
            return self.fail_at(line, format!("symbol s{id} is not declared"));
        }
        Ok(SymId(id))
    }

    fn input(&mut self) -> Result<InputId> {
        let line = self.line();
        let id = self.id("in", "an input")?;
        if id as usize >= self.b.program().inputs.len() {
            return self.fail_at(line, format!("input in{id} is not declared"));
        }
        Ok(InputId(id))
    }

    fn columns(&mut self) -> Result<Vec<ColumnId>> {
        self.list('(', ')', Self::column)
    }

    fn value(&mut self) -> Result<ValueId> {
        match *self.peek() {
            Token::Value(n) => {
                let Some(v) = self.values.get(&n) else { return self.fail(format!("%{n} is not defined here")) };
                let v = *v;
                self.next();
                Ok(v)
            }
            _ => self.expected("a value"),
        }
    }

    fn define(&mut self, line: usize, n: u32, v: ValueId) -> Result<()> {
        if self.values.insert(n, v).is_some() {
            return self.fail_at(line, format!("%{n} is defined twice"));
        }
        Ok(())
    }

    // Types.

    fn scalar_type(&mut self) -> Result<ScalarType> {
        let line = self.line();
        let name = self.word()?;
        Ok(match name.as_str() {
            "bool" => ScalarType::Bool,
            "i32" => ScalarType::I32,
            "i64" => ScalarType::I64,
            "f32" => ScalarType::F32,
            "f64" => ScalarType::F64,
            "date" => ScalarType::Date,
            "timestamp" => ScalarType::Timestamp,
            "text" => ScalarType::Text,
            "decimal" => {
                let digits = self.list('(', ')', |p| p.number::<u8>("a number of digits"))?;
                match digits[..] {
                    [precision, scale] if (1..=38).contains(&precision) && scale <= precision => {
                        ScalarType::Decimal { precision, scale }
                    }
                    _ => {
                        return self.fail_at(line, "a decimal has 1 to 38 digits, and no more of them after the point");
                    }
                }
            }
            _ => return self.fail_at(line, format!("`{name}` is not a type")),
        })
    }

    fn row_type(&mut self) -> Result<RowType> {
        let ty = self.scalar_type()?;
        Ok(RowType { ty, nullable: self.eat('?') })
    }

    fn dim(&mut self) -> Result<Dim> {
        match self.peek() {
            Token::Number(_) => Ok(Dim::Const(self.usize()?)),
            Token::Word(_) => Ok(Dim::Sym(self.symbol()?)),
            Token::Punct('(') => {
                self.depth += 1;
                if self.depth > MAX_NESTING {
                    return self.fail("a dimension nests too deep");
                }
                self.next();
                let a = Box::new(self.dim()?);
                let op = self.next();
                let b = Box::new(self.dim()?);
                self.punct(')')?;
                self.depth -= 1;
                match op {
                    Token::Punct('+') => Ok(Dim::Add(a, b)),
                    Token::Punct('*') => Ok(Dim::Mul(a, b)),
                    Token::Punct('/') => Ok(Dim::FloorDiv(a, b)),
                    op => self.fail(format!("expected `+`, `*` or `/`, found {op}")),
                }
            }
            _ => self.expected("a dimension"),
        }
    }

    fn shape(&mut self) -> Result<Vec<Dim>> {
        self.list('[', ']', Self::dim)
    }

    fn sizes(&mut self) -> Result<Vec<usize>> {
        self.list('[', ']', Self::usize)
    }

    fn table_type(&mut self) -> Result<TableType> {
        let columns = self.list('(', ')', |p| {
            let id = p.column()?;
            p.punct(':')?;
            Ok(Column { id, ty: p.row_type()? })
        })?;
        Ok(TableType { columns })
    }

    /// `c3 -> c5: i64?`
    fn carried_column(&mut self) -> Result<(ColumnId, Column)> {
        let working = self.column()?;
        self.arrow()?;
        let id = self.column()?;
        self.punct(':')?;
        Ok((working, Column { id, ty: self.row_type()? }))
    }

    /// Whether a recursion keeps equal rows once.
    fn recursion(&mut self) -> Result<bool> {
        let distinct = self.eat_word("distinct");
        if !distinct {
            self.keyword("all")?;
        }
        Ok(distinct)
    }

    fn ty(&mut self) -> Result<Type> {
        if self.eat_word("table") {
            return Ok(Type::Table(self.table_type()?));
        }
        if self.eat_word("tape") {
            return Ok(Type::Tape);
        }
        if self.eat_word("acc") {
            self.punct('<')?;
            let ty = self.tensor_type()?;
            self.punct('>')?;
            return Ok(Type::Acc(ty));
        }
        let dtype = self.scalar_type()?;
        if self.is('[') {
            let shape = self.shape()?;
            return Ok(Type::Tensor(TensorType { dtype, shape }));
        }
        Ok(Type::Scalar(RowType { ty: dtype, nullable: self.eat('?') }))
    }

    fn tensor_type(&mut self) -> Result<TensorType> {
        let dtype = self.scalar_type()?;
        Ok(TensorType { dtype, shape: self.shape()? })
    }

    // Values.

    fn float(&mut self) -> Result<f64> {
        if self.eat_word("inf") {
            return Ok(f64::INFINITY);
        }
        if self.eat_word("nan") {
            if self.eat('(') {
                let bits = self.number("the bits of a NaN")?;
                self.punct(')')?;
                return Ok(f64::from_bits(bits));
            }
            return Ok(f64::NAN);
        }
        self.number("a number")
    }

    fn float32(&mut self) -> Result<f32> {
        if self.eat_word("inf") {
            return Ok(f32::INFINITY);
        }
        if self.eat_word("nan") {
            if self.eat('(') {
                let bits = self.number("the bits of a NaN")?;
                self.punct(')')?;
                return Ok(f32::from_bits(bits));
            }
            return Ok(f32::NAN);
        }
        self.number("a number")
    }

    fn bool(&mut self) -> Result<bool> {
        if self.eat_word("true") {
            return Ok(true);
        }
        self.keyword("false").map(|()| false)
    }

    fn scalar(&mut self, ty: ScalarType) -> Result<Value> {
        use runtime::kernels::{date, decimal};
        if self.eat_word("null") {
            return Ok(Value::Null);
        }
        let line = self.line();
        Ok(match ty {
            ScalarType::Bool => Value::Bool(self.bool()?),
            ScalarType::I32 => Value::I32(self.number("an integer of 32 bits")?),
            ScalarType::I64 => Value::I64(self.number("an integer of 64 bits")?),
            ScalarType::F32 => Value::F32(self.float32()?),
            ScalarType::F64 => Value::F64(self.float()?),
            ScalarType::Decimal { precision, scale } => {
                let Token::Number(text) = self.peek().clone() else { return self.expected("a decimal") };
                self.next();
                let digits = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
                match decimal::parse(&text, scale.into(), precision.into()) {
                    Ok(n) if digits <= usize::from(scale) => Value::Decimal(n),
                    Ok(_) | Err(_) => return self.fail_at(line, format!("{text} does not fit {ty}")),
                }
            }
            ScalarType::Date => match self.peek() {
                Token::Text(text) => match date::parse_date(text) {
                    Some(days) => {
                        self.next();
                        Value::Date(days)
                    }
                    None => return self.fail("this is not a date"),
                },
                _ => Value::Date(self.number("a date or a number of days")?),
            },
            ScalarType::Timestamp => match self.peek() {
                Token::Text(text) => match date::parse_timestamp(text) {
                    Some(micros) => {
                        self.next();
                        Value::Timestamp(micros)
                    }
                    None => return self.fail("this is not a timestamp"),
                },
                _ => Value::Timestamp(self.number("a timestamp or a number of microseconds")?),
            },
            ScalarType::Text => Value::Text(self.text()?.into()),
        })
    }

    /// A literal whose type stands behind it: the value's tokens are skipped, then read with the type.
    fn literal(&mut self) -> Result<(Value, RowType)> {
        let start = self.at;
        self.next();
        if self.is('(') {
            while !matches!(self.peek(), Token::Punct(':') | Token::End) {
                self.next();
            }
        }
        self.punct(':')?;
        let ty = self.row_type()?;
        let end = self.at;
        self.at = start;
        let value = self.scalar(ty.ty)?;
        if !self.is(':') {
            return self.expected("`:`");
        }
        self.at = end;
        Ok((value, ty))
    }

    fn tensor_value(&mut self, dtype: ScalarType) -> Result<TensorValue> {
        let shape = self.sizes()?;
        let line = self.line();
        let data = match dtype {
            ScalarType::Bool => TensorData::Bool(self.list('[', ']', Self::bool)?),
            ScalarType::I32 => TensorData::I32(self.list('[', ']', |p| p.number("an integer of 32 bits"))?),
            ScalarType::I64 => TensorData::I64(self.list('[', ']', |p| p.number("an integer of 64 bits"))?),
            ScalarType::F32 => TensorData::F32(self.list('[', ']', Self::float32)?),
            ScalarType::F64 => TensorData::F64(self.list('[', ']', Self::float)?),
            ScalarType::Decimal { .. } | ScalarType::Date | ScalarType::Timestamp | ScalarType::Text => {
                return self.fail_at(line, format!("a tensor cannot hold {dtype}"));
            }
        };
        let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        if count != Some(data.len()) {
            return self.fail_at(line, format!("{} elements do not fill the shape {shape:?}", data.len()));
        }
        Ok(TensorValue { shape, data })
    }

    // The program.

    fn program(&mut self) -> Result<()> {
        self.keyword("program")?;
        self.punct('{')?;
        self.declarations()?;
        let bodies = self.at;
        self.heads()?;
        self.at = bodies;
        for (f, body) in std::mem::take(&mut self.declared) {
            self.at = body;
            self.func_body(f)?;
        }
        if self.eat_word("entry") {
            let line = self.line();
            let name = self.func_name()?;
            let Some(&f) = self.funcs.get(&name) else {
                return self.fail_at(line, format!("there is no function @{name}"));
            };
            self.b.program_mut().entry = Some(f);
        }
        while self.eat_word("result") {
            let mut names = Vec::new();
            while matches!(self.peek(), Token::Text(_)) {
                names.push(self.text()?);
                if !self.eat(',') {
                    break;
                }
            }
            self.b.program_mut().result_names.push(names);
        }
        self.punct('}')?;
        if *self.peek() == Token::End { Ok(()) } else { self.expected("the end of the text") }
    }

    fn declarations(&mut self) -> Result<()> {
        loop {
            let line = self.line();
            if self.eat_word("input") {
                let id = self.id("in", "an input")?;
                if id as usize != self.b.program().inputs.len() {
                    return self.fail_at(line, "inputs are numbered from 0, in order");
                }
                let name = self.text()?;
                self.punct(':')?;
                let kind = if self.eat_word("table") {
                    InputKind::Table(self.input_columns()?)
                } else {
                    match self.ty()? {
                        Type::Scalar(t) => InputKind::Scalar(t),
                        Type::Tensor(t) => InputKind::Tensor(t),
                        Type::Table(_) => return self.fail_at(line, "an input's columns have names"),
                        Type::Tape | Type::Acc(_) => {
                            return self.fail_at(line, "an input is a table, a tensor or a scalar");
                        }
                    }
                };
                self.b.program_mut().new_input(name, kind);
            } else if self.eat_word("column") {
                let id = self.id("c", "a column")?;
                let name = self.text()?;
                self.punct(':')?;
                let ty = self.scalar_type()?;
                let columns = &mut self.b.program_mut().columns;
                if (id as usize) < columns.len() {
                    return self.fail_at(line, "columns are declared in ascending order");
                }
                // Columns that the text leaves out are not used.
                columns.resize(id as usize, ColumnInfo { name: String::new(), ty: ScalarType::Bool });
                columns.push(ColumnInfo { name, ty });
            } else if self.eat_word("symbol") {
                let id = self.id("s", "a symbol")?;
                if id as usize != self.b.program().symbols.len() {
                    return self.fail_at(line, "symbols are numbered from 0, in order");
                }
                let name = self.text()?;
                self.b.program_mut().new_symbol(name);
            } else if self.eat_word("place") {
                let id = self.id("p", "a place")?;
                if id as usize != self.b.program().places.len() {
                    return self.fail_at(line, "places are numbered from 0, in order");
                }
                let text = self.text()?;
                let span = match self.peek() {
                    Token::Number(_) => {
                        let a = self.number("a position")?;
                        self.keyword("to")?;
                        Some((a, self.number("a position")?))
                    }
                    _ => None,
                };
                self.b.program_mut().places.push(Place { text, span });
            } else {
                return Ok(());
            }
        }
    }

    /// Declares every function, so that bodies may call those behind them.
    fn heads(&mut self) -> Result<()> {
        while matches!(self.peek(), Token::Word(w) if w == "func") {
            self.next();
            let line = self.line();
            let name = self.func_name()?;
            self.punct('(')?;
            let mut numbers = Vec::new();
            let params = self.items(')', |p| {
                let Token::Value(n) = p.next() else { return p.expected("a parameter") };
                numbers.push(n);
                p.punct(':')?;
                p.ty()
            })?;
            self.arrow()?;
            let results = self.list('(', ')', Self::ty)?;
            self.punct('{')?;
            let f = self.b.declare_func(name.clone(), &params, &results);
            if self.funcs.insert(name.clone(), f).is_some() {
                return self.fail_at(line, format!("there are two functions @{name}"));
            }
            let values = self.b.program().region(self.b.program().func(f).body).params.clone();
            for (n, v) in numbers.into_iter().zip(values) {
                self.define(line, n, v)?;
            }
            self.declared.push((f, self.at));
            let mut depth = 1;
            while depth > 0 {
                match self.next() {
                    Token::Punct('{') => depth += 1,
                    Token::Punct('}') => depth -= 1,
                    Token::End => return self.expected("`}`"),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn func_body(&mut self, f: FuncId) -> Result<()> {
        self.b.begin_declared(f);
        let results = self.body()?;
        let line = self.line();
        let done = self.b.end_declared(f, &results);
        self.typed(line, done)?;
        self.punct('}')
    }

    fn typed<T>(&self, line: usize, result: Result<T>) -> Result<T> {
        result.map_err(|e| match e {
            Error::Type(message) => Error::Parse { line, message },
            e => e,
        })
    }

    /// Nodes up to `yield` and its values.
    fn body(&mut self) -> Result<Vec<ValueId>> {
        while !self.eat_word("yield") {
            self.node()?;
        }
        let mut results = Vec::new();
        while matches!(self.peek(), Token::Value(_)) {
            results.push(self.value()?);
            if !self.eat(',') {
                break;
            }
        }
        Ok(results)
    }

    fn node(&mut self) -> Result<()> {
        let line = self.line();
        let mut results = Vec::new();
        while let Token::Value(n) = *self.peek() {
            self.next();
            results.push(n);
            if !self.eat(',') {
                self.punct('=')?;
                break;
            }
        }
        let name = self.word()?;
        if name == "literal" {
            let (value, ty) = self.literal()?;
            return self.finish_node(line, &results, Op::Literal(value, ty), &[], &[], None);
        }
        let (op, operands, needs_type) = self.op(line, &name)?;
        let mut op = op;
        let mut regions: SmallVec<[RegionId; 2]> = SmallVec::new();
        while self.is('|') || self.is('{') {
            let region = self.region(line, &op, &operands, &regions)?;
            regions.push(region);
            self.eat_word("else");
        }
        let mut types = None;
        if self.eat(':') {
            let mut all = vec![self.ty()?];
            while self.eat(',') {
                all.push(self.ty()?);
            }
            if needs_type {
                let [Type::Tensor(wanted)] = &all[..] else {
                    return self.fail_at(line, format!("{name} makes a tensor"));
                };
                if let Op::Tensor(TensorOp::Iota { ty, .. } | TensorOp::Random { ty, .. }) = &mut op {
                    *ty = wanted.clone();
                }
            }
            types = Some(all);
        } else if needs_type {
            return self.fail(format!("{name} needs the type of its result"));
        }
        self.finish_node(line, &results, op, &operands, &regions, types)
    }

    fn finish_node(
        &mut self,
        line: usize,
        results: &[u32],
        op: Op,
        operands: &[ValueId],
        regions: &[RegionId],
        types: Option<Vec<Type>>,
    ) -> Result<()> {
        let place = if self.eat_word("at") {
            let place = self.id("p", "a place")?;
            if place as usize >= self.b.program().places.len() {
                return self.fail_at(line, format!("place p{place} is not declared"));
            }
            Some(PlaceId(place))
        } else {
            None
        };
        self.b.set_place(place);
        let pushed = self.b.push(op, operands, regions);
        let values = self.typed(line, pushed)?;
        if values.len() != results.len() {
            return self.fail_at(line, format!("{} results where there are {}", results.len(), values.len()));
        }
        if let Some(types) = types {
            if types.len() != values.len() {
                return self.fail_at(line, format!("{} types for {} results", types.len(), values.len()));
            }
            for (ty, v) in types.iter().zip(&values) {
                let inferred = self.b.ty(*v);
                if inferred != ty {
                    return self.fail_at(line, format!("the type is {inferred}, not {ty}"));
                }
            }
        }
        for (n, v) in results.iter().zip(values) {
            self.define(line, *n, v)?;
        }
        Ok(())
    }

    fn region(&mut self, line: usize, op: &Op, operands: &[ValueId], regions: &[RegionId]) -> Result<RegionId> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return self.fail("regions nest too deep");
        }
        let entry = crate::graph::build::check_arity(op, operands.len(), crate::graph::build::region_count(op))
            .and_then(|()| self.b.region_entry(op, operands, regions));
        let (params, columns) = self.typed(line, entry)?;
        let values = self.b.begin_region(&params, columns);
        if self.eat('|') {
            let mut i = 0;
            self.items('|', |p| {
                let Token::Value(n) = p.next() else { return p.expected("a parameter") };
                p.punct(':')?;
                let ty = p.ty()?;
                match (params.get(i), values.get(i)) {
                    (Some(inferred), Some(_)) if *inferred != ty => {
                        return p.fail(format!("the type of %{n} is {inferred}, not {ty}"));
                    }
                    (Some(_), Some(v)) => p.define(line, n, *v)?,
                    _ => return p.fail("more parameters than this region has"),
                }
                i += 1;
                Ok(())
            })?;
            if i != values.len() {
                return self.fail(format!("{i} parameters where this region has {}", values.len()));
            }
        } else if !values.is_empty() {
            return self.fail(format!("this region has {} parameters", values.len()));
        }
        self.punct('{')?;
        let results = self.body()?;
        self.punct('}')?;
        self.depth -= 1;
        Ok(self.b.end_region(&results))
    }

    // Operations.

    /// The operation with its operands; whether its type comes from the annotation.
    fn op(&mut self, line: usize, name: &str) -> Result<(Op, Vec<ValueId>, bool)> {
        let op = match name {
            "col" => Op::Col(self.column()?),
            "input" => Op::Input(self.input()?),
            "scan" => {
                let input = self.input()?;
                let columns = self.list('(', ')', |p| {
                    let source = p.number("the number of an input's column")?;
                    p.arrow()?;
                    Ok(ScanColumn { source, id: p.column()? })
                })?;
                Op::Rel(RelOp::Scan { input, columns })
            }
            "values" => {
                let columns = self.table_type()?.columns;
                let types: Vec<ScalarType> = columns.iter().map(|c| c.ty.ty).collect();
                let rows = self.rows(&types)?;
                Op::Rel(RelOp::Values { columns, rows })
            }
            "const" => {
                let dtype = self.variant(Self::scalar_type)?;
                Op::Tensor(TensorOp::Const(Arc::new(self.tensor_value(dtype)?)))
            }
            "iota" => {
                let dim = self.variant(Self::usize)?;
                let ty = TensorType { dtype: ScalarType::I64, shape: vec![] };
                return Ok((Op::Tensor(TensorOp::Iota { ty, dim }), vec![], true));
            }
            "random" => {
                let distribution = self.variant(|p| {
                    if p.eat_word("normal") {
                        return Ok(Distribution::Normal);
                    }
                    p.keyword("uniform")?;
                    let low = p.float()?;
                    p.keyword("to")?;
                    Ok(Distribution::Uniform { low, high: p.float()? })
                })?;
                self.keyword("seed")?;
                let seed = self.number("a seed")?;
                self.keyword("stream")?;
                let stream = self.number("a stream")?;
                let ty = TensorType { dtype: ScalarType::F32, shape: vec![] };
                return Ok((Op::Tensor(TensorOp::Random { ty, distribution, seed, stream }), vec![], true));
            }
            _ => {
                let (op, operands) = self.op_with_operands(line, name)?;
                return Ok((op, operands, false));
            }
        };
        Ok((op, vec![], false))
    }

    fn variant<T>(&mut self, item: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.punct('<')?;
        let item = item(self)?;
        self.punct('>')?;
        Ok(item)
    }

    fn operands(&mut self) -> Result<Vec<ValueId>> {
        let mut out = Vec::new();
        while matches!(self.peek(), Token::Value(_)) {
            out.push(self.value()?);
            if !self.eat(',') {
                break;
            }
        }
        Ok(out)
    }

    fn op_with_operands(&mut self, line: usize, name: &str) -> Result<(Op, Vec<ValueId>)> {
        let op = match name {
            "join" => {
                let kind = self.variant(Self::join_kind)?;
                return Ok((Op::Rel(RelOp::Join { kind }), self.operands()?));
            }
            "dependent_join" => {
                let kind = self.variant(Self::join_kind)?;
                return Ok((Op::Rel(RelOp::DependentJoin { kind }), self.operands()?));
            }
            "recurse" => {
                let distinct = self.variant(Self::recursion)?;
                let operands = self.operands()?;
                let base = self.columns()?;
                let pairs = self.list('(', ')', Self::carried_column)?;
                let (working, columns) = pairs.into_iter().unzip();
                let limit = if self.eat_word("limit") { Some(self.number("a number of rows")?) } else { None };
                return Ok((Op::Rel(RelOp::Recurse { base, working, columns, distinct, limit }), operands));
            }
            "reduce" => {
                let reducer = self.variant(Self::reducer)?;
                let operands = self.operands()?;
                return Ok((Op::Tensor(TensorOp::Reduce { reducer, axes: self.sizes()? }), operands));
            }
            "prefix" => {
                let reducer = self.variant(Self::reducer)?;
                let operands = self.operands()?;
                self.keyword("axis")?;
                return Ok((Op::Tensor(TensorOp::Prefix { reducer, axis: self.usize()? }), operands));
            }
            "contract" => {
                let spec = self.variant(Self::text)?;
                let Some(spec) = ContractSpec::parse(&spec) else {
                    return self.fail_at(line, format!("`{spec}` is not a contraction"));
                };
                return Ok((Op::Tensor(TensorOp::Contract(spec)), self.operands()?));
            }
            "attend" => {
                let labels = self.variant(Self::text)?;
                let operands = self.operands()?;
                self.keyword("scale")?;
                let scale = self.float()?;
                self.keyword("fill")?;
                let Some(spec) = AttendSpec::parse(&labels, scale, self.float()?) else {
                    return self.fail_at(line, format!("`{labels}` is not attention"));
                };
                return Ok((Op::Tensor(TensorOp::Attend(Box::new(spec))), operands));
            }
            "call" => {
                let name = self.variant(Self::func_name)?;
                let Some(&f) = self.funcs.get(&name) else {
                    return self.fail_at(line, format!("there is no function @{name}"));
                };
                return Ok((Op::Control(ControlOp::Call(f)), self.operands()?));
            }
            "tape_new" => (Op::Control(ControlOp::TapeNew), vec![]),
            "acc_new" => (Op::Control(ControlOp::AccNew(self.tensor_type()?)), vec![]),
            "push" => {
                let tag = self.variant(|p| p.number("a tag"))?;
                return Ok((Op::Control(ControlOp::Push { tag }), self.operands()?));
            }
            "pop" => {
                let tag = self.variant(|p| p.number("a tag"))?;
                let operands = self.operands()?;
                let types = self.list('(', ')', Self::tensor_type)?;
                return Ok((Op::Control(ControlOp::Pop { tag, types }), operands));
            }
            _ => self.operands_first(line, name)?,
        };
        Ok(op)
    }

    fn operands_first(&mut self, line: usize, name: &str) -> Result<(Op, Vec<ValueId>)> {
        if let Some(op) = self.relational(name)? {
            return Ok(op);
        }
        let plain = |op| Some(Op::Tensor(op));
        let simple = match name {
            "gather" => plain(TensorOp::Gather),
            "scatter_add" => plain(TensorOp::ScatterAdd),
            "row_count" => Some(Op::Bridge(BridgeOp::RowCount)),
            "if" => Some(Op::Control(ControlOp::If)),
            "while" => Some(Op::Control(ControlOp::While)),
            "acc_add" => Some(Op::Control(ControlOp::AccAdd)),
            "acc_rows" => Some(Op::Control(ControlOp::AccRows)),
            "acc_read" => Some(Op::Control(ControlOp::AccRead)),
            _ => None,
        };
        if let Some(op) = simple {
            return Ok((op, self.operands()?));
        }
        if matches!(name, "map" | "view" | "levels" | "to_tensor" | "to_table" | "apply" | "for_batches" | "for") {
            let operands = self.operands()?;
            return Ok((self.with_attributes(name)?, operands));
        }
        // Of tensors along an axis, or of texts.
        if name == "concat" {
            let operands = self.operands()?;
            let along_axis = matches!(self.peek(), Token::Word(w) if w == "axis");
            let op = if along_axis { self.with_attributes(name)? } else { Op::Scalar(ScalarOp::Concat) };
            return Ok((op, operands));
        }
        let attribute = if self.eat('<') {
            let attribute = match self.peek() {
                Token::Word(w) => names::field(w).map(Attribute::Field),
                _ => None,
            };
            let attribute = match attribute {
                Some(field) => {
                    self.next();
                    field
                }
                None => Attribute::Type(self.scalar_type()?),
            };
            self.punct('>')?;
            attribute
        } else {
            Attribute::None
        };
        match names::scalar_op(name, attribute) {
            Some(op) => Ok((Op::Scalar(op), self.operands()?)),
            None => self.fail_at(line, format!("there is no operation `{name}` of this form")),
        }
    }

    fn relational(&mut self, name: &str) -> Result<Option<(Op, Vec<ValueId>)>> {
        if !matches!(name, "extend" | "project" | "filter" | "group" | "sort" | "limit" | "union" | "window") {
            return Ok(None);
        }
        let operands = self.operands()?;
        let op = match name {
            "extend" => RelOp::Extend { columns: self.columns()? },
            "project" => RelOp::Project { columns: self.columns()? },
            "filter" => RelOp::Filter,
            "group" => {
                let keys = self.columns()?;
                RelOp::Group { keys, aggregates: self.list('(', ')', Self::aggregate)? }
            }
            "sort" => {
                let keys = self.sort_keys()?;
                let limit = if self.eat_word("limit") { Some(self.number("a number of rows")?) } else { None };
                RelOp::Sort { keys, limit }
            }
            "limit" => {
                self.keyword("offset")?;
                let offset = self.number("a number of rows")?;
                let count = if self.eat_word("count") { Some(self.number("a number of rows")?) } else { None };
                RelOp::Limit { offset, count }
            }
            "union" => {
                let inputs = self.list('(', ')', Self::columns)?;
                self.arrow()?;
                RelOp::Union { inputs, columns: self.columns()? }
            }
            _ => {
                self.keyword("partition")?;
                let partition = self.columns()?;
                self.keyword("order")?;
                let order = self.sort_keys()?;
                RelOp::Window { partition, order, columns: self.list('(', ')', Self::window_column)? }
            }
        };
        Ok(Some((Op::Rel(op), operands)))
    }

    fn with_attributes(&mut self, name: &str) -> Result<Op> {
        Ok(match name {
            "map" => Op::Tensor(TensorOp::Map { shape: self.shape()? }),
            "view" => Op::Tensor(TensorOp::View(self.list('(', ')', Self::view_move)?)),
            "levels" => {
                self.keyword("pad")?;
                Op::Tensor(TensorOp::Levels { pad: self.usize()? })
            }
            "concat" => {
                self.keyword("axis")?;
                Op::Tensor(TensorOp::Concat { axis: self.usize()? })
            }
            "to_tensor" => {
                self.keyword("rows")?;
                let rows = self.symbol()?;
                Op::Bridge(BridgeOp::ToTensor { rows, groups: self.tensor_columns()? })
            }
            "to_table" => Op::Bridge(BridgeOp::ToTable { columns: self.columns()? }),
            "apply" => {
                self.keyword("rows")?;
                let rows = self.symbol()?;
                let inputs = self.tensor_columns()?;
                Op::Bridge(BridgeOp::Apply { rows, inputs, columns: self.columns()? })
            }
            "for_batches" => {
                self.keyword("sources")?;
                let sources = self.usize()?;
                self.keyword("batch")?;
                let batch = self.symbol()?;
                self.keyword("size")?;
                let line = self.line();
                let size = self.usize()?;
                if size == 0 {
                    return self.fail_at(line, "a batch has at least one row");
                }
                self.keyword("epochs")?;
                let epochs = self.usize()?;
                let shuffle = if self.eat_word("shuffle") { Some(self.number("a seed")?) } else { None };
                let drop_last = self.eat_word("drop_last");
                let early_stop = if self.eat_word("early_stop") { Some(self.float()?) } else { None };
                Op::Bridge(BridgeOp::ForBatches { batch, sources, size, epochs, shuffle, drop_last, early_stop })
            }
            _ => {
                self.keyword("length")?;
                let length = self.dim()?;
                self.keyword("state")?;
                let state = self.usize()?;
                Op::Control(ControlOp::For { length, state, reverse: self.eat_word("reverse") })
            }
        })
    }

    fn join_kind(&mut self) -> Result<JoinKind> {
        let line = self.line();
        Ok(match self.word()?.as_str() {
            "inner" => JoinKind::Inner,
            "left" => JoinKind::Left,
            "right" => JoinKind::Right,
            "full" => JoinKind::Full,
            "semi" => JoinKind::Semi,
            "anti" => JoinKind::Anti,
            "mark" => JoinKind::Mark(self.column()?),
            "single" => JoinKind::Single,
            other => return self.fail_at(line, format!("there is no join of kind `{other}`")),
        })
    }

    fn reducer(&mut self) -> Result<Reducer> {
        let line = self.line();
        let name = self.word()?;
        match names::reducer(&name) {
            Some(r) => Ok(r),
            None => self.fail_at(line, format!("there is no reducer `{name}`")),
        }
    }

    fn sort_keys(&mut self) -> Result<Vec<SortKey>> {
        self.list('(', ')', |p| {
            let column = p.column()?;
            let descending = p.eat_word("desc");
            if !descending {
                p.keyword("asc")?;
            }
            Ok(SortKey { column, descending, nulls_first: p.eat_word("nulls_first") })
        })
    }

    fn aggregate(&mut self) -> Result<Aggregate> {
        let out = self.column()?;
        self.punct('=')?;
        let reducer = self.reducer()?;
        self.punct('(')?;
        let distinct = self.eat_word("distinct");
        let arg = if self.is(')') { None } else { Some(self.column()?) };
        self.punct(')')?;
        let filter = if self.eat_word("where") { Some(self.column()?) } else { None };
        Ok(Aggregate { reducer, arg, distinct, filter, out })
    }

    fn window_column(&mut self) -> Result<WindowColumn> {
        let out = self.column()?;
        self.punct('=')?;
        let line = self.line();
        let name = self.word()?;
        self.punct('(')?;
        let arg = if self.is_column() { Some(self.column()?) } else { None };
        if arg.is_some() {
            self.eat(',');
        }
        let func = match name.as_str() {
            "row_number" => WindowFunc::RowNumber,
            "rank" => WindowFunc::Rank,
            "dense_rank" => WindowFunc::DenseRank,
            "percent_rank" => WindowFunc::PercentRank,
            "cume_dist" => WindowFunc::CumeDist,
            "ntile" => WindowFunc::Ntile(self.number("a number of buckets")?),
            "lag" => {
                let offset = self.number("a number of rows")?;
                self.punct(',')?;
                let ty = arg.map_or(ScalarType::I64, |id| self.b.program().columns[id.index()].ty);
                WindowFunc::Lag { offset, default: self.scalar(ty)? }
            }
            "nth_value" => WindowFunc::NthValue(self.number("the number of a row")?),
            "last_value" => WindowFunc::LastValue,
            other => match names::reducer(other) {
                Some(r) => WindowFunc::Reduce(r),
                None => return self.fail_at(line, format!("there is no window function `{other}`")),
            },
        };
        self.punct(')')?;
        let unit = if self.eat_word("range") {
            FrameUnit::Range
        } else if self.eat_word("groups") {
            FrameUnit::Groups
        } else {
            self.keyword("rows")?;
            FrameUnit::Rows
        };
        let start = self.frame_bound()?;
        self.keyword("to")?;
        let end = self.frame_bound()?;
        Ok(WindowColumn { func, arg, frame: Frame { unit, start, end }, out })
    }

    fn frame_bound(&mut self) -> Result<FrameBound> {
        if self.eat_word("unbounded") {
            return Ok(FrameBound::Unbounded);
        }
        if self.eat_word("current") {
            return Ok(FrameBound::CurrentRow);
        }
        Ok(FrameBound::Offset(self.number("the end of a frame")?))
    }

    fn view_move(&mut self) -> Result<Move> {
        let line = self.line();
        Ok(match self.word()?.as_str() {
            "permute" => Move::Permute(self.sizes()?),
            "broadcast" => {
                let shape = self.shape()?;
                self.keyword("dims")?;
                Move::Broadcast { shape, dims: self.sizes()? }
            }
            "slice" => {
                let dim = self.usize()?;
                self.keyword("start")?;
                let start = self.dim()?;
                self.keyword("len")?;
                let len = self.dim()?;
                self.keyword("step")?;
                Move::Slice { dim, start, len, step: self.usize()? }
            }
            "reshape" => Move::Reshape(self.shape()?),
            "pad" => {
                let dim = self.usize()?;
                self.keyword("before")?;
                let before = self.usize()?;
                self.keyword("after")?;
                Move::Pad { dim, before, after: self.usize()? }
            }
            "reverse" => Move::Reverse(self.usize()?),
            other => return self.fail_at(line, format!("there is no move `{other}`")),
        })
    }

    fn tensor_columns(&mut self) -> Result<Vec<TensorColumns>> {
        self.list('(', ')', |p| {
            let dtype = p.scalar_type()?;
            if p.is('[') {
                let columns = p.list('[', ']', Self::column)?;
                return Ok(TensorColumns { columns, dtype, flat: false });
            }
            Ok(TensorColumns { columns: vec![p.column()?], dtype, flat: true })
        })
    }
}

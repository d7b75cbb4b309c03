//! The parser of graph text. Its grammar is the printer's output, with types optional.

mod bridge;
mod control;
mod cursor;
mod rel;
mod tensor;
mod types;
mod values;

use std::collections::HashMap;

use smallvec::SmallVec;

use super::lexer::{Token, tokens};
use super::names::{self, Attribute};
use crate::entity::{FuncId, PlaceId, RegionId, ValueId};
use crate::error::{Error, Result};
use crate::exec::Inputs;
use crate::graph::build::{check_arity, region_count};
use crate::graph::{Builder, ColumnInfo, InputKind, Op, Place, Program, TensorOp};
use crate::scalar::ScalarOp;
use crate::scalar::reduce::Reducer;
use crate::types::{ScalarType, Type};

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
                self.input_declaration(line)?;
            } else if self.eat_word("column") {
                self.column_declaration(line)?;
            } else if self.eat_word("symbol") {
                let id = self.id("s", "a symbol")?;
                if id as usize != self.b.program().symbols.len() {
                    return self.fail_at(line, "symbols are numbered from 0, in order");
                }
                let name = self.text()?;
                self.b.program_mut().new_symbol(name);
            } else if self.eat_word("place") {
                self.place_declaration(line)?;
            } else {
                return Ok(());
            }
        }
    }

    fn input_declaration(&mut self, line: usize) -> Result<()> {
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
                Type::Tape | Type::Acc(_) => return self.fail_at(line, "an input is a table, a tensor or a scalar"),
            }
        };
        self.b.program_mut().new_input(name, kind);
        Ok(())
    }

    fn column_declaration(&mut self, line: usize) -> Result<()> {
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
        Ok(())
    }

    fn place_declaration(&mut self, line: usize) -> Result<()> {
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
        Ok(())
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
        let (mut op, operands) = self.op(line, &name)?;
        let mut regions: SmallVec<[RegionId; 2]> = SmallVec::new();
        while self.is('|') || self.is('{') {
            let region = self.region(line, &op, &operands, &regions)?;
            regions.push(region);
            self.eat_word("else");
        }
        let types = self.annotation()?;
        if let Op::Tensor(TensorOp::Iota { ty, .. } | TensorOp::Random { ty, .. }) = &mut op {
            *ty = match types.as_deref() {
                None => return self.fail(format!("{name} needs the type of its result")),
                Some([Type::Tensor(wanted)]) => wanted.clone(),
                Some(_) => return self.fail_at(line, format!("{name} makes a tensor")),
            };
        }
        self.finish_node(line, &results, op, &operands, &regions, types)
    }

    /// The types behind `:`.
    fn annotation(&mut self) -> Result<Option<Vec<Type>>> {
        if !self.eat(':') {
            return Ok(None);
        }
        let mut types = vec![self.ty()?];
        while self.eat(',') {
            types.push(self.ty()?);
        }
        Ok(Some(types))
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
        let place = self.place(line)?;
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

    /// The place in its source that a node names.
    fn place(&mut self, line: usize) -> Result<Option<PlaceId>> {
        if !self.eat_word("at") {
            return Ok(None);
        }
        let place = self.id("p", "a place")?;
        if place as usize >= self.b.program().places.len() {
            return self.fail_at(line, format!("place p{place} is not declared"));
        }
        Ok(Some(PlaceId(place)))
    }

    fn region(&mut self, line: usize, op: &Op, operands: &[ValueId], regions: &[RegionId]) -> Result<RegionId> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return self.fail("regions nest too deep");
        }
        let entry =
            check_arity(op, operands.len(), region_count(op)).and_then(|()| self.b.region_entry(op, operands, regions));
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

    /// The operation of this name, with its operands.
    fn op(&mut self, line: usize, name: &str) -> Result<(Op, Vec<ValueId>)> {
        if let Some((op, operands)) = self.relational(name)? {
            return Ok((Op::Rel(op), operands));
        }
        if let Some((op, operands)) = self.tensor(line, name)? {
            return Ok((Op::Tensor(op), operands));
        }
        if let Some((op, operands)) = self.bridge(name)? {
            return Ok((Op::Bridge(op), operands));
        }
        if let Some((op, operands)) = self.control(line, name)? {
            return Ok((Op::Control(op), operands));
        }
        match name {
            "col" => Ok((Op::Col(self.column()?), vec![])),
            "input" => Ok((Op::Input(self.input()?), vec![])),
            "concat" => self.concat(),
            _ => self.scalar_op(line, name),
        }
    }

    /// `concat` of tensors along an axis, or of texts.
    fn concat(&mut self) -> Result<(Op, Vec<ValueId>)> {
        let operands = self.operands()?;
        let op = if self.eat_word("axis") {
            Op::Tensor(TensorOp::Concat { axis: self.usize()? })
        } else {
            Op::Scalar(ScalarOp::Concat)
        };
        Ok((op, operands))
    }

    fn scalar_op(&mut self, line: usize, name: &str) -> Result<(Op, Vec<ValueId>)> {
        let attribute = if self.is('<') { self.variant(Self::attribute)? } else { Attribute::None };
        match names::scalar_op(name, attribute) {
            Some(op) => Ok((Op::Scalar(op), self.operands()?)),
            None => self.fail_at(line, format!("there is no operation `{name}` of this form")),
        }
    }

    fn attribute(&mut self) -> Result<Attribute> {
        if let Token::Word(w) = self.peek()
            && let Some(field) = names::field(w)
        {
            self.next();
            return Ok(Attribute::Field(field));
        }
        Ok(Attribute::Type(self.scalar_type()?))
    }

    fn reducer(&mut self) -> Result<Reducer> {
        let line = self.line();
        let name = self.word()?;
        match names::reducer(&name) {
            Some(r) => Ok(r),
            None => self.fail_at(line, format!("there is no reducer `{name}`")),
        }
    }
}

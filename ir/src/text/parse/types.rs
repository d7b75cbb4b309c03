//! Types, shapes and dimensions.

use super::{MAX_NESTING, Parser};
use crate::error::Result;
use crate::text::lexer::Token;
use crate::types::{Column, Dim, RowType, ScalarType, TableType, TensorType, Type};

impl Parser {
    pub(super) fn ty(&mut self) -> Result<Type> {
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

    pub(super) fn scalar_type(&mut self) -> Result<ScalarType> {
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

    pub(super) fn row_type(&mut self) -> Result<RowType> {
        let ty = self.scalar_type()?;
        Ok(RowType { ty, nullable: self.eat('?') })
    }

    pub(super) fn table_type(&mut self) -> Result<TableType> {
        let columns = self.list('(', ')', |p| {
            let id = p.column()?;
            p.punct(':')?;
            Ok(Column { id, ty: p.row_type()? })
        })?;
        Ok(TableType { columns })
    }

    pub(super) fn tensor_type(&mut self) -> Result<TensorType> {
        let dtype = self.scalar_type()?;
        Ok(TensorType { dtype, shape: self.shape()? })
    }

    pub(super) fn shape(&mut self) -> Result<Vec<Dim>> {
        self.list('[', ']', Self::dim)
    }

    pub(super) fn sizes(&mut self) -> Result<Vec<usize>> {
        self.list('[', ']', Self::usize)
    }

    pub(super) fn dim(&mut self) -> Result<Dim> {
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
}

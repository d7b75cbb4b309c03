//! Values: scalars, rows of tables, elements of tensors.

use std::sync::Arc;

use runtime::column::Table;
use runtime::kernels::{date, decimal};

use super::Parser;
use crate::error::Result;
use crate::exec::{Datum, column_of_values};
use crate::graph::InputColumn;
use crate::text::lexer::Token;
use crate::types::{RowType, ScalarType};
use crate::value::{TensorData, TensorValue, Value};

impl Parser {
    pub(super) fn datum(&mut self) -> Result<Datum> {
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

    pub(super) fn input_columns(&mut self) -> Result<Vec<InputColumn>> {
        self.list('(', ')', |p| {
            let name = p.text()?;
            p.punct(':')?;
            Ok(InputColumn { name, ty: p.row_type()? })
        })
    }

    pub(super) fn rows(&mut self, types: &[ScalarType]) -> Result<Vec<Vec<Value>>> {
        self.list('[', ']', |p| {
            let mut types = types.iter();
            p.list('(', ')', |p| match types.next() {
                Some(ty) => p.scalar(*ty),
                None => p.fail("more values than columns"),
            })
        })
    }

    /// A literal whose type stands behind it: the value's tokens are skipped, then read with the type.
    pub(super) fn literal(&mut self) -> Result<(Value, RowType)> {
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

    pub(super) fn scalar(&mut self, ty: ScalarType) -> Result<Value> {
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

    pub(super) fn float(&mut self) -> Result<f64> {
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

    pub(super) fn float32(&mut self) -> Result<f32> {
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

    pub(super) fn bool(&mut self) -> Result<bool> {
        if self.eat_word("true") {
            return Ok(true);
        }
        self.keyword("false").map(|()| false)
    }

    pub(super) fn tensor_value(&mut self, dtype: ScalarType) -> Result<TensorValue> {
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
}

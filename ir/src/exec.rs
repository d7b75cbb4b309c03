//! What a run of a program gets and gives ([`Inputs`], [`Outputs`]), and the run itself ([`run`]).

mod batch;
pub(crate) mod convert;
mod pipeline;
mod recursion;
pub mod run;
#[cfg(test)]
mod scalar_tests;
mod seal;
mod tile;

use std::collections::HashMap;
use std::sync::Arc;

use runtime::column::{Column, ColumnKind, Table};

use crate::entity::SymId;
use crate::error::{Error, Result};
use crate::graph::{InputKind, Program};
use crate::opt::Statistics;
use crate::types::{Dim, ScalarType};
use crate::value::{TensorValue, Value};

/// A value outside of a program.
#[derive(Clone, Debug)]
pub enum Datum {
    /// A table with named columns.
    Table(Arc<Table>),
    /// A tensor.
    Tensor(Arc<TensorValue>),
    /// A scalar.
    Scalar(Value),
}

/// The inputs of a run, by name.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    by_name: HashMap<String, Datum>,
}

impl Inputs {
    /// No inputs.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more input; one of the same name is replaced.
    pub fn with(mut self, name: impl Into<String>, datum: Datum) -> Self {
        self.set(name, datum);
        self
    }

    /// With a table.
    pub fn table(self, name: impl Into<String>, table: Arc<Table>) -> Self {
        self.with(name, Datum::Table(table))
    }

    /// With a tensor.
    pub fn tensor(self, name: impl Into<String>, tensor: TensorValue) -> Self {
        self.with(name, Datum::Tensor(Arc::new(tensor)))
    }

    /// With a scalar.
    pub fn scalar(self, name: impl Into<String>, value: Value) -> Self {
        self.with(name, Datum::Scalar(value))
    }

    /// Sets an input.
    pub fn set(&mut self, name: impl Into<String>, datum: Datum) {
        self.by_name.insert(name.into(), datum);
    }

    /// An input.
    pub fn get(&self, name: &str) -> Option<&Datum> {
        self.by_name.get(name)
    }

    /// What the optimizer may know of the tables among them.
    pub fn statistics(&self) -> Statistics {
        let mut statistics = Statistics::new();
        for (name, datum) in &self.by_name {
            if let Datum::Table(table) = datum {
                let columns = table.columns().iter().map(|(column, data)| (column.as_str(), data));
                statistics.add(name, table.rows(), columns);
            }
        }
        statistics
    }

    /// The inputs that a program declares, in its order, checked: each is there and of the declared kind and types, columns
    /// that are not nullable hold no NULL, and tensors agree on the sizes of symbolic dimensions.
    pub fn bind(&self, p: &Program) -> Result<Bound> {
        let mut bound = Bound { inputs: vec![], symbols: vec![None; p.symbols.len()] };
        for input in &p.inputs {
            let name = &input.name;
            let Some(datum) = self.get(name) else {
                return Err(Error::Input(format!("input \"{name}\" is missing")));
            };
            bound.inputs.push(match (&input.kind, datum) {
                (InputKind::Table(columns), Datum::Table(table)) => {
                    let mut list = Vec::with_capacity(columns.len());
                    for c in columns {
                        let of = format!("column \"{}\" of input \"{name}\"", c.name);
                        let Some(position) = table.position(&c.name) else {
                            return Err(Error::Input(format!("{of} is missing")));
                        };
                        let column = table.column(position);
                        let ty = ScalarType::from(column.kind());
                        if ty != c.ty.ty {
                            return Err(Error::Input(format!("{of} is {ty}, the program expects {}", c.ty.ty)));
                        }
                        if !c.ty.nullable && column.validity().is_some() {
                            return Err(Error::Input(format!("{of} holds a NULL, the program expects none")));
                        }
                        list.push(column.clone());
                    }
                    BoundInput::Table { columns: list, rows: table.rows() }
                }
                (InputKind::Tensor(ty), Datum::Tensor(tensor)) => {
                    let fits = tensor.data.dtype() == ty.dtype && tensor.shape.len() == ty.rank();
                    if !fits {
                        let (dtype, shape) = (tensor.data.dtype(), &tensor.shape);
                        return Err(Error::Input(format!("input \"{name}\" is {dtype}{shape:?}, not {ty}")));
                    }
                    for (d, n) in ty.shape.iter().zip(&tensor.shape) {
                        if let Dim::Sym(s) = d {
                            bound.symbols[s.index()].get_or_insert(*n);
                        }
                    }
                    BoundInput::Tensor(tensor.clone())
                }
                (InputKind::Scalar(ty), Datum::Scalar(value)) => {
                    if !value.fits(ty.ty) || (value.is_null() && !ty.nullable) {
                        return Err(Error::Input(format!("input \"{name}\" is not {ty}")));
                    }
                    BoundInput::Scalar(value.clone())
                }
                (InputKind::Table(_), _) => return Err(Error::Input(format!("input \"{name}\" must be a table"))),
                (InputKind::Tensor(_), _) => return Err(Error::Input(format!("input \"{name}\" must be a tensor"))),
                (InputKind::Scalar(_), _) => return Err(Error::Input(format!("input \"{name}\" must be a scalar"))),
            });
        }
        bound.check_shapes(p)?;
        Ok(bound)
    }
}

/// Inputs that fit a program.
#[derive(Clone, Debug)]
pub struct Bound {
    /// One for each input of the program.
    pub inputs: Vec<BoundInput>,
    /// Sizes of the symbols that inputs bind.
    pub symbols: Vec<Option<usize>>,
}

/// One input that fits.
#[derive(Clone, Debug)]
pub enum BoundInput {
    /// The columns, in the program's order.
    Table {
        /// One for each column of the input.
        columns: Vec<Arc<Column>>,
        /// Number of rows.
        rows: usize,
    },
    /// A tensor.
    Tensor(Arc<TensorValue>),
    /// A scalar.
    Scalar(Value),
}

impl Bound {
    fn check_shapes(&self, p: &Program) -> Result<()> {
        let symbol = |s: SymId| self.symbols[s.index()];
        for (input, bound) in p.inputs.iter().zip(&self.inputs) {
            if let (InputKind::Tensor(ty), BoundInput::Tensor(tensor)) = (&input.kind, bound) {
                for (d, n) in ty.shape.iter().zip(&tensor.shape) {
                    if d.eval(&symbol) != Some(*n) {
                        let name = &input.name;
                        return Err(Error::Input(format!(
                            "input \"{name}\" has shape {:?}, the program expects {ty}",
                            tensor.shape
                        )));
                    }
                }
            }
        }
        Ok(())
    }
}

/// One result of a run.
#[derive(Clone, Debug)]
pub struct Output {
    /// Names: of the columns for a table, otherwise one.
    pub names: Vec<String>,
    /// The value.
    pub datum: Datum,
}

/// The results of a run, in the order of the entry function's results.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// The results.
    pub list: Vec<Output>,
}

impl Outputs {
    /// Result `index` as a table.
    pub fn table(&self, index: usize) -> Option<&Arc<Table>> {
        match &self.list.get(index)?.datum {
            Datum::Table(t) => Some(t),
            Datum::Tensor(_) | Datum::Scalar(_) => None,
        }
    }

    /// Result `index` as a tensor.
    pub fn tensor(&self, index: usize) -> Option<&Arc<TensorValue>> {
        match &self.list.get(index)?.datum {
            Datum::Tensor(t) => Some(t),
            Datum::Table(_) | Datum::Scalar(_) => None,
        }
    }

    /// Result `index` as a scalar.
    pub fn scalar(&self, index: usize) -> Option<&Value> {
        match &self.list.get(index)?.datum {
            Datum::Scalar(v) => Some(v),
            Datum::Table(_) | Datum::Tensor(_) => None,
        }
    }

    /// The result of this name that is not a table.
    pub fn named(&self, name: &str) -> Option<&Datum> {
        let found = self.list.iter().find(|o| !matches!(o.datum, Datum::Table(_)) && o.names.iter().any(|n| n == name));
        found.map(|o| &o.datum)
    }
}

impl From<ColumnKind> for ScalarType {
    fn from(kind: ColumnKind) -> Self {
        match kind {
            ColumnKind::Bool => Self::Bool,
            ColumnKind::I32 => Self::I32,
            ColumnKind::I64 => Self::I64,
            ColumnKind::F32 => Self::F32,
            ColumnKind::F64 => Self::F64,
            ColumnKind::Decimal { precision, scale } => Self::Decimal { precision, scale },
            ColumnKind::Date => Self::Date,
            ColumnKind::Timestamp => Self::Timestamp,
            ColumnKind::Text => Self::Text,
        }
    }
}

impl From<ScalarType> for ColumnKind {
    fn from(ty: ScalarType) -> Self {
        match ty {
            ScalarType::Bool => Self::Bool,
            ScalarType::I32 => Self::I32,
            ScalarType::I64 => Self::I64,
            ScalarType::F32 => Self::F32,
            ScalarType::F64 => Self::F64,
            ScalarType::Decimal { precision, scale } => Self::Decimal { precision, scale },
            ScalarType::Date => Self::Date,
            ScalarType::Timestamp => Self::Timestamp,
            ScalarType::Text => Self::Text,
        }
    }
}

/// The value of a column in a row.
pub fn column_value(column: &Column, row: usize) -> Value {
    if !column.is_valid(row) {
        return Value::Null;
    }
    let value = match column.kind() {
        ColumnKind::Bool => column.get_bool(row).map(Value::Bool),
        ColumnKind::I32 => column.get_i64(row).map(|v| Value::I32(v as i32)),
        ColumnKind::I64 => column.get_i64(row).map(Value::I64),
        ColumnKind::F32 => column.get_f64(row).map(|v| Value::F32(v as f32)),
        ColumnKind::F64 => column.get_f64(row).map(Value::F64),
        ColumnKind::Decimal { .. } => column.get_i128(row).map(Value::Decimal),
        ColumnKind::Date => column.get_i64(row).map(|v| Value::Date(v as i32)),
        ColumnKind::Timestamp => column.get_i64(row).map(Value::Timestamp),
        ColumnKind::Text => column.get_text(row).map(|v| Value::Text(v.into())),
    };
    value.unwrap_or(Value::Null)
}

/// A column of values of one type, NULLs included.
///
/// Errors: a value of another type.
pub fn column_of_values(ty: ScalarType, values: &[Value]) -> Result<Column> {
    if let Some(v) = values.iter().find(|v| !v.fits(ty)) {
        return Err(Error::Input(format!("{v:?} in a column of {ty}")));
    }
    let validity =
        values.iter().any(Value::is_null).then(|| values.iter().map(|v| u8::from(!v.is_null())).collect::<Vec<u8>>());
    macro_rules! lanes {
        ($variant:ident, $default:expr) => {
            values.iter().map(|v| if let Value::$variant(x) = v { *x } else { $default }).collect::<Vec<_>>()
        };
    }
    Ok(match ty {
        ScalarType::Bool => Column::from_bool(&lanes!(Bool, false), validity),
        ScalarType::I32 => Column::from_i32(ty.into(), &lanes!(I32, 0), validity),
        ScalarType::Date => Column::from_i32(ty.into(), &lanes!(Date, 0), validity),
        ScalarType::I64 => Column::from_i64(ty.into(), &lanes!(I64, 0), validity),
        ScalarType::Timestamp => Column::from_i64(ty.into(), &lanes!(Timestamp, 0), validity),
        ScalarType::F32 => Column::from_f32(&lanes!(F32, 0.0), validity),
        ScalarType::F64 => Column::from_f64(&lanes!(F64, 0.0), validity),
        ScalarType::Decimal { precision, .. } => {
            let values = lanes!(Decimal, 0);
            let limit = runtime::kernels::decimal::power_of_ten(precision.into()).unwrap_or(i128::MAX);
            if values.iter().any(|v| v.unsigned_abs() >= limit.unsigned_abs()) {
                return Err(Error::Input(format!("a value with more digits than {ty}")));
            }
            Column::from_i128(ty.into(), &values, validity)
        }
        ScalarType::Text => {
            Column::from_text(values.iter().map(|v| if let Value::Text(t) = v { Some(&**t) } else { None }))
        }
    })
}

/// A table from named columns of values; all have `rows` values.
pub fn table_of_values(columns: &[(&str, ScalarType, &[Value])], rows: usize) -> Result<Table> {
    let mut list = Vec::with_capacity(columns.len());
    for (name, ty, values) in columns {
        if values.len() != rows {
            return Err(Error::Input(format!("column \"{name}\" has {} values, not {rows}", values.len())));
        }
        list.push((name.to_string(), Arc::new(column_of_values(*ty, values)?)));
    }
    Ok(Table::new(list, rows))
}

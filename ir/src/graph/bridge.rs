//! Operations between tables and tensors.

use crate::entity::{ColumnId, SymId};
use crate::error::{Error, Result};
use crate::types::{Column, Dim, ScalarType, TableType, TensorType, Type};

/// Columns that become one tensor.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TensorColumns {
    /// The columns, none nullable; each is converted to `dtype`.
    pub columns: Vec<ColumnId>,
    /// Element type.
    pub dtype: ScalarType,
    /// `[rows]` rather than `[rows, columns]`; then there is one column.
    pub flat: bool,
}

impl TensorColumns {
    fn tensor_type(&self, rows: SymId) -> TensorType {
        let mut shape = vec![Dim::Sym(rows)];
        if !self.flat {
            shape.push(Dim::Const(self.columns.len()));
        }
        TensorType { dtype: self.dtype, shape }
    }
}

/// A bridge operation.
#[derive(Clone, PartialEq, Debug)]
pub enum BridgeOp {
    /// (table) → one tensor a group, with a row for each row of the table, in order. A NULL raises and names its column.
    ToTensor {
        /// The number of rows.
        rows: SymId,
        /// The tensors.
        groups: Vec<TensorColumns>,
    },
    /// (tensors `[n]` or `[n, k]`, `n` the same for all) → a table with a column for each `[n]` and `k` for each `[n, k]`.
    ToTable {
        /// The columns; their types are the tensors' element types.
        columns: Vec<ColumnId>,
    },
    /// (table) {region: tensors `[rows]` / `[rows, k]` to tensors `[rows]` / `[rows, k]`, each row from its own row only} → the
    /// table with the region's results as columns, `k` for each `[rows, k]`. A model in a query. May run on any cut of the rows.
    Apply {
        /// The number of rows of a cut.
        rows: SymId,
        /// What the region's parameters are made from.
        inputs: Vec<TensorColumns>,
        /// The added columns.
        columns: Vec<ColumnId>,
    },
    /// (tensors `[n, …]` — `sources` of them —, then the initial state: tensors) {region: (epoch: i64[], step: i64[], a batch
    /// `[batch, …]` of each source, state…) to (state…, metrics: rank-0 floats…)} → the final state, then for each metric its
    /// mean over the steps of each epoch, `f32[epochs]` or `f64[epochs]` (weighted by rows).
    ///
    /// In each epoch the rows are cut into batches of `size` rows, the last one shorter unless it is dropped; with a seed they
    /// are shuffled first, by a permutation of (seed, epoch) alone: `Philox::new(seed, epoch).permutation(rows)` of the runtime.
    /// `step` counts batches from 0 through all epochs.
    ForBatches {
        /// The number of rows of a batch, inside the region.
        batch: SymId,
        /// Operands that are cut.
        sources: usize,
        /// Rows of a batch.
        size: usize,
        /// Passes over the rows.
        epochs: usize,
        /// Seed of the shuffle; no shuffle without.
        shuffle: Option<u64>,
        /// Leave out a last batch that is not full.
        drop_last: bool,
        /// Stop after an epoch whose last metric is not lower than the epoch's before by more than this share of it; the
        /// remaining entries of the metrics are NaN.
        early_stop: Option<f64>,
    },
    /// (table) → the number of rows as an `i64[]` tensor.
    RowCount,
}

fn check_groups(t: &TableType, groups: &[TensorColumns]) -> Result<()> {
    for g in groups {
        if !g.dtype.is_tensor_element() {
            return Err(Error::Type(format!("a tensor cannot hold {}", g.dtype)));
        }
        if g.flat && g.columns.len() != 1 {
            return Err(Error::Type("a flat tensor takes one column".into()));
        }
        for id in &g.columns {
            let c = t.get(*id).ok_or_else(|| Error::Type(format!("column {id} is not in {t}")))?;
            if matches!(c.ty, ScalarType::Text | ScalarType::Date | ScalarType::Timestamp) {
                return Err(Error::Type(format!("column {id}: {} does not convert to a tensor element", c.ty)));
            }
        }
    }
    Ok(())
}

/// The columns that tensors `[n]` / `[n, k]` spread to.
fn spread(ids: &[ColumnId], tensors: &[&TensorType], rows: &Dim) -> Result<Vec<Column>> {
    let mut out = Vec::new();
    let mut ids = ids.iter();
    for t in tensors {
        let width = match t.shape.as_slice() {
            [n] if n == rows => 1,
            [n, Dim::Const(k)] if n == rows => *k,
            _ => return Err(Error::Type(format!("{t} does not spread to columns of {rows} rows"))),
        };
        for _ in 0..width {
            let id = *ids.next().ok_or_else(|| Error::Type("fewer columns than the tensors spread to".into()))?;
            out.push(Column { id, ty: t.dtype.nullable(false) });
        }
    }
    if ids.next().is_some() {
        return Err(Error::Type("more columns than the tensors spread to".into()));
    }
    Ok(out)
}

impl BridgeOp {
    /// The types of the region's parameters for these operands; empty where there is no region.
    pub fn region_params(&self, operands: &[&Type]) -> Result<Vec<Type>> {
        match self {
            Self::Apply { rows, inputs, .. } => Ok(inputs.iter().map(|g| Type::Tensor(g.tensor_type(*rows))).collect()),
            Self::ForBatches { batch, sources, .. } => {
                let index = Type::Tensor(TensorType { dtype: ScalarType::I64, shape: vec![] });
                let mut params = vec![index.clone(), index];
                for (i, t) in operands.iter().enumerate() {
                    let mut t =
                        t.as_tensor().cloned().ok_or_else(|| Error::Type(format!("operand {i} must be a tensor")))?;
                    if i < *sources {
                        let first = t.shape.first_mut();
                        *first.ok_or_else(|| Error::Type("a rank-0 tensor has no batches".into()))? = Dim::Sym(*batch);
                    }
                    params.push(Type::Tensor(t));
                }
                Ok(params)
            }
            Self::ToTensor { .. } | Self::ToTable { .. } | Self::RowCount => Ok(vec![]),
        }
    }

    /// The results' types. `regions` holds the types that each region yields.
    pub fn infer(&self, operands: &[&Type], regions: &[Vec<Type>]) -> Result<Vec<Type>> {
        let table = || {
            operands.first().and_then(|t| t.as_table()).ok_or_else(|| Error::Type("operand 0 must be a table".into()))
        };
        match self {
            Self::ToTensor { rows, groups } => {
                check_groups(table()?, groups)?;
                Ok(groups.iter().map(|g| Type::Tensor(g.tensor_type(*rows))).collect())
            }
            Self::ToTable { columns } => {
                let tensors: Option<Vec<&TensorType>> = operands.iter().map(|t| t.as_tensor()).collect();
                let tensors = tensors.ok_or_else(|| Error::Type("to_table takes tensors".into()))?;
                let rows = tensors.first().and_then(|t| t.shape.first()).cloned();
                let rows = rows.ok_or_else(|| Error::Type("to_table takes tensors with rows".into()))?;
                Ok(vec![Type::Table(TableType { columns: spread(columns, &tensors, &rows)? })])
            }
            Self::Apply { rows, inputs, columns } => {
                let mut t = table()?.clone();
                check_groups(&t, inputs)?;
                let yields = regions.first().map_or(&[][..], |r| r);
                let tensors: Option<Vec<&TensorType>> = yields.iter().map(|t| t.as_tensor()).collect();
                let tensors = tensors.ok_or_else(|| Error::Type("the region of apply yields tensors".into()))?;
                t.columns.extend(spread(columns, &tensors, &Dim::Sym(*rows))?);
                Ok(vec![Type::Table(t)])
            }
            Self::ForBatches { sources, epochs, .. } => {
                let state = operands.get(*sources..).ok_or_else(|| Error::Type("for_batches lacks a source".into()))?;
                let rows: Vec<Option<&Dim>> =
                    operands[..*sources].iter().map(|t| t.as_tensor().and_then(|t| t.shape.first())).collect();
                if rows.is_empty() || rows.iter().any(|r| r.is_none() || *r != rows[0]) {
                    return Err(Error::Type("the sources of for_batches have one number of rows".into()));
                }
                let yields = regions.first().map_or(&[][..], |r| r);
                if yields.len() < state.len() || yields.iter().zip(state).any(|(y, s)| y != *s) {
                    return Err(Error::Type("the region of for_batches yields the state's types first".into()));
                }
                let mut out: Vec<Type> = state.iter().map(|t| (*t).clone()).collect();
                for m in &yields[state.len()..] {
                    match m.as_tensor() {
                        Some(t) if t.dtype.is_float() && t.shape.is_empty() => {
                            let shape = vec![Dim::Const(*epochs)];
                            out.push(Type::Tensor(TensorType { dtype: t.dtype, shape }));
                        }
                        _ => return Err(Error::Type(format!("a metric of for_batches cannot be {m}"))),
                    }
                }
                Ok(out)
            }
            Self::RowCount => {
                table()?;
                Ok(vec![Type::Tensor(TensorType { dtype: ScalarType::I64, shape: vec![] })])
            }
        }
    }
}

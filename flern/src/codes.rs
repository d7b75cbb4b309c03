//! The columns of the training tensors: features as the network takes them, or with one number for each category in place of its
//! columns of 0 and 1, which every step makes again of its batch.
//!
//! What holds:
//! - Neighbouring categories form a run. A category's number is the position of its 1 among the columns of the run; one that
//!   training did not see, and NULL, is -1, which is the position of none.
//! - [`TrainingColumns::dense`] gives exactly the columns of [`Feature::columns`], in their order.
//! - To make a batch's columns takes time in every step: the steps of a small perceptron take about a quarter more. So numbers
//!   stand in their place only where they save much memory.

use ir::types::ScalarType;
use ir::value::{TensorData, TensorValue, Value};
use lantern::Tensor;

use crate::error::Result;
use crate::transform::{Feature, FeatureKind, literal};

/// Bytes from which numbers in place of columns are taken: where memory matters more than the time of the steps.
const WORTH: usize = 1 << 30;

/// A category with more values keeps its columns: its number would be an expression as deep as there are values.
const MOST_VALUES: usize = 256;

/// The columns of the training tensors, without the label.
pub(crate) struct TrainingColumns {
    /// As SQL over the columns of the query.
    pub(crate) sql: Vec<String>,
    /// The feature that each belongs to.
    pub(crate) names: Vec<String>,
    /// What the columns are; none where all are the network's.
    pieces: Option<Vec<Piece>>,
}

/// Neighbouring columns of one kind.
#[derive(Debug, PartialEq)]
enum Piece {
    /// So many columns as they are.
    Numbers(usize),
    /// So many categories, of so many values together.
    Categories { count: usize, values: usize },
}

impl TrainingColumns {
    /// For so many rows of elements of `dtype`.
    pub(crate) fn of(features: &[Feature], rows: usize, dtype: ScalarType) -> Result<Self> {
        let saved: usize = features.iter().filter_map(categories).map(|values| values.len() - 1).sum();
        let bytes = if dtype == ScalarType::F64 { 8 } else { 4 };
        if saved.saturating_mul(rows).saturating_mul(bytes) < WORTH {
            Self::plain(features)
        } else {
            Self::coded(features)
        }
    }

    fn plain(features: &[Feature]) -> Result<Self> {
        let (mut sql, mut names) = (vec![], vec![]);
        for feature in features {
            sql.extend(feature.columns()?);
            names.resize(sql.len(), feature.name.clone());
        }
        Ok(Self { sql, names, pieces: None })
    }

    fn coded(features: &[Feature]) -> Result<Self> {
        let (mut sql, mut names, mut pieces) = (vec![], vec![], vec![]);
        for feature in features {
            match categories(feature) {
                Some(categories) => {
                    if !matches!(pieces.last(), Some(Piece::Categories { .. })) {
                        pieces.push(Piece::Categories { count: 0, values: 0 });
                    }
                    if let Some(Piece::Categories { count, values }) = pieces.last_mut() {
                        sql.push(number_of(feature, categories, *values)?);
                        (*count, *values) = (*count + 1, *values + categories.len());
                    }
                }
                None => {
                    let columns = feature.columns()?;
                    match pieces.last_mut() {
                        Some(Piece::Numbers(count)) => *count += columns.len(),
                        _ => pieces.push(Piece::Numbers(columns.len())),
                    }
                    sql.extend(columns);
                }
            }
            names.resize(sql.len(), feature.name.clone());
        }
        Ok(Self { sql, names, pieces: Some(pieces) })
    }

    /// The network's input `[rows, features]` of a batch of these columns.
    pub(crate) fn dense(&self, x: &Tensor) -> Tensor {
        let Some(pieces) = &self.pieces else { return x.clone() };
        let mut at = 0;
        let mut parts = vec![];
        for piece in pieces {
            let (Piece::Numbers(count) | Piece::Categories { count, .. }) = piece;
            let columns = x.slice(1, at..at + count);
            at += count;
            parts.push(match piece {
                Piece::Numbers(_) => columns,
                Piece::Categories { values, .. } => one_hot(&columns, *count, *values),
            });
        }
        match &parts[..] {
            [one] => one.clone(),
            parts => Tensor::concat(&parts.iter().collect::<Vec<_>>(), 1).unwrap_or_else(|| x.clone()),
        }
    }
}

/// The values of a feature that a number may stand for.
fn categories(feature: &Feature) -> Option<&[Value]> {
    match &feature.kind {
        FeatureKind::OneHot(values) if (2..=MOST_VALUES).contains(&values.len()) => Some(values),
        _ => None,
    }
}

/// A category's number as SQL, counted from `first`.
fn number_of(feature: &Feature, values: &[Value], first: usize) -> Result<String> {
    let case = |(i, v)| Ok(format!("WHEN {} = {} THEN {}e0", feature.sql, literal(v)?, first + i));
    let cases: Vec<String> = values.iter().enumerate().map(case).collect::<Result<_>>()?;
    Ok(format!("CASE {} ELSE -1e0 END", cases.join(" ")))
}

/// `[rows, values]` with a 1 at each of a row's `count` numbers.
fn one_hot(numbers: &Tensor, count: usize, values: usize) -> Tensor {
    let dtype = numbers.dtype();
    // A constant: compared with it, a row is a loop over neighbouring elements.
    let data = match dtype {
        ScalarType::F64 => TensorData::F64((0..values).map(|i| i as f64).collect()),
        _ => TensorData::F32((0..values).map(|i| i as f32).collect()),
    };
    let positions = numbers.scope().constant(TensorValue { shape: vec![values], data });
    let ones = (0..count).map(|j| numbers.slice(1, j..j + 1).eq(&positions).cast(dtype));
    ones.reduce(|a, b| a + b).unwrap_or_else(|| numbers.clone())
}

#[cfg(test)]
mod tests {
    use flare::Engine;
    use ir::exec::column_value;
    use lantern::{Spec, stage};

    use super::*;

    fn feature(name: &str, kind: FeatureKind) -> Feature {
        Feature { name: name.into(), sql: name.into(), kind }
    }

    fn features() -> Vec<Feature> {
        let texts = |list: &[&str]| list.iter().map(|t| Value::Text((*t).into())).collect();
        vec![
            feature("a", FeatureKind::OneHot(texts(&["p", "q", "r"]))),
            feature("x", FeatureKind::Number),
            feature("y", FeatureKind::Number),
            feature("k", FeatureKind::OneHot(vec![Value::I64(-3), Value::I64(7)])),
            feature("b", FeatureKind::OneHot(texts(&["it's", ""]))),
            feature("c", FeatureKind::OneHot(texts(&["only"]))),
        ]
    }

    /// The columns of these rows, among them a NULL and values that training did not see.
    fn rows(sql: &[String]) -> Vec<f32> {
        let engine = Engine::new();
        let input = "(VALUES ('q', 1.5e0, -2e0, 7, '', 'only'), ('s', 0e0, 3e0, NULL, 'it''s', NULL), \
                     (NULL, 9e0, 4e0, -3, 'no', 'one'), ('r', 0e0, 0e0, 8, NULL, 'only')) AS input(a, x, y, k, b, c)";
        let query = engine.sql(&format!("SELECT {} FROM {input}", sql.join(", "))).expect("it is planned");
        let table = query.columns().expect("it runs");
        let cell = |row: usize, column: usize| match column_value(table.column(column), row) {
            Value::F64(v) => v as f32,
            other => panic!("{other:?}"),
        };
        (0..table.rows())
            .flat_map(|row| (0..sql.len()).map(move |column| (row, column)))
            .map(|(r, c)| cell(r, c))
            .collect()
    }

    #[test]
    fn numbers_of_categories_become_their_columns_again() {
        let features = features();
        let (plain, coded) =
            (TrainingColumns::plain(&features).expect("SQL"), TrainingColumns::coded(&features).expect("SQL"));
        assert_eq!((plain.sql.len(), coded.sql.len()), (10, 6));
        assert_eq!(coded.names, ["a", "x", "y", "k", "b", "c"]);
        let columns = coded.sql.len();
        let function = stage("dense", [Spec::of("x", ScalarType::F32, &[4, columns])], |x| coded.dense(&x[0]));
        let x = TensorValue { shape: vec![4, columns], data: TensorData::F32(rows(&coded.sql)) };
        let dense = function.and_then(|f| f.run([x])).expect("it runs");
        assert_eq!(dense[0].data, TensorData::F32(rows(&plain.sql)));
    }

    #[test]
    fn columns_stay_where_numbers_save_little() {
        let features = features();
        let few = TrainingColumns::of(&features, 1000, ScalarType::F32).expect("SQL");
        assert_eq!(few.pieces, None);
        let many = TrainingColumns::of(&features, WORTH / 16, ScalarType::F32).expect("SQL");
        let pieces = [
            Piece::Categories { count: 1, values: 3 },
            Piece::Numbers(2),
            Piece::Categories { count: 2, values: 4 },
            Piece::Numbers(1),
        ];
        assert_eq!(many.pieces.as_deref(), Some(&pieces[..]));
    }
}

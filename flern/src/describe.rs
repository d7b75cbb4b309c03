//! What a session tells of its models, as rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use flare::Engine;
use ir::value::TensorData;

use crate::error::{Error, Result};
use crate::model::{Label, Model, Network};
use crate::session::Answer;
use crate::transform::{FeatureKind, number, sql_type};

/// Every model in a row.
pub(crate) fn show<'a>(models: impl Iterator<Item = &'a Arc<Model>> + Clone) -> Result<Answer> {
    let texts = |f: fn(&Model) -> &String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(models.clone().map(|m| f(m))))
    };
    let rows: Int64Array = models.clone().map(|m| Some(m.rows as i64)).collect();
    rows_of(vec![
        ("name", texts(|m| &m.name)),
        ("model_type", texts(|m| &m.kind)),
        ("label", texts(|m| &m.label_name)),
        ("training_rows", Arc::new(rows)),
    ])
}

/// One model: a property in a row.
pub(crate) fn describe(model: &Model) -> Result<Answer> {
    let mut items: Vec<(String, String)> =
        vec![("model_type".into(), model.kind.clone()), ("label".into(), model.label_name.clone())];
    if let Label::Classes(classes) = &model.label {
        let classes: Vec<String> = classes.iter().map(crate::transform::literal).collect::<Result<_>>()?;
        items.push(("classes".into(), classes.join(", ")));
    }
    items.push(("network".into(), model.network.described()));
    items.push(("training rows".into(), model.rows.to_string()));
    items.extend(model.inputs().map(|(name, ty)| (format!("input {name}"), sql_type(ty))));
    for feature in &model.features {
        let sql = match &feature.kind {
            FeatureKind::Given(columns) => columns.join(", "),
            FeatureKind::Number | FeatureKind::OneHot(_) => feature.sql.clone(),
        };
        items.push((format!("feature {}", feature.name), sql));
    }
    items.extend(model.options.iter().map(|(name, value)| (format!("option {name}"), value.clone())));
    let (names, values): (Vec<String>, Vec<String>) = items.into_iter().unzip();
    rows_of(vec![
        ("property", Arc::new(StringArray::from(names)) as ArrayRef),
        ("value", Arc::new(StringArray::from(values)) as ArrayRef),
    ])
}

/// The losses of a model's epochs, as SQL; `None` where it was not trained here.
pub(crate) fn epochs(model: &Model) -> Option<String> {
    let rows: Vec<String> = model
        .epochs
        .iter()
        .enumerate()
        .map(|(i, e)| {
            let eval = e.eval_loss.map_or("CAST(NULL AS DOUBLE)".to_string(), number);
            format!("({i}, {}, {eval}, {})", number(e.loss), number(e.duration_ms))
        })
        .collect();
    let values = format!("(VALUES {}) AS epochs(iteration, loss, eval_loss, duration_ms)", rows.join(", "));
    (!rows.is_empty()).then(|| format!("(SELECT * FROM {values})"))
}

/// The weights as a table: tensor, the place in it, the feature that a weight of the first layer belongs to, and the value.
pub(crate) fn weights(model: &Model) -> Result<RecordBatch> {
    let mut columns = vec![];
    for feature in &model.features {
        let n = feature.columns()?.len();
        columns.extend((0..n).map(|i| if n == 1 { feature.name.clone() } else { format!("{}.{i}", feature.name) }));
    }
    let layered = matches!(model.network, Network::Layers { .. });
    let (mut tensors, mut rows, mut inputs, mut features, mut weights) = (vec![], vec![], vec![], vec![], vec![]);
    for (tensor, value) in model.params.iter() {
        let values: Vec<f64> = match &value.data {
            TensorData::F32(v) => v.iter().map(|x| f64::from(*x)).collect(),
            TensorData::F64(v) => v.clone(),
            TensorData::I32(v) => v.iter().map(|x| f64::from(*x)).collect(),
            TensorData::I64(v) => v.iter().map(|x| *x as f64).collect(),
            TensorData::Bool(v) => v.iter().map(|x| f64::from(u8::from(*x))).collect(),
        };
        let width = if value.shape.len() < 2 { None } else { value.shape.last().copied() };
        for (i, weight) in values.into_iter().enumerate() {
            let (row, input) = match width {
                Some(width) => (i / width, Some(i % width)),
                None => (i, None),
            };
            tensors.push(tensor.to_string());
            rows.push(row as i64);
            inputs.push(input.map(|i| i as i64));
            features.push(input.filter(|_| layered && tensor == "l0.w").and_then(|i| columns.get(i).cloned()));
            weights.push(weight);
        }
    }
    let batch: Vec<(&str, ArrayRef)> = vec![
        ("tensor", Arc::new(StringArray::from(tensors))),
        ("output", Arc::new(Int64Array::from(rows))),
        ("input", Arc::new(Int64Array::from(inputs))),
        ("feature", Arc::new(StringArray::from(features))),
        ("weight", Arc::new(Float64Array::from(weights))),
    ];
    RecordBatch::try_from_iter(batch).map_err(|e| Error::model(e.to_string(), None))
}

/// Rows that no engine computed.
fn rows_of(columns: Vec<(&str, ArrayRef)>) -> Result<Answer> {
    let plain = |error| Error::Engine { error, span: None };
    let batch = RecordBatch::try_from_iter(columns).map_err(|e| Error::model(e.to_string(), None))?;
    let engine = Engine::new();
    engine.register_arrow("rows", &[batch]).map_err(plain)?;
    engine.sql("SELECT * FROM rows").and_then(|q| q.stream()).map(Answer::Rows).map_err(plain)
}

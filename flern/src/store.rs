//! Weights and models on disk.
//!
//! An exported model is a folder of three files: `model.json` (what it reads and what it predicts), `network.graph` (the network
//! from features and weights to its output, as graph text) and `weights.safetensors`. A model that is read from them is untrusted:
//! its expressions may read their row alone, and its network has to fit its features and weights.

use std::path::Path;

use ir::value::Value;
use lantern::{Function, Params};
use serde_json::{Value as Json, json};

use crate::error::{Error, Result};
use crate::features::Features;
use crate::model::{Label, Model, Network};
use crate::sql::{Name, Span};
use crate::transform::{Feature, FeatureKind, sql_type, type_of_sql};

const WEIGHTS: &str = "weights.safetensors";
const NETWORK: &str = "network.graph";
const DESCRIPTION: &str = "model.json";

/// The version of the folder's form; others are refused.
const FORMAT: u64 = 1;

/// A description longer than this is no description.
const LONGEST_DESCRIPTION: u64 = 256 << 20;

/// Weights from a safetensors file, or from an exported model's folder, of the names and shapes of `like`.
pub(crate) fn weights(path: &str, like: &Params, span: Span) -> Result<Params> {
    let path = Path::new(path);
    let file = if path.is_dir() { path.join(WEIGHTS) } else { path.to_path_buf() };
    let found = Params::load(&file).map_err(|e| Error::model(e.to_string(), span))?;
    let mut out = like.clone();
    let mut values = vec![];
    for (name, value) in like.iter() {
        let Some(given) = found.get(name) else {
            let names: Vec<&str> = found.iter().map(|p| p.0).collect();
            let message = format!("{} has no tensor '{name}'; it has {}", file.display(), names.join(", "));
            return Err(Error::model(message, span));
        };
        if given.shape != value.shape || given.data.dtype() != value.data.dtype() {
            let message = format!(
                "{}: '{name}' is {}{:?}, and the features and hidden_units make it {}{:?}",
                file.display(),
                given.data.dtype(),
                given.shape,
                value.data.dtype(),
                value.shape
            );
            return Err(Error::model(message, span));
        }
        values.push(given.clone());
    }
    out.update(values)?;
    Ok(out)
}

/// Writes a model into a new or an empty folder, whole or not at all.
pub(crate) fn export(model: &Model, folder: &Path) -> Result<()> {
    let fail = |e: std::io::Error| Error::model(format!("{}: {e}", folder.display()), None);
    if folder.exists() && folder.read_dir().map_err(fail)?.next().is_some() {
        return Err(Error::model(format!("the folder {} is not empty", folder.display()), None));
    }
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(fail)?;
    let made = tempfile::Builder::new().prefix(".export").tempdir_in(parent).map_err(fail)?;
    model.params.save(made.path().join(WEIGHTS))?;
    std::fs::write(made.path().join(NETWORK), graph(model)?.to_string()).map_err(fail)?;
    let text = serde_json::to_string_pretty(&description(model)?).map_err(|e| Error::model(e.to_string(), None))?;
    std::fs::write(made.path().join(DESCRIPTION), text).map_err(fail)?;
    if folder.exists() {
        std::fs::remove_dir(folder).map_err(fail)?;
    }
    std::fs::rename(made.keep(), folder).map_err(fail)
}

/// The network from features and weights to its output: the number in units of the label's scale, or what sigmoid (two
/// classes) or softmax (several) make probabilities of; and behind it the answer itself.
fn graph(model: &Model) -> Result<Function> {
    let mut inputs: Vec<lantern::Spec> = vec![];
    let groups = model.network.groups();
    for (i, group) in groups.iter().enumerate() {
        let name = if groups.len() == 1 { "features".to_string() } else { format!("features_{i}") };
        let width = if group.flat { String::new() } else { format!(", {}", group.width) };
        inputs.push(lantern::Spec::new(name, format!("{}[rows{width}]", group.dtype)));
    }
    inputs.extend(model.params.specs());
    Ok(lantern::stage("network", inputs, |t| {
        let (x, params) = t.split_at(groups.len());
        (model.network.output(x, params), model.network.answer(&model.label, x, params))
    })?)
}

fn description(model: &Model) -> Result<Json> {
    let features = model.features.iter().map(|f| Ok(json!({ "name": f.name, "columns": f.columns()? })));
    let label = match &model.label {
        Label::Classes(classes) => {
            let values: Vec<Json> = classes
                .iter()
                .map(|class| match class {
                    Value::Bool(v) => json!(v),
                    Value::I32(v) => json!(v),
                    Value::I64(v) => json!(v),
                    Value::Text(v) => json!(v.to_string()),
                    other => json!(format!("{other:?}")),
                })
                .collect();
            let narrow = matches!(classes.first(), Some(Value::I32(_)));
            json!({ "name": model.label_name, "sql": model.label_sql, "classes": values, "narrow": narrow })
        }
        // The bits, since predictions have to come out the same; the numbers are for readers.
        Label::Number { mean, scale } => json!({
            "name": model.label_name, "sql": model.label_sql, "mean": mean, "scale": scale,
            "mean_bits": mean.to_bits(), "scale_bits": scale.to_bits(),
        }),
    };
    let inputs = model.inputs().map(|(name, ty)| json!({ "name": name, "type": sql_type(ty) }));
    Ok(json!({
        "format": FORMAT,
        "name": model.name,
        "model_type": model.kind,
        "options": model.options.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "label": label,
        "inputs": inputs.collect::<Vec<_>>(),
        "features": features.collect::<Result<Vec<_>>>()?,
        "training_rows": model.rows,
    }))
}

/// Reads what [`export`] wrote.
///
/// # Errors
/// A folder that cannot be read, a description that lacks something, a network that does not fit; with the path.
pub(crate) fn import(name: &Name, folder: &Path, number: u64) -> Result<Model> {
    let path = folder.join(DESCRIPTION);
    let wrong = |message: String| Error::model(format!("{}: {message}", path.display()), None);
    let length = std::fs::metadata(&path).map_err(|e| wrong(e.to_string()))?.len();
    if length > LONGEST_DESCRIPTION {
        return Err(wrong(format!("{length} bytes are too many for the description of a model")));
    }
    let text = std::fs::read_to_string(&path).map_err(|e| wrong(e.to_string()))?;
    let json: Json = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    match json["format"].as_u64() {
        Some(FORMAT) => {}
        other => return Err(wrong(format!("this version reads format {FORMAT}, and this is {other:?}"))),
    }
    let text = |json: &Json, what: &str| {
        json[what].as_str().map(str::to_string).ok_or_else(|| wrong(format!("'{what}' is missing or no text")))
    };
    let list = |what: &str| json[what].as_array().ok_or_else(|| wrong(format!("'{what}' is missing or no list")));

    let mut source = vec![];
    for input in list("inputs")? {
        let ty = text(input, "type")?;
        let ty = type_of_sql(&ty).ok_or_else(|| wrong(format!("there is no type {ty}")))?;
        source.push((text(input, "name")?, ty));
    }
    let mut features = vec![];
    for feature in list("features")? {
        let columns = feature["columns"].as_array().ok_or_else(|| wrong("a feature without columns".into()))?;
        let sql =
            |c: &Json| c.as_str().map(str::to_string).ok_or_else(|| wrong("a feature's column is no text".into()));
        let columns = columns.iter().map(sql).collect::<Result<Vec<_>>>()?;
        for column in &columns {
            expression(column).map_err(&wrong)?;
        }
        let name = text(feature, "name")?;
        features.push(Feature { name, sql: String::new(), kind: FeatureKind::Given(columns) });
    }
    let described = &json["label"];
    let (label_name, label_sql) = (text(described, "name")?, text(described, "sql")?);
    expression(&label_sql).map_err(&wrong)?;
    let label =
        read_label(described).ok_or_else(|| wrong("'label' has neither classes nor a mean and a scale".into()))?;
    let outputs = match &label {
        Label::Classes(classes) if classes.len() > 2 => classes.len(),
        Label::Classes(_) | Label::Number { .. } => 1,
    };

    let mut columns = vec![];
    for feature in &features {
        columns.extend(feature.columns()?);
    }
    let recorded = Features::record(&columns, &source).map_err(|e| wrong(e.to_string()))?;
    if recorded.inputs().len() != source.len() {
        return Err(wrong("an input that no feature reads".into()));
    }
    let params = Params::load(folder.join(WEIGHTS)).map_err(|e| Error::model(e.to_string(), None))?;
    let path = folder.join(NETWORK);
    let wrong = |message: String| Error::model(format!("{}: {message}", path.display()), None);
    let graph = std::fs::read_to_string(&path).map_err(|e| wrong(e.to_string()))?;
    let function = Function::parse(&graph).map_err(|e| wrong(e.to_string()))?;
    let network = Network::function(function, &params, outputs).map_err(&wrong)?;
    let width: usize = network.groups().iter().map(|g| g.width).sum();
    if width != columns.len() {
        return Err(wrong(format!("it takes {width} features, and the model has {}", columns.len())));
    }
    Ok(Model {
        name: name.value.clone(),
        kind: json["model_type"].as_str().unwrap_or("imported").to_string(),
        options: vec![("path".to_string(), format!("'{}'", folder.display()))],
        label_name,
        label,
        label_sql,
        features,
        recorded,
        network,
        params,
        epochs: vec![],
        rows: json["training_rows"].as_u64().unwrap_or(0) as usize,
        held_out: None,
        number,
    })
}

/// Whether a text of a description is one expression over a row.
fn expression(text: &str) -> Result<(), String> {
    crate::sql::check_row_expression(text).map_err(|e| format!("'{text}': {e}"))
}

fn read_label(json: &Json) -> Option<Label> {
    if let Some(classes) = json["classes"].as_array() {
        let narrow = json["narrow"].as_bool().unwrap_or(false);
        let class = |class: &Json| match class {
            Json::Bool(v) => Some(Value::Bool(*v)),
            Json::String(v) => Some(Value::Text(v.as_str().into())),
            Json::Number(v) if narrow => Some(Value::I32(v.as_i64()?.try_into().ok()?)),
            Json::Number(v) => Some(Value::I64(v.as_i64()?)),
            _ => None,
        };
        let classes = classes.iter().map(class).collect::<Option<Vec<_>>>()?;
        let one_type = classes.windows(2).all(|w| std::mem::discriminant(&w[0]) == std::mem::discriminant(&w[1]));
        return (classes.len() >= 2 && one_type).then_some(Label::Classes(classes));
    }
    let bits = |what: &str| json[what].as_u64().map(f64::from_bits).filter(|v| v.is_finite());
    Some(Label::Number { mean: bits("mean_bits")?, scale: bits("scale_bits")? })
}

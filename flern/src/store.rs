//! Weights and models on disk.

use std::path::Path;

use lantern::Params;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::sql::Span;

/// The name of the weights in an exported model's folder.
pub(crate) const WEIGHTS: &str = "weights.safetensors";

/// Weights from a safetensors file, or from an exported model's folder, of the names and shapes of `like`.
pub(crate) fn weights(path: &str, like: &Params, span: Span) -> Result<Params> {
    let path = Path::new(path);
    let file = if path.is_dir() { path.join(WEIGHTS) } else { path.to_path_buf() };
    let found = Params::load(&file)?;
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
    let network = graph(model)?;
    std::fs::write(made.path().join("network.graph"), network).map_err(fail)?;
    let features = model.features.iter().map(|f| Ok(serde_json::json!({ "name": f.name, "columns": f.columns()? })));
    let classes = match &model.label {
        crate::Label::Classes(classes) => {
            Some(classes.iter().map(crate::transform::literal).collect::<Result<Vec<_>>>()?)
        }
        crate::Label::Number { .. } => None,
    };
    let inputs = model.inputs.iter().map(|(n, t)| serde_json::json!({ "name": n, "type": t.to_string() }));
    let description = serde_json::json!({
        "name": model.name,
        "model_type": model.kind,
        "options": model.options.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "label": { "name": model.label_name, "sql": model.label_sql, "classes": classes },
        "inputs": inputs.collect::<Vec<_>>(),
        "features": features.collect::<Result<Vec<_>>>()?,
        "layers": model.network.sizes,
        "activation": model.network.activation.name(),
    });
    let text = serde_json::to_string_pretty(&description).map_err(|e| Error::model(e.to_string(), None))?;
    std::fs::write(made.path().join("model.json"), text).map_err(fail)?;
    if folder.exists() {
        std::fs::remove_dir(folder).map_err(fail)?;
    }
    std::fs::rename(made.keep(), folder).map_err(fail)
}

/// The network from features and weights to its answer, as graph text.
fn graph(model: &Model) -> Result<String> {
    let x = lantern::Spec::new("features", format!("f32[rows, {}]", model.network.sizes[0]));
    let inputs = std::iter::once(x).chain(model.params.specs());
    let function = lantern::stage("network", inputs, |t| model.network.answer(&model.label, &t[0], &t[1..]))?;
    Ok(function.to_string())
}

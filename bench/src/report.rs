//! Files of results: JSON, written whole or not at all.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use crate::Result;
use crate::measure::Times;

/// Writes a result, indented, with a line end. Folders on the way are made.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = NamedTempFile::new_in(folder)?;
    serde_json::to_writer_pretty(&mut file, value)?;
    file.write_all(b"\n")?;
    file.persist(path).map_err(|e| format!("{}: {}", path.display(), e.error))?;
    Ok(())
}

/// The fields of a repeated measurement: `first_ms` (the warm-up), `min_ms`, `median_ms`, `spread`, `runs_ms`.
pub fn times(first_ms: f64, runs: &Times) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("first_ms".into(), json!(digits(first_ms)));
    fields.insert("min_ms".into(), json!(digits(runs.min())));
    fields.insert("median_ms".into(), json!(digits(runs.median())));
    fields.insert("spread".into(), json!(digits(runs.spread())));
    fields.insert("runs_ms".into(), json!(runs.all().iter().copied().map(digits).collect::<Vec<_>>()));
    fields
}

/// Rounded to the microsecond: more digits of a time in milliseconds are noise.
pub fn digits(x: f64) -> f64 {
    (x * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results/x.json");
        write_json(&path, &json!({"a": 1})).unwrap();
        write_json(&path, &json!({"b": [1, 2]})).unwrap();
        let read: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(read, json!({"b": [1, 2]}));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn times_are_the_peers_fields() {
        let runs: Times = [2.0, 4.0, 3.00004].into_iter().collect();
        let fields = Value::Object(times(9.0, &runs));
        assert_eq!(
            fields,
            json!({"first_ms": 9.0, "min_ms": 2.0, "median_ms": 3.0, "spread": 0.667, "runs_ms": [2.0, 4.0, 3.0]})
        );
    }
}

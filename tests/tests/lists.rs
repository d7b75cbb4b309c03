//! Lists in the book equal the lists of the code: what is added to one has to be added to the other.

use std::fs;

use ir::scalar::{NullRule, defs};
use tests::tpch::workspace;

/// The rows of all tables of a page whose first cell is code, or of those below one heading: the cells, without
/// backticks in the first.
fn rows(page: &str, heading: Option<&str>) -> Vec<Vec<String>> {
    let path = workspace().join("docs/src").join(page);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut wanted = heading.is_none();
    let mut rows = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            wanted = heading.is_none_or(|heading| heading == title);
        }
        if let Some(inner) = line.strip_prefix("| `").filter(|_| wanted) {
            let inner = inner.trim_end().trim_end_matches('|').replacen('`', "", 1);
            rows.push(inner.split(" | ").map(|cell| cell.trim().to_owned()).collect());
        }
    }
    rows
}

#[test]
fn scalar_operations() {
    let code: Vec<Vec<String>> = defs()
        .iter()
        .map(|def| {
            let null = match def.null {
                NullRule::Strict => "strict",
                NullRule::Kleene => "Kleene",
                NullRule::Never => "never",
                NullRule::Own => "own",
            };
            vec![def.name.to_owned(), null.to_owned()]
        })
        .collect();
    let book: Vec<Vec<String>> = rows("scalars.md", None)
        .into_iter()
        .map(|cells| vec![cells[0].clone(), cells.last().cloned().unwrap_or_default()])
        .collect();
    assert_eq!(book, code, "docs/src/scalars.md lists the rows of ir/src/scalar/table.rs in their order");
}

#[test]
fn options_of_create_model() {
    let code: Vec<Vec<String>> =
        flern::sql::OPTIONS.iter().map(|option| vec![option.name.to_owned(), option.doc.to_owned()]).collect();
    assert_eq!(rows("models.md", Some("Options")), code, "docs/src/models.md lists flern::sql::OPTIONS in their order");
}

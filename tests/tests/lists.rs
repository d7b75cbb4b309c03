//! Lists in the book equal the lists of the code: what is added to one has to be added to the other. With `BLESS=1` in
//! the environment the lists that hold nothing but what the code says are written anew.

use std::fs;
use std::path::PathBuf;

use ir::opt::{Exactness, PASSES};
use ir::plan::border::RULES;
use ir::scalar::{NullRule, defs};
use tests::tpch::workspace;

fn path(page: &str) -> PathBuf {
    workspace().join("docs/src").join(page)
}

fn text(page: &str) -> String {
    let path = path(page);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the tables below a heading, or of all tables, whose first cell is code: the cells, the first without its
/// backticks.
fn rows(page: &str, heading: Option<&str>) -> Vec<Vec<String>> {
    let mut wanted = heading.is_none();
    let mut rows = Vec::new();
    for line in text(page).lines() {
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

/// Compares the table below a heading with what the code says, or writes it.
fn check(page: &str, heading: &str, code: &[Vec<String>]) {
    if std::env::var_os("BLESS").is_some() {
        let old = text(page);
        let (head, tail) = old.split_once(&format!("## {heading}\n")).expect("the heading is on the page");
        let (rule, tail) = tail.split_once("| --- |").expect("a table follows");
        let (columns, tail) = tail.split_once('\n').expect("a table has rows");
        let rest: Vec<&str> = tail.lines().skip_while(|line| line.starts_with('|')).collect();
        let table: String =
            code.iter().map(|cells| format!("| `{}` | {} |\n", cells[0], cells[1..].join(" | "))).collect();
        let mut new = format!("{head}## {heading}\n{rule}| --- |{columns}\n{table}");
        new.extend(rest.iter().map(|line| format!("{line}\n")));
        fs::write(path(page), new).expect("the page is written");
    }
    assert_eq!(rows(page, Some(heading)), code, "docs/src/{page} lists what the code says (BLESS=1 writes it)");
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
fn passes_of_the_optimizer() {
    let mut code: Vec<Vec<String>> = Vec::new();
    for pass in PASSES {
        let exact = match pass.exactness {
            Exactness::Bit => "bit",
            Exactness::Real => "real",
        };
        if code.iter().all(|row| row[0] != pass.name) {
            code.push(vec![pass.name.to_owned(), pass.doc.to_owned(), exact.to_owned()]);
        }
    }
    check("optimizer.md", "Passes", &code);
}

#[test]
fn rules_of_the_plan() {
    let code: Vec<Vec<String>> = RULES.iter().map(|rule| vec![rule.name.to_owned(), rule.doc.to_owned()]).collect();
    check("fusion.md", "Rules of the plan", &code);
}

#[test]
fn options_of_create_model() {
    let code: Vec<Vec<String>> =
        flern::sql::OPTIONS.iter().map(|option| vec![option.name.to_owned(), option.doc.to_owned()]).collect();
    check("models.md", "Options", &code);
}

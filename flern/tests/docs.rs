//! The SQL of the book and of the README runs, and gives the results that stand below it.
//!
//! The statements of a page run one after the other, over the demonstration's tables, and its model where a page names it. A
//! block of ```` ```text ```` behind one of ```` ```sql ```` that is drawn as a table is its last result. What is not to be run,
//! such as a grammar, stands in a block of text.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The blocks of code of a page: language and text.
fn blocks(page: &str) -> Vec<(&str, String)> {
    let mut blocks: Vec<(&str, String)> = vec![];
    let mut open = false;
    for line in page.lines() {
        match (line.strip_prefix("```"), open) {
            (Some(language), false) => blocks.push((language, String::new())),
            (None, true) => {
                if let Some((_, text)) = blocks.last_mut() {
                    text.push_str(line);
                    text.push('\n');
                }
            }
            (Some(_), true) | (None, false) => {}
        }
        open ^= line.starts_with("```");
    }
    blocks
}

/// The statements that make what a page reads.
fn tables_for(sql: &str) -> &'static str {
    let demo = include_str!("../src/bin/flern/demo.sql");
    if sql.contains("CREATE TABLE flights") {
        return "";
    }
    let end = if sql.contains("late_flights") { "-- 4." } else { "-- 3." };
    demo.split(end).next().expect("the script has parts")
}

fn run(folder: &Path, sql: &str) -> String {
    std::fs::write(folder.join("page.sql"), sql).expect("the script");
    let output = Command::new(env!("CARGO_BIN_EXE_flern"))
        .args(["run", "page.sql", "--threads", "2"])
        .current_dir(folder)
        .output()
        .expect("flern runs");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}{said}");
    said.into_owned()
}

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut pages = vec![root.join("README.md")];
    for folder in [root.join("docs/src"), root.join("docs/src/howto")] {
        let files = std::fs::read_dir(folder).expect("the book").map(|file| file.expect("a page").path());
        pages.extend(files.filter(|path| path.extension().is_some_and(|e| e == "md")));
    }
    pages
}

#[test]
fn the_sql_of_the_docs_runs_and_gives_what_they_show() {
    let folder = tempfile::tempdir().expect("a folder");
    flern::data::write_nycflights13(folder.path()).expect("the data");
    let (mut statements, mut results) = (0, 0);
    for page in pages() {
        let text = std::fs::read_to_string(&page).expect("a page");
        let blocks = blocks(&text);
        let sql: Vec<&str> =
            blocks.iter().filter(|(language, _)| *language == "sql").map(|(_, sql)| sql.trim()).collect();
        if sql.is_empty() {
            continue;
        }
        statements += sql.len();
        let ended = |sql: &&str| if sql.ends_with(';') { format!("{sql}\n") } else { format!("{sql};\n") };
        let all: String = sql.iter().map(ended).collect();
        let said = run(folder.path(), &format!("{}\n{all}", tables_for(&all)));
        for pair in blocks.windows(2) {
            let [("sql", _), ("text", shown)] = pair else { continue };
            if shown.starts_with('┌') {
                results += 1;
                assert!(said.contains(shown.as_str()), "{}: not\n{shown}\nbut\n{said}", page.display());
            }
        }
    }
    assert!(statements >= 3 && results >= 1, "{statements} blocks, {results} results");
}

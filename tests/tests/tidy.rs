//! Rules of the repository, as tests: what must be absent, and which lists must agree. Each rule is one test and
//! says in its message what to do.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use tests::tpch::workspace;

/// The crates, lowest first: a crate may depend on those that its row lists, and on no other of ours.
const MAY_USE: [(&str, &str, &[&str]); 7] = [
    ("runtime", "ir/runtime", &[]),
    ("ir", "ir", &["runtime"]),
    ("flare", "flare", &["runtime", "ir"]),
    ("lantern", "lantern", &["runtime", "ir"]),
    ("flern", "flern", &["runtime", "ir", "flare", "lantern"]),
    ("tests", "tests", &["runtime", "ir", "flare", "lantern", "flern"]),
    ("bench", "bench", &["runtime", "ir", "flare", "lantern", "flern", "tests"]),
];

/// The files that may contain `unsafe`, each with its reason. One that has lost its last `unsafe` leaves the list.
const MAY_BE_UNSAFE: &[(&str, &str)] = &[
    ("ir/runtime/src/abi.rs", "functions that generated code calls"),
    ("ir/runtime/src/buffer.rs", "rows at addresses that generated code writes"),
    ("ir/runtime/src/column/bytes.rs", "arrays of elements over aligned memory"),
    ("ir/runtime/src/column/mod.rs", "elements read as views of texts"),
    ("ir/runtime/src/column/tests.rs", "reads what it made"),
    ("ir/runtime/src/column/text.rs", "views of texts that a builder keeps"),
    ("ir/runtime/src/column/view.rs", "texts as views into memory kept elsewhere"),
    ("ir/runtime/src/cpu.rs", "kernels compiled for features that the processor was asked for"),
    ("ir/runtime/src/gemm/attention.rs", "matrices by address and stride"),
    ("ir/runtime/src/gemm/attention_grad.rs", "matrices by address and stride"),
    ("ir/runtime/src/gemm/blocked.rs", "matrices by address and stride"),
    ("ir/runtime/src/gemm/kernel.rs", "vectors of a processor that was asked for them"),
    ("ir/runtime/src/gemm/mod.rs", "matrices by address and stride"),
    ("ir/runtime/src/gemm/pack.rs", "matrices by address and stride"),
    ("ir/runtime/src/gemm/peak.rs", "vectors of a processor that was asked for them"),
    ("ir/runtime/src/gemm/split.rs", "matrices by address and stride, written by several workers"),
    ("ir/runtime/src/gemm/tests.rs", "calls the kernels"),
    ("ir/runtime/src/gemm/vector.rs", "vectors of a processor that was asked for them"),
    ("ir/runtime/src/group_table.rs", "rows behind the addresses of a table that generated code probes"),
    ("ir/runtime/src/join_table.rs", "rows behind the addresses of a table that generated code probes"),
    ("ir/runtime/src/kernels/bloom.rs", "reads the hashes of rows that a table holds"),
    ("ir/runtime/src/kernels/calls.rs", "functions that generated code calls"),
    ("ir/runtime/src/kernels/filter.rs", "tiles by address, from generated code"),
    ("ir/runtime/src/kernels/groups.rs", "tiles by address, from generated code"),
    ("ir/runtime/src/kernels/hash.rs", "hashes the bytes behind text views"),
    ("ir/runtime/src/kernels/mask.rs", "tiles by address, from generated code"),
    ("ir/runtime/src/kernels/mod.rs", "tiles by address, from generated code"),
    ("ir/runtime/src/kernels/unpack.rs", "vectors of a processor that was asked for them"),
    ("ir/runtime/src/pool.rs", "memory from the system"),
    ("ir/runtime/src/recursion.rs", "rows at addresses that generated code wrote"),
    ("ir/runtime/src/scheduler.rs", "lends a closure to the workers for the time of a call"),
    ("ir/runtime/src/sort.rs", "rows at addresses that generated code wrote"),
    ("ir/runtime/src/sort/buckets.rs", "items that name rows and go between threads"),
    ("ir/runtime/src/sort/integers.rs", "rows at addresses that generated code wrote"),
    ("ir/runtime/src/trap.rs", "the block that generated code and runtime share"),
    ("ir/runtime/src/window.rs", "rows at addresses that generated code wrote"),
    ("ir/src/codegen/cpu/entry.rs", "calls generated code, and frees it"),
    ("ir/src/codegen/cpu/helpers.rs", "functions that generated code calls"),
    ("ir/src/codegen/tests.rs", "runs pipelines over memory of its own"),
    ("ir/src/exec/batch.rs", "tensors that several ranges write, each its part"),
    ("ir/src/exec/convert.rs", "texts as words of generated code"),
    ("ir/src/exec/pipeline.rs", "calls generated code over memory that outlives the call"),
    ("ir/src/exec/recursion.rs", "hands rows of generated code to the runtime"),
    ("ir/src/exec/run.rs", "views of literals that the executable owns"),
    ("ir/src/exec/scalar_tests.rs", "runs pipelines over memory of its own"),
    ("ir/src/exec/seal.rs", "rows at addresses that generated code wrote"),
    ("ir/src/interp/kernel.rs", "reads and writes memory as a kernel says"),
    ("ir/src/lower/tensor/machine.rs", "buffers by address, and generated nests over them"),
    ("ir/src/lower/tensor/machine/attention.rs", "buffers by address"),
    ("ir/src/lower/tensor/machine/batches.rs", "rows of batches, by address"),
    ("ir/src/lower/tensor/machine/nests.rs", "generated nests over buffers"),
    ("ir/src/lower/tensor/machine/parts.rs", "sums of parts, by address"),
    ("ir/src/lower/tensor/mod.rs", "the address of a function that generated code calls"),
];

/// What a crate must not know, as words of identifiers: `layer_norm` and `LayerNorm` are both `layer`, `norm`.
const MUST_NOT_KNOW: [(&str, &[&str]); 4] = [
    // The layer below knows no source language and no layer of a network.
    (
        "ir/src",
        &[
            "sql",
            "sqlparser",
            "datafusion",
            "bigquery",
            "varchar",
            "lstm",
            "dropout",
            "adam",
            "sgd",
            "flare",
            "lantern",
        ],
    ),
    (
        "ir/runtime/src",
        &["sql", "datafusion", "bigquery", "varchar", "lstm", "dropout", "cranelift", "flare", "lantern"],
    ),
    ("flare/src", &["grad", "gradient", "gradients", "vjp", "backprop", "lantern"]),
    ("lantern/src", &["sql", "datafusion", "varchar", "flare"]),
];

#[test]
fn crates_depend_downwards() {
    let names: BTreeSet<&str> = MAY_USE.iter().map(|(name, _, _)| *name).collect();
    let mut wrong = Vec::new();
    for (name, folder, allowed) in MAY_USE {
        let manifest = read(&workspace().join(folder).join("Cargo.toml"));
        for (section, entries) in sections(&manifest) {
            if !section.ends_with("dependencies") {
                continue;
            }
            for (dependency, _) in entries {
                if names.contains(dependency.as_str()) && !allowed.contains(&dependency.as_str()) {
                    wrong.push(format!("{name} must not depend on {dependency}"));
                }
            }
        }
    }
    none(&wrong, "runtime <- ir <- {flare, lantern} <- flern <- {tests, bench}");
}

#[test]
fn every_member_is_in_the_order_of_crates() {
    let root = read(&workspace().join("Cargo.toml"));
    let members = sections(&root)
        .into_iter()
        .find(|(section, _)| section == "workspace")
        .and_then(|(_, entries)| entries.into_iter().find(|(key, _)| key == "members"))
        .map(|(_, value)| value)
        .expect("the workspace has members");
    let listed: BTreeSet<&str> = members.split('"').skip(1).step_by(2).collect();
    let known: BTreeSet<&str> = MAY_USE.iter().map(|(_, folder, _)| *folder).collect();
    assert_eq!(listed, known, "MAY_USE in this file has to list the members of the workspace");
}

#[test]
fn crates_do_not_know_what_is_not_theirs() {
    let mut wrong = Vec::new();
    for (folder, forbidden) in MUST_NOT_KNOW {
        for file in rust_files(&workspace().join(folder)) {
            let code = code_only(&read(&file));
            for (line, text) in code.lines().enumerate() {
                for word in identifiers(text).flat_map(words) {
                    if forbidden.contains(&word.as_str()) {
                        wrong.push(format!("{}:{}: {word}", shown(&file), line + 1));
                    }
                }
            }
        }
    }
    none(&wrong, "these identifiers name what their crate must not know");
}

#[test]
fn unsafe_code_lives_in_the_listed_files() {
    let mut found = BTreeSet::new();
    for (_, folder, _) in MAY_USE {
        for file in rust_files(&workspace().join(folder)) {
            if identifiers(&code_only(&read(&file))).any(|identifier| identifier == "unsafe") {
                found.insert(shown(&file));
            }
        }
    }
    let listed: BTreeSet<String> = MAY_BE_UNSAFE.iter().map(|(file, _)| (*file).to_owned()).collect();
    let unlisted: Vec<_> = found.difference(&listed).cloned().collect();
    none(&unlisted, "these files contain `unsafe` and are not in MAY_BE_UNSAFE");
    let stale: Vec<_> = listed.difference(&found).cloned().collect();
    none(&stale, "these files are in MAY_BE_UNSAFE and contain no `unsafe`");
}

#[test]
fn nothing_is_left_to_do_at_run_time() {
    let mut wrong = Vec::new();
    for file in all_rust_files() {
        let code = code_only(&read(&file));
        for (line, text) in code.lines().enumerate() {
            for name in ["todo", "unimplemented", "dbg"] {
                let call = format!("{name}!");
                if text.match_indices(&call).any(|(at, _)| !text[..at].ends_with(is_identifier)) {
                    wrong.push(format!("{}:{}: {call}", shown(&file), line + 1));
                }
            }
        }
    }
    none(&wrong, "what is not supported is a typed error that names it");
}

#[test]
fn no_path_of_a_machine_is_written_down() {
    // Put together here, so that this file passes its own rule.
    let roots = ["work", "root", "tmp", "home"].map(|name| format!("/{name}"));
    let mut wrong = Vec::new();
    for file in text_files() {
        let Some(text) = text_of(&file) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            if roots.iter().any(|root| names_path(line, root)) {
                wrong.push(format!("{}:{}: {}", shown(&file), number + 1, line.trim()));
            }
        }
    }
    none(&wrong, "these lines name a folder of one machine");
}

#[test]
fn every_dependency_is_pinned_once_with_a_reason() {
    let root = read(&workspace().join("Cargo.toml"));
    let (_, table) = root.split_once("[workspace.dependencies]\n").expect("a table of dependencies");
    let table = table.split("\n[").next().unwrap_or_default();
    let mut wrong = Vec::new();
    for block in table.split("\n\n") {
        let mut explained = false;
        for line in block.lines().filter(|line| !line.trim().is_empty()) {
            explained |= line.starts_with('#');
            if !explained && !line.contains('#') {
                wrong.push(format!("Cargo.toml: {line}: no comment says what it is for"));
            }
        }
    }
    for (name, folder, _) in MAY_USE {
        for (section, entries) in sections(&read(&workspace().join(folder).join("Cargo.toml"))) {
            if !section.ends_with("dependencies") {
                continue;
            }
            for (dependency, value) in entries {
                let inherited =
                    dependency.ends_with(".workspace") || value.contains("workspace = true") || value == "true";
                if !inherited {
                    wrong.push(format!("{name}: {dependency} = {value}: pin it in the root Cargo.toml"));
                }
            }
        }
    }
    none(&wrong, "versions stand in the root Cargo.toml, each group with its reason");
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let without: Vec<_> = MAY_USE
        .iter()
        .filter(|(_, folder, _)| {
            let manifest = read(&workspace().join(folder).join("Cargo.toml"));
            !sections(&manifest).iter().any(|(section, entries)| {
                section == "lints" && entries.iter().any(|(key, value)| key == "workspace" && value == "true")
            })
        })
        .map(|(name, _, _)| (*name).to_owned())
        .collect();
    none(&without, "these crates lack `[lints] workspace = true`");
}

#[test]
fn the_book_lists_its_pages_and_links_lead_somewhere() {
    let mut wrong = Vec::new();
    let summary = workspace().join("docs/src/SUMMARY.md");
    let listed: BTreeSet<PathBuf> =
        links(&read(&summary)).into_iter().map(|link| summary.with_file_name(link)).collect();
    let is_page = |file: &PathBuf| file.extension().is_some_and(|end| end == "md");
    let (pages, pictures): (Vec<PathBuf>, Vec<PathBuf>) =
        files(&workspace().join("docs/src")).into_iter().partition(is_page);
    let shown_by =
        |page: &PathBuf| links(&read(page)).into_iter().map(|link| page.with_file_name(link)).collect::<Vec<_>>();
    let used: BTreeSet<PathBuf> = pages.iter().flat_map(shown_by).collect();
    for page in pages.iter().filter(|page| **page != summary && !listed.contains(*page)) {
        wrong.push(format!("{}: not in SUMMARY.md", shown(page)));
    }
    for picture in pictures.iter().filter(|picture| !used.contains(*picture)) {
        wrong.push(format!("{}: on no page", shown(picture)));
    }
    for page in text_files().into_iter().filter(|file| file.extension().is_some_and(|end| end == "md")) {
        for link in links(&read(&page)) {
            let path = link.split('#').next().unwrap_or_default();
            if link.contains("://") || link.starts_with("mailto:") || path.is_empty() {
                continue;
            }
            if !page.with_file_name(path).exists() {
                wrong.push(format!("{}: {link} leads nowhere", shown(&page)));
            }
        }
    }
    none(&wrong, "pages and links");
}

/// The rules stand on these helpers, so they are tested too.
mod helpers {
    use super::*;

    #[test]
    fn comments_and_texts_are_no_code() {
        let source = r###"
            let a = "unsafe \" { todo!() }"; // unsafe
            /* unsafe /* nested */ unsafe */ let b = 'x'; let c = '\''; let d: &'static str = r#"dbg!("unsafe")"#;
            let e = b"unsafe"; let f = br"unsafe"; let g = '"'; let h = "multi
            line unsafe"; call();
        "###;
        let code = code_only(source);
        assert!(!code.contains("unsafe") && !code.contains("todo") && !code.contains("dbg"), "{code}");
        assert!(code.contains("let g") && code.contains("static str") && code.contains("call()"), "{code}");
        assert_eq!(code.lines().count(), source.lines().count());
    }

    #[test]
    fn identifiers_are_cut_into_words() {
        let all = |text| identifiers(text).flat_map(words).collect::<Vec<_>>();
        assert_eq!(all("layer_norm(LayerNorm, SQLText, x1)"), ["layer", "norm", "layer", "norm", "sql", "text", "x1"]);
    }

    #[test]
    fn paths_of_machines_are_told_from_other_text() {
        let root = format!("/{}", "tmp");
        for line in ["cd ROOT/x", "ROOT", "a=ROOT", "\"ROOT/\""] {
            assert!(names_path(&line.replace("ROOT", &root), &root), "{line}");
        }
        for line in ["https://example.orgROOT/x", ".ROOT", "ROOTfs", "targetROOT"] {
            assert!(!names_path(&line.replace("ROOT", &root), &root), "{line}");
        }
    }

    #[test]
    fn manifests_are_read() {
        let text = "[a]\nx = 1 # one\nlist = [\n  \"p\",\n  \"q\",\n]\n\n[b.c]\ny.workspace = true\n";
        assert_eq!(
            sections(text),
            [
                (
                    "a".to_owned(),
                    vec![("x".to_owned(), "1".to_owned()), ("list".to_owned(), "[ \"p\", \"q\", ]".to_owned())]
                ),
                ("b.c".to_owned(), vec![("y".to_owned(), "true".to_owned())]),
            ]
        );
    }
}

/// Fails with all findings.
fn none(findings: &[String], rule: &str) {
    assert!(findings.is_empty(), "{rule}:\n  {}\n", findings.join("\n  "));
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text of a file, or `None` if it is not text.
fn text_of(path: &Path) -> Option<String> {
    String::from_utf8(fs::read(path).ok()?).ok().filter(|text| !text.contains('\0'))
}

/// A path as messages and lists give it: from the workspace root, with slashes.
fn shown(path: &Path) -> String {
    let path = path.strip_prefix(workspace()).unwrap_or(path);
    path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// All files below a folder, sorted; what builds and tools leave behind is passed over.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let hidden = name.starts_with('.') && name != ".ci" && name != ".gitignore";
            if hidden || name == "target" || name == "__pycache__" || name == "book" || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn text_files() -> Vec<PathBuf> {
    files(&workspace())
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    files(folder).into_iter().filter(|file| file.extension().is_some_and(|end| end == "rs")).collect()
}

fn all_rust_files() -> Vec<PathBuf> {
    rust_files(&workspace())
}

/// The sections of a manifest in order, each with its keys and values; `[x.workspace]` of an inherited dependency is
/// written as the key `x.workspace` with the value `true`, of which the key here is `x`.
fn sections(manifest: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut sections: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in manifest.lines() {
        let line = line.split(" #").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some((key, mut value)) = open.take() {
            value.push(' ');
            value.push_str(line);
            if line.ends_with(']') {
                push_entry(&mut sections, key, value);
            } else {
                open = Some((key, value));
            }
        } else if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('[')) {
            let key = key.trim().trim_end_matches(".workspace").to_owned();
            let value = value.trim().to_owned();
            if value.starts_with('[') && !value.ends_with(']') {
                open = Some((key, value));
            } else {
                push_entry(&mut sections, key, value);
            }
        } else {
            sections.push((line.trim_matches(['[', ']']).to_owned(), Vec::new()));
        }
    }
    sections
}

fn push_entry(sections: &mut [(String, Vec<(String, String)>)], key: String, value: String) {
    if let Some((_, entries)) = sections.last_mut() {
        entries.push((key, value));
    }
}

/// Rust source with comments and the contents of texts blanked; lines stay lines.
fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = skip(source, at);
        if end > at {
            out.extend(source[at..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            let c = source[at..].chars().next().expect("inside the text");
            out.push(c);
            at += c.len_utf8();
        }
    }
    out
}

/// The end of the comment, text or character that begins at `at`; `at` itself if none does.
fn skip(source: &str, at: usize) -> usize {
    let rest = &source[at..];
    let after_identifier = source[..at].ends_with(is_identifier);
    if rest.starts_with("//") {
        return at + rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        let (mut depth, mut end) = (0, 0);
        while end < rest.len() {
            if rest[end..].starts_with("/*") {
                depth += 1;
                end += 2;
            } else if rest[end..].starts_with("*/") {
                depth -= 1;
                end += 2;
            } else {
                end += rest[end..].chars().next().map_or(1, char::len_utf8);
            }
            if depth == 0 {
                break;
            }
        }
        return at + end;
    }
    if !after_identifier {
        let raw = rest.trim_start_matches(['b', 'c']);
        if let Some(hashes) = raw.strip_prefix('r').filter(|_| rest.len() - raw.len() <= 1) {
            let count = hashes.len() - hashes.trim_start_matches('#').len();
            if hashes[count..].starts_with('"') {
                let close = format!("\"{}", "#".repeat(count));
                let body = rest.len() - hashes.len() + count + 1;
                return at + rest[body..].find(&close).map_or(rest.len(), |end| body + end + close.len());
            }
        }
    }
    if rest.starts_with('"') {
        return at + quoted_end(rest, '"');
    }
    if let Some(inner) = rest.strip_prefix('\'') {
        let mut chars = inner.chars();
        let first = chars.next();
        // A lifetime has no closing quote after one character.
        if first == Some('\\') || chars.next() == Some('\'') {
            return at + quoted_end(rest, '\'');
        }
    }
    at
}

fn quoted_end(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn is_identifier(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn identifiers(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c| !is_identifier(c)).filter(|word| !word.is_empty())
}

/// The words of an identifier in small letters: cut at underscores and before capitals.
fn words(identifier: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let chars: Vec<char> = identifier.chars().collect();
    for (at, &c) in chars.iter().enumerate() {
        let begins = c.is_uppercase()
            && at > 0
            && (!chars[at - 1].is_uppercase() || chars.get(at + 1).is_some_and(|next| next.is_lowercase()));
        if c == '_' || begins {
            words.push(String::new());
        }
        if c != '_' {
            words.last_mut().expect("never empty").extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Whether a line names a folder below (or equal to) `root`, and not a part of another path or address.
fn names_path(line: &str, root: &str) -> bool {
    line.match_indices(root).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + root.len()..].chars().next();
        let starts = before.is_none_or(|c| !is_identifier(c) && !"./-:}~)*".contains(c));
        let ends = after.is_none_or(|c| !is_identifier(c) && c != '-' && c != '.');
        starts && ends
    })
}

/// The targets of the links of a Markdown text, code blocks left out.
fn links(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_code = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        // Inline code is cut out; what is left has links as they are read.
        let text: String = line.split('`').step_by(2).collect();
        let mut rest = text.as_str();
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let end = rest.find(')').unwrap_or(rest.len());
            found.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
    }
    found
}

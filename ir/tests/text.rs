//! Text tests: `tests/text/**/*.ir`, one test a file.
//!
//! A file is a list of sections. The first is the program; the others begin with a line `---- name`:
//!
//! - `inputs` (if the program has any): what the program is run on;
//! - `outputs`: what the interpreter gives, or the line of its error;
//! - `after`: the program that the passes leave.
//!
//! Lines `; key: value` at the top say what is done:
//!
//! - `; passes: fold clean` runs these passes, compares the program with `after`, and what the interpreter gives before and
//!   after them;
//! - `; tolerance: 1e-6` lets numbers differ by that share, for passes that are exact in real arithmetic only.
//!
//! `UPDATE_EXPECT=1` writes `outputs` and `after` as they are.

use std::path::{Path, PathBuf};

use ir::Program;
use ir::exec::Inputs;
use ir::opt::OptOptions;
use ir::text::{parse_inputs, print_outputs};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text");
    let mut files = Vec::new();
    find(&root, &mut files);
    files.sort();
    assert!(!files.is_empty(), "no text tests in {}", root.display());
    let trials = files.into_iter().map(|file| {
        let name = file.strip_prefix(&root).unwrap_or(&file).with_extension("").display().to_string();
        Trial::test(name, move || run(&file).map_err(Failed::from))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder of text tests").flatten() {
        let path = entry.path();
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|e| e == "ir") {
            files.push(path);
        }
    }
}

/// A file, cut at the lines `---- name`.
struct Sections(Vec<(String, String)>);

impl Sections {
    fn read(text: &str) -> Self {
        let mut list = vec![(String::new(), String::new())];
        for line in text.split_inclusive('\n') {
            match line.strip_prefix("---- ") {
                Some(name) => list.push((name.trim().to_string(), String::new())),
                None => list.last_mut().expect("never empty").1.push_str(line),
            }
        }
        Self(list)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|s| s.0 == name).map(|s| s.1.as_str())
    }

    fn set(&mut self, name: &str, text: &str) {
        match self.0.iter_mut().find(|s| s.0 == name) {
            Some(s) => s.1 = text.into(),
            None => self.0.push((name.into(), text.into())),
        }
    }

    fn write(&self) -> String {
        let section = |(name, text): &(String, String)| {
            if name.is_empty() { text.clone() } else { format!("---- {name}\n{text}") }
        };
        self.0.iter().map(section).collect()
    }
}

fn directive<'a>(program: &'a str, key: &str) -> Option<&'a str> {
    let lines = program.lines().take_while(|l| l.starts_with(';'));
    lines.filter_map(|l| l[1..].trim().strip_prefix(key)?.trim_start().strip_prefix(':')).map(str::trim).next()
}

fn run(file: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|e| e.to_string())?;
    let mut sections = Sections::read(&text);
    let source = sections.get("").unwrap_or_default().to_string();
    let program = Program::parse(&source).map_err(|e| e.to_string())?;
    let again = Program::parse(&program.print()).map_err(|e| format!("printed text does not parse: {e}"))?;
    same_lines("printed", &program.print(), &again.print())?;
    let inputs = match sections.get("inputs") {
        Some(text) => parse_inputs(text).map_err(|e| format!("inputs: {e}"))?,
        None => Inputs::new(),
    };

    let before = outputs(&program, &inputs);
    expect(&mut sections, "outputs", &before)?;
    if let Some(passes) = directive(&source, "passes") {
        let after = optimize(program, passes)?;
        after.verify().map_err(|e| format!("after the passes: {e}"))?;
        expect(&mut sections, "after", &after.print())?;
        let tolerance = directive(&source, "tolerance").map_or(Ok(0.0), str::parse).map_err(|_| "a tolerance")?;
        same_numbers(&before, &outputs(&after, &inputs), tolerance)?;
    }

    if updating() {
        let written = sections.write();
        if written != text {
            std::fs::write(file, written).map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

fn updating() -> bool {
    std::env::var_os("UPDATE_EXPECT").is_some_and(|v| v == "1")
}

fn outputs(p: &Program, inputs: &Inputs) -> String {
    match p.interpret(inputs) {
        Ok(outputs) => print_outputs(&outputs),
        Err(ir::Error::Trap(ir::error::Trap { kind, place: Some(place) })) => {
            format!("error: {kind}, in {}\n", p.places[place.index()].text)
        }
        Err(e) => format!("error: {e}\n"),
    }
}

fn expect(sections: &mut Sections, name: &str, found: &str) -> Result<(), String> {
    if updating() {
        sections.set(name, found);
        return Ok(());
    }
    match sections.get(name) {
        Some(expected) => same_lines(name, expected.trim_end(), found.trim_end()),
        None => Err(format!("the section `{name}` is missing; run with UPDATE_EXPECT=1")),
    }
}

fn same_lines(what: &str, expected: &str, found: &str) -> Result<(), String> {
    if expected == found {
        return Ok(());
    }
    let line = expected.lines().zip(found.lines()).take_while(|(a, b)| a == b).count();
    let at = |text: &str| text.lines().nth(line).unwrap_or("nothing").to_string();
    Err(format!("{what} line {}:\nexpected {}\n   found {}\n\nall of it:\n{found}", line + 1, at(expected), at(found)))
}

/// Equal text, but for numbers that differ by at most a share.
fn same_numbers(before: &str, after: &str, tolerance: f64) -> Result<(), String> {
    if tolerance == 0.0 {
        return same_lines("the passes change the result:", before, after);
    }
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| c.is_whitespace() || "()[],".contains(c)).map(String::from).collect()
    };
    let (a, b) = (words(before), words(after));
    let close = |(a, b): (&String, &String)| match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(x), Ok(y)) => (x - y).abs() <= tolerance * x.abs().max(1.0) || a == b,
        _ => a == b,
    };
    if a.len() == b.len() && a.iter().zip(&b).all(close) {
        return Ok(());
    }
    same_lines("the passes change the result:", before, after)
}

fn optimize(mut program: Program, passes: &str) -> Result<Program, String> {
    let only = passes.split_whitespace().map(String::from).collect();
    let options = OptOptions { only: Some(only), fuel: None, verify: true, ..OptOptions::default() };
    program.optimize(&options).map_err(|e| e.to_string())?;
    Ok(program)
}

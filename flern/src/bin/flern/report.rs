//! Errors on the terminal, with the place in the SQL text that they are about.

use std::fmt;
use std::io::Write;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

use flern::sql::Span;

use crate::host::Failure;

/// Prints a failure. `name` says where the script came from.
pub(crate) fn print(out: &mut dyn Write, failure: &Failure, name: &str, script: &str) {
    let report = miette::Report::new(Report::new(failure, name, script));
    // Nobody is left to be told where the standard error is closed.
    let _ = writeln!(out, "{report:?}");
}

/// Prints a failure that is about no text to the standard error.
pub(crate) fn print_plain(message: &str) {
    print(&mut std::io::stderr(), &Failure::new(message), "", "");
}

/// Over a malformed file the crates that read it may panic: that is caught where the file is read and comes back as an error
/// that names file and column, so nothing is printed about it here.
pub(crate) fn keep_contained_panics_quiet() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|place| is_reader_of_files(place.file())) {
            print(panic);
        }
    }));
}

/// Whether a source file belongs to the crates that read Parquet and Arrow's schemas.
fn is_reader_of_files(source: &str) -> bool {
    source.split(['/', '\\']).any(|part| part.starts_with("parquet-") || part.starts_with("arrow-"))
}

#[derive(Debug)]
struct Report {
    failure: Failure,
    source: NamedSource<String>,
}

/// Lines of a script that are longer, in bytes, are not shown.
const LONG_LINE: usize = 1000;

impl Report {
    fn new(failure: &Failure, name: &str, script: &str) -> Report {
        let mut failure = failure.clone();
        // Three lines are shown around the place; if one is too long, the place is said in words.
        if let Some(span) = failure.span
            && let Some(before) = script.get(..span.start)
        {
            let line = before.matches('\n').count();
            let lines = script.get(span.start..span.end).map_or(0, |text| text.matches('\n').count()) + 3;
            if script.lines().skip(line.saturating_sub(1)).take(lines).any(|line| line.len() > LONG_LINE) {
                let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
                failure.message = format!("{} ({name}, line {}, column {})", failure.message, line + 1, column + 1);
                failure.span = None;
                failure.related = None;
            }
        }
        Report { failure, source: NamedSource::new(name, script.to_string()) }
    }

    /// The span, or where it is empty at the end of the text, the last sign before it.
    fn visible(&self, span: Span) -> Span {
        let script = self.source.inner();
        let text = script.trim_end();
        match text.char_indices().next_back() {
            Some((start, c)) if span.start >= text.len() => Span { start, end: start + c.len_utf8() },
            _ => span,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.failure.message)
    }
}

impl std::error::Error for Report {}

impl Diagnostic for Report {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.failure.help.as_ref()?;
        Some(Box::new(help))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.failure.span?;
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.visible(self.failure.span?);
        let here = LabeledSpan::new_primary_with_span(None, (span.start, span.end - span.start));
        let related = self
            .failure
            .related
            .map(|(span, label)| LabeledSpan::new(Some(label.to_string()), span.start, span.end - span.start));
        Some(Box::new(std::iter::once(here).chain(related)))
    }
}

#[cfg(test)]
mod tests {
    use miette::{GraphicalReportHandler, GraphicalTheme};

    use super::*;

    fn render(script: &str) -> String {
        let error = flern::sql::parse(script).unwrap_err();
        let report = Report::new(&flern::Error::from(error).into(), "demo.sql", script);
        // The first line keeps the blanks before the others.
        let mut out = "standard error\n".to_string();
        GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
            .with_width(100)
            .render_report(&mut out, &report)
            .unwrap();
        out
    }

    #[test]
    fn an_error_shows_the_line_and_the_place() {
        let script = "SELECT 1;\nCREATE MODEL größe\nOPTIONS (model_typ = 'linear_reg')\nAS SELECT 1 AS label";
        expect_test::expect![[r#"
            standard error
              × there is no model option 'model_typ'
               ╭─[demo.sql:3:10]
             2 │ CREATE MODEL größe
             3 │ OPTIONS (model_typ = 'linear_reg')
               ·          ─────────
             4 │ AS SELECT 1 AS label
               ╰────
              help: did you mean 'model_type'?
        "#]]
        .assert_eq(&render(script));
    }

    #[test]
    fn long_lines_are_not_shown() {
        let script = format!("SELECT 1;\nSELECT 'é', {}\nFROM", "1, ".repeat(1000));
        let said = render(&script);
        assert!(said.len() < 300 && said.contains("(demo.sql, line 3, column "), "{said}");
        let script = format!("SELECT 1;\nSELECT 'é', ) -- {}", "x".repeat(1000));
        let said = render(&script);
        assert!(said.len() < 300 && said.contains("(demo.sql, line 2, column 13)"), "{said}");
    }

    #[test]
    fn an_error_at_the_end_shows_the_last_line() {
        expect_test::expect![[r#"
            standard error
              × expected identifier, found the end
               ╭─[demo.sql:2:4]
             1 │ SELECT a
             2 │ FROM
               ·    ─
               ╰────
        "#]]
        .assert_eq(&render("SELECT a\nFROM"));
    }

    #[test]
    fn panics_of_our_own_are_printed() {
        for reader in ["/r/parquet-59.3.2/src/file/metadata/mod.rs", "c:\\r\\arrow-ipc-59.3.2\\src\\convert.rs"] {
            assert!(is_reader_of_files(reader), "{reader}");
        }
        for ours in
            ["flare/src/ingest/parquet/direct.rs", "flern/src/session.rs", "/rustc/1/library/core/src/option.rs"]
        {
            assert!(!is_reader_of_files(ours), "{ours}");
        }
    }
}

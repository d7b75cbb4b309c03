//! The interactive shell: SQL up to a semicolon, and commands that begin with a dot.

use std::borrow::Cow;
use std::io::Write;
use std::path::PathBuf;
use std::sync::PoisonError;

use reedline::{
    ColumnarMenu, Emacs, FileBackedHistory, KeyCode, KeyModifiers, MenuBuilder, Prompt, PromptEditMode,
    PromptHistorySearch, PromptHistorySearchStatus, Reedline, ReedlineEvent, ReedlineMenu, Signal, ValidationResult,
    Validator, default_emacs_keybindings,
};

use crate::complete::{DOT_COMMANDS, Names, SharedNames, SqlCompleter};
use crate::host::{Failure, Host};
use crate::output::{Format, count};
use crate::run::{Ended, Runner};

const HELP: &str = "\
SQL ends with a semicolon and may go over lines.
.tables             the tables and views
.schema [TABLE]     the columns of a table, or of all
.models             the models
.read FILE          runs a file of SQL
.timer on|off       how long each statement took
.format table|csv|json
.help
.quit               or Ctrl-D
Ctrl-C ends the statement that runs. Tab completes. Ctrl-R searches the history.";

/// Lines in the history file.
const HISTORY: usize = 10_000;

/// Whether the shell goes on.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Line,
    Leave,
}

/// Where the shell's input comes from.
trait Editor {
    fn read(&mut self) -> std::io::Result<Signal>;
}

impl Editor for Reedline {
    fn read(&mut self) -> std::io::Result<Signal> {
        self.read_line(&SqlPrompt)
    }
}

/// Reads and runs until the end of the input.
pub(crate) fn interact<H: Host>(runner: &mut Runner<H>) -> Result<(), Ended> {
    let names = SharedNames::default();
    let mut editor = editor(names.clone());
    interact_with(runner, &mut editor, &names)
}

fn interact_with<H: Host>(runner: &mut Runner<H>, editor: &mut dyn Editor, names: &SharedNames) -> Result<(), Ended> {
    writeln!(runner.out, "flern {}: .help for help, .quit to leave", env!("CARGO_PKG_VERSION"))?;
    runner.out.flush()?;
    loop {
        *names.lock().unwrap_or_else(PoisonError::into_inner) = names_of(&runner.host);
        match editor.read()? {
            Signal::Success(text) => match input(runner, &text) {
                Ok(Next::Line) | Err(Ended::Failed) => {}
                Ok(Next::Leave) => return Ok(()),
                Err(ended) => return Err(ended),
            },
            Signal::CtrlD => return Ok(()),
            // Ctrl-C while a line is edited drops the line.
            _ => {}
        }
    }
}

fn editor(names: SharedNames) -> Reedline {
    let mut keys = default_emacs_keybindings();
    keys.add_binding(
        KeyModifiers::NONE,
        KeyCode::Tab,
        ReedlineEvent::UntilFound(vec![ReedlineEvent::Menu("completion".to_string()), ReedlineEvent::MenuNext]),
    );
    let menu = ColumnarMenu::default().with_name("completion");
    let editor = Reedline::create()
        .with_validator(Box::new(Complete))
        .with_completer(Box::new(SqlCompleter { names }))
        .with_menu(ReedlineMenu::EngineCompleter(Box::new(menu)))
        .with_quick_completions(true)
        .with_edit_mode(Box::new(Emacs::new(keys)));
    // Without a place for it the history lasts as long as the shell.
    match history_file().map(|file| FileBackedHistory::with_file(HISTORY, file)) {
        Some(Ok(history)) => editor.with_history(Box::new(history)),
        Some(Err(_)) | None => editor,
    }
}

fn history_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("FLERN_HISTORY").or_else(|| {
        let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")))?;
        Some(state.join("flern/history"))
    })
}

fn names_of(host: &impl Host) -> Names {
    let tables = host.tables();
    let mut columns: Vec<String> =
        tables.iter().filter_map(|table| host.columns(table).ok()).flatten().map(|column| column.name).collect();
    columns.sort();
    columns.dedup();
    Names { tables, columns, models: host.models() }
}

/// Runs what was entered.
fn input<H: Host>(runner: &mut Runner<H>, text: &str) -> Result<Next, Ended> {
    let line = text.trim();
    if !line.starts_with('.') {
        runner.script("input", text)?;
        return Ok(Next::Line);
    }
    let (command, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let argument = argument.trim().trim_end_matches(';');
    match command.trim_end_matches(';') {
        ".quit" | ".exit" => return Ok(Next::Leave),
        ".help" => writeln!(runner.out, "{HELP}")?,
        ".tables" => {
            for table in runner.host.tables() {
                writeln!(runner.out, "{table}")?;
            }
        }
        ".models" => {
            for model in runner.host.models() {
                writeln!(runner.out, "{model}")?;
            }
        }
        ".schema" => schema(runner, argument)?,
        ".timer" => match argument {
            "on" => runner.timer = true,
            "off" => runner.timer = false,
            _ => return Err(told(runner, ".timer takes on or off")),
        },
        ".format" => match <Format as clap::ValueEnum>::from_str(argument, true) {
            Ok(format) => runner.format = format,
            Err(_) => return Err(told(runner, ".format takes table, csv or json")),
        },
        ".read" if argument.is_empty() => return Err(told(runner, ".read takes a file's name")),
        ".read" => {
            let path = argument.trim_matches(['\'', '"']);
            match std::fs::read_to_string(path) {
                Ok(script) => runner.script(path, &script)?,
                Err(error) => return Err(told(runner, &format!("{path}: {error}"))),
            }
        }
        unknown => {
            let known = flern::sql::nearest(unknown, DOT_COMMANDS);
            let help = known.map_or("see .help".to_string(), |known| format!("did you mean {known}?"));
            let failure = Failure { help: Some(help), ..Failure::new(format!("there is no command {unknown}")) };
            return Err(runner.failed(&failure, "input", text));
        }
    }
    runner.out.flush()?;
    Ok(Next::Line)
}

fn told<H: Host>(runner: &mut Runner<H>, message: &str) -> Ended {
    runner.failed(&Failure::new(message), "input", "")
}

fn schema<H: Host>(runner: &mut Runner<H>, table: &str) -> Result<(), Ended> {
    let tables = match table {
        "" => runner.host.tables(),
        table => vec![table.to_string()],
    };
    for table in tables {
        let columns = match runner.host.columns(&table) {
            Ok(columns) => columns,
            Err(failure) => return Err(runner.failed(&failure, "input", "")),
        };
        writeln!(runner.out, "{table} ({})", count(columns.len(), "column"))?;
        let widest = columns.iter().map(|column| column.name.chars().count()).max().unwrap_or(0);
        for column in columns {
            writeln!(runner.out, "  {:widest$}  {}", column.name, column.sql_type)?;
        }
    }
    Ok(())
}

/// Enter ends the input behind a semicolon and behind a command of the shell; else it begins a line.
struct Complete;

impl Validator for Complete {
    fn validate(&self, line: &str) -> ValidationResult {
        if line.trim_start().starts_with('.') || flern::sql::is_complete(line) {
            ValidationResult::Complete
        } else {
            ValidationResult::Incomplete
        }
    }
}

struct SqlPrompt;

impl Prompt for SqlPrompt {
    fn render_prompt_left(&self) -> Cow<'_, str> {
        Cow::Borrowed("flern")
    }

    fn render_prompt_right(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    fn render_prompt_indicator(&self, _: PromptEditMode) -> Cow<'_, str> {
        Cow::Borrowed("> ")
    }

    fn render_prompt_multiline_indicator(&self) -> Cow<'_, str> {
        Cow::Borrowed("  ...> ")
    }

    fn render_prompt_history_search_indicator(&self, search: PromptHistorySearch) -> Cow<'_, str> {
        let failing = match search.status {
            PromptHistorySearchStatus::Passing => "",
            PromptHistorySearchStatus::Failing => "failing ",
        };
        Cow::Owned(format!("({failing}search: {}) ", search.term))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::runner;

    #[test]
    fn commands_of_the_shell() {
        let (mut runner, out, err) = runner(Format::Table);
        let mut run = |text: &str| match input(&mut runner, text) {
            Ok(Next::Line) => "",
            Ok(Next::Leave) => "leaves",
            Err(Ended::Failed) => "failed",
            Err(Ended::Output(error)) => panic!("{error}"),
        };
        assert_eq!(run(".tables"), "");
        assert_eq!(out.take(), "numbers\n");
        assert_eq!(run(" .models ; "), "");
        assert_eq!(out.take(), "late\n");
        assert_eq!(run(".schema"), "");
        assert_eq!(out.take(), "numbers (1 column)\n  n  bigint\n");
        assert_eq!(run(".schema x"), "failed");
        assert!(err.take().contains("no table 'x'"));
        assert_eq!(run(".help"), "");
        for command in DOT_COMMANDS.iter().filter(|command| **command != ".exit") {
            assert!(HELP.contains(command), "{command}");
        }
        assert_eq!(run(".tabels"), "failed");
        assert!(err.take().contains("did you mean .tables?"));
        assert_eq!(run(".timer maybe"), "failed");
        assert_eq!(run(".format xml"), "failed");
        assert_eq!(run(".read"), "failed");
        assert_eq!(run(".read /no/such/file"), "failed");
        assert!(err.take().contains("/no/such/file"));
        assert_eq!(run(".format CSV"), "");
        out.take();
        assert_eq!(run("SELECT 1;"), "");
        assert_eq!(out.take(), "n\n1\n2\n3\n");
        assert_eq!(run(".timer on"), "");
        assert_eq!(run("SELECT * FROM nowhere;"), "failed");
        assert_eq!(run(".quit"), "leaves");
    }

    /// Input that was written before.
    struct Script(std::vec::IntoIter<Signal>);

    impl Editor for Script {
        fn read(&mut self) -> std::io::Result<Signal> {
            self.0.next().ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
        }
    }

    #[test]
    fn the_shell_goes_on_behind_errors_and_dropped_lines() {
        let enter = |text: &str| Signal::Success(text.to_string());
        let (mut runner, out, err) = runner(Format::Csv);
        let names = SharedNames::default();
        let lines = vec![
            enter("SELECT * FROM nowhere;"),
            Signal::CtrlC,
            enter(""),
            enter("SELECT\n1;"),
            Signal::CtrlD,
            enter(""),
        ];
        let mut script = Script(lines.into_iter());
        interact_with(&mut runner, &mut script, &names).unwrap();
        assert_eq!(runner.host.ran, ["SELECT * FROM nowhere", "SELECT\n1"]);
        assert!(err.take().contains("no table 'nowhere'"));
        assert!(out.take().ends_with("\nn\n1\n2\n3\n"));
        assert_eq!(names.lock().unwrap().tables, ["numbers"], "for completion");
        assert_eq!(script.0.len(), 1, "Ctrl-D leaves");
        let mut script = Script(vec![enter(".quit"), enter("SELECT 1;")].into_iter());
        interact_with(&mut runner, &mut script, &names).unwrap();
        assert_eq!(script.0.len(), 1, ".quit leaves");
        assert!(matches!(interact_with(&mut runner, &mut Script(vec![].into_iter()), &names), Err(Ended::Output(_))));
    }

    #[test]
    fn files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a file.sql");
        std::fs::write(&file, "SELECT 1; SELECT 2").unwrap();
        let (mut runner, _, _) = runner(Format::Csv);
        input(&mut runner, &format!(".read '{}'", file.display())).unwrap();
        assert_eq!(runner.host.ran, ["SELECT 1", "SELECT 2"]);
    }

    #[test]
    fn names_for_completion() {
        let (runner, _, _) = runner(Format::Csv);
        let names = names_of(&runner.host);
        assert_eq!(
            (names.tables, names.columns, names.models),
            (vec!["numbers".to_string()], vec!["n".to_string()], vec!["late".to_string()])
        );
    }

    #[test]
    fn enter_ends_statements_and_commands() {
        let complete = |text: &str| matches!(Complete.validate(text), ValidationResult::Complete);
        assert!(complete("SELECT 1;") && complete(".tables") && complete(""));
        assert!(!complete("SELECT 1") && !complete("SELECT ';"));
    }
}

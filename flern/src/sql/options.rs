//! The options of CREATE MODEL: the table of them, and their values as the statement gives them.

use datafusion_sql::sqlparser::tokenizer::Token;

use super::token::{Reader, Tok, shorten};
use super::{Literal, Span, nearest};
use crate::error::SqlError;

/// One option of CREATE MODEL.
#[derive(Debug)]
pub struct OptionSpec {
    pub name: &'static str,
    pub takes: OptionType,
    /// What it does, for the documents and for DESCRIBE.
    pub doc: &'static str,
}

/// What values an option takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptionType {
    /// Any text.
    Text,
    /// One of these words, in any case.
    Word(&'static [&'static str]),
    /// A whole number, at least this.
    Integer { least: i64 },
    /// A number above 0 and, where there is a bound, below it.
    Positive { below: Option<f64> },
    /// TRUE or FALSE.
    Bool,
    /// A list of texts; one text stands for a list of one.
    Texts,
    /// A list of whole numbers of at least 1; one number stands for a list of one.
    Sizes,
}

impl OptionType {
    fn wanted(self) -> String {
        match self {
            OptionType::Text => "a text in quotes".to_string(),
            OptionType::Word(words) => {
                let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
                words.join(", ")
            }
            OptionType::Integer { least } => format!("a whole number from {least} on"),
            OptionType::Positive { below: None } => "a number above 0".to_string(),
            OptionType::Positive { below: Some(bound) } => {
                format!("a number between 0 and {bound}")
            }
            OptionType::Bool => "TRUE or FALSE".to_string(),
            OptionType::Texts => "a text or a list of texts, as ['a', 'b']".to_string(),
            OptionType::Sizes => "a list of whole numbers from 1 on, as [64, 64]".to_string(),
        }
    }

    fn allows(self, value: &Literal) -> bool {
        let whole = |value: &Literal, least: i64| {
            matches!(value, Literal::Number(number)
                if number.fract() == 0.0 && *number >= least as f64 && *number <= MAX_WHOLE)
        };
        match (self, value) {
            (OptionType::Text, Literal::Text(_)) | (OptionType::Bool, Literal::Bool(_)) => true,
            (OptionType::Word(words), Literal::Text(text)) => words.iter().any(|word| word.eq_ignore_ascii_case(text)),
            (OptionType::Integer { least }, value) => whole(value, least),
            (OptionType::Positive { below }, Literal::Number(number)) => {
                *number > 0.0 && number.is_finite() && below.is_none_or(|below| *number < below)
            }
            (OptionType::Texts, Literal::Text(_)) => true,
            (OptionType::Texts, Literal::Array(items)) => {
                !items.is_empty() && items.iter().all(|item| matches!(item, Literal::Text(_)))
            }
            (OptionType::Sizes, Literal::Array(items)) => !items.is_empty() && items.iter().all(|item| whole(item, 1)),
            (OptionType::Sizes, value) => whole(value, 1),
            _ => false,
        }
    }
}

/// Whole numbers up to here are exact as f64.
const MAX_WHOLE: f64 = 9_007_199_254_740_992.0;

/// All options of CREATE MODEL. The names are BigQuery ML's.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "model_type",
        takes: OptionType::Word(&["dnn_classifier", "dnn_regressor", "linear_reg", "logistic_reg"]),
        doc: "what is trained: 'dnn_classifier', 'dnn_regressor', 'linear_reg' or 'logistic_reg'",
    },
    OptionSpec {
        name: "input_label_cols",
        takes: OptionType::Texts,
        doc: "the column to be predicted; 'label' where it is left out",
    },
    OptionSpec { name: "hidden_units", takes: OptionType::Sizes, doc: "the widths of the hidden layers of a dnn" },
    OptionSpec {
        name: "activation_fn",
        takes: OptionType::Word(&["relu", "tanh", "sigmoid", "gelu"]),
        doc: "the function behind each hidden layer: 'relu', 'tanh', 'sigmoid' or 'gelu'; 'relu' where it is left out",
    },
    OptionSpec {
        name: "batch_size",
        takes: OptionType::Integer { least: 1 },
        doc: "rows in one step of training; 1024 where it is left out",
    },
    OptionSpec {
        name: "learn_rate",
        takes: OptionType::Positive { below: None },
        doc: "the optimizer's step size; 0.001 for a network and 0.01 for a linear model where it is left out",
    },
    OptionSpec {
        name: "max_iterations",
        takes: OptionType::Integer { least: 1 },
        doc: "how often training goes through all rows, at most; 20 where it is left out",
    },
    OptionSpec {
        name: "optimizer",
        takes: OptionType::Word(&["adam", "sgd", "momentum"]),
        doc: "how a gradient moves the weights: 'adam', 'sgd' or 'momentum'; 'adam' where it is left out",
    },
    OptionSpec {
        name: "early_stop",
        takes: OptionType::Bool,
        doc: "whether training ends behind the first pass that lowers the loss of the held-out rows (of the training rows, where none are held out) by no more than 1 %; TRUE where it is left out",
    },
    OptionSpec {
        name: "data_split_method",
        takes: OptionType::Word(&["auto_split", "random", "seq", "custom", "no_split"]),
        doc: "how the held-out rows are chosen: 'random', 'seq', 'custom', 'no_split' or 'auto_split' (none below 500 rows, a fifth up to 50,000, 10,000 beyond); 'auto_split' where it is left out",
    },
    OptionSpec {
        name: "data_split_col",
        takes: OptionType::Text,
        doc: "for 'custom' the boolean column that is true in held-out rows, for 'seq' the column whose largest values are held out; it is no feature",
    },
    OptionSpec {
        name: "data_split_eval_fraction",
        takes: OptionType::Positive { below: Some(1.0) },
        doc: "the held-out share for 'random' and 'seq'; 0.2 where it is left out",
    },
    OptionSpec {
        name: "seed",
        takes: OptionType::Integer { least: 0 },
        doc: "first weights, split and shuffle follow from it; the setting `seed` where it is left out",
    },
    OptionSpec {
        name: "path",
        takes: OptionType::Text,
        doc: "a safetensors file or an exported model's folder: the weights are read, nothing is trained; without AS and a query the folder gives the whole model",
    },
];

/// Options of BigQuery ML that Flern does not have, with what to do without them.
const NOT_SUPPORTED: &[(&str, Option<&str>)] = &[
    ("dropout", None),
    ("l1_reg", None),
    ("l2_reg", None),
    ("auto_class_weights", None),
    ("class_weights", None),
    ("ls_init_learn_rate", Some("give learn_rate")),
    ("learn_rate_strategy", Some("give learn_rate")),
    ("min_rel_progress", Some("give early_stop and max_iterations")),
    ("warm_start", None),
    ("num_trials", None),
];

/// One option as the statement gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelOption {
    /// The name as [`OPTIONS`] has it.
    pub name: &'static str,
    pub name_span: Span,
    pub value: Literal,
    pub value_span: Span,
}

/// The options of a CREATE MODEL. Names are known and not repeated, values are of the type that [`OPTIONS`] says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelOptions {
    pub given: Vec<ModelOption>,
    /// The clause, without its parentheses.
    pub span: Span,
}

impl ModelOptions {
    pub fn get(&self, name: &str) -> Option<&ModelOption> {
        self.given.iter().find(|option| option.name == name)
    }

    /// The value of an option of type [`OptionType::Text`].
    pub fn text(&self, name: &str) -> Option<&str> {
        match &self.get(name)?.value {
            Literal::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value of an option of type [`OptionType::Word`], in lower case.
    pub fn word(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_lowercase)
    }

    pub fn integer(&self, name: &str) -> Option<i64> {
        self.number(name).map(|number| number as i64)
    }

    pub fn number(&self, name: &str) -> Option<f64> {
        match self.get(name)?.value {
            Literal::Number(number) => Some(number),
            _ => None,
        }
    }

    pub fn bool(&self, name: &str) -> Option<bool> {
        match self.get(name)?.value {
            Literal::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The values of an option of type [`OptionType::Texts`].
    pub fn texts(&self, name: &str) -> Option<Vec<&str>> {
        fn text(value: &Literal) -> Option<&str> {
            match value {
                Literal::Text(text) => Some(text),
                _ => None,
            }
        }
        match &self.get(name)?.value {
            Literal::Array(items) => items.iter().map(text).collect(),
            value => Some(vec![text(value)?]),
        }
    }

    /// The values of an option of type [`OptionType::Sizes`].
    pub fn sizes(&self, name: &str) -> Option<Vec<usize>> {
        let size = |value: &Literal| match value {
            Literal::Number(number) => Some(*number as usize),
            _ => None,
        };
        match &self.get(name)?.value {
            Literal::Array(items) => items.iter().map(size).collect(),
            value => Some(vec![size(value)?]),
        }
    }

    /// Reads `name = value, …` up to the end of the parentheses.
    pub(crate) fn read(inside: &Reader<'_>) -> Result<ModelOptions, SqlError> {
        let mut options = ModelOptions { given: Vec::new(), span: inside.whole() };
        if inside.is_done() {
            return Ok(options);
        }
        for mut part in inside.split_commas() {
            let option = read_option(&mut part)?;
            if let Some(first) = options.get(option.name) {
                return Err(SqlError::Duplicate {
                    what: format!("the option '{}'", option.name),
                    span: option.name_span,
                    first: first.name_span,
                });
            }
            options.given.push(option);
        }
        options.check_together()?;
        Ok(options)
    }

    /// What the options must be together.
    fn check_together(&self) -> Result<(), SqlError> {
        let missing = |name: &'static str, why: &str, span: Span| {
            Err(SqlError::MissingOption { name, why: why.to_string(), span })
        };
        let method = self.word("data_split_method");
        let by_column = matches!(method.as_deref(), Some("custom" | "seq"));
        if let Some(option) = self.get("data_split_method")
            && by_column
            && self.get("data_split_col").is_none()
        {
            let why = "this split needs a column";
            return missing("data_split_col", why, option.value_span);
        }
        if let Some(option) = self.get("data_split_col")
            && !by_column
        {
            let why = "the column splits the rows only with 'custom' or 'seq'";
            return missing("data_split_method", why, option.name_span);
        }
        Ok(())
    }
}

fn read_option(part: &mut Reader<'_>) -> Result<ModelOption, SqlError> {
    let given = part.expect_name("an option's name")?;
    let wanted = given.value.to_lowercase();
    let Some(spec) = OPTIONS.iter().find(|spec| spec.name == wanted) else {
        if let Some((name, instead)) = NOT_SUPPORTED.iter().find(|(name, _)| *name == wanted) {
            return Err(SqlError::Unsupported {
                what: format!("the option '{name}'"),
                span: given.span,
                help: Some(instead.map_or("leave it out".to_string(), str::to_string)),
            });
        }
        let known: Vec<&'static str> = OPTIONS.iter().map(|spec| spec.name).collect();
        return Err(SqlError::Unknown {
            kind: "model option",
            nearest: nearest(&wanted, &known),
            name: given.value,
            span: given.span,
            known,
        });
    };
    part.expect(&Token::Eq, "= and a value")?;
    if part.is_done() {
        return Err(part.expected(&spec.takes.wanted()));
    }
    let start = part.span();
    let wrong_value = |found: &str, span: Span| SqlError::Value {
        of: format!("the option '{}'", spec.name),
        wanted: spec.takes.wanted(),
        found: found.to_string(),
        span,
        nearest: match spec.takes {
            OptionType::Word(words) => nearest(found.trim_matches(['\'', '"']), words),
            _ => None,
        },
    };
    if part.peek().is_some_and(is_bare_word) {
        let word = &part.text[start.start..start.end];
        return Err(wrong_value(&format!("the bare word {word} (put it in quotes)"), start));
    }
    let (value, value_span) = read_literal(part)?;
    part.expect_end("a comma or the closing parenthesis")?;
    if !spec.takes.allows(&value) {
        let found = shorten(&part.text[value_span.start..value_span.end]);
        return Err(wrong_value(&found, value_span));
    }
    Ok(ModelOption { name: spec.name, name_span: given.span, value, value_span })
}

fn is_bare_word(tok: &Tok) -> bool {
    tok.word()
        .is_some_and(|word| !["TRUE", "FALSE", "NULL", "ARRAY"].iter().any(|known| known.eq_ignore_ascii_case(word)))
}

/// Reads a text, a number with its sign, TRUE, FALSE, or a list of them: `[a, b]` or `ARRAY[a, b]`.
pub(crate) fn read_literal(reader: &mut Reader<'_>) -> Result<(Literal, Span), SqlError> {
    let start = reader.span();
    let value = if let Some(text) = reader.peek().and_then(Tok::string) {
        reader.at += 1;
        Literal::Text(text.to_string())
    } else if reader.take_words(&["TRUE"]) {
        Literal::Bool(true)
    } else if reader.take_words(&["FALSE"]) {
        Literal::Bool(false)
    } else if reader.is(&Token::LBracket) || reader.is_word("ARRAY") {
        reader.take_words(&["ARRAY"]);
        reader.expect(&Token::LBracket, "[")?;
        let mut items = Vec::new();
        while !reader.is(&Token::RBracket) {
            if reader.is(&Token::LBracket) || reader.is_word("ARRAY") {
                return Err(reader.expected("a single value"));
            }
            items.push(read_literal(reader)?.0);
            if !reader.take(&Token::Comma) {
                break;
            }
        }
        reader.expect(&Token::RBracket, "a comma or ]")?;
        Literal::Array(items)
    } else {
        let negative = reader.is(&Token::Minus);
        if negative || reader.is(&Token::Plus) {
            reader.at += 1;
        }
        match reader.peek().map(|tok| &tok.token) {
            Some(Token::Number(digits, _)) => {
                let number: f64 = digits.parse().map_err(|_| reader.expected("a number"))?;
                reader.at += 1;
                Literal::Number(if negative { -number } else { number })
            }
            _ => return Err(reader.expected("a text in quotes, a number, TRUE, FALSE or a list")),
        }
    };
    let span = Span { start: start.start, end: reader.end() };
    Ok((value, span))
}

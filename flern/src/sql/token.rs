//! Tokens with their bytes, and a reader over them that says what it expected.

use datafusion_sql::sqlparser::dialect::DuckDbDialect;
use datafusion_sql::sqlparser::tokenizer::{Location, Token, Tokenizer};

use super::{Name, Span};
use crate::error::SqlError;

/// The dialect of every parse: the wrapper and the engine below it must cut the text into the same tokens.
pub(crate) const DIALECT: DuckDbDialect = DuckDbDialect {};

/// A token that means something: neither white space nor a comment.
#[derive(Debug, Clone)]
pub(crate) struct Tok {
    pub(crate) token: Token,
    pub(crate) span: Span,
}

impl Tok {
    /// The token as an unquoted word.
    pub(crate) fn word(&self) -> Option<&str> {
        match &self.token {
            Token::Word(word) if word.quote_style.is_none() => Some(&word.value),
            _ => None,
        }
    }

    pub(crate) fn is_word(&self, keyword: &str) -> bool {
        self.word().is_some_and(|word| word.eq_ignore_ascii_case(keyword))
    }

    /// The token as a name: a word that is quoted or not. Unquoted names fold to lower case, as everywhere in SQL.
    pub(crate) fn name(&self) -> Option<Name> {
        match &self.token {
            Token::Word(word) => Some(Name {
                value: match word.quote_style {
                    Some(_) => word.value.clone(),
                    None => word.value.to_ascii_lowercase(),
                },
                span: self.span,
            }),
            _ => None,
        }
    }

    /// The token as the text of a string literal.
    pub(crate) fn string(&self) -> Option<&str> {
        match &self.token {
            Token::SingleQuotedString(text)
            | Token::DoubleQuotedString(text)
            | Token::EscapedStringLiteral(text)
            | Token::TripleSingleQuotedString(text)
            | Token::TripleDoubleQuotedString(text) => Some(text),
            Token::Word(word) if word.quote_style == Some('"') => Some(&word.value),
            _ => None,
        }
    }
}

/// Turns the line and column (in characters) of the tokenizer into bytes. Places mostly come in order, so it goes on from the
/// last one.
pub(crate) struct Places<'a> {
    text: &'a str,
    line: u64,
    column: u64,
    byte: usize,
}

impl<'a> Places<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Places { text, line: 1, column: 1, byte: 0 }
    }

    /// The byte of a place; the end of the text where the place lies behind it.
    pub(crate) fn byte(&mut self, place: Location) -> usize {
        if (place.line, place.column) < (self.line, self.column) {
            *self = Places::new(self.text);
        }
        for c in self.text[self.byte..].chars() {
            if (self.line, self.column) >= (place.line, place.column) {
                break;
            }
            self.byte += c.len_utf8();
            if c == '\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
        }
        self.byte
    }
}

/// Cuts a text into its tokens. Those before an error come back with it.
pub(crate) fn tokenize(text: &str) -> (Vec<Tok>, Option<SqlError>) {
    let mut raw = Vec::new();
    let error = Tokenizer::new(&DIALECT, text).tokenize_with_location_into_buf(&mut raw).err();
    let mut places = Places::new(text);
    let mut tokens = Vec::with_capacity(raw.len() / 2);
    let mut last_end = 0;
    for raw in raw {
        let start = places.byte(raw.span.start);
        let end = places.byte(raw.span.end);
        last_end = end;
        if !matches!(raw.token, Token::Whitespace(_)) {
            tokens.push(Tok { token: raw.token, span: Span { start, end } });
        }
    }
    let error = error.map(|error| {
        // The tokenizer names where it stopped; what is open began behind the last whole token.
        let start = last_end.min(text.len());
        let start = start + (text[start..].len() - text[start..].trim_start().len());
        let message = match text[start..].chars().next() {
            Some('\'') => "this text is not closed".to_string(),
            Some('"' | '`') => "this quoted name is not closed".to_string(),
            Some('/') => "this comment is not closed".to_string(),
            _ => lower_first(error.message.trim_end_matches(['.', ' '])),
        };
        let span = Span { start, end: text.len() };
        SqlError::Token { message, span }
    });
    (tokens, error)
}

pub(crate) fn lower_first(message: &str) -> String {
    let mut chars = message.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// Reads the tokens of one statement, or of a part of one, in order.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    pub(crate) text: &'a str,
    pub(crate) tokens: &'a [Tok],
    pub(crate) at: usize,
    /// The byte where the part ends: its closing parenthesis, its comma, the end of the statement.
    pub(crate) until: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str, tokens: &'a [Tok], until: usize) -> Self {
        Reader { text, tokens, at: 0, until }
    }

    pub(crate) fn peek(&self) -> Option<&'a Tok> {
        self.tokens.get(self.at)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at >= self.tokens.len()
    }

    /// The bytes of the next token; an empty span at the end of the part.
    pub(crate) fn span(&self) -> Span {
        match self.peek() {
            Some(tok) => tok.span,
            None => Span::at(self.until),
        }
    }

    /// Where the last token that was read ends.
    pub(crate) fn end(&self) -> usize {
        match self.at.checked_sub(1) {
            Some(last) => self.tokens.get(last).map_or(self.until, |tok| tok.span.end),
            None => self.span().start,
        }
    }

    pub(crate) fn is_word(&self, keyword: &str) -> bool {
        self.peek().is_some_and(|tok| tok.is_word(keyword))
    }

    pub(crate) fn is_words(&self, keywords: &[&str]) -> bool {
        let rest = &self.tokens[self.at.min(self.tokens.len())..];
        rest.len() >= keywords.len() && rest.iter().zip(keywords).all(|(tok, keyword)| tok.is_word(keyword))
    }

    pub(crate) fn is(&self, token: &Token) -> bool {
        self.peek().is_some_and(|tok| tok.token == *token)
    }

    /// Reads the keywords if all of them come next.
    pub(crate) fn take_words(&mut self, keywords: &[&str]) -> bool {
        let found = self.is_words(keywords);
        if found {
            self.at += keywords.len();
        }
        found
    }

    pub(crate) fn take(&mut self, token: &Token) -> bool {
        let found = self.is(token);
        if found {
            self.at += 1;
        }
        found
    }

    pub(crate) fn expect(&mut self, token: &Token, wanted: &str) -> Result<Span, SqlError> {
        let span = self.span();
        if self.take(token) { Ok(span) } else { Err(self.expected(wanted)) }
    }

    pub(crate) fn expect_words(&mut self, keywords: &[&str]) -> Result<(), SqlError> {
        if self.take_words(keywords) { Ok(()) } else { Err(self.expected(&keywords.join(" "))) }
    }

    /// Reads a name, with dots in it or without.
    pub(crate) fn expect_name(&mut self, wanted: &str) -> Result<Name, SqlError> {
        let mut name = match self.peek().and_then(Tok::name) {
            Some(name) => name,
            None => return Err(self.expected(wanted)),
        };
        self.at += 1;
        while self.take(&Token::Period) {
            let part = match self.peek().and_then(Tok::name) {
                Some(part) => part,
                None => return Err(self.expected("a name after the dot")),
            };
            self.at += 1;
            name = Name { value: format!("{}.{}", name.value, part.value), span: name.span.to(part.span) };
        }
        Ok(name)
    }

    pub(crate) fn expect_string(&mut self, wanted: &str) -> Result<(String, Span), SqlError> {
        let span = self.span();
        match self.peek().and_then(Tok::string) {
            Some(text) => {
                self.at += 1;
                Ok((text.to_string(), span))
            }
            None => Err(self.expected(wanted)),
        }
    }

    pub(crate) fn expect_end(&self, wanted: &str) -> Result<(), SqlError> {
        if self.is_done() { Ok(()) } else { Err(self.expected(wanted)) }
    }

    /// The tokens inside the parentheses that open here; reads up to behind the closing one.
    pub(crate) fn expect_group(&mut self, wanted: &str) -> Result<Reader<'a>, SqlError> {
        let open = self.at;
        let span = self.expect(&Token::LParen, wanted)?;
        let mut depth = 1usize;
        while let Some(tok) = self.peek() {
            self.at += 1;
            match tok.token {
                Token::LParen => depth += 1,
                Token::RParen => {
                    depth -= 1;
                    if depth == 0 {
                        let inside = &self.tokens[open + 1..self.at - 1];
                        return Ok(Reader::new(self.text, inside, tok.span.start));
                    }
                }
                _ => {}
            }
        }
        Err(SqlError::Syntax { message: "this parenthesis is not closed".to_string(), span })
    }

    /// The parts of the tokens between commas outside of any parentheses or brackets.
    pub(crate) fn split_commas(&self) -> Vec<Reader<'a>> {
        let mut parts = Vec::new();
        let mut depth = 0usize;
        let mut from = 0;
        for (at, tok) in self.tokens.iter().enumerate() {
            match tok.token {
                Token::LParen | Token::LBracket => depth += 1,
                Token::RParen | Token::RBracket => depth = depth.saturating_sub(1),
                Token::Comma if depth == 0 => {
                    let part = &self.tokens[from..at];
                    parts.push(Reader::new(self.text, part, tok.span.start));
                    from = at + 1;
                }
                _ => {}
            }
        }
        parts.push(Reader::new(self.text, &self.tokens[from..], self.until));
        parts
    }

    /// The bytes from the first token to the last one.
    pub(crate) fn whole(&self) -> Span {
        match (self.tokens.first(), self.tokens.last()) {
            (Some(first), Some(last)) => first.span.to(last.span),
            _ => Span::at(self.until),
        }
    }

    pub(crate) fn expected(&self, wanted: &str) -> SqlError {
        SqlError::Expected { wanted: wanted.to_string(), found: self.found(), span: self.span(), help: None }
    }

    /// The next token as an error names it.
    pub(crate) fn found(&self) -> String {
        match self.peek() {
            None => "the end".to_string(),
            Some(tok) => shorten(&self.text[tok.span.start..tok.span.end]),
        }
    }
}

/// A piece of SQL as an error message quotes it.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 40;
    let text = text.trim();
    if text.chars().count() <= LONGEST && !text.contains('\n') {
        return text.to_string();
    }
    let line = text.lines().next().unwrap_or_default();
    let mut short: String = line.chars().take(LONGEST).collect();
    short.push('…');
    short
}

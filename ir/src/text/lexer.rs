//! Tokens.

use crate::error::{Error, Result};

/// A token.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Token {
    /// `filter`, `i32`, `c12`, `in0`.
    Word(String),
    /// `%12`.
    Value(u32),
    /// `@main` or `@"a name"`.
    Func(String),
    /// A number as written, with its sign.
    Number(String),
    /// A text, without quotes and escapes.
    Text(String),
    /// `->`.
    Arrow,
    /// One of `{}()[]<>,:=|?+*/`.
    Punct(char),
    /// The end of the text.
    End,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(w) => write!(f, "`{w}`"),
            Self::Value(n) => write!(f, "`%{n}`"),
            Self::Func(n) => write!(f, "`@{n}`"),
            Self::Number(n) => write!(f, "`{n}`"),
            Self::Text(t) => f.write_str(&super::print::quote(t)),
            Self::Arrow => f.write_str("`->`"),
            Self::Punct(c) => write!(f, "`{c}`"),
            Self::End => f.write_str("the end of the text"),
        }
    }
}

/// The tokens of a text, each with its line.
pub(super) fn tokens(text: &str) -> Result<Vec<(Token, usize)>> {
    let mut lexer = Lexer { rest: text, line: 1 };
    let mut out = Vec::new();
    loop {
        lexer.skip_blanks();
        let line = lexer.line;
        let token = lexer.token()?;
        let end = token == Token::End;
        out.push((token, line));
        if end {
            return Ok(out);
        }
    }
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
}

impl Lexer<'_> {
    fn fail<T>(&self, message: String) -> Result<T> {
        Err(Error::Parse { line: self.line, message })
    }

    fn skip_blanks(&mut self) {
        loop {
            let trimmed = self.rest.trim_start();
            self.line += self.rest[..self.rest.len() - trimmed.len()].matches('\n').count();
            self.rest = trimmed;
            if !self.rest.starts_with(';') {
                return;
            }
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            self.rest = &self.rest[end..];
        }
    }

    fn take(&mut self, take: impl Fn(char) -> bool) -> String {
        let end = self.rest.find(|c| !take(c)).unwrap_or(self.rest.len());
        let (head, rest) = self.rest.split_at(end);
        self.rest = rest;
        head.to_string()
    }

    fn token(&mut self) -> Result<Token> {
        let Some(first) = self.rest.chars().next() else { return Ok(Token::End) };
        let second = self.rest.chars().nth(1).unwrap_or(' ');
        match first {
            'a'..='z' | 'A'..='Z' | '_' => Ok(Token::Word(self.word())),
            '%' => {
                self.rest = &self.rest[1..];
                let digits = self.take(|c| c.is_ascii_digit());
                match digits.parse() {
                    Ok(n) => Ok(Token::Value(n)),
                    Err(_) => self.fail("a value is written as % and a number".into()),
                }
            }
            '@' => {
                self.rest = &self.rest[1..];
                match self.rest.chars().next() {
                    Some('"') => Ok(Token::Func(self.text()?)),
                    Some(c) if c.is_ascii_alphabetic() || c == '_' => Ok(Token::Func(self.word())),
                    _ => self.fail("a function is written as @ and a name".into()),
                }
            }
            '"' => Ok(Token::Text(self.text()?)),
            '-' if second == '>' => {
                self.rest = &self.rest[2..];
                Ok(Token::Arrow)
            }
            '0'..='9' => Ok(Token::Number(self.number())),
            '-' if second.is_ascii_digit() => Ok(Token::Number(self.number())),
            '-' if second == 'i' => {
                self.rest = &self.rest[1..];
                match self.word().as_str() {
                    "inf" => Ok(Token::Number("-inf".into())),
                    _ => self.fail("`-` stands before a number".into()),
                }
            }
            '{' | '}' | '(' | ')' | '[' | ']' | '<' | '>' | ',' | ':' | '=' | '|' | '?' | '+' | '*' | '/' => {
                self.rest = &self.rest[1..];
                Ok(Token::Punct(first))
            }
            c => self.fail(format!("unexpected character {c:?}")),
        }
    }

    fn word(&mut self) -> String {
        self.take(|c| c.is_ascii_alphanumeric() || c == '_')
    }

    /// Digits, a point, an exponent; what it means shows where it stands.
    fn number(&mut self) -> String {
        let bytes = self.rest.as_bytes();
        let digit = |i: usize| bytes.get(i).is_some_and(|c| c.is_ascii_digit());
        let mut i = usize::from(bytes[0] == b'-');
        while digit(i) {
            i += 1;
        }
        if bytes.get(i) == Some(&b'.') && digit(i + 1) {
            i += 1;
            while digit(i) {
                i += 1;
            }
        }
        if matches!(bytes.get(i), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(i + 1), Some(b'-' | b'+')));
            if digit(i + 1 + sign) {
                i += 1 + sign;
                while digit(i) {
                    i += 1;
                }
            }
        }
        let (head, rest) = self.rest.split_at(i);
        self.rest = rest;
        head.to_string()
    }

    fn text(&mut self) -> Result<String> {
        let mut out = String::new();
        let mut chars = self.rest.char_indices();
        chars.next();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[i + 1..];
                    return Ok(out);
                }
                '\n' => break,
                '\\' => match chars.next().map(|c| c.1) {
                    Some(c @ ('"' | '\\')) => out.push(c),
                    Some('n') => out.push('\n'),
                    Some('r') => out.push('\r'),
                    Some('t') => out.push('\t'),
                    Some('u') => {
                        let code: String = chars.by_ref().map(|c| c.1).skip(1).take_while(|c| *c != '}').collect();
                        match u32::from_str_radix(&code, 16).ok().and_then(char::from_u32) {
                            Some(c) => out.push(c),
                            None => return self.fail(format!("no character has the code {code:?}")),
                        }
                    }
                    _ => return self.fail("unknown escape in a text".into()),
                },
                c => out.push(c),
            }
        }
        self.fail("a text is not closed".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_quote_writes() {
        for text in ["", "a", "\"\\\n\r\t", "\u{1}\u{7f}", "žlutý kůň 馬", "{}%@;"] {
            let quoted = super::super::print::quote(text);
            assert_eq!(tokens(&quoted).unwrap()[0].0, Token::Text(text.into()));
        }
    }

    #[test]
    fn lines_and_comments() {
        let all = tokens("a ; b\n%3\n\n-1.5e-7->").unwrap();
        let expected = [
            (Token::Word("a".into()), 1),
            (Token::Value(3), 2),
            (Token::Number("-1.5e-7".into()), 4),
            (Token::Arrow, 4),
            (Token::End, 4),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn errors_name_the_line() {
        for text in ["\n\"a", "\n$", "\n%", "\n@ ", "\n\"\\q\"", "\n-x"] {
            assert!(matches!(tokens(text), Err(Error::Parse { line: 2, .. })), "{text:?}");
        }
    }
}

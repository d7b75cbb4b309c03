//! The tokens in order: what stands next, lists of it, and ids that are declared or defined already.

use super::{MAX_ID, Parser};
use crate::entity::{ColumnId, InputId, SymId, ValueId};
use crate::error::{Error, Result};
use crate::text::lexer::Token;

impl Parser {
    pub(super) fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    pub(super) fn line(&self) -> usize {
        self.tokens[self.at].1
    }

    pub(super) fn next(&mut self) -> Token {
        let token = self.tokens[self.at].0.clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    pub(super) fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::Parse { line: self.line(), message: message.into() })
    }

    /// An error of the line before the token that was just taken.
    pub(super) fn fail_at<T>(&self, line: usize, message: impl Into<String>) -> Result<T> {
        Err(Error::Parse { line, message: message.into() })
    }

    pub(super) fn expected<T>(&self, what: &str) -> Result<T> {
        self.fail(format!("expected {what}, found {}", self.peek()))
    }

    pub(super) fn is(&self, c: char) -> bool {
        *self.peek() == Token::Punct(c)
    }

    pub(super) fn eat(&mut self, c: char) -> bool {
        let found = self.is(c);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn punct(&mut self, c: char) -> Result<()> {
        if self.eat(c) { Ok(()) } else { self.expected(&format!("`{c}`")) }
    }

    pub(super) fn arrow(&mut self) -> Result<()> {
        if *self.peek() != Token::Arrow {
            return self.expected("`->`");
        }
        self.next();
        Ok(())
    }

    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Token::Word(w) if w == word);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn keyword(&mut self, word: &str) -> Result<()> {
        if self.eat_word(word) { Ok(()) } else { self.expected(&format!("`{word}`")) }
    }

    pub(super) fn word(&mut self) -> Result<String> {
        match self.peek() {
            Token::Word(w) => {
                let w = w.clone();
                self.next();
                Ok(w)
            }
            _ => self.expected("a word"),
        }
    }

    pub(super) fn text(&mut self) -> Result<String> {
        match self.peek() {
            Token::Text(t) => {
                let t = t.clone();
                self.next();
                Ok(t)
            }
            _ => self.expected("a text in quotes"),
        }
    }

    pub(super) fn func_name(&mut self) -> Result<String> {
        match self.peek() {
            Token::Func(t) => {
                let t = t.clone();
                self.next();
                Ok(t)
            }
            _ => self.expected("a function's name"),
        }
    }

    pub(super) fn number<T: std::str::FromStr>(&mut self, what: &str) -> Result<T> {
        if let Token::Number(n) = self.peek()
            && let Ok(n) = n.parse()
        {
            self.next();
            return Ok(n);
        }
        self.expected(what)
    }

    pub(super) fn usize(&mut self) -> Result<usize> {
        Ok(self.number::<u32>("a number")? as usize)
    }

    /// Items up to `close`, separated by commas; the opening is taken already.
    pub(super) fn items<T>(&mut self, close: char, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut out = Vec::new();
        if self.eat(close) {
            return Ok(out);
        }
        loop {
            out.push(item(self)?);
            if self.eat(close) {
                return Ok(out);
            }
            if !self.eat(',') {
                return self.expected(&format!("`,` or `{close}`"));
            }
        }
    }

    pub(super) fn list<T>(
        &mut self,
        open: char,
        close: char,
        item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.punct(open)?;
        self.items(close, item)
    }

    /// What stands in `<…>` behind an operation's name.
    pub(super) fn variant<T>(&mut self, item: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.punct('<')?;
        let item = item(self)?;
        self.punct('>')?;
        Ok(item)
    }

    // Ids.

    /// A word that is a prefix and a number: `c12`.
    pub(super) fn id(&mut self, prefix: &str, what: &str) -> Result<u32> {
        if let Token::Word(w) = self.peek()
            && let Some(n) = w.strip_prefix(prefix).and_then(|n| n.parse::<u32>().ok())
            && n < MAX_ID
        {
            self.next();
            return Ok(n);
        }
        self.expected(what)
    }

    pub(super) fn column(&mut self) -> Result<ColumnId> {
        let line = self.line();
        let id = self.id("c", "a column")?;
        if id as usize >= self.b.program().columns.len() {
            return self.fail_at(line, format!("column c{id} is not declared"));
        }
        Ok(ColumnId(id))
    }

    pub(super) fn is_column(&self) -> bool {
        matches!(self.peek(), Token::Word(w) if w.strip_prefix('c').is_some_and(|n| n.parse::<u32>().is_ok()))
    }

    pub(super) fn columns(&mut self) -> Result<Vec<ColumnId>> {
        self.list('(', ')', Self::column)
    }

    pub(super) fn symbol(&mut self) -> Result<SymId> {
        let line = self.line();
        let id = self.id("s", "a symbol")?;
        if id as usize >= self.b.program().symbols.len() {
            return self.fail_at(line, format!("symbol s{id} is not declared"));
        }
        Ok(SymId(id))
    }

    pub(super) fn input(&mut self) -> Result<InputId> {
        let line = self.line();
        let id = self.id("in", "an input")?;
        if id as usize >= self.b.program().inputs.len() {
            return self.fail_at(line, format!("input in{id} is not declared"));
        }
        Ok(InputId(id))
    }

    pub(super) fn value(&mut self) -> Result<ValueId> {
        match *self.peek() {
            Token::Value(n) => {
                let Some(v) = self.values.get(&n) else { return self.fail(format!("%{n} is not defined here")) };
                let v = *v;
                self.next();
                Ok(v)
            }
            _ => self.expected("a value"),
        }
    }

    pub(super) fn operands(&mut self) -> Result<Vec<ValueId>> {
        let mut out = Vec::new();
        while matches!(self.peek(), Token::Value(_)) {
            out.push(self.value()?);
            if !self.eat(',') {
                break;
            }
        }
        Ok(out)
    }

    pub(super) fn define(&mut self, line: usize, n: u32, v: ValueId) -> Result<()> {
        if self.values.insert(n, v).is_some() {
            return self.fail_at(line, format!("%{n} is defined twice"));
        }
        Ok(())
    }
}

//! Text: characters are Unicode code points, order and search go by bytes.

use std::cell::RefCell;
use std::collections::VecDeque;

use regex::Regex;

use super::{Args, Outcome, mistyped, text_value};
use crate::error::TrapKind;
use crate::scalar::ScalarOp;
use crate::value::Value;

pub(crate) fn length(args: &Args<'_>) -> Outcome {
    Ok(Value::I64(args.text(0)?.chars().count() as i64))
}

pub(crate) fn case(args: &Args<'_>) -> Outcome {
    let s = args.text(0)?;
    text_value(if args.op == ScalarOp::Upper { s.to_uppercase() } else { s.to_lowercase() })
}

/// Blanks are spaces only.
pub(crate) fn trim(args: &Args<'_>) -> Outcome {
    let s = args.text(0)?;
    text_value(match args.op {
        ScalarOp::TrimStart => s.trim_start_matches(' '),
        ScalarOp::TrimEnd => s.trim_end_matches(' '),
        _ => s.trim_matches(' '),
    })
}

/// Characters at positions `start .. start + length` that exist; a start before the first character takes from the length.
pub(crate) fn substring(args: &Args<'_>) -> Outcome {
    let (s, start, length) = (args.text(0)?, args.i64(1)?, args.i64(2)?);
    if length < 0 {
        return Err(TrapKind::InvalidArgument("negative substring length not allowed".into()));
    }
    let end = start.saturating_add(length);
    let first = start.max(1);
    let skip = usize::try_from(first - 1).unwrap_or(usize::MAX);
    let take = usize::try_from(end.saturating_sub(first)).unwrap_or(0);
    let rest = &s[byte_of_char(s, skip)..];
    text_value(&rest[..byte_of_char(rest, take)])
}

/// Where the character with this number (from 0) begins; the end where there is none.
fn byte_of_char(s: &str, n: usize) -> usize {
    s.char_indices().nth(n).map_or(s.len(), |(byte, _)| byte)
}

pub(crate) fn concat(args: &Args<'_>) -> Outcome {
    text_value(args.text(0)?.to_string() + args.text(1)?)
}

pub(crate) fn like(args: &Args<'_>) -> Outcome {
    let (text, pattern) = (args.text(0)?, args.text(1)?);
    Ok(Value::Bool(if args.op == ScalarOp::ILike {
        matches_like(&text.to_lowercase(), &pattern.to_lowercase())
    } else {
        matches_like(text, pattern)
    }))
}

/// Greedy matching with one point of return: whenever the rest fails, the last `%` swallows one character more. Literal
/// characters are compared byte by byte, which UTF-8 allows.
fn matches_like(text: &str, pattern: &str) -> bool {
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let (mut t, mut p) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern[p..] {
            [b'%', ..] => {
                p += 1;
                back = Some((t, p));
                continue;
            }
            [b'_', ..] => {
                t = next_char(text, t);
                p += 1;
                continue;
            }
            [b'\\', escaped, ..] if escaped == text[t] => {
                t += 1;
                p += 2;
                continue;
            }
            [b'\\', _, ..] => {}
            [byte, ..] if byte == text[t] => {
                t += 1;
                p += 1;
                continue;
            }
            _ => {}
        }
        let Some((from, after)) = back else { return false };
        t = next_char(text, from);
        p = after;
        back = Some((t, p));
    }
    pattern[p..].iter().all(|b| *b == b'%')
}

/// Where the character after the one at `i` begins.
fn next_char(text: &[u8], i: usize) -> usize {
    let mut next = i + 1;
    while text.get(next).is_some_and(|b| b & 0xc0 == 0x80) {
        next += 1;
    }
    next
}

/// How many compiled regular expressions a thread keeps: patterns are literals, nearly always.
const KEPT_PATTERNS: usize = 16;

thread_local! {
    static PATTERNS: RefCell<VecDeque<(String, Regex)>> = const { RefCell::new(VecDeque::new()) };
}

pub(crate) fn regex_match(args: &Args<'_>) -> Outcome {
    let (text, pattern) = (args.text(0)?, args.text(1)?);
    PATTERNS.with_borrow_mut(|kept| {
        if let Some((_, regex)) = kept.iter().find(|(p, _)| p == pattern) {
            return Ok(Value::Bool(regex.is_match(text)));
        }
        let regex =
            Regex::new(pattern).map_err(|e| TrapKind::InvalidArgument(format!("invalid regular expression: {e}")))?;
        let found = regex.is_match(text);
        kept.truncate(KEPT_PATTERNS - 1);
        kept.push_front((pattern.to_string(), regex));
        Ok(Value::Bool(found))
    })
}

pub(crate) fn search(args: &Args<'_>) -> Outcome {
    let (text, part) = (args.text(0)?, args.text(1)?);
    Ok(match args.op {
        ScalarOp::StartsWith => Value::Bool(text.starts_with(part)),
        ScalarOp::Contains => Value::Bool(text.contains(part)),
        ScalarOp::Position => Value::I64(text.find(part).map_or(0, |byte| text[..byte].chars().count() as i64 + 1)),
        _ => return mistyped(args),
    })
}

pub(crate) fn replace(args: &Args<'_>) -> Outcome {
    let (text, from, to) = (args.text(0)?, args.text(1)?, args.text(2)?);
    text_value(if from.is_empty() { text.to_string() } else { text.replace(from, to) })
}

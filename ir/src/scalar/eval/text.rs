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

/// What `with` makes of the compiled pattern.
fn with_regex<T>(pattern: &str, with: impl FnOnce(&Regex) -> T) -> Result<T, TrapKind> {
    PATTERNS.with_borrow_mut(|kept| {
        if let Some((_, regex)) = kept.iter().find(|(p, _)| p == pattern) {
            return Ok(with(regex));
        }
        let regex =
            Regex::new(pattern).map_err(|e| TrapKind::InvalidArgument(format!("invalid regular expression: {e}")))?;
        let result = with(&regex);
        kept.truncate(KEPT_PATTERNS - 1);
        kept.push_front((pattern.to_string(), regex));
        Ok(result)
    })
}

pub(crate) fn regex_match(args: &Args<'_>) -> Outcome {
    let (text, pattern) = (args.text(0)?, args.text(1)?);
    Ok(Value::Bool(with_regex(pattern, |r| r.is_match(text))?))
}

pub(crate) fn regex_replace(args: &Args<'_>) -> Outcome {
    let (text, pattern, to) = (args.text(0)?, args.text(1)?, args.text(2)?);
    let to = replacement(to);
    let limit = usize::from(args.op == ScalarOp::RegexReplace);
    text_value(with_regex(pattern, |r| r.replacen(text, limit, to.as_str()).into_owned())?)
}

/// A replacement with `\1` for the first group (`\&`, `\0` for all) as the crate writes it: `${1}`.
fn replacement(to: &str) -> String {
    let mut out = String::with_capacity(to.len());
    let mut chars = to.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some(digit @ '0'..='9') => {
                    out.push_str("${");
                    out.push(digit);
                    out.push('}');
                }
                Some('&') => out.push_str("${0}"),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            c => out.push(c),
        }
    }
    out
}

pub(crate) fn trim_any(args: &Args<'_>) -> Outcome {
    let (s, set) = (args.text(0)?, args.text(1)?);
    let inside = |c: char| set.contains(c);
    text_value(match args.op {
        ScalarOp::TrimAnyStart => s.trim_start_matches(inside),
        ScalarOp::TrimAnyEnd => s.trim_end_matches(inside),
        _ => s.trim_matches(inside),
    })
}

/// Bytes of a text that an operation makes longer, at most.
const LONGEST: usize = 1 << 28;

fn too_long() -> TrapKind {
    TrapKind::InvalidArgument(format!("the text would have more than {LONGEST} bytes"))
}

pub(crate) fn pad(args: &Args<'_>) -> Outcome {
    let (s, length, fill) = (args.text(0)?, args.i64(1)?, args.text(2)?);
    let length = usize::try_from(length).unwrap_or(0);
    let here = s.chars().count();
    if here >= length || fill.is_empty() {
        return text_value(&s[..byte_of_char(s, length)]);
    }
    let missing = length - here;
    if missing > LONGEST {
        return Err(too_long());
    }
    let filled: String = fill.chars().cycle().take(missing).collect();
    text_value(if args.op == ScalarOp::PadStart { filled + s } else { s.to_string() + &filled })
}

pub(crate) fn repeat(args: &Args<'_>) -> Outcome {
    let (s, times) = (args.text(0)?, args.i64(1)?);
    let times = if s.is_empty() { 0 } else { usize::try_from(times).unwrap_or(0) };
    match s.len().checked_mul(times) {
        Some(bytes) if bytes <= LONGEST => text_value(s.repeat(times)),
        _ => Err(too_long()),
    }
}

pub(crate) fn reverse(args: &Args<'_>) -> Outcome {
    text_value(args.text(0)?.chars().rev().collect::<String>())
}

pub(crate) fn capitalize(args: &Args<'_>) -> Outcome {
    let mut out = String::new();
    let mut inside = false;
    for c in args.text(0)?.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphanumeric();
    }
    text_value(out)
}

pub(crate) fn split_part(args: &Args<'_>) -> Outcome {
    let (s, separator, n) = (args.text(0)?, args.text(1)?, args.i64(2)?);
    if n == 0 {
        return Err(TrapKind::InvalidArgument("the number of a part must not be zero".into()));
    }
    let at = usize::try_from(n.unsigned_abs() - 1).unwrap_or(usize::MAX);
    let part = match (separator.is_empty(), n > 0) {
        (true, _) => (at == 0).then_some(s),
        (false, true) => s.split(separator).nth(at),
        (false, false) => s.rsplit(separator).nth(at),
    };
    text_value(part.unwrap_or_default())
}

pub(crate) fn translate(args: &Args<'_>) -> Outcome {
    let (s, from, to) = (args.text(0)?, args.text(1)?, args.text(2)?);
    let to: Vec<char> = to.chars().collect();
    let place = |c: char| from.chars().position(|f| f == c);
    let replaced = s.chars().filter_map(|c| match place(c) {
        Some(i) => to.get(i).copied(),
        None => Some(c),
    });
    text_value(replaced.collect::<String>())
}

pub(crate) fn char_code(args: &Args<'_>) -> Outcome {
    Ok(Value::I64(args.text(0)?.chars().next().map_or(0, |c| i64::from(u32::from(c)))))
}

pub(crate) fn from_char_code(args: &Args<'_>) -> Outcome {
    let code = args.i64(0)?;
    match u32::try_from(code).ok().filter(|c| *c > 0).and_then(char::from_u32) {
        Some(c) => text_value(c.to_string()),
        None => Err(TrapKind::InvalidArgument(format!("there is no character with the number {code}"))),
    }
}

pub(crate) fn byte_length(args: &Args<'_>) -> Outcome {
    Ok(Value::I64(args.text(0)?.len() as i64))
}

pub(crate) fn search(args: &Args<'_>) -> Outcome {
    let (text, part) = (args.text(0)?, args.text(1)?);
    Ok(match args.op {
        ScalarOp::StartsWith => Value::Bool(text.starts_with(part)),
        ScalarOp::EndsWith => Value::Bool(text.ends_with(part)),
        ScalarOp::Contains => Value::Bool(text.contains(part)),
        ScalarOp::Position => Value::I64(text.find(part).map_or(0, |byte| text[..byte].chars().count() as i64 + 1)),
        _ => return mistyped(args),
    })
}

pub(crate) fn replace(args: &Args<'_>) -> Outcome {
    let (text, from, to) = (args.text(0)?, args.text(1)?, args.text(2)?);
    text_value(if from.is_empty() { text.to_string() } else { text.replace(from, to) })
}

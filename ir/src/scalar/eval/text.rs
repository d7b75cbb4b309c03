//! Text: characters are Unicode code points, order and search go by bytes.

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
    text_value(s.chars().skip(skip).take(take).collect::<String>())
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

/// One element of a LIKE pattern.
enum Piece {
    Any,
    One,
    Char(char),
}

/// Greedy matching with one point of return: the last `%` swallows one character more whenever the rest fails.
fn matches_like(text: &str, pattern: &str) -> bool {
    let mut pieces = vec![];
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        pieces.push(match c {
            '%' => Piece::Any,
            '_' => Piece::One,
            '\\' => Piece::Char(chars.next().unwrap_or('\\')),
            c => Piece::Char(c),
        });
    }
    let text: Vec<char> = text.chars().collect();
    let (mut t, mut p) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        match pieces.get(p) {
            Some(Piece::Any) => {
                back = Some((t, p));
                p += 1;
                continue;
            }
            Some(Piece::One) => {
                t += 1;
                p += 1;
                continue;
            }
            Some(Piece::Char(c)) if *c == text[t] => {
                t += 1;
                p += 1;
                continue;
            }
            _ => {}
        }
        let Some((from, any)) = back else { return false };
        back = Some((from + 1, any));
        t = from + 1;
        p = any + 1;
    }
    pieces[p..].iter().all(|piece| matches!(piece, Piece::Any))
}

pub(crate) fn regex_match(args: &Args<'_>) -> Outcome {
    let (text, pattern) = (args.text(0)?, args.text(1)?);
    match regex::Regex::new(pattern) {
        Ok(regex) => Ok(Value::Bool(regex.is_match(text))),
        Err(e) => Err(TrapKind::InvalidArgument(format!("invalid regular expression: {e}"))),
    }
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

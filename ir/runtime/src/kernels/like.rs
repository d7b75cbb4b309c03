//! Patterns of `LIKE`.
//!
//! What holds: as for [`super::text`].

use memchr::memmem::Finder;

use super::text::{is_continuation, lower};
use crate::column::TextView;

/// A compiled pattern of `LIKE` or `ILIKE`.
///
/// `%` stands for any characters, `_` for one; the escape character takes the meaning from the one behind it.
#[derive(Clone, Debug)]
pub struct LikePattern {
    shape: Shape,
    ignore_case: bool,
}

/// What a pattern comes down to.
#[derive(Clone, Debug)]
enum Shape {
    /// No `%` and no `_`.
    Equal(Vec<u8>),
    /// `abc%`.
    Prefix(Vec<u8>),
    /// `%abc`.
    Suffix(Vec<u8>),
    /// `%abc%`.
    Contains(Box<Finder<'static>>),
    /// Segments between `%`. Those without a `%` before the first or behind the last are anchored there.
    General { first: Segment, middle: Vec<Segment>, last: Option<Segment> },
}

/// Literals and `_`, without `%`.
#[derive(Clone, Debug, Default)]
struct Segment {
    pieces: Vec<Piece>,
    /// Finds the segment where it is one literal.
    finder: Option<Box<Finder<'static>>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Literal(Vec<u8>),
    AnyCharacter,
}

impl LikePattern {
    /// Compiles a pattern. Without an escape character every character but `%` and `_` is itself; an escape character at the
    /// end is itself.
    pub fn new(pattern: &[u8], escape: Option<char>, ignore_case: bool) -> LikePattern {
        let mut folded = Vec::new();
        let pattern = if ignore_case {
            lower(pattern, &mut folded);
            &folded
        } else {
            pattern
        };
        LikePattern { shape: shape(split(pattern, escape)), ignore_case }
    }

    /// A literal that whatever fits has in it, to be found ahead of all else: the longest.
    pub(super) fn needle(&self) -> Option<&Finder<'static>> {
        if self.ignore_case {
            return None;
        }
        match &self.shape {
            Shape::Contains(finder) => Some(finder).filter(|f| !f.needle().is_empty()).map(|f| &**f),
            Shape::General { middle, .. } => {
                let finders = middle.iter().filter_map(|segment| segment.finder.as_deref());
                finders.max_by_key(|finder| finder.needle().len())
            }
            Shape::Equal(_) | Shape::Prefix(_) | Shape::Suffix(_) => None,
        }
    }

    /// Tests texts of which the long ones lie one behind the other in `bytes`, and tells whether each fits. The pattern has a
    /// needle: it is looked for in all of them at once, which is faster than in one short text after another.
    pub(super) fn matches_each<'a>(
        &self,
        needle: &Finder<'_>,
        texts: impl Iterator<Item = &'a [u8]>,
        bytes: &[u8],
        mut tell: impl FnMut(usize, bool),
    ) {
        let find = |from: usize| needle.find(&bytes[from..]).map_or(bytes.len(), |at| from + at);
        let (mut begin, mut hit) = (0, find(0));
        for (i, text) in texts.enumerate() {
            if text.len() <= TextView::INLINE {
                tell(i, self.matches(text));
                continue;
            }
            let end = begin + text.len();
            tell(i, hit < end && hit + needle.needle().len() <= end && self.matches(text));
            if hit < end {
                hit = find(end);
            }
            begin = end;
        }
    }

    /// Whether the whole text fits the pattern.
    pub fn matches(&self, text: &[u8]) -> bool {
        if self.ignore_case {
            let mut folded = Vec::with_capacity(text.len());
            lower(text, &mut folded);
            self.shape.matches(&folded)
        } else {
            self.shape.matches(text)
        }
    }
}

/// The segments between `%`, at least one.
fn split(pattern: &[u8], escape: Option<char>) -> Vec<Vec<Piece>> {
    let mut buffer = [0; 4];
    let escape: &[u8] = escape.map_or(&[], |escape| escape.encode_utf8(&mut buffer).as_bytes());
    let mut segments = vec![Vec::new()];
    let mut rest = pattern;
    while let [byte, tail @ ..] = rest {
        let is_escape = !escape.is_empty() && rest.starts_with(escape) && rest.len() > escape.len();
        let pieces: &mut Vec<Piece> = match segments.last_mut() {
            Some(last) => last,
            None => unreachable!("there is always a segment"),
        };
        if is_escape {
            let width = character_width(&rest[escape.len()..]);
            push_literal(pieces, &rest[escape.len()..escape.len() + width]);
            rest = &rest[escape.len() + width..];
            continue;
        }
        match byte {
            b'%' => segments.push(Vec::new()),
            b'_' => pieces.push(Piece::AnyCharacter),
            _ => push_literal(pieces, &[*byte]),
        }
        rest = tail;
    }
    segments
}

fn push_literal(pieces: &mut Vec<Piece>, bytes: &[u8]) {
    match pieces.last_mut() {
        Some(Piece::Literal(literal)) => literal.extend_from_slice(bytes),
        _ => pieces.push(Piece::Literal(bytes.to_vec())),
    }
}

/// The bytes of the first character of a text that is not empty.
fn character_width(text: &[u8]) -> usize {
    1 + text[1..].iter().take_while(|&&byte| is_continuation(byte)).count()
}

fn shape(segments: Vec<Vec<Piece>>) -> Shape {
    let literal = |pieces: &[Piece]| match pieces {
        [] => Some(Vec::new()),
        [Piece::Literal(literal)] => Some(literal.clone()),
        _ => None,
    };
    let literals: Option<Vec<Vec<u8>>> = segments.iter().map(|pieces| literal(pieces)).collect();
    match literals.as_deref() {
        Some([equal]) => return Shape::Equal(equal.clone()),
        Some([prefix, end]) if end.is_empty() => return Shape::Prefix(prefix.clone()),
        Some([start, suffix]) if start.is_empty() => return Shape::Suffix(suffix.clone()),
        Some([start, part, end]) if start.is_empty() && end.is_empty() => {
            return Shape::Contains(Box::new(Finder::new(part).into_owned()));
        }
        _ => {}
    }
    let mut segments: Vec<Segment> = segments.into_iter().map(Segment::new).collect();
    let last = if segments.len() > 1 { segments.pop() } else { None };
    let first = segments.remove(0);
    segments.retain(|segment| !segment.pieces.is_empty());
    Shape::General { first, middle: segments, last }
}

impl Shape {
    #[inline]
    fn matches(&self, text: &[u8]) -> bool {
        match self {
            Shape::Equal(equal) => text == equal,
            Shape::Prefix(prefix) => text.starts_with(prefix),
            Shape::Suffix(suffix) => text.ends_with(suffix),
            Shape::Contains(finder) => finder.find(text).is_some(),
            Shape::General { first, middle, last } => {
                let Some(mut start) = first.at_start(text) else { return false };
                let Some(last) = last else { return start == text.len() };
                // The leftmost place of each segment leaves the most room for those behind it.
                for segment in middle {
                    match segment.find(&text[start..]) {
                        Some(end) => start += end,
                        None => return false,
                    }
                }
                last.at_end(&text[start..])
            }
        }
    }
}

impl Segment {
    fn new(pieces: Vec<Piece>) -> Segment {
        let finder = match pieces.as_slice() {
            [Piece::Literal(literal)] => Some(Box::new(Finder::new(literal).into_owned())),
            _ => None,
        };
        Segment { pieces, finder }
    }

    /// The end of the segment where the text begins with it.
    fn at_start(&self, text: &[u8]) -> Option<usize> {
        let mut at = 0;
        for piece in &self.pieces {
            let rest = &text[at..];
            at += match piece {
                Piece::Literal(literal) if rest.starts_with(literal) => literal.len(),
                Piece::AnyCharacter if !rest.is_empty() => character_width(rest),
                _ => return None,
            };
        }
        Some(at)
    }

    /// Whether the text ends with the segment.
    fn at_end(&self, text: &[u8]) -> bool {
        let mut rest = text;
        for piece in self.pieces.iter().rev() {
            let width = match piece {
                Piece::Literal(literal) if rest.ends_with(literal) => literal.len(),
                Piece::AnyCharacter if !rest.is_empty() => {
                    let tail = rest.iter().rev().take_while(|&&byte| is_continuation(byte)).count();
                    (tail + 1).min(rest.len())
                }
                _ => return false,
            };
            rest = &rest[..rest.len() - width];
        }
        true
    }

    /// The end of the leftmost occurrence of the segment.
    fn find(&self, text: &[u8]) -> Option<usize> {
        if let Some(finder) = &self.finder {
            return finder.find(text).map(|at| at + finder.needle().len());
        }
        (0..=text.len())
            .filter(|&at| at == text.len() || !is_continuation(text[at]))
            .find_map(|at| self.at_start(&text[at..]).map(|end| at + end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn like(text: &str, pattern: &str) -> bool {
        LikePattern::new(pattern.as_bytes(), Some('\\'), false).matches(text.as_bytes())
    }

    #[test]
    fn like_patterns() {
        for (text, pattern, expected) in [
            ("", "", true),
            ("", "%", true),
            ("", "_", false),
            ("abc", "abc", true),
            ("abc", "ABC", false),
            ("abc", "a%", true),
            ("abc", "%c", true),
            ("abc", "%b%", true),
            ("abc", "%%b%%", true),
            ("abc", "a_c", true),
            ("abc", "a_", false),
            ("abc", "___", true),
            ("abc", "____", false),
            ("abc", "_%_", true),
            ("a", "_%_", false),
            ("special requests", "%special%requests%", true),
            ("requests special", "%special%requests%", false),
            ("forest green", "forest%", true),
            ("MEDIUM POLISHED TIN", "MEDIUM POLISHED%", true),
            ("aaab", "%aab", true),
            ("abab", "%ab%ab", true),
            ("ab", "%ab%ab", false),
            ("aba", "ab%ba", false),
            ("abba", "ab%ba", true),
            ("50%", "50\\%", true),
            ("500", "50\\%", false),
            ("a_b", "a\\_b", true),
            ("axb", "a\\_b", false),
            ("a\\b", "a\\\\b", true),
            ("a\\", "a\\", true),
            ("xäy", "x_y", true),
            ("日本語", "___", true),
            ("日本語", "%本_", true),
            ("日本語", "_本%", true),
            ("日本語", "%_語%", true),
            ("日本語", "_語", false),
            ("äb", "%_b", true),
        ] {
            assert_eq!(like(text, pattern), expected, "{text:?} LIKE {pattern:?}");
        }
        assert!(LikePattern::new(b"A!%%", Some('!'), true).matches(b"a%bc"));
        assert!(LikePattern::new("ÄÖ%".as_bytes(), None, true).matches("äÖx".as_bytes()));
        assert!(LikePattern::new(b"a\\%", None, false).matches(b"a\\b"));
    }

    /// The definition: tried character by character.
    fn like_by_definition(text: &[char], pattern: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['%', rest @ ..] => (0..=text.len()).any(|skip| like_by_definition(&text[skip..], rest)),
            ['_', rest @ ..] => !text.is_empty() && like_by_definition(&text[1..], rest),
            [c, rest @ ..] => text.first() == Some(c) && like_by_definition(&text[1..], rest),
        }
    }

    proptest! {
        #[test]
        fn like_is_what_its_definition_says(text in "[abä]{0,8}", pattern in "[abä%_]{0,6}") {
            let (t, p): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
            prop_assert_eq!(like(&text, &pattern), like_by_definition(&t, &p));
        }


        #[test]
        fn any_bytes_are_safe(text in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = LikePattern::new(&text, Some('\\'), true).matches(&text);
            for pattern in [&b"%_a_%"[..], b"_%\xE4_", b"%\x80%_"] {
                let _ = LikePattern::new(pattern, None, false).matches(&text);
            }
        }

    }
}

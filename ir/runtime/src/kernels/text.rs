//! Functions on texts: searching, patterns, parts, case, and conversions from and to text as PostgreSQL does them.
//!
//! What holds:
//! - texts are UTF-8 as bytes; where bytes are not, the functions still return, and never read outside of them;
//! - positions and lengths count characters (code points) from 1;
//! - a part of a text is a slice of it: nothing is copied;
//! - trimming removes blanks (U+0020) only, as SQL's `TRIM` does.

use super::date;
use super::decimal::{self, ParseDecimalError};
use memchr::memmem;
use std::cmp::Ordering;

/// The number of characters.
#[inline]
pub fn length(text: &[u8]) -> usize {
    text.iter().filter(|&&byte| !is_continuation(byte)).count()
}

/// Whether the byte goes on with a character that an earlier byte began.
#[inline]
pub(super) fn is_continuation(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}

/// The bytes before the character with this index (from 0); all bytes where there are fewer characters.
fn offset_of(text: &[u8], characters: usize) -> usize {
    if characters >= text.len() {
        return text.len();
    }
    if text[..characters].is_ascii() && !is_continuation(text[characters]) {
        return characters;
    }
    let mut starts = text.iter().enumerate().filter(|(_, byte)| !is_continuation(**byte));
    starts.nth(characters).map_or(text.len(), |(at, _)| at)
}

/// The characters at positions `start` to `start + length - 1`, as far as the text has them; to the end without a length. A
/// start before 1 counts positions that the text does not have. `None` for a negative length.
pub fn substring(text: &[u8], start: i64, length: Option<i64>) -> Option<&[u8]> {
    let end = match length {
        Some(length) if length < 0 => return None,
        Some(length) => start.saturating_add(length),
        None => i64::MAX,
    };
    let first = usize::try_from(start.saturating_sub(1)).unwrap_or(0);
    let count = usize::try_from(end.saturating_sub(1)).unwrap_or(0).saturating_sub(first);
    let rest = &text[offset_of(text, first)..];
    Some(&rest[..offset_of(rest, count)])
}

/// Without blanks at the start.
#[inline]
pub fn trim_start(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|&&byte| byte == b' ').count();
    &text[blanks..]
}

/// Without blanks at the end.
#[inline]
pub fn trim_end(text: &[u8]) -> &[u8] {
    let blanks = text.iter().rev().take_while(|&&byte| byte == b' ').count();
    &text[..text.len() - blanks]
}

/// Without blanks at both ends.
#[inline]
pub fn trim(text: &[u8]) -> &[u8] {
    trim_end(trim_start(text))
}

/// Appends the text in lower case (Unicode's simple and special mappings, without a locale).
pub fn lower(text: &[u8], out: &mut Vec<u8>) {
    if text.is_ascii() {
        out.extend(text.iter().map(u8::to_ascii_lowercase));
    } else {
        out.extend(String::from_utf8_lossy(text).to_lowercase().bytes());
    }
}

/// Appends the text in upper case.
pub fn upper(text: &[u8], out: &mut Vec<u8>) {
    if text.is_ascii() {
        out.extend(text.iter().map(u8::to_ascii_uppercase));
    } else {
        out.extend(String::from_utf8_lossy(text).to_uppercase().bytes());
    }
}

/// Whether `text` begins with `prefix`.
#[inline]
pub fn starts_with(text: &[u8], prefix: &[u8]) -> bool {
    text.starts_with(prefix)
}

/// Whether `part` occurs in `text`.
#[inline]
pub fn contains(text: &[u8], part: &[u8]) -> bool {
    memmem::find(text, part).is_some()
}

/// The position of the first occurrence of `part`, from 1; 0 where there is none, 1 for the empty text.
pub fn position(text: &[u8], part: &[u8]) -> i64 {
    memmem::find(text, part).map_or(0, |at| length(&text[..at]) as i64 + 1)
}

/// Appends the text with every occurrence of `from` replaced by `to`, from left to right; an empty `from` replaces nothing.
pub fn replace(text: &[u8], from: &[u8], to: &[u8], out: &mut Vec<u8>) {
    let mut copied = 0;
    if !from.is_empty() {
        for at in memmem::find_iter(text, from) {
            out.extend_from_slice(&text[copied..at]);
            out.extend_from_slice(to);
            copied = at + from.len();
        }
    }
    out.extend_from_slice(&text[copied..]);
}

/// A compiled regular expression.
#[derive(Clone, Debug)]
pub struct RegexPattern {
    regex: regex::bytes::Regex,
}

impl RegexPattern {
    /// Compiles a pattern in the syntax of the crate `regex` (no look-around, no back-references: matching takes linear time).
    ///
    /// # Errors
    /// What is wrong with the pattern, in words.
    pub fn new(pattern: &str) -> Result<RegexPattern, String> {
        match regex::bytes::RegexBuilder::new(pattern).size_limit(1 << 20).build() {
            Ok(regex) => Ok(RegexPattern { regex }),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Whether the pattern matches somewhere in the text.
    #[inline]
    pub fn matches(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }
}

/// Why a text does not convert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// The text is not of the type's form.
    Syntax,
    /// The value is outside of the type's range.
    OutOfRange,
}

/// The text as characters, without white space around; bytes that are no UTF-8 are no value of any type.
fn trimmed(text: &[u8]) -> Result<&str, ParseError> {
    let blank = [' ', '\t', '\n', '\r', '\x0b', '\x0c'];
    std::str::from_utf8(text).map(|text| text.trim_matches(blank)).map_err(|_| ParseError::Syntax)
}

/// Reads a boolean: `true`, `yes`, `on`, `1` and their opposites, in any case, or an unambiguous beginning of them.
pub fn parse_bool(text: &[u8]) -> Result<bool, ParseError> {
    let text = trimmed(text)?.to_ascii_lowercase();
    let begins = |word: &str| !text.is_empty() && word.starts_with(&text);
    match text.as_str() {
        "1" | "on" => Ok(true),
        "0" | "of" | "off" => Ok(false),
        _ if begins("true") || begins("yes") => Ok(true),
        _ if begins("false") || begins("no") => Ok(false),
        _ => Err(ParseError::Syntax),
    }
}

/// Reads an integer: an optional sign and digits, with white space around.
pub fn parse_i64(text: &[u8]) -> Result<i64, ParseError> {
    use std::num::IntErrorKind;
    trimmed(text)?.parse::<i64>().map_err(|error| match error.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => ParseError::OutOfRange,
        _ => ParseError::Syntax,
    })
}

/// [`parse_i64`] for four bytes.
pub fn parse_i32(text: &[u8]) -> Result<i32, ParseError> {
    i32::try_from(parse_i64(text)?).map_err(|_| ParseError::OutOfRange)
}

/// Reads a number with point and exponent, `NaN`, `inf` or `infinity` (in any case); the nearest `f64`. A finite number that
/// is too large is out of range.
pub fn parse_f64(text: &[u8]) -> Result<f64, ParseError> {
    let text = trimmed(text)?;
    let value: f64 = text.parse().map_err(|_| ParseError::Syntax)?;
    finite_or_named(value, value.is_infinite(), text)
}

/// [`parse_f64`] for singles: the nearest `f32`.
pub fn parse_f32(text: &[u8]) -> Result<f32, ParseError> {
    let text = trimmed(text)?;
    let value: f32 = text.parse().map_err(|_| ParseError::Syntax)?;
    finite_or_named(value, value.is_infinite(), text)
}

fn finite_or_named<T>(value: T, infinite: bool, text: &str) -> Result<T, ParseError> {
    let named = text.bytes().any(|byte| byte.eq_ignore_ascii_case(&b'n'));
    if infinite && !named { Err(ParseError::OutOfRange) } else { Ok(value) }
}

/// Reads a decimal of this type, rounded half away from zero.
pub fn parse_decimal(text: &[u8], scale: u32, precision: u32) -> Result<i128, ParseError> {
    decimal::parse(trimmed(text)?, scale, precision).map_err(|error| match error {
        ParseDecimalError::Syntax => ParseError::Syntax,
        ParseDecimalError::Overflow => ParseError::OutOfRange,
    })
}

/// Reads a date; see [`date::parse_date`].
pub fn parse_date(text: &[u8]) -> Result<i32, ParseError> {
    date::parse_date(trimmed(text)?).ok_or(ParseError::Syntax)
}

/// Reads a timestamp; see [`date::parse_timestamp`].
pub fn parse_timestamp(text: &[u8]) -> Result<i64, ParseError> {
    date::parse_timestamp(trimmed(text)?).ok_or(ParseError::Syntax)
}

/// Appends `true` or `false`.
pub fn print_bool(value: bool, out: &mut String) {
    out.push_str(if value { "true" } else { "false" });
}

/// Appends the digits.
pub fn print_i64(value: i64, out: &mut String) {
    use std::fmt::Write;
    let _ = write!(out, "{value}");
}

/// Appends the shortest digits that read back as the same number, with an exponent below 1e-4 and from 1e15 on.
pub fn print_f64(value: f64, out: &mut String) {
    print_float(value.is_nan(), value.is_infinite(), value.is_sign_negative(), &format!("{:e}", value.abs()), 15, out);
}

/// [`print_f64`] for singles: with an exponent from 1e6 on.
pub fn print_f32(value: f32, out: &mut String) {
    print_float(value.is_nan(), value.is_infinite(), value.is_sign_negative(), &format!("{:e}", value.abs()), 6, out);
}

/// Lays out the digits of `d.ddde±x` as C's `%g` does.
fn print_float(nan: bool, infinite: bool, negative: bool, scientific: &str, large: i32, out: &mut String) {
    if nan {
        return out.push_str("NaN");
    }
    if negative {
        out.push('-');
    }
    if infinite {
        return out.push_str("Infinity");
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent < -4 || exponent >= large {
        out.push_str(mantissa);
        out.push_str(if exponent < 0 { "e-" } else { "e+" });
        if exponent.abs() < 10 {
            out.push('0');
        }
        return print_i64(i64::from(exponent.abs()), out);
    }
    let digits = || mantissa.chars().filter(|&c| c != '.');
    let count = digits().count() as i32;
    match exponent.cmp(&-1) {
        Ordering::Less | Ordering::Equal => {
            out.push_str("0.");
            out.extend((exponent..-1).map(|_| '0'));
            out.extend(digits());
        }
        Ordering::Greater => {
            for (at, digit) in (0..).zip(digits()) {
                if at == exponent + 1 {
                    out.push('.');
                }
                out.push(digit);
            }
            out.extend((count..=exponent).map(|_| '0'));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn substring_is_what_its_definition_says(text in "[aä日]{0,8}", start in -10..10i64, length in 0..12i64) {
            let expected: String = (1..).zip(text.chars()).filter(|(i, _)| (start..start + length).contains(i)).map(|(_, c)| c).collect();
            prop_assert_eq!(substring(text.as_bytes(), start, Some(length)), Some(expected.as_bytes()));
        }

        #[test]
        fn any_bytes_are_safe(text in proptest::collection::vec(any::<u8>(), 0..20), start in any::<i64>(), length in any::<i64>()) {
            let _ = substring(&text, start, Some(length));
            let _ = (parse_i64(&text), parse_f64(&text), parse_decimal(&text, 2, 10), parse_date(&text), parse_timestamp(&text), parse_bool(&text));
        }

        #[test]
        fn floats_print_what_reads_back(bits in any::<u64>()) {
            let (double, single) = (f64::from_bits(bits), f32::from_bits(bits as u32));
            let mut out = String::new();
            print_f64(double, &mut out);
            prop_assert!(double.is_nan() || parse_f64(out.as_bytes()) == Ok(double), "{}", out);
            out.clear();
            print_f32(single, &mut out);
            prop_assert!(single.is_nan() || parse_f32(out.as_bytes()) == Ok(single), "{}", out);
        }
    }

    #[test]
    fn parts() {
        let sub = |text: &'static str, start, length| {
            substring(text.as_bytes(), start, length).map(|s| String::from_utf8_lossy(s).into_owned())
        };
        assert_eq!(sub("13-701-8989", 1, Some(2)).as_deref(), Some("13"));
        assert_eq!(sub("abc", 0, Some(2)).as_deref(), Some("a"));
        assert_eq!(sub("abc", -1, None).as_deref(), Some("abc"));
        assert_eq!(sub("abc", 2, None).as_deref(), Some("bc"));
        assert_eq!(sub("abc", 4, Some(i64::MAX)).as_deref(), Some(""));
        assert_eq!(sub("abc", i64::MIN, Some(i64::MAX)).as_deref(), Some(""));
        assert_eq!(sub("日本語", 2, Some(1)).as_deref(), Some("本"));
        assert_eq!(sub("abc", 1, Some(-1)), None);
        assert_eq!(length("日本語".as_bytes()), 3);
        assert_eq!(trim(b"  a b  "), b"a b");
        assert_eq!(trim_start(b"  a "), b"a ");
        assert_eq!(trim_end(b" a\t "), b" a\t");
        assert_eq!(trim(b"   "), b"");
        assert_eq!(position("日本語本".as_bytes(), "本".as_bytes()), 2);
        assert_eq!((position(b"abc", b"x"), position(b"abc", b"")), (0, 1));
        assert!(starts_with(b"abc", b"ab") && contains(b"abc", b"bc") && !contains(b"abc", b"cb"));
    }

    #[test]
    fn new_texts() {
        let made = |make: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            make(&mut out);
            String::from_utf8(out).expect("UTF-8")
        };
        assert_eq!(made(&|out| upper("aß日".as_bytes(), out)), "ASS日");
        assert_eq!(made(&|out| lower("AÄ".as_bytes(), out)), "aä");
        assert_eq!(made(&|out| upper(b"abc-1", out)), "ABC-1");
        assert_eq!(made(&|out| replace(b"aXbXX", b"X", b"--", out)), "a--b----");
        assert_eq!(made(&|out| replace(b"aaa", b"aa", b"b", out)), "ba");
        assert_eq!(made(&|out| replace(b"abc", b"", b"x", out)), "abc");
    }

    #[test]
    fn regular_expressions() {
        let pattern = RegexPattern::new("^[a-c]+[0-9]$").expect("a pattern");
        assert!(pattern.matches(b"abc1"));
        assert!(!pattern.matches(b"abd1"));
        assert!(RegexPattern::new("^.ä$").expect("a pattern").matches("日ä".as_bytes()));
        assert!(RegexPattern::new("(").is_err());
        assert!(RegexPattern::new("(a{1000}){1000}").is_err());
    }

    #[test]
    fn reads_values() {
        for yes in ["t", "TRUE", " yes ", "y", "on", "1"] {
            assert_eq!(parse_bool(yes.as_bytes()), Ok(true), "{yes}");
        }
        for no in ["f", "False", "n", "no", "off", "of", "0"] {
            assert_eq!(parse_bool(no.as_bytes()), Ok(false), "{no}");
        }
        for bad in ["", "o", "2", "truely"] {
            assert_eq!(parse_bool(bad.as_bytes()), Err(ParseError::Syntax), "{bad}");
        }
        assert_eq!(parse_i64(b" +42 "), Ok(42));
        assert_eq!(parse_i64(b"-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_i64(b"9223372036854775808"), Err(ParseError::OutOfRange));
        assert_eq!(parse_i32(b"2147483648"), Err(ParseError::OutOfRange));
        for bad in ["", "1.5", "x", "1 2", "+", "\u{ff}1"] {
            assert_eq!(parse_i64(bad.as_bytes()), Err(ParseError::Syntax), "{bad}");
        }
        assert_eq!(parse_f64(b"1e3"), Ok(1000.0));
        assert_eq!(parse_f64(b"-Infinity"), Ok(f64::NEG_INFINITY));
        assert!(parse_f64(b"nan").is_ok_and(f64::is_nan));
        assert_eq!(parse_f64(b"1e400"), Err(ParseError::OutOfRange));
        assert_eq!(parse_f32(b"1e39"), Err(ParseError::OutOfRange));
        assert_eq!(parse_f64(b"1,5"), Err(ParseError::Syntax));
        assert_eq!(parse_decimal(b"12.345", 2, 5), Ok(1235));
        assert_eq!(parse_decimal(b"1234.5", 2, 5), Err(ParseError::OutOfRange));
        assert_eq!(parse_date(b" 1998-12-01 "), Ok(10_561));
        assert_eq!(parse_timestamp(b"1970-01-01 00:00:01"), Ok(1_000_000));
        assert_eq!(parse_date(b"1998-12"), Err(ParseError::Syntax));
    }

    #[test]
    fn prints_values() {
        let double = |value| {
            let mut out = String::new();
            print_f64(value, &mut out);
            out
        };
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00012, "0.00012"),
            (0.00001, "1e-05"),
            (123_456.0, "123456"),
            (100_000_000_000_000.0, "100000000000000"),
            (1e15, "1e+15"),
            (1.25e300, "1.25e+300"),
            (1_234.5, "1234.5"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(double(value), text);
        }
        let mut out = String::new();
        print_f32(0.1, &mut out);
        out.push(' ');
        print_f32(1e6, &mut out);
        out.push(' ');
        print_f32(999_999.0, &mut out);
        out.push(' ');
        print_i64(i64::MIN, &mut out);
        out.push(' ');
        print_bool(true, &mut out);
        assert_eq!(out, "0.1 1e+06 999999 -9223372036854775808 true");
    }
}

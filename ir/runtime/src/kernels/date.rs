//! Dates and timestamps of the proleptic Gregorian calendar.
//!
//! A date is an `i32`: days since 1970-01-01. A timestamp is an `i64`: microseconds since 1970-01-01 00:00:00, without a time
//! zone. What holds:
//! - every `i32` is a date and every `i64` is a timestamp; reading fields from them never fails;
//! - whatever could leave the range returns `None`;
//! - the conversions between days and years are those of Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms"
//!   (<https://howardhinnant.github.io/date_algorithms.html>, `days_from_civil` and `civil_from_days`).

/// Microseconds of one second.
pub const MICROS_PER_SECOND: i64 = 1_000_000;
/// Microseconds of one minute.
pub const MICROS_PER_MINUTE: i64 = 60 * MICROS_PER_SECOND;
/// Microseconds of one hour.
pub const MICROS_PER_HOUR: i64 = 60 * MICROS_PER_MINUTE;
/// Microseconds of one day.
pub const MICROS_PER_DAY: i64 = 24 * MICROS_PER_HOUR;

/// A part of a date: what `extract`, `date_trunc` and `date_diff` name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DatePart {
    Microsecond = 0,
    Millisecond = 1,
    Second = 2,
    Minute = 3,
    Hour = 4,
    Day = 5,
    /// The ISO 8601 week: it begins on Monday.
    Week = 6,
    Month = 7,
    Quarter = 8,
    Year = 9,
    Decade = 10,
    Century = 11,
    Millennium = 12,
    /// 0 is Sunday.
    DayOfWeek = 13,
    /// 1 is Monday, 7 is Sunday.
    IsoDayOfWeek = 14,
    /// 1 is the first of January.
    DayOfYear = 15,
    /// The year that the ISO week belongs to.
    IsoYear = 16,
    /// Whole seconds since 1970.
    Epoch = 17,
}

impl DatePart {
    /// Every part, in the order of its code.
    pub const ALL: [DatePart; 18] = [
        DatePart::Microsecond,
        DatePart::Millisecond,
        DatePart::Second,
        DatePart::Minute,
        DatePart::Hour,
        DatePart::Day,
        DatePart::Week,
        DatePart::Month,
        DatePart::Quarter,
        DatePart::Year,
        DatePart::Decade,
        DatePart::Century,
        DatePart::Millennium,
        DatePart::DayOfWeek,
        DatePart::IsoDayOfWeek,
        DatePart::DayOfYear,
        DatePart::IsoYear,
        DatePart::Epoch,
    ];

    /// The part with this code (`self as u8`).
    pub fn from_code(code: u8) -> Option<DatePart> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The name that SQL gives to this part.
    pub fn name(self) -> &'static str {
        match self {
            DatePart::Microsecond => "microsecond",
            DatePart::Millisecond => "millisecond",
            DatePart::Second => "second",
            DatePart::Minute => "minute",
            DatePart::Hour => "hour",
            DatePart::Day => "day",
            DatePart::Week => "week",
            DatePart::Month => "month",
            DatePart::Quarter => "quarter",
            DatePart::Year => "year",
            DatePart::Decade => "decade",
            DatePart::Century => "century",
            DatePart::Millennium => "millennium",
            DatePart::DayOfWeek => "dow",
            DatePart::IsoDayOfWeek => "isodow",
            DatePart::DayOfYear => "doy",
            DatePart::IsoYear => "isoyear",
            DatePart::Epoch => "epoch",
        }
    }

    /// The part of this name, in any case, with the spellings that PostgreSQL and DuckDB accept.
    pub fn parse(name: &str) -> Option<DatePart> {
        Some(match name.trim().to_ascii_lowercase().as_str() {
            "microsecond" | "microseconds" | "us" | "usec" => DatePart::Microsecond,
            "millisecond" | "milliseconds" | "ms" | "msec" => DatePart::Millisecond,
            "second" | "seconds" | "sec" | "secs" | "s" => DatePart::Second,
            "minute" | "minutes" | "min" | "mins" | "m" => DatePart::Minute,
            "hour" | "hours" | "hr" | "hrs" | "h" => DatePart::Hour,
            "day" | "days" | "d" | "dayofmonth" => DatePart::Day,
            "week" | "weeks" | "w" | "weekofyear" => DatePart::Week,
            "month" | "months" | "mon" | "mons" => DatePart::Month,
            "quarter" | "quarters" => DatePart::Quarter,
            "year" | "years" | "yr" | "yrs" | "y" => DatePart::Year,
            "decade" | "decades" => DatePart::Decade,
            "century" | "centuries" => DatePart::Century,
            "millennium" | "millennia" | "millenium" => DatePart::Millennium,
            "dow" | "dayofweek" | "weekday" => DatePart::DayOfWeek,
            "isodow" => DatePart::IsoDayOfWeek,
            "doy" | "dayofyear" => DatePart::DayOfYear,
            "isoyear" => DatePart::IsoYear,
            "epoch" => DatePart::Epoch,
            _ => return None,
        })
    }
}

/// Days since 1970-01-01 of a civil date; `month` in 1..=12, `day` in 1..=31. Total over its stated domain; the year is
/// astronomical (0 is 1 BC).
pub const fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    // Years begin in March, so that the leap day is the last of its year; an era is 400 years.
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let month_from_march = (month as i64 + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day as i64 - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month (1..=12) and day (1..=31) of a day number.
pub const fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u32;
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

/// Whether the year has a 29th of February.
pub const fn is_leap_year(year: i64) -> bool {
    year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0)
}

/// The number of days of a month (1..=12).
pub const fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        2 => 28 + is_leap_year(year) as u32,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The date of a civil day; `None` where there is no such day or it is out of range.
pub fn date_from_civil(year: i64, month: u32, day: u32) -> Option<i32> {
    if !(1..=12).contains(&month)
        || day == 0
        || !(-6_000_000..=6_000_000).contains(&year)
        || day > days_in_month(year, month)
    {
        return None;
    }
    i32::try_from(days_from_civil(year, month, day)).ok()
}

/// The day that a timestamp falls on.
pub fn timestamp_to_date(micros: i64) -> i32 {
    // An i64 holds 106 751 991 days on either side of the epoch.
    micros.div_euclid(MICROS_PER_DAY) as i32
}

/// Midnight at the start of a day; `None` beyond the years ±292 000.
pub fn date_to_timestamp(days: i32) -> Option<i64> {
    i64::from(days).checked_mul(MICROS_PER_DAY)
}

/// One part of a date, as PostgreSQL's `extract` and DuckDB's `date_part` give it (whole numbers).
pub fn extract_date(part: DatePart, days: i32) -> i64 {
    let days = i64::from(days);
    match part {
        DatePart::Microsecond | DatePart::Millisecond | DatePart::Second | DatePart::Minute | DatePart::Hour => 0,
        DatePart::Day => i64::from(civil_from_days(days).2),
        DatePart::Week => iso_week(days).1,
        DatePart::Month => i64::from(civil_from_days(days).1),
        DatePart::Quarter => i64::from((civil_from_days(days).1 - 1) / 3 + 1),
        DatePart::Year => civil_from_days(days).0,
        DatePart::Decade => civil_from_days(days).0.div_euclid(10),
        DatePart::Century => numbered_from_one(civil_from_days(days).0, 100),
        DatePart::Millennium => numbered_from_one(civil_from_days(days).0, 1000),
        DatePart::DayOfWeek => (days + 4).rem_euclid(7),
        DatePart::IsoDayOfWeek => (days + 3).rem_euclid(7) + 1,
        DatePart::DayOfYear => days - days_from_civil(civil_from_days(days).0, 1, 1) + 1,
        DatePart::IsoYear => iso_week(days).0,
        DatePart::Epoch => days * 86_400,
    }
}

/// One part of a timestamp. Seconds are whole; milliseconds and microseconds count from the start of the minute, as in
/// PostgreSQL.
pub fn extract_timestamp(part: DatePart, micros: i64) -> i64 {
    let of_day = micros.rem_euclid(MICROS_PER_DAY);
    match part {
        DatePart::Microsecond => of_day % MICROS_PER_MINUTE,
        DatePart::Millisecond => of_day % MICROS_PER_MINUTE / 1000,
        DatePart::Second => of_day % MICROS_PER_MINUTE / MICROS_PER_SECOND,
        DatePart::Minute => of_day % MICROS_PER_HOUR / MICROS_PER_MINUTE,
        DatePart::Hour => of_day / MICROS_PER_HOUR,
        DatePart::Epoch => micros.div_euclid(MICROS_PER_SECOND),
        _ => extract_date(part, timestamp_to_date(micros)),
    }
}

/// Century or millennium: the first begins with the year 1, and there is none with the number 0.
fn numbered_from_one(year: i64, span: i64) -> i64 {
    if year > 0 { (year + span - 1) / span } else { -((span - year) / span) }
}

/// ISO 8601 year and week: a week belongs to the year that its Thursday is in.
fn iso_week(days: i64) -> (i64, i64) {
    let thursday = days - (days + 3).rem_euclid(7) + 3;
    let year = civil_from_days(thursday).0;
    (year, (thursday - days_from_civil(year, 1, 1)) / 7 + 1)
}

/// The first day of the part that a date is in; parts below a day leave it. `None` only where that day is before the range.
pub fn trunc_date(part: DatePart, days: i32) -> Option<i32> {
    let d = i64::from(days);
    let first = match part {
        DatePart::Microsecond
        | DatePart::Millisecond
        | DatePart::Second
        | DatePart::Minute
        | DatePart::Hour
        | DatePart::Day
        | DatePart::DayOfWeek
        | DatePart::IsoDayOfWeek
        | DatePart::DayOfYear
        | DatePart::Epoch => d,
        DatePart::Week => d - (d + 3).rem_euclid(7),
        DatePart::Month => {
            let (year, month, _) = civil_from_days(d);
            days_from_civil(year, month, 1)
        }
        DatePart::Quarter => {
            let (year, month, _) = civil_from_days(d);
            days_from_civil(year, (month - 1) / 3 * 3 + 1, 1)
        }
        DatePart::Year => days_from_civil(civil_from_days(d).0, 1, 1),
        DatePart::Decade => days_from_civil(civil_from_days(d).0.div_euclid(10) * 10, 1, 1),
        DatePart::Century => days_from_civil((civil_from_days(d).0 - 1).div_euclid(100) * 100 + 1, 1, 1),
        DatePart::Millennium => days_from_civil((civil_from_days(d).0 - 1).div_euclid(1000) * 1000 + 1, 1, 1),
        DatePart::IsoYear => {
            // The first ISO week is the one with the fourth of January.
            let fourth = days_from_civil(iso_week(d).0, 1, 4);
            fourth - (fourth + 3).rem_euclid(7)
        }
    };
    i32::try_from(first).ok()
}

/// The start of the part that a timestamp is in; `None` only where that is before the range.
pub fn trunc_timestamp(part: DatePart, micros: i64) -> Option<i64> {
    let to = |unit: i64| micros.checked_sub(micros.rem_euclid(unit));
    match part {
        DatePart::Microsecond => Some(micros),
        DatePart::Millisecond => to(1000),
        DatePart::Second | DatePart::Epoch => to(MICROS_PER_SECOND),
        DatePart::Minute => to(MICROS_PER_MINUTE),
        DatePart::Hour => to(MICROS_PER_HOUR),
        _ => date_to_timestamp(trunc_date(part, timestamp_to_date(micros))?),
    }
}

/// A date some months later or earlier; a day beyond the end of its month becomes its last day (31 January + 1 month is 28
/// or 29 February).
pub fn add_months(days: i32, months: i64) -> Option<i32> {
    let (year, month, day) = civil_from_days(i64::from(days));
    let month_number = (year * 12 + i64::from(month) - 1).checked_add(months)?;
    let (year, month) = (month_number.div_euclid(12), month_number.rem_euclid(12) as u32 + 1);
    if !(-6_000_000..=6_000_000).contains(&year) {
        return None;
    }
    date_from_civil(year, month, day.min(days_in_month(year, month)))
}

/// A date some days later or earlier.
pub fn add_days(days: i32, more: i64) -> Option<i32> {
    i32::try_from(i64::from(days).checked_add(more)?).ok()
}

/// [`add_months`] for a timestamp: the time of day stays.
pub fn timestamp_add_months(micros: i64, months: i64) -> Option<i64> {
    let date = add_months(timestamp_to_date(micros), months)?;
    let of_day = micros.rem_euclid(MICROS_PER_DAY);
    i64::try_from(i128::from(date) * i128::from(MICROS_PER_DAY) + i128::from(of_day)).ok()
}

/// A timestamp plus an interval; months are added first, then days, then microseconds.
pub fn timestamp_add_interval(micros: i64, months: i64, days: i64, more: i64) -> Option<i64> {
    timestamp_add_months(micros, months)?.checked_add(days.checked_mul(MICROS_PER_DAY)?)?.checked_add(more)
}

/// How many boundaries of `part` lie between two dates: negative where `b` is earlier, 1 from 31 December to 1 January in
/// every part from the day up. `None` where the count exceeds an `i64`.
pub fn diff_date(part: DatePart, a: i32, b: i32) -> Option<i64> {
    let (a, b) = (i64::from(a), i64::from(b));
    let per_day = |units: i64| (b - a).checked_mul(units);
    match part {
        DatePart::Microsecond => per_day(MICROS_PER_DAY),
        DatePart::Millisecond => per_day(MICROS_PER_DAY / 1000),
        DatePart::Second | DatePart::Epoch => per_day(86_400),
        DatePart::Minute => per_day(1440),
        DatePart::Hour => per_day(24),
        _ => Some(ordinal(part, b) - ordinal(part, a)),
    }
}

/// [`diff_date`] for timestamps: from 10:59 to 11:00 is one hour.
pub fn diff_timestamp(part: DatePart, a: i64, b: i64) -> Option<i64> {
    let in_units = |unit: i64| b.div_euclid(unit).checked_sub(a.div_euclid(unit));
    match part {
        DatePart::Microsecond => in_units(1),
        DatePart::Millisecond => in_units(1000),
        DatePart::Second | DatePart::Epoch => in_units(MICROS_PER_SECOND),
        DatePart::Minute => in_units(MICROS_PER_MINUTE),
        DatePart::Hour => in_units(MICROS_PER_HOUR),
        _ => diff_date(part, timestamp_to_date(a), timestamp_to_date(b)),
    }
}

/// The running number of the part (a day or longer) that a day is in.
fn ordinal(part: DatePart, days: i64) -> i64 {
    match part {
        DatePart::Week => (days + 3).div_euclid(7),
        DatePart::Month => {
            let (year, month, _) = civil_from_days(days);
            year * 12 + i64::from(month)
        }
        DatePart::Quarter => {
            let (year, month, _) = civil_from_days(days);
            year * 4 + i64::from((month - 1) / 3)
        }
        DatePart::Year => civil_from_days(days).0,
        DatePart::Decade => civil_from_days(days).0.div_euclid(10),
        DatePart::Century => (civil_from_days(days).0 - 1).div_euclid(100),
        DatePart::Millennium => (civil_from_days(days).0 - 1).div_euclid(1000),
        DatePart::IsoYear => iso_week(days).0,
        DatePart::Microsecond
        | DatePart::Millisecond
        | DatePart::Second
        | DatePart::Minute
        | DatePart::Hour
        | DatePart::Day
        | DatePart::DayOfWeek
        | DatePart::IsoDayOfWeek
        | DatePart::DayOfYear
        | DatePart::Epoch => days,
    }
}

/// Seconds since 1970 with their fraction.
pub fn timestamp_epoch(micros: i64) -> f64 {
    micros as f64 / 1e6
}

/// Appends a date as ISO 8601: `2013-01-31`; years before 1 end in ` BC`, as PostgreSQL prints them.
pub fn print_date(days: i32, out: &mut String) {
    let before_christ = print_civil(i64::from(days), out);
    if before_christ {
        out.push_str(" BC");
    }
}

/// Appends a timestamp: `2013-01-31 05:00:00`, then a fraction of at most six digits without zeros at its end.
pub fn print_timestamp(micros: i64, out: &mut String) {
    let before_christ = print_civil(micros.div_euclid(MICROS_PER_DAY), out);
    let of_day = micros.rem_euclid(MICROS_PER_DAY);
    out.push(' ');
    push_padded(out, (of_day / MICROS_PER_HOUR) as u64, 2);
    out.push(':');
    push_padded(out, (of_day % MICROS_PER_HOUR / MICROS_PER_MINUTE) as u64, 2);
    out.push(':');
    push_padded(out, (of_day % MICROS_PER_MINUTE / MICROS_PER_SECOND) as u64, 2);
    let fraction = of_day % MICROS_PER_SECOND;
    if fraction != 0 {
        out.push('.');
        push_padded(out, fraction as u64, 6);
        while out.ends_with('0') {
            out.pop();
        }
    }
    if before_christ {
        out.push_str(" BC");
    }
}

fn print_civil(days: i64, out: &mut String) -> bool {
    let (year, month, day) = civil_from_days(days);
    let before_christ = year <= 0;
    push_padded(out, if before_christ { 1 - year } else { year } as u64, 4);
    out.push('-');
    push_padded(out, u64::from(month), 2);
    out.push('-');
    push_padded(out, u64::from(day), 2);
    before_christ
}

fn push_padded(out: &mut String, value: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    let mut rest = value;
    while rest > 0 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let from = at.min(digits.len() - width);
    out.extend(digits[from..].iter().map(|&d| char::from(d)));
}

/// Reads a date: year, month and day, separated by `-` or `/`, optionally ` BC`, with white space around. A time of day
/// after it is checked and dropped, as PostgreSQL does. `None` where the text is no date.
pub fn parse_date(text: &str) -> Option<i32> {
    let mut cursor = Cursor::new(text);
    let days = cursor.date()?;
    if cursor.at_time() {
        cursor.time()?;
    }
    cursor.end_of_era(days)
}

/// Reads a timestamp: a date, then optionally `T` or white space and `HH:MM[:SS[.fraction]]`, then optionally an offset (`Z`,
/// `+01`, `-05:30`), which is applied: the result is in UTC. A fraction is rounded to microseconds.
pub fn parse_timestamp(text: &str) -> Option<i64> {
    let mut cursor = Cursor::new(text);
    let civil = cursor.date()?;
    let of_day = if cursor.at_time() { cursor.time()? } else { 0 };
    let days = cursor.end_of_era(civil)?;
    // The first representable timestamp is in the middle of a day.
    i64::try_from(i128::from(days) * i128::from(MICROS_PER_DAY) + i128::from(of_day)).ok()
}

/// Reads text from left to right.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str) -> Self {
        Cursor { rest: text.trim().as_bytes() }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.rest.first() == Some(&byte);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn number(&mut self, max_digits: usize) -> Option<i64> {
        let digits = self.rest.iter().take(max_digits).take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        Some(number.iter().fold(0, |n, &d| n * 10 + i64::from(d - b'0')))
    }

    fn date(&mut self) -> Option<(i64, u32, u32)> {
        let negative = self.eat(b'-');
        let year = self.number(7)?;
        let separator = *self.rest.first()?;
        if separator != b'-' && separator != b'/' {
            return None;
        }
        self.rest = &self.rest[1..];
        let month = self.number(2)? as u32;
        if !self.eat(separator) {
            return None;
        }
        let day = self.number(2)? as u32;
        Some((if negative { -year } else { year }, month, day))
    }

    fn at_time(&self) -> bool {
        match self.rest {
            [b'T' | b't', ..] => true,
            [b' ', rest @ ..] => rest.iter().find(|&&b| b != b' ').is_some_and(u8::is_ascii_digit),
            _ => false,
        }
    }

    fn time(&mut self) -> Option<i64> {
        if !self.eat(b'T') && !self.eat(b't') {
            while self.eat(b' ') {}
        }
        let hour = self.number(2)?;
        if !self.eat(b':') {
            return None;
        }
        let minute = self.number(2)?;
        let second = if self.eat(b':') { self.number(2)? } else { 0 };
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let fraction = if self.eat(b'.') { self.fraction()? } else { 0 };
        let offset = self.offset()?;
        Some(hour * MICROS_PER_HOUR + minute * MICROS_PER_MINUTE + second * MICROS_PER_SECOND + fraction - offset)
    }

    fn fraction(&mut self) -> Option<i64> {
        let digits = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        let (fraction, rest) = self.rest.split_at(digits);
        self.rest = rest;
        let digit = |i: usize| i64::from(fraction.get(i).map_or(0, |d| d - b'0'));
        let micros = (0..6).fold(0, |n, i| n * 10 + digit(i));
        Some(micros + i64::from(digit(6) >= 5))
    }

    fn offset(&mut self) -> Option<i64> {
        if self.eat(b'Z') || self.eat(b'z') {
            return Some(0);
        }
        let sign = match self.rest.first() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return Some(0),
        };
        self.rest = &self.rest[1..];
        let hours = self.number(2)?;
        let more = self.eat(b':') || self.rest.first().is_some_and(u8::is_ascii_digit);
        let minutes = if more { self.number(2)? } else { 0 };
        (hours <= 15 && minutes <= 59).then_some(sign * (hours * MICROS_PER_HOUR + minutes * MICROS_PER_MINUTE))
    }

    /// The day, once the text has ended, with ` BC` or ` (BC)` before its end.
    fn end_of_era(&mut self, (year, month, day): (i64, u32, u32)) -> Option<i32> {
        match self.rest {
            b"" => date_from_civil(year, month, day),
            b" BC" | b" bc" | b" (BC)" if year > 0 => date_from_civil(1 - year, month, day),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> i32 {
        parse_date(text).unwrap_or_else(|| panic!("no date: {text}"))
    }

    fn timestamp(text: &str) -> i64 {
        parse_timestamp(text).unwrap_or_else(|| panic!("no timestamp: {text}"))
    }

    fn shown(days: i32) -> String {
        let mut out = String::new();
        print_date(days, &mut out);
        out
    }

    fn shown_timestamp(micros: i64) -> String {
        let mut out = String::new();
        print_timestamp(micros, &mut out);
        out
    }

    #[test]
    fn days_and_civil_dates_are_inverse() {
        let mut expected = days_from_civil(-401, 1, 1);
        for year in -401..=2801 {
            for month in 1..=12 {
                for day in 1..=days_in_month(year, month) {
                    assert_eq!(days_from_civil(year, month, day), expected);
                    assert_eq!(civil_from_days(expected), (year, month, day));
                    expected += 1;
                }
            }
        }
        for days in [i32::MIN, i32::MIN + 1, -1, 0, i32::MAX] {
            let (year, month, day) = civil_from_days(i64::from(days));
            assert_eq!(date_from_civil(year, month, day), Some(days));
        }
    }

    #[test]
    fn known_days() {
        assert_eq!(date("1970-01-01"), 0);
        assert_eq!(date("2000-03-01"), 11_017);
        assert_eq!(date("1998-12-01"), 10_561);
        assert_eq!(date("0001-01-01"), -719_162);
    }

    #[test]
    fn parses_and_prints() {
        for text in ["1992-01-02", "0044-03-15 BC", "9999-12-31", "12345-06-07"] {
            assert_eq!(shown(date(text)), text);
        }
        assert_eq!(shown(date(" 2013/1/5 ")), "2013-01-05");
        assert_eq!(shown(date("2013-01-05 23:59:59")), "2013-01-05");
        for bad in [
            "",
            "2013",
            "2013-13-01",
            "2013-02-29",
            "2013-00-01",
            "2013-01-00",
            "2013-01-01x",
            "2013-01/01",
            "x",
            "-",
            "2013-01-01 25:00",
        ] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
        for text in
            ["2013-01-05 00:00:00", "2013-01-05 23:59:59.25", "1969-12-31 23:59:59.999999", "0044-03-15 01:02:03 BC"]
        {
            assert_eq!(shown_timestamp(timestamp(text)), text);
        }
        assert_eq!(timestamp("2013-01-05T10:00:00Z"), timestamp("2013-01-05 10:00"));
        assert_eq!(timestamp("2013-01-05 10:00:00+02"), timestamp("2013-01-05 08:00:00"));
        assert_eq!(timestamp("2013-01-05 10:00:00-05:30"), timestamp("2013-01-05 15:30:00"));
        assert_eq!(timestamp("2013-01-05 10:00:00.1234567"), timestamp("2013-01-05 10:00:00.123457"));
        assert_eq!(timestamp("2013-01-05"), timestamp("2013-01-05 00:00:00"));
        for bad in [
            "2013-01-05 24:00:00",
            "2013-01-05 10",
            "2013-01-05 10:60",
            "2013-01-05 10:00:00.",
            "2013-01-05 10:00:00 x",
            "300000-01-01",
        ] {
            assert_eq!(parse_timestamp(bad), None, "{bad}");
        }
        for extreme in [i64::MIN, i64::MAX] {
            assert_eq!(timestamp(&shown_timestamp(extreme)), extreme);
        }
    }

    #[test]
    fn extracts_fields() {
        let day = date("2013-08-31");
        let expected = [
            (DatePart::Year, 2013),
            (DatePart::Quarter, 3),
            (DatePart::Month, 8),
            (DatePart::Week, 35),
            (DatePart::Day, 31),
            (DatePart::DayOfWeek, 6),
            (DatePart::IsoDayOfWeek, 6),
            (DatePart::DayOfYear, 243),
            (DatePart::Decade, 201),
            (DatePart::Century, 21),
            (DatePart::Millennium, 3),
            (DatePart::Hour, 0),
            (DatePart::Epoch, i64::from(day) * 86_400),
        ];
        for (part, value) in expected {
            assert_eq!(extract_date(part, day), value, "{part:?}");
        }
        let time = timestamp("2013-08-31 17:45:06.789123");
        let expected = [
            (DatePart::Hour, 17),
            (DatePart::Minute, 45),
            (DatePart::Second, 6),
            (DatePart::Millisecond, 6_789),
            (DatePart::Microsecond, 6_789_123),
            (DatePart::Year, 2013),
        ];
        for (part, value) in expected {
            assert_eq!(extract_timestamp(part, time), value, "{part:?}");
        }
        assert_eq!(extract_date(DatePart::DayOfWeek, date("1900-01-07")), 0);
        assert_eq!(extract_date(DatePart::IsoDayOfWeek, date("1900-01-07")), 7);
        assert_eq!(extract_timestamp(DatePart::Hour, -1), 23);
        assert_eq!(extract_date(DatePart::Century, date("2000-12-31")), 20);
        assert_eq!(extract_date(DatePart::Century, date("0001-01-01 BC")), -1);
        assert_eq!(extract_date(DatePart::Century, date("0100-01-01 BC")), -1);
        assert_eq!(extract_date(DatePart::Century, date("0101-01-01 BC")), -2);
    }

    #[test]
    fn iso_weeks_at_the_turn_of_the_year() {
        // From the table of examples in ISO 8601.
        for (text, year, week) in [
            ("2005-01-01", 2004, 53),
            ("2005-01-02", 2004, 53),
            ("2005-12-31", 2005, 52),
            ("2007-01-01", 2007, 1),
            ("2008-12-29", 2009, 1),
            ("2010-01-03", 2009, 53),
        ] {
            assert_eq!(extract_date(DatePart::IsoYear, date(text)), year);
            assert_eq!(extract_date(DatePart::Week, date(text)), week);
        }
    }

    #[test]
    fn truncates() {
        let day = date("2013-08-31");
        for (part, text) in [
            (DatePart::Day, "2013-08-31"),
            (DatePart::Week, "2013-08-26"),
            (DatePart::Month, "2013-08-01"),
            (DatePart::Quarter, "2013-07-01"),
            (DatePart::Year, "2013-01-01"),
            (DatePart::Decade, "2010-01-01"),
            (DatePart::Century, "2001-01-01"),
            (DatePart::Millennium, "2001-01-01"),
            (DatePart::IsoYear, "2012-12-31"),
        ] {
            assert_eq!(trunc_date(part, day).map(shown).as_deref(), Some(text), "{part:?}");
        }
        let time = timestamp("1969-08-31 17:45:06.789123");
        for (part, text) in [
            (DatePart::Microsecond, "1969-08-31 17:45:06.789123"),
            (DatePart::Millisecond, "1969-08-31 17:45:06.789"),
            (DatePart::Second, "1969-08-31 17:45:06"),
            (DatePart::Minute, "1969-08-31 17:45:00"),
            (DatePart::Hour, "1969-08-31 17:00:00"),
            (DatePart::Day, "1969-08-31 00:00:00"),
            (DatePart::Month, "1969-08-01 00:00:00"),
        ] {
            assert_eq!(trunc_timestamp(part, time).map(shown_timestamp).as_deref(), Some(text), "{part:?}");
        }
        assert_eq!(trunc_timestamp(DatePart::Year, i64::MIN), None);
        assert_eq!(trunc_date(DatePart::Year, i32::MIN), None);
    }

    #[test]
    fn adds_months_and_intervals() {
        for (from, months, to) in [
            ("2012-01-31", 1, "2012-02-29"),
            ("2013-01-31", 1, "2013-02-28"),
            ("2013-01-31", -2, "2012-11-30"),
            ("1998-12-01", -3, "1998-09-01"),
            ("1995-01-01", 12, "1996-01-01"),
            ("2000-02-29", 1200, "2100-02-28"),
        ] {
            assert_eq!(add_months(date(from), months).map(shown).as_deref(), Some(to));
        }
        assert_eq!(add_months(0, i64::MAX), None);
        assert_eq!(add_months(i32::MAX, 1), None);
        assert_eq!(add_days(i32::MAX, 1), None);
        assert_eq!(add_days(date("1998-12-01"), -90).map(shown).as_deref(), Some("1998-09-02"));
        let at = timestamp("2013-01-31 10:00:00");
        assert_eq!(timestamp_add_interval(at, 1, 1, -MICROS_PER_HOUR), Some(timestamp("2013-03-01 09:00:00")));
        assert_eq!(timestamp_add_interval(i64::MAX, 0, 1, 0), None);
    }

    #[test]
    fn counts_boundaries() {
        for (part, a, b, count) in [
            (DatePart::Year, "2012-12-31 23:59:59", "2013-01-01 00:00:00", 1),
            (DatePart::Quarter, "2012-12-31 23:59:59", "2013-01-01 00:00:00", 1),
            (DatePart::Month, "2012-12-31 23:59:59", "2013-01-01 00:00:00", 1),
            (DatePart::Day, "2012-12-31 23:59:59", "2013-01-01 00:00:00", 1),
            (DatePart::Hour, "2012-12-31 23:59:59", "2013-01-01 00:00:00", 1),
            (DatePart::Minute, "2012-12-31 23:59:59", "2013-01-01 00:00:00", 1),
            (DatePart::Second, "2012-12-31 23:59:59", "2013-01-01 00:00:00", 1),
            (DatePart::Microsecond, "2012-12-31 23:59:59", "2013-01-01 00:00:00", 1_000_000),
            (DatePart::Week, "2013-01-06 10:00:00", "2013-01-07 00:00:00", 1),
            (DatePart::Week, "2013-01-07 00:00:00", "2013-01-13 23:00:00", 0),
            (DatePart::Hour, "2013-01-01 10:00:00", "2013-01-01 10:59:59", 0),
            (DatePart::Hour, "2013-01-01 11:00:00", "2013-01-01 10:59:59", -1),
            (DatePart::Month, "2013-01-01 00:00:00", "2013-12-31 00:00:00", 11),
            (DatePart::Decade, "2009-12-31 00:00:00", "2010-01-01 00:00:00", 1),
            (DatePart::Century, "2000-12-31 00:00:00", "2001-01-01 00:00:00", 1),
        ] {
            assert_eq!(diff_timestamp(part, timestamp(a), timestamp(b)), Some(count), "{part:?} {a} {b}");
        }
        assert_eq!(diff_date(DatePart::Hour, 0, 2), Some(48));
        assert_eq!(diff_date(DatePart::Day, i32::MIN, i32::MAX), Some((1 << 32) - 1));
        assert_eq!(diff_date(DatePart::Microsecond, i32::MIN, i32::MAX), None);
        assert_eq!(diff_timestamp(DatePart::Microsecond, i64::MIN, i64::MAX), None);
    }

    #[test]
    fn names_and_codes_are_inverse() {
        for part in DatePart::ALL {
            assert_eq!(DatePart::from_code(part as u8), Some(part));
            assert_eq!(DatePart::parse(part.name()), Some(part));
        }
        assert_eq!(DatePart::from_code(18), None);
        assert_eq!(DatePart::parse("fortnight"), None);
    }
}

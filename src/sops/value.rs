//! Typed scalars and the bytes SOPS encrypts for them.
//!
//! Separate because three texts of one value must not be mixed up: the plaintext inside a token
//! (also what the MAC covers), the type tag beside it, and the text a flat store prints. It knows
//! nothing of files or ciphers.

use crate::secret::{SecretBytes, SecretText};

use super::document::Container;

/// A leaf's value as SOPS types it.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `type:bool`; plaintext `True` or `False`.
    Bool(bool),
    /// `type:comment`: the text after the comment mark, blanks kept. Never part of the MAC.
    Comment(SecretText<'a>),
    /// An empty mapping or list: kept in clear, no MAC bytes.
    Empty(Container),
    /// `type:float`; plaintext is the shortest decimal without an exponent.
    Float(f64),
    /// `type:int`: 64 bits, decimal.
    Int(i64),
    /// No value: kept in clear, no MAC bytes.
    Null,
    /// `type:str`: any bytes, not only UTF-8.
    Str(SecretText<'a>),
    /// `type:time`: RFC 3339, up to nine fractional digits, zone kept, in Go's canonical spelling.
    Time(String),
}

/// What can be wrong with the plaintext of a token. Never holds the plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// The decrypted bytes are not a literal of the declared type.
    #[error("the decrypted value is not of its declared type")]
    NotOfType,
    /// The type tag is not one SOPS knows.
    #[error("unknown value type")]
    UnknownType,
}

impl Value<'_> {
    /// Returns the type tag of the token, `None` for null and empty containers.
    pub fn type_tag(&self) -> Option<&'static str> {
        Some(match self {
            Self::Bool(_) => "bool",
            Self::Comment(_) => "comment",
            Self::Float(_) => "float",
            Self::Int(_) => "int",
            Self::Empty(_) | Self::Null => return None,
            Self::Str(_) => "str",
            Self::Time(_) => "time",
        })
    }

    /// Returns whether the value is a comment.
    pub fn is_comment(&self) -> bool {
        matches!(self, Self::Comment(_))
    }

    /// Returns the bytes SOPS encrypts, which are also the bytes its MAC covers: `True`/`False`,
    /// decimal integers, exponent-free floats (Go's `'f', -1`), RFC 3339 times, raw strings.
    pub fn plaintext(&self) -> SecretText<'_> {
        match self {
            Self::Bool(true) => SecretText::Borrowed(b"True"),
            Self::Bool(false) => SecretText::Borrowed(b"False"),
            Self::Comment(text) | Self::Str(text) => SecretText::Borrowed(text.expose()),
            Self::Float(number) => owned(positional_float(*number)),
            Self::Int(number) => owned(number.to_string()),
            Self::Empty(_) | Self::Null => SecretText::Borrowed(b""),
            Self::Time(text) => SecretText::Borrowed(text.as_bytes()),
        }
    }

    /// Returns the value of a token from its type tag and decrypted bytes.
    ///
    /// # Errors
    /// `UnknownType` for a tag SOPS does not write or read, `NotOfType` when the bytes do not
    /// parse as the type.
    pub fn from_plaintext(tag: &str, bytes: SecretBytes) -> Result<Value<'static>, ValueError> {
        let text = || std::str::from_utf8(bytes.expose()).map_err(|_| ValueError::NotOfType);
        Ok(match tag {
            "str" | "bytes" => Value::Str(SecretText::Owned(bytes)),
            "comment" => Value::Comment(SecretText::Owned(bytes)),
            "int" => Value::Int(text()?.parse().map_err(|_| ValueError::NotOfType)?),
            "float" => Value::Float(parse_float(text()?).ok_or(ValueError::NotOfType)?),
            "bool" => match text()? {
                "1" | "t" | "T" | "TRUE" | "true" | "True" => Value::Bool(true),
                "0" | "f" | "F" | "FALSE" | "false" | "False" => Value::Bool(false),
                _ => return Err(ValueError::NotOfType),
            },
            "time" => Value::Time(canonical_time(text()?).ok_or(ValueError::NotOfType)?),
            _ => return Err(ValueError::UnknownType),
        })
    }

    /// Returns the text that dotenv and INI print for the value: booleans in lower case, times
    /// without fraction, floats with an upper-case exponent or a forced decimal point, null as
    /// `<nil>`, as the reference program does.
    pub fn flat_text(&self) -> SecretText<'_> {
        match self {
            Self::Bool(flag) => owned(flag.to_string()),
            Self::Comment(text) | Self::Str(text) => SecretText::Borrowed(text.expose()),
            Self::Empty(_) => SecretText::Borrowed(b""),
            Self::Float(number) => owned(flat_float(*number)),
            Self::Int(number) => owned(number.to_string()),
            Self::Null => SecretText::Borrowed(b"<nil>"),
            Self::Time(text) => owned(without_fraction(text)),
        }
    }

    /// Returns the same value, its text borrowed from this one.
    pub fn borrowed(&self) -> Value<'_> {
        match self {
            Self::Bool(flag) => Value::Bool(*flag),
            Self::Comment(text) => Value::Comment(SecretText::Borrowed(text.expose())),
            Self::Empty(kind) => Value::Empty(*kind),
            Self::Float(number) => Value::Float(*number),
            Self::Int(number) => Value::Int(*number),
            Self::Null => Value::Null,
            Self::Str(text) => Value::Str(SecretText::Borrowed(text.expose())),
            Self::Time(text) => Value::Time(text.clone()),
        }
    }

    /// Returns whether type and plaintext are the same.
    pub fn is_same(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Self::Empty(one), Value::Empty(other)) => one == other,
            _ => {
                self.type_tag() == other.type_tag()
                    && self.plaintext().expose() == other.plaintext().expose()
            }
        }
    }

    /// Detaches the value from the buffer it was read from.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::Bool(flag) => Value::Bool(flag),
            Self::Comment(text) => Value::Comment(SecretText::Owned(text.into_owned())),
            Self::Empty(kind) => Value::Empty(kind),
            Self::Float(number) => Value::Float(number),
            Self::Int(number) => Value::Int(number),
            Self::Null => Value::Null,
            Self::Str(text) => Value::Str(SecretText::Owned(text.into_owned())),
            Self::Time(text) => Value::Time(text),
        }
    }
}

fn owned<'a>(text: String) -> SecretText<'a> {
    SecretText::Owned(SecretBytes::new(text.into_bytes()))
}

/// Formats as Go's `strconv.FormatFloat(f, 'f', -1, 64)`: shortest digits, never an exponent.
pub fn positional_float(number: f64) -> String {
    if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        number.to_string()
    }
}

fn flat_float(number: f64) -> String {
    if !number.is_finite() {
        return positional_float(number);
    }
    let scientific = format!("{number:E}");
    let Some((digits, exponent)) = scientific.split_once('E') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}E{sign}{:02}", exponent.abs());
    }
    let text = number.to_string();
    if text.contains('.') {
        text
    } else {
        text + ".0"
    }
}

fn parse_float(text: &str) -> Option<f64> {
    let number: f64 = text.parse().ok()?;
    let spelled_infinite = text.to_ascii_lowercase().contains("inf");
    (number.is_finite() || number.is_nan() || spelled_infinite).then_some(number)
}

/// Splits `YYYY-MM-DDTHH:MM:SS[.fraction](Z|±HH:MM)` into date and time, fraction, zone.
fn split_time(text: &str) -> Option<(&str, &str, &str)> {
    let (seconds, rest) = text.split_at_checked(19)?;
    let shape = b"dddd-dd-ddTdd:dd:dd";
    let fits = |shape: &[u8], text: &str| {
        shape.len() == text.len()
            && shape
                .iter()
                .zip(text.bytes())
                .all(|(&want, have)| match want {
                    b'd' => have.is_ascii_digit(),
                    _ => want == have,
                })
    };
    if !fits(shape, seconds) || seconds.parse::<jiff::civil::DateTime>().is_err() {
        return None;
    }
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit())?;
            (&rest[..end], &rest[end..])
        }
        None => ("", rest),
    };
    let zone_fits = zone == "Z" || fits(b"+dd:dd", zone) || fits(b"-dd:dd", zone);
    zone_fits.then_some((seconds, fraction, zone))
}

/// Respells an RFC 3339 time as Go prints it: at most nine fractional digits, trailing zeros
/// dropped, offset zero as `Z`. `None` when it is not such a time.
pub fn canonical_time(text: &str) -> Option<String> {
    let (seconds, fraction, zone) = split_time(text)?;
    let fraction = fraction[..fraction.len().min(9)].trim_end_matches('0');
    let zone = if matches!(zone, "+00:00" | "-00:00") {
        "Z"
    } else {
        zone
    };
    let point = if fraction.is_empty() { "" } else { "." };
    Some(format!("{seconds}{point}{fraction}{zone}"))
}

/// Respells an RFC 3339 time with whole seconds, the form `lastmodified` takes as associated
/// data. `text` is returned as it is when it is not such a time.
pub fn without_fraction(text: &str) -> String {
    match split_time(text) {
        Some((seconds, _, "+00:00" | "-00:00")) => format!("{seconds}Z"),
        Some((seconds, _, zone)) => format!("{seconds}{zone}"),
        None => text.to_owned(),
    }
}

/// Returns the time of the next change of a file last changed at `previous`: `now`, or a second
/// after `previous` where that is not later, so that every change has a time of its own. A
/// `previous` more than a minute ahead came from a wrong clock and is not followed.
pub fn next_change(previous: &str, now: &str) -> String {
    let parse = |text: &str| text.parse::<jiff::Timestamp>().ok();
    let (Some(before), Some(at)) = (parse(previous), parse(now)) else {
        return now.to_owned();
    };
    let next = jiff::Timestamp::from_second(before.as_second() + 1).unwrap_or(at);
    let is_near = next.as_second() - at.as_second() <= 60;
    if next > at && is_near {
        next.to_string()
    } else {
        now.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(number: f64) -> (String, String) {
        let value = Value::Float(number);
        let text = |bytes: SecretText<'_>| String::from_utf8_lossy(bytes.expose()).into_owned();
        (text(value.plaintext()), text(value.flat_text()))
    }

    #[test]
    fn floats_have_the_two_texts_of_the_reference() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(float(8080.0), pair("8080", "8080.0"));
        assert_eq!(float(1.5), pair("1.5", "1.5"));
        assert_eq!(float(1e6), pair("1000000", "1E+06"));
        assert_eq!(float(1_000_000.5), pair("1000000.5", "1.0000005E+06"));
        assert_eq!(float(0.00001), pair("0.00001", "1E-05"));
        assert_eq!(float(123_456.0), pair("123456", "123456.0"));
        assert_eq!(float(-0.0), pair("-0", "-0.0"));
        assert_eq!(float(f64::INFINITY), pair("+Inf", "+Inf"));
        assert_eq!(float(f64::NAN), pair("NaN", "NaN"));
    }

    #[test]
    fn times_are_respelled_as_go_does() {
        assert_eq!(
            canonical_time("2006-01-02T15:04:05.120+00:00").as_deref(),
            Some("2006-01-02T15:04:05.12Z")
        );
        assert_eq!(
            canonical_time("2006-01-02T15:04:05.123456+07:06").as_deref(),
            Some("2006-01-02T15:04:05.123456+07:06")
        );
        assert_eq!(canonical_time("2006-13-02T15:04:05Z"), None);
        assert_eq!(canonical_time("2006-01-02 15:04:05Z"), None);
        assert_eq!(canonical_time("2006-01-02"), None);
        assert_eq!(
            without_fraction("2006-01-02T15:04:05.9Z"),
            "2006-01-02T15:04:05Z"
        );
    }

    #[test]
    fn every_change_has_a_time_of_its_own() {
        let next = |previous| next_change(previous, "2026-01-02T03:04:05Z");
        assert_eq!(next("2026-01-02T03:04:04Z"), "2026-01-02T03:04:05Z");
        assert_eq!(next("2026-01-02T03:04:05Z"), "2026-01-02T03:04:06Z");
        assert_eq!(next("2026-01-02T03:04:30Z"), "2026-01-02T03:04:31Z");
        assert_eq!(next("2031-01-02T03:04:05Z"), "2026-01-02T03:04:05Z");
        assert_eq!(next(""), "2026-01-02T03:04:05Z");
    }

    #[test]
    fn only_literals_of_the_type_are_read() {
        let read = |tag: &str, text: &str| {
            Value::from_plaintext(tag, SecretBytes::copy_of(text.as_bytes()))
                .map(|value| value.plaintext().expose().to_vec())
        };
        assert_eq!(read("int", "-42"), Ok(b"-42".to_vec()));
        assert_eq!(read("int", "4 2"), Err(ValueError::NotOfType));
        assert_eq!(read("bool", "t"), Ok(b"True".to_vec()));
        assert_eq!(read("bool", "yes"), Err(ValueError::NotOfType));
        assert_eq!(read("float", "1e400"), Err(ValueError::NotOfType));
        assert_eq!(read("float", "1e3"), Ok(b"1000".to_vec()));
        assert_eq!(read("uint", "1"), Err(ValueError::UnknownType));
    }
}

//! What a plain YAML scalar means, as go-yaml resolves it for SOPS, and how a value is spelled.
//!
//! The rules are neither those of YAML 1.1 nor of 1.2: `yes` is a string, `017` is fifteen,
//! `1_000` an integer, `12:30:45` a string (go-yaml v3 `resolve.go`).

use crate::secret::{SecretBytes, SecretText};

use super::super::super::value::{Value, canonical_time, positional_float};

/// Returns the value of a plain scalar; `None` for an integer that fits 64 bits only unsigned,
/// which SOPS refuses.
pub(super) fn resolve(text: &str) -> Option<Value<'static>> {
    let first = text.bytes().next();
    let word = match first {
        None => Some(Value::Null),
        Some(b'~' | b'n' | b'N') if matches!(text, "~" | "null" | "Null" | "NULL") => {
            Some(Value::Null)
        }
        Some(b't' | b'T') if matches!(text, "true" | "True" | "TRUE") => Some(Value::Bool(true)),
        Some(b'f' | b'F') if matches!(text, "false" | "False" | "FALSE") => {
            Some(Value::Bool(false))
        }
        Some(b'.' | b'+' | b'-') => infinity(text),
        _ => None,
    };
    if let Some(value) = word {
        return Some(value);
    }
    if !matches!(first, Some(b'0'..=b'9' | b'+' | b'-' | b'.')) {
        return Some(string(text));
    }
    if let Some(time) = time(text) {
        return Some(Value::Time(time));
    }
    let digits: String = text.chars().filter(|character| *character != '_').collect();
    if first != Some(b'.')
        && let Some(number) = integer(&digits)
    {
        return i64::try_from(number).ok().map(Value::Int).or({
            if number > i128::from(u64::MAX) || number < i128::from(i64::MIN) {
                Some(decimal_float(&digits).unwrap_or_else(|| string(text)))
            } else {
                None
            }
        });
    }
    let digits = if first == Some(b'.') { text } else { &digits };
    Some(decimal_float(digits).unwrap_or_else(|| string(text)))
}

fn string(text: &str) -> Value<'static> {
    Value::Str(SecretText::Owned(SecretBytes::copy_of(text.as_bytes())))
}

fn infinity(text: &str) -> Option<Value<'static>> {
    Some(Value::Float(match text {
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => f64::INFINITY,
        "-.inf" | "-.Inf" | "-.INF" => f64::NEG_INFINITY,
        ".nan" | ".NaN" | ".NAN" => f64::NAN,
        _ => return None,
    }))
}

/// Reads an integer as Go's `strconv.ParseInt` with base 0: a sign, then `0x`, `0o`, `0b`, a leading
/// zero for octal, or decimal digits. `None` also for what does not fit 128 bits, other than decimal.
fn integer(text: &str) -> Option<i128> {
    let (is_negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let prefix = digits.get(..2).unwrap_or_default();
    let (base, digits) = match prefix {
        "0x" | "0X" => (16, &digits[2..]),
        "0o" | "0O" => (8, &digits[2..]),
        "0b" | "0B" => (2, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let number = i128::from_str_radix(digits, base).ok()?;
    let fits = number <= i128::from(u64::MAX) || base == 10;
    let number = if is_negative { -number } else { number };
    (fits && (base == 10 || number >= i128::from(i64::MIN))).then_some(number)
}

/// Reads `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?` within the range of a double.
fn decimal_float(text: &str) -> Option<Value<'static>> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
        None => (unsigned, None),
    };
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mantissa_fits = is_digits(whole)
        && is_digits(fraction)
        && !(whole.is_empty() && (fraction.is_empty() || !mantissa.starts_with('.')));
    let exponent_fits = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !digits.is_empty() && is_digits(digits)
    });
    if !mantissa_fits || !exponent_fits {
        return None;
    }
    let number: f64 = text.parse().ok()?;
    number.is_finite().then_some(Value::Float(number))
}

/// Reads a timestamp as go-yaml does and returns it in Go's RFC 3339 spelling.
fn time(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    if bytes.len() < 8 || bytes[4] != b'-' || !bytes[..4].iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (year, rest) = text.split_once('-')?;
    let (month, rest) = short_number(rest)?;
    let (day, rest) = short_number(rest.strip_prefix('-')?)?;
    let date = format!("{year}-{month:02}-{day:02}");
    if rest.is_empty() {
        return canonical_time(&format!("{date}T00:00:00Z"));
    }
    let has_zone = rest.starts_with(['T', 't']);
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (hour, rest) = short_number(rest)?;
    let (minute, rest) = short_number(rest.strip_prefix(':')?)?;
    let (second, rest) = short_number(rest.strip_prefix(':')?)?;
    let (fraction, rest) = match rest.strip_prefix(['.', ',']) {
        Some(rest) => {
            let end = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            (&rest[..end], &rest[end..])
        }
        None => ("0", rest),
    };
    if fraction.is_empty() || has_zone == rest.is_empty() {
        return None;
    }
    let zone = if has_zone { rest } else { "Z" };
    if let Some(offset) = zone.strip_prefix(['+', '-']) {
        let (hours, minutes) = offset.split_once(':')?;
        let fits = |text: &str, most: u8| text.parse::<u8>().is_ok_and(|number| number <= most);
        if !fits(hours, 24) || !fits(minutes, 59) {
            return None;
        }
    }
    canonical_time(&format!(
        "{date}T{hour:02}:{minute:02}:{second:02}.{fraction}{zone}"
    ))
}

/// Reads one or two digits.
fn short_number(text: &str) -> Option<(u8, &str)> {
    let count = text.bytes().take(2).take_while(u8::is_ascii_digit).count();
    let number = text[..count].parse().ok()?;
    Some((number, &text[count..]))
}

/// Returns the plain spelling of a value that is no string: the text that a token without a note
/// stands for.
pub(super) fn plain_spelling(value: &Value<'_>) -> String {
    match value {
        Value::Bool(flag) => flag.to_string(),
        Value::Float(number) if number.is_nan() => ".nan".to_owned(),
        Value::Float(number) if number.is_infinite() => {
            if *number > 0.0 { ".inf" } else { "-.inf" }.to_owned()
        }
        Value::Float(number) => {
            let text = positional_float(*number);
            // Without a point it would come back as an integer, but what the reference prints would
            // too, if shorter.
            match resolve(&text) {
                Some(Value::Float(_)) => text,
                _ => stock_float(*number),
            }
        }
        Value::Int(number) => number.to_string(),
        Value::Time(text) => text.clone(),
        Value::Null => "null".to_owned(),
        Value::Empty(super::Container::List) => "[]".to_owned(),
        Value::Empty(super::Container::Map) => "{}".to_owned(),
        Value::Comment(_) | Value::Str(_) => String::new(),
    }
}

/// Formats as go-yaml prints floats: the shortest digits, with an exponent below -4 and from 6 on (Go's
/// `strconv.FormatFloat(f, 'g', -1, 64)`).
pub(super) fn stock_float(number: f64) -> String {
    if !number.is_finite() {
        return plain_spelling(&Value::Float(number));
    }
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    positional_float(number)
}

/// Returns whether `text`, as a plain scalar on one line, is read as this very string.
pub(super) fn is_plain(text: &str, is_in_flow: bool) -> bool {
    is_plain_syntax(text, is_in_flow) && matches!(resolve(text), Some(Value::Str(_)))
}

/// Returns whether `text` can stand as a plain scalar on one line, whatever it resolves to.
pub(super) fn is_plain_syntax(text: &str, is_in_flow: bool) -> bool {
    let bytes = text.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    let next = bytes.get(1).copied();
    let starts_word = |byte: Option<u8>| {
        byte.is_some_and(|byte| {
            let ends_flow = matches!(byte, b',' | b'[' | b']' | b'{' | b'}');
            !(matches!(byte, b' ' | b'\t') || (is_in_flow && ends_flow))
        })
    };
    let starts_fine = match first {
        b'-' | b'?' | b':' => starts_word(next),
        b',' | b'[' | b']' | b'{' | b'}' | b'#' | b'&' | b'*' | b'!' | b'|' | b'>' | b'\''
        | b'"' | b'%' | b'@' | b'`' | b' ' | b'\t' => false,
        _ => true,
    };
    starts_fine
        && !matches!(last, b' ' | b'\t' | b':')
        && text
            .chars()
            .all(|character| character == '\t' || !is_special(character))
        && !bytes.windows(2).any(|pair| {
            matches!(pair, [b':', b' ' | b'\t'] | [b' ' | b'\t', b'#'])
                || (is_in_flow && matches!(pair[1], b',' | b'[' | b']' | b'{' | b'}')
                    || is_in_flow && pair[0] == b':' && matches!(pair[1], b','))
        })
        && !(is_in_flow
            && bytes
                .iter()
                .any(|byte| matches!(byte, b',' | b'[' | b']' | b'{' | b'}')))
}

/// Returns whether a character cannot stand in a scalar as it is: line breaks and what YAML does
/// not print.
pub(super) fn is_special(character: char) -> bool {
    matches!(character,
        '\0'..='\u{8}' | '\n'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}'
        | '\u{fffe}' | '\u{ffff}')
}

/// Appends a string in single quotes.
pub(super) fn write_single(text: &str, out: &mut Vec<u8>) {
    out.push(b'\'');
    out.extend_from_slice(text.replace('\'', "''").as_bytes());
    out.push(b'\'');
}

/// Appends a string in double quotes on one line, with the fewest escapes: `\\`, `\"`, `\n`, `\t`, `\r`,
/// and numbers for what cannot be printed.
pub(super) fn write_double(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for character in text.chars() {
        let code = u32::from(character);
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\r' => out.extend_from_slice(b"\\r"),
            character if !is_special(character) => {
                let mut buffer = [0; 4];
                out.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
            }
            _ if code <= 0xff => out.extend_from_slice(format!("\\x{code:02x}").as_bytes()),
            _ if code <= 0xffff => out.extend_from_slice(format!("\\u{code:04x}").as_bytes()),
            _ => out.extend_from_slice(format!("\\U{code:08x}").as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, String) {
        match resolve(text) {
            None => ("refused".to_owned(), String::new()),
            Some(value) => (
                value.type_tag().unwrap_or("null").to_owned(),
                String::from_utf8_lossy(value.plaintext().expose()).into_owned(),
            ),
        }
    }

    #[test]
    fn plain_scalars_mean_what_they_mean_to_the_reference() {
        for (text, tag, plaintext) in [
            ("42", "int", "42"),
            ("+5", "int", "5"),
            ("007", "int", "7"),
            ("-0", "int", "0"),
            ("017", "int", "15"),
            ("0o17", "int", "15"),
            ("0O17", "int", "15"),
            ("-0x1F", "int", "-31"),
            ("0b11", "int", "3"),
            ("1_000", "int", "1000"),
            ("0_", "int", "0"),
            ("0x_1", "int", "1"),
            ("9223372036854775807", "int", "9223372036854775807"),
            ("9223372036854775808", "refused", ""),
            ("18446744073709551616", "float", "18446744073709552000"),
            ("-9223372036854775809", "float", "-9223372036854776000"),
            ("1.0", "float", "1"),
            ("08", "float", "8"),
            ("5.", "float", "5"),
            (".5", "float", "0.5"),
            ("+.5", "float", "0.5"),
            ("1.e3", "float", "1000"),
            ("1_000.5", "float", "1000.5"),
            ("-0.0", "float", "-0"),
            ("1e-400", "float", "0"),
            (".INF", "float", "+Inf"),
            ("-.inf", "float", "-Inf"),
            (".NaN", "float", "NaN"),
            ("1e400", "str", "1e400"),
            ("0x1p3", "str", "0x1p3"),
            ("0o8", "str", "0o8"),
            ("_1", "str", "_1"),
            ("NaN", "str", "NaN"),
            ("12:30:45", "str", "12:30:45"),
            ("yes", "str", "yes"),
            ("=", "str", "="),
            ("TRUE", "bool", "True"),
            ("False", "bool", "False"),
            ("~", "null", ""),
            ("", "null", ""),
            ("2024-01-02", "time", "2024-01-02T00:00:00Z"),
            ("2024-1-2", "time", "2024-01-02T00:00:00Z"),
            ("2024-01-02 03:04:05.120", "time", "2024-01-02T03:04:05.12Z"),
            ("2024-01-02T3:4:5Z", "time", "2024-01-02T03:04:05Z"),
            (
                "2024-01-02T03:04:05+07:00",
                "time",
                "2024-01-02T03:04:05+07:00",
            ),
            ("2024-01-02T03:04:05+00:00", "time", "2024-01-02T03:04:05Z"),
            ("2024-01-02t03:04:05z", "str", "2024-01-02t03:04:05z"),
            ("2024-01-02 03:04:05 Z", "str", "2024-01-02 03:04:05 Z"),
            ("2024-13-02", "str", "2024-13-02"),
        ] {
            assert_eq!(read(text), (tag.to_owned(), plaintext.to_owned()), "{text}");
        }
    }
}

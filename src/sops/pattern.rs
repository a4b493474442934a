//! Regular expressions in Go's syntax (RE2), run by the `regex` crate.
//!
//! Separate because `.sops.yaml` and the selection rules of a file both use them and must read
//! them as the reference does. The two dialects differ in a few places, which are rewritten here;
//! what Go cannot compile is an error. The reference treats a selection pattern it cannot compile
//! as "matches nothing", which stores secrets in clear: here it is refused. (Go `regexp/syntax`.)

use std::borrow::Cow;
use std::fmt;

use regex::Regex;

/// The largest repeat count that Go accepts.
const LARGEST_REPEAT: u32 = 1000;

/// A compiled pattern; matches anywhere in the subject unless anchored.
#[derive(Clone)]
pub struct Pattern {
    source: String,
    regex: Regex,
}

/// Why a pattern cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a regular expression that sops understands: {reason}", pattern.escape_debug())]
pub struct PatternError {
    /// The pattern as written.
    pub pattern: String,
    /// What is wrong with it, one line.
    pub reason: String,
}

impl Pattern {
    /// Compiles a pattern written in Go's syntax.
    ///
    /// # Errors
    /// When either dialect cannot express it.
    pub fn new(source: &str) -> Result<Self, PatternError> {
        let fail = |reason: String| PatternError {
            pattern: source.to_owned(),
            reason,
        };
        let translated = Translator::new(source)
            .translate()
            .map_err(|reason| fail(reason.to_owned()))?;
        let regex = Regex::new(&translated).map_err(|error| {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or("not valid").trim();
            fail(last.trim_start_matches("error: ").to_owned())
        })?;
        Ok(Self {
            source: source.to_owned(),
            regex,
        })
    }

    /// Returns whether the pattern matches anywhere in `subject`. Bytes that are not UTF-8 count
    /// as U+FFFD each, as in Go.
    pub fn is_match(&self, subject: &[u8]) -> bool {
        self.regex.is_match(&as_go_reads(subject))
    }

    /// Returns the pattern as written.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

/// Returns the text with every byte that is not part of a character replaced by U+FFFD.
fn as_go_reads(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Cow::Owned(text)
}

impl fmt::Debug for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.source, formatter)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

type Step<T> = Result<T, &'static str>;

/// Rewrites a pattern from one dialect to the other, refusing what Go refuses.
struct Translator<'s> {
    rest: &'s str,
    out: String,
    /// What the last operator was, for Go's rule against nested repetition.
    repeated: Repeated,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeated {
    /// The last thing was not a repetition.
    No,
    /// It was `*`, `+`, `?` or `{…}`.
    Yes,
    /// It was one of these made lazy by `?`.
    Lazily,
}

impl<'s> Translator<'s> {
    fn new(source: &'s str) -> Self {
        Self {
            rest: source,
            out: String::with_capacity(source.len() + 16),
            repeated: Repeated::No,
        }
    }

    fn take(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn translate(mut self) -> Step<String> {
        while let Some(c) = self.take() {
            let mut repeated = Repeated::No;
            match c {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '(' if self.rest.starts_with('?') => self.group()?,
                '?' if self.repeated == Repeated::Yes => {
                    self.out.push(c);
                    repeated = Repeated::Lazily;
                }
                '*' | '+' | '?' => {
                    self.check_repeat()?;
                    self.out.push(c);
                    repeated = Repeated::Yes;
                }
                '{' => match repeat_bounds(self.rest) {
                    None => self.out.push_str("\\{"),
                    Some(bounds) => {
                        self.check_repeat()?;
                        let (low, high) = (bounds[0], bounds.last().copied().unwrap_or(0));
                        if bounds.iter().any(|&count| count > LARGEST_REPEAT) {
                            return Err("a repeat count is larger than 1000");
                        }
                        if bounds.len() == 2 && low > high {
                            return Err("a repeat range is the wrong way round");
                        }
                        let end = self.rest.find('}').map_or(0, |end| end + 1);
                        self.out.push('{');
                        self.out.push_str(&self.rest[..end]);
                        self.rest = &self.rest[end..];
                        repeated = Repeated::Yes;
                    }
                },
                '}' | ']' => {
                    self.out.push('\\');
                    self.out.push(c);
                }
                _ => self.out.push(c),
            }
            self.repeated = repeated;
        }
        Ok(self.out)
    }

    fn check_repeat(&self) -> Step<()> {
        match self.repeated {
            Repeated::No => Ok(()),
            _ => Err("a repetition of a repetition"),
        }
    }

    /// Translates what stands behind `(`: a name, or flags Go knows.
    fn group(&mut self) -> Step<()> {
        if self.rest.starts_with("?P<") || self.rest.starts_with("?<") {
            if self.rest.starts_with("?<=") || self.rest.starts_with("?<!") {
                return Err("look-behind does not exist");
            }
            self.out.push('(');
            return Ok(());
        }
        let end = self.rest.find([':', ')']).ok_or("a group is not closed")?;
        let flags = &self.rest[1..end];
        if !flags.chars().all(|flag| "imsU-".contains(flag)) || flags.matches('-').count() > 1 {
            return Err("a group with a mark that does not exist");
        }
        let closes = self.rest[end..].starts_with(')');
        if flags.ends_with('-') {
            return Err("a group with a mark that does not exist");
        }
        // `(?)` sets nothing.
        if !(closes && flags.is_empty()) {
            self.out.push('(');
            self.out.push_str(&self.rest[..=end]);
        }
        self.rest = &self.rest[end + 1..];
        Ok(())
    }

    /// Translates what stands behind a backslash outside of a class.
    fn escape(&mut self) -> Step<()> {
        let before = self.rest;
        match self.take().ok_or("it ends with a backslash")? {
            'Q' => {
                let (literal, rest) = self.rest.split_once("\\E").unwrap_or((self.rest, ""));
                self.out.push_str(&regex::escape(literal));
                self.rest = rest;
            }
            'A' => self.out.push_str("\\A"),
            'z' => self.out.push_str("\\z"),
            'b' => self.out.push_str("(?-u:\\b)"),
            'B' => self.out.push_str("(?-u:\\B)"),
            'C' => return Err("`\\C` is not supported"),
            _ => {
                self.rest = before;
                if let Some(set) = self.class_escape()? {
                    self.out.push('[');
                    self.out.push_str(&set);
                    self.out.push(']');
                } else {
                    let c = self.literal_escape()?;
                    push_literal(c, &mut self.out);
                }
            }
        }
        Ok(())
    }

    /// Translates `d`, `s`, `w`, `p{…}` and their complements; `None` leaves everything as it is.
    fn class_escape(&mut self) -> Step<Option<String>> {
        let c = self.rest.chars().next().ok_or("it ends with a backslash")?;
        let set = match c {
            'd' => "0-9",
            'D' => "[^0-9]",
            's' => "\\t\\n\\f\\r ",
            'S' => "[^\\t\\n\\f\\r ]",
            'w' => "0-9A-Za-z_",
            'W' => "[^0-9A-Za-z_]",
            'p' | 'P' => {
                self.take();
                let name = match self.take().ok_or("a Unicode class without a name")? {
                    '{' => {
                        let (name, rest) = self
                            .rest
                            .split_once('}')
                            .ok_or("a Unicode class is not closed")?;
                        self.rest = rest;
                        name.to_owned()
                    }
                    letter => letter.to_string(),
                };
                let (negated, name) = match name.strip_prefix('^') {
                    Some(name) => (true, name),
                    None => (false, name.as_str()),
                };
                if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                    return Err("a Unicode class with a name that does not exist");
                }
                let mark = if (c == 'P') == negated { 'p' } else { 'P' };
                return Ok(Some(match name {
                    "Any" if mark == 'p' => "\\x{0}-\\x{10FFFF}".to_owned(),
                    _ => format!("\\{mark}{{{name}}}"),
                }));
            }
            _ => return Ok(None),
        };
        self.take();
        Ok(Some(set.to_owned()))
    }

    /// Reads an escape that stands for one character.
    fn literal_escape(&mut self) -> Step<char> {
        const UNKNOWN: &str = "an escape that does not exist";
        let c = self.take().ok_or("it ends with a backslash")?;
        Ok(match c {
            'a' => '\u{7}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            'x' => {
                let digits = if let Some(rest) = self.rest.strip_prefix('{') {
                    let (digits, rest) = rest.split_once('}').ok_or(UNKNOWN)?;
                    self.rest = rest;
                    digits
                } else {
                    let digits = self.rest.get(..2).ok_or(UNKNOWN)?;
                    self.rest = &self.rest[2..];
                    digits
                };
                let is_hex =
                    !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                let number = u32::from_str_radix(digits, 16).ok().filter(|_| is_hex);
                number.and_then(char::from_u32).ok_or(UNKNOWN)?
            }
            '0'..='7' => {
                let more = self
                    .rest
                    .bytes()
                    .take(2)
                    .take_while(|digit| (b'0'..=b'7').contains(digit))
                    .count();
                if c != '0' && more == 0 {
                    return Err("back references do not exist");
                }
                let digits = format!("{c}{}", &self.rest[..more]);
                self.rest = &self.rest[more..];
                u32::from_str_radix(&digits, 8)
                    .ok()
                    .and_then(char::from_u32)
                    .ok_or(UNKNOWN)?
            }
            _ if c.is_ascii() && !c.is_ascii_alphanumeric() => c,
            _ => return Err(UNKNOWN),
        })
    }

    /// Translates a class, element by element; nothing in it is an operator.
    fn class(&mut self) -> Step<()> {
        const UNCLOSED: &str = "a class is not closed";
        self.out.push('[');
        if let Some(rest) = self.rest.strip_prefix('^') {
            self.out.push('^');
            self.rest = rest;
        }
        let mut is_first = true;
        loop {
            if self.rest.starts_with(']') && !is_first {
                self.rest = &self.rest[1..];
                self.out.push(']');
                return Ok(());
            }
            is_first = false;
            if self.rest.starts_with("[:") {
                let end = self.rest.find(":]").ok_or(UNCLOSED)? + 2;
                self.out.push_str(&self.rest[..end]);
                self.rest = &self.rest[end..];
                continue;
            }
            if let Some(rest) = self.rest.strip_prefix('\\') {
                let before = self.rest;
                self.rest = rest;
                if let Some(set) = self.class_escape()? {
                    self.out.push_str(&set);
                    continue;
                }
                self.rest = before;
            }
            let low = self.class_char()?;
            let mut high = low;
            if self.rest.starts_with('-') && !self.rest[1..].starts_with(']') && self.rest.len() > 1
            {
                self.rest = &self.rest[1..];
                high = self.class_char()?;
                if high < low {
                    return Err("a range is the wrong way round");
                }
            }
            push_literal(low, &mut self.out);
            if high != low {
                self.out.push('-');
                push_literal(high, &mut self.out);
            }
        }
    }

    fn class_char(&mut self) -> Step<char> {
        match self.take().ok_or("a class is not closed")? {
            '\\' => self.literal_escape(),
            c => Ok(c),
        }
    }
}

/// Appends a character so that it means itself in either place.
fn push_literal(c: char, out: &mut String) {
    if c.is_ascii_alphanumeric() || !c.is_ascii() {
        out.push(c);
    } else {
        out.push_str(&format!("\\x{{{:x}}}", u32::from(c)));
    }
}

/// Returns the counts of `n}`, `n,}` or `n,m}`, `None` when the brace is a literal.
fn repeat_bounds(after: &str) -> Option<Vec<u32>> {
    let (inside, _) = after.split_once('}')?;
    let (low, high) = inside.split_once(',').unwrap_or((inside, inside));
    let count = |text: &str| -> Option<u32> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().unwrap_or(u32::MAX))
    };
    let mut bounds = vec![count(low)?];
    if !high.is_empty() {
        bounds.push(count(high)?);
    }
    Some(bounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, subject: &[u8]) -> bool {
        Pattern::new(pattern).unwrap().is_match(subject)
    }

    #[test]
    fn patterns_match_as_in_go() {
        for (pattern, subject, expected) in [
            (r"\.env$", "a/.env", true),
            (r"\.env$", "a/.env.enc", false),
            (r"\Q.env\E$", "x.env", true),
            (r"\Q.env\E$", "xxenv", false),
            (r"^\d$", "\u{663}", false),
            (r"[a&&b]", "&", true),
            (r"[]x]", "]", true),
            (r"[^]]", "a", true),
            (r"a{", "a{", true),
            (r"a{,2}", "a{,2}", true),
            (r"^a{2,3}$", "aaa", true),
            (r"^a{2}?$", "aa", true),
            (r"(?i)^PROD/[[:alpha:]]+\.ya?ml$", "prod/x.yml", true),
            (r"[\w.-]+@\w+", "a.b@c", true),
            (r"^(envs|shared)/[^/]*\.enc$", "envs/.env.dev.enc", true),
            (r"é+", "caféé", true),
            (r"\bpassword\b", "the password is", true),
            (r"\p{Lu}", "aB", true),
            (r"\p{^Lu}", "AB", false),
            (r"^\PN+$", "ab", true),
            (r"\x{4b}\x4B", "KK", true),
            (r"\101", "A", true),
            (r"(?)K", "K", true),
            (r"[--/]", ".", true),
            (r"[+--]", ",", true),
            (r"[a-c--b]", "c", false),
            (r"[a-]", "-", true),
            (r"a??b*?", "", true),
            (r"x]}", "x]}", true),
            (r"(?P<n>a)(?<m>b)(?:c)", "abc", true),
        ] {
            if pattern == "[a-c--b]" {
                assert!(matches(pattern, b"-") && matches(pattern, b"0"));
                continue;
            }
            assert_eq!(
                matches(pattern, subject.as_bytes()),
                expected,
                "{pattern} on {subject}"
            );
        }
    }

    #[test]
    fn bytes_that_are_no_characters_match_as_in_go() {
        assert!(matches(r"^DB_.*KEY$", b"DB_\xfcKEY"));
        assert!(matches(r"^.$", b"\xfc"));
        assert!(matches(r"^[^a]{2}$", b"\xff\xfe"));
        assert!(matches(r"^\PN+$", b"\xfcx"));
        assert!(matches(r"secret.*$", b"secret f\xfcr A"));
    }

    #[test]
    fn what_go_cannot_read_is_an_error() {
        for pattern in [
            "(",
            "a{1001}",
            r"(a)\1",
            "(?=a)",
            "(?<=a)",
            "[a",
            r"a\",
            "[b-a]",
            "a**",
            "K+*",
            "K???",
            "a++",
            "^(DB|API)++_",
            "(?x)a",
            "(?R)a",
            "(?u)a",
            "(?-u)a",
            r"(?-u:\xff)",
            r"\u0041",
            r"a\E",
            r"[!-\d]",
            "K{1,0}",
            r"\K",
            "a{2}{3}",
            "(?i-)a",
            r"[\b]",
            "*",
            r"\p{Nonsense}",
        ] {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
    }
}

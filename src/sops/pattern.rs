//! Regular expressions in Go's syntax (RE2), run by the `regex` crate.
//!
//! Separate because `.sops.yaml` and the selection rules of a file both use them and must read
//! them as the reference does. The two dialects differ in a few places, which are rewritten here;
//! what cannot be rewritten is an error. The reference treats a selection pattern it cannot
//! compile as "matches nothing", which stores secrets in clear: here it is an error too.

use std::fmt;

use regex::bytes::Regex;

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
#[error("`{pattern}` is not a regular expression that sops understands: {reason}")]
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
        let translated = translate(source).map_err(|reason| fail(reason.to_owned()))?;
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

    /// Returns whether the pattern matches anywhere in `subject`.
    pub fn is_match(&self, subject: &[u8]) -> bool {
        self.regex.is_match(subject)
    }

    /// Returns the pattern as written.
    pub fn as_str(&self) -> &str {
        &self.source
    }
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

/// Rewrites what Go and the `regex` crate read differently: ASCII classes, `\Q…\E`, literal
/// braces, `\<`, set operators inside classes.
fn translate(source: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(source.len() + 16);
    let mut rest = source;
    let mut in_class = false;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = match c {
            '\\' => translate_escape(after, in_class, &mut out)?,
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                let mut tail = after;
                if let Some(negated) = tail.strip_prefix('^') {
                    out.push('^');
                    tail = negated;
                }
                if let Some(literal) = tail.strip_prefix(']') {
                    out.push_str("\\]");
                    tail = literal;
                }
                tail
            }
            '[' if after.starts_with(':') => {
                let end = after
                    .find(":]")
                    .ok_or("a class such as `[:alpha:]` is not closed")?;
                out.push('[');
                out.push_str(&after[..end + 2]);
                &after[end + 2..]
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
                after
            }
            '-' if in_class && after.starts_with('-') => {
                return Err("`--` inside a class is read differently by sops");
            }
            '[' | '&' | '~' if in_class => {
                out.push('\\');
                out.push(c);
                after
            }
            '{' if !in_class => {
                match repeat_bounds(after) {
                    Some(bounds) if bounds.iter().any(|&n| n > LARGEST_REPEAT) => {
                        return Err("a repeat count is larger than 1000");
                    }
                    Some(_) => out.push('{'),
                    None => out.push_str("\\{"),
                }
                after
            }
            _ => {
                out.push(c);
                after
            }
        };
    }
    Ok(out)
}

fn translate_escape<'s>(
    after: &'s str,
    in_class: bool,
    out: &mut String,
) -> Result<&'s str, &'static str> {
    let Some(c) = after.chars().next() else {
        return Err("it ends with a backslash");
    };
    let rest = &after[c.len_utf8()..];
    match (c, in_class) {
        ('Q', false) => {
            let (literal, rest) = rest.split_once("\\E").unwrap_or((rest, ""));
            out.push_str(&regex::escape(literal));
            return Ok(rest);
        }
        ('E', false) => {}
        ('d', false) => out.push_str("[0-9]"),
        ('d', true) => out.push_str("0-9"),
        ('D', _) => out.push_str("[^0-9]"),
        ('w', false) => out.push_str("[0-9A-Za-z_]"),
        ('w', true) => out.push_str("0-9A-Za-z_"),
        ('W', _) => out.push_str("[^0-9A-Za-z_]"),
        ('s', false) => out.push_str("[\\t\\n\\f\\r ]"),
        ('s', true) => out.push_str("\\t\\n\\f\\r "),
        ('S', _) => out.push_str("[^\\t\\n\\f\\r ]"),
        ('b', false) => out.push_str("(?-u:\\b)"),
        ('B', false) => out.push_str("(?-u:\\B)"),
        ('1'..='9', _) => return Err("back references do not exist"),
        ('<' | '>', _) => out.push(c),
        _ => {
            out.push('\\');
            out.push(c);
        }
    }
    Ok(rest)
}

/// Returns the counts of `n}`, `n,}` or `n,m}`, `None` when the brace is a literal.
fn repeat_bounds(after: &str) -> Option<Vec<u32>> {
    let (inside, _) = after.split_once('}')?;
    let (low, high) = inside.split_once(',').unwrap_or((inside, inside));
    let count = |text: &str| -> Option<u32> {
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
            .then(|| text.parse().unwrap_or(u32::MAX))
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

    fn matches(pattern: &str, subject: &str) -> bool {
        Pattern::new(pattern).unwrap().is_match(subject.as_bytes())
    }

    #[test]
    fn patterns_match_as_in_go() {
        assert!(matches(r"\.env$", "a/.env"));
        assert!(!matches(r"\.env$", "a/.env.enc"));
        assert!(matches(r"\Q.env\E$", "x.env"));
        assert!(!matches(r"\Q.env\E$", "xxenv"));
        assert!(!matches(r"^\d$", "\u{663}"), "digits are ASCII in Go");
        assert!(matches(r"[a&&b]", "&"));
        assert!(matches(r"[]x]", "]"));
        assert!(matches(r"[^]]", "a"));
        assert!(matches(r"a{", "a{"));
        assert!(matches(r"a{,2}", "a{,2}"));
        assert!(matches(r"^a{2,3}$", "aaa"));
        assert!(matches(r"(?i)^PROD/[[:alpha:]]+\.ya?ml$", "prod/x.yml"));
        assert!(matches(r"[\w.-]+@\w+", "a.b@c"));
        assert!(matches(r"^(envs|shared)/[^/]*\.enc$", "envs/.env.dev.enc"));
        assert!(matches(r"é+", "caféé"));
        assert!(matches(r"\bpassword\b", "the password is"));
    }

    #[test]
    fn what_go_cannot_read_is_an_error() {
        for pattern in ["(", "a{1001}", r"(a)\1", "(?=a)", "[a", r"a\", "[a--b]"] {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
    }
}

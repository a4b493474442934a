//! Hiding known secret values in text that is shown, such as diffs of plain configuration files.

use std::collections::BTreeSet;
use std::ops::Range;

use aho_corasick::AhoCorasick;

use crate::secret::SecretBytes;

use super::keys::Reading;
use super::lines::{Item, items};

/// What is shown in the place of a value.
pub const MASKED: &str = "******";

/// Values shorter than this are hidden only where they stand as a word of their own.
const WORD_ONLY_BELOW: usize = 6;
/// Values shorter than this are not hidden: they would blot out single letters everywhere.
const SHORTEST: usize = 2;

/// The most plaintext, in bytes, that values are collected from.
const MOST_PLAINTEXT: usize = 16 << 20;

/// Hides the values collected from the entries.
pub struct Mask {
    /// Hidden wherever they stand.
    anywhere: Finder,
    /// Hidden where they stand as words of their own.
    as_words: Finder,
}

/// Finds every occurrence of some values, also where they overlap.
struct Finder(Option<AhoCorasick>);

impl Finder {
    fn new(values: &[&SecretBytes]) -> Option<Self> {
        if values.is_empty() {
            return Some(Self(None));
        }
        let patterns = values.iter().map(|value| value.expose());
        AhoCorasick::new(patterns)
            .ok()
            .map(|finder| Self(Some(finder)))
    }

    fn ranges(&self, text: &str) -> Vec<Range<usize>> {
        let found = self
            .0
            .iter()
            .flat_map(|finder| finder.find_overlapping_iter(text));
        found.map(|found| found.range()).collect()
    }
}

impl Mask {
    /// Builds a mask from plaintexts: the values of files with keys, and of other files whole
    /// lines, quoted strings and what stands behind a colon or an equals sign. `None` when there is
    /// too much of it, so that nothing would be safe to show.
    pub fn from_plaintexts<'p>(
        plaintexts: impl IntoIterator<Item = (&'p [u8], Reading)>,
    ) -> Option<Self> {
        let mut found: BTreeSet<Vec<u8>> = BTreeSet::new();
        let mut total = 0;
        for (text, reading) in plaintexts {
            total += text.len();
            if total > MOST_PLAINTEXT {
                return None;
            }
            match reading {
                Reading::Env => collect_env(text, &mut found),
                Reading::Bytes => collect_text(text, &mut found),
                Reading::Tree(_) => {
                    // As they are spelled, and as their readers see them.
                    collect_text(text, &mut found);
                    let keys = reading.keys(text).unwrap_or_default();
                    let values = keys.iter().flat_map(|(_, values)| values);
                    for value in values {
                        let lines = value.expose().split(|byte| matches!(byte, b'\n' | b'\r'));
                        found.extend(lines.map(|line| line.trim_ascii().to_vec()));
                    }
                }
            }
        }
        found.retain(|value| value.len() >= SHORTEST);
        let spelled: Vec<Vec<u8>> = found
            .iter()
            .flat_map(|value| {
                parts_of_urls(value)
                    .into_iter()
                    .chain(other_spellings(value))
            })
            .collect();
        found.extend(spelled);
        let values: Vec<SecretBytes> = found.into_iter().map(SecretBytes::new).collect();
        let (long, short): (Vec<_>, Vec<_>) = values
            .iter()
            .partition(|value| value.len() >= WORD_ONLY_BELOW);
        Some(Self {
            anywhere: Finder::new(&long)?,
            as_words: Finder::new(&short)?,
        })
    }

    /// Returns `text` with every known value replaced.
    pub fn apply(&self, text: &str) -> String {
        let bytes = text.as_bytes();
        let is_word = |byte: Option<&u8>| {
            byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        };
        let stands_alone = |range: &Range<usize>| {
            let before = range
                .start
                .checked_sub(1)
                .and_then(|index| bytes.get(index));
            !is_word(before) && !is_word(bytes.get(range.end))
        };
        let mut ranges = self.anywhere.ranges(text);
        ranges.extend(self.as_words.ranges(text).into_iter().filter(stands_alone));
        ranges.sort_by_key(|range| (range.start, range.end));
        let mut out = String::with_capacity(text.len());
        let mut at = 0;
        let mut hidden_to = 0;
        for range in ranges {
            // A value that is no text may begin or end inside a character: hide all of that.
            let start = (0..=range.start)
                .rev()
                .find(|&at| text.is_char_boundary(at))
                .unwrap_or(0);
            let end = (range.end..=text.len()).find(|&at| text.is_char_boundary(at));
            let end = end.unwrap_or(text.len());
            if start >= hidden_to {
                out.push_str(&text[at..start]);
                out.push_str(MASKED);
            }
            hidden_to = hidden_to.max(end);
            at = hidden_to;
        }
        out.push_str(&text[at..]);
        out
    }
}

/// Returns the password, or the user without one, and the parameters of a value that is a URL.
fn parts_of_urls(value: &[u8]) -> Vec<Vec<u8>> {
    let Some(scheme) = memchr::memmem::find(value, b"://") else {
        return Vec::new();
    };
    let rest = &value[scheme + 3..];
    let authority = rest
        .split(|byte| b"/?#".contains(byte))
        .next()
        .unwrap_or_default();
    let mut parts = Vec::new();
    if let Some(at) = authority.iter().rposition(|&byte| byte == b'@') {
        // The name before a password is a word like any other; one without may be a token.
        let user = &authority[..at];
        let password = user.splitn(2, |&byte| byte == b':').nth(1);
        parts.push(password.unwrap_or(user).to_vec());
    }
    if let Some(query) = memchr::memchr(b'?', rest) {
        let pairs = rest[query + 1..].split(|&byte| byte == b'&' || byte == b';');
        let values = pairs.filter_map(|pair| pair.splitn(2, |&byte| byte == b'=').nth(1));
        parts.extend(values.map(<[u8]>::to_vec));
    }
    let decoded: Vec<_> = parts.iter().map(|part| percent_decoded(part)).collect();
    parts.extend(decoded);
    parts.retain(|part| part.len() >= WORD_ONLY_BELOW);
    parts
}

/// Returns a value as URLs, base64 and JSON spell it, where that differs.
fn other_spellings(value: &[u8]) -> Vec<Vec<u8>> {
    if value.len() < WORD_ONLY_BELOW || value.len() > 4096 {
        return Vec::new();
    }
    let percent = |keep: &[u8]| -> Vec<u8> {
        let spell = |&byte: &u8| {
            if byte.is_ascii_alphanumeric() || keep.contains(&byte) {
                vec![byte]
            } else {
                format!("%{byte:02X}").into_bytes()
            }
        };
        value.iter().flat_map(spell).collect()
    };
    let json = serde_json::to_string(&String::from_utf8_lossy(value)).unwrap_or_default();
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD_NO_PAD, value);
    let spellings = [
        percent(b"-._~"),
        percent(b"-._~/:@!$&'()*+,;="),
        json.trim_matches('"').as_bytes().to_vec(),
        base64.into_bytes(),
    ];
    spellings
        .into_iter()
        .filter(|spelling| spelling != value)
        .collect()
}

fn collect_env(text: &[u8], found: &mut BTreeSet<Vec<u8>>) {
    for item in items(text) {
        match item {
            Item::Assignment { value, .. } => {
                let value = value.trim_ascii();
                found.insert(value.to_vec());
                let bare = unquoted(value);
                found.insert(bare.to_vec());
                // A value over several lines may be shown line by line, also one with escapes.
                let escaped = replace(bare, b"\\n", b"\n");
                for line in bare
                    .split(|&byte| byte == b'\n')
                    .chain(escaped.split(|&byte| byte == b'\n'))
                {
                    found.insert(line.trim_ascii().to_vec());
                }
                collect_parts(bare, found);
            }
            Item::Comment(text) | Item::Other(text) => {
                found.insert(text.trim_ascii().to_vec());
            }
        }
    }
}

/// Collects the strings of a value that is JSON, and the values of one that is a connection string.
fn collect_parts(value: &[u8], found: &mut BTreeSet<Vec<u8>>) {
    fn strings(json: &serde_json::Value, found: &mut BTreeSet<Vec<u8>>) {
        match json {
            serde_json::Value::String(text) if text.len() >= WORD_ONLY_BELOW => {
                found.insert(text.clone().into_bytes());
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
            serde_json::Value::Object(map) => map.values().for_each(|item| strings(item, found)),
            _ => {}
        }
    }
    if value.first().is_some_and(|first| b"[{".contains(first)) {
        if let Ok(json) = serde_json::from_slice(value) {
            strings(&json, found);
        }
    } else if value.contains(&b';') {
        let parts = value.split(|&byte| byte == b';');
        let values = parts.filter_map(|part| part.splitn(2, |&byte| byte == b'=').nth(1));
        let long = values
            .map(<[u8]>::trim_ascii)
            .filter(|part| part.len() >= WORD_ONLY_BELOW);
        found.extend(long.map(<[u8]>::to_vec));
    }
}

fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memmem::find(rest, from) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// Undoes the percent encoding of URLs.
fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let digits = tail
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if let (b'%', Some(byte)) = (first, byte) {
            out.push(byte);
            rest = &tail[2..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] | [b'`', inner @ .., b'`'] => inner,
        _ => value,
    }
}

fn collect_text(text: &[u8], found: &mut BTreeSet<Vec<u8>>) {
    for line in text
        .split(|&byte| byte == b'\n' || byte == 0)
        .map(<[u8]>::trim_ascii)
    {
        let mut keep = |part: &[u8]| {
            if part.len() >= WORD_ONLY_BELOW {
                found.insert(part.to_vec());
            }
        };
        keep(line);
        for mark in [b':', b'='] {
            if let Some(at) = line.iter().position(|&byte| byte == mark) {
                keep(line[at + 1..].trim_ascii());
            }
        }
        for quote in [b'"', b'\''] {
            line.split(|&byte| byte == quote)
                .skip(1)
                .step_by(2)
                .for_each(&mut keep);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_parts_and_binary_files_are_hidden_too() {
        let env = b"PORT=80\nTOKEN=0abcdef-secret-99\nURL=postgres://app:s3cretpw99xyz@db/x?sig=longsignature\n";
        let mask = Mask::from_plaintexts([
            (&env[..], Reading::Env),
            (&b"tok\0nulsecret-99887\n"[..], Reading::Bytes),
        ])
        .unwrap();
        assert_eq!(mask.apply("t=x80abcdef-secret-99"), format!("t=x8{MASKED}"));
        assert_eq!(
            mask.apply("password s3cretpw99xyz;"),
            format!("password {MASKED};")
        );
        assert_eq!(
            mask.apply("longsignature nulsecret-99887"),
            format!("{MASKED} {MASKED}")
        );
        let long = vec![b'a'; MOST_PLAINTEXT + 1];
        assert!(Mask::from_plaintexts([(&long[..], Reading::Bytes)]).is_none());
    }

    #[test]
    fn parts_of_compound_values_are_hidden_too() {
        let env = br#"U=https://tok:p%40ssw%2Frd@example.org/
M=line1secret\nline2secret
C=Server=db;Password=adoPass99;User=sa
J={"k":"jsonsecret1"}
"#;
        let mask = Mask::from_plaintexts([(&env[..], Reading::Env)]).unwrap();
        for part in [
            "p@ssw/rd",
            "line1secret",
            "line2secret",
            "adoPass99",
            "jsonsecret1",
        ] {
            assert_eq!(mask.apply(&format!("x {part};")), format!("x {MASKED};"));
        }
        assert_eq!(
            mask.apply("Server Password db k 100%2"),
            "Server Password db k 100%2"
        );
    }

    #[test]
    fn other_spellings_are_hidden_too() {
        let mask = Mask::from_plaintexts([(&b"P=can ary/p\"w\n"[..], Reading::Env)]).unwrap();
        assert_eq!(
            mask.apply("u:can%20ary%2Fp%22w@h u:can%20ary/p%22w@h"),
            format!("u:{MASKED}@h u:{MASKED}@h")
        );
        assert_eq!(mask.apply("Y2FuIGFyeS9wInc="), format!("{MASKED}="));
        assert_eq!(mask.apply("\"can ary/p\\\"w\""), format!("\"{MASKED}\""));
    }

    #[test]
    fn known_values_are_hidden_and_words_are_not() {
        let env = b"PASSWORD=\"hunter2hunter2\"\nPORT=5432\nUSER=app\nKEY='a\nsecondline'\n";
        let sql = b"CREATE USER x PASSWORD 'sqlsecret';\n";
        let mask =
            Mask::from_plaintexts([(&env[..], Reading::Env), (&sql[..], Reading::Bytes)]).unwrap();
        assert_eq!(
            mask.apply("url x:hunter2hunter2@db"),
            format!("url x:{MASKED}@db")
        );
        assert_eq!(mask.apply("port 5432;"), format!("port {MASKED};"));
        assert_eq!(
            mask.apply("application app"),
            format!("application {MASKED}")
        );
        assert_eq!(
            mask.apply("sqlsecret secondline"),
            format!("{MASKED} {MASKED}")
        );
    }
}

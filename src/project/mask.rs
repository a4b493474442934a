//! Hiding known secret values in text that is shown, such as diffs of plain configuration files.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::secret::SecretBytes;

use super::lines::{Item, items};

/// What is shown in the place of a value.
pub const MASKED: &str = "******";

/// Values shorter than this are hidden only where they stand as a word of their own.
const WORD_ONLY_BELOW: usize = 6;
/// Values shorter than this are not hidden: they would blot out single letters everywhere.
const SHORTEST: usize = 2;

/// Hides the values collected from the entries.
pub struct Mask {
    values: Vec<SecretBytes>,
    finder: Option<AhoCorasick>,
}

impl Mask {
    /// Builds a mask from plaintexts: the values of environment files, and of other text files
    /// whole lines, quoted strings and what stands behind a colon or an equals sign.
    pub fn from_plaintexts<'p>(plaintexts: impl IntoIterator<Item = (&'p [u8], bool)>) -> Self {
        let mut found: BTreeSet<Vec<u8>> = BTreeSet::new();
        for (text, is_env) in plaintexts {
            if is_env {
                collect_env(text, &mut found);
            } else if !text.contains(&0) && text.len() <= 1 << 20 {
                collect_text(text, &mut found);
            }
        }
        found.retain(|value| value.len() >= SHORTEST);
        let spelled: Vec<Vec<u8>> = found
            .iter()
            .flat_map(|value| other_spellings(value))
            .collect();
        found.extend(spelled);
        let values: Vec<SecretBytes> = found.into_iter().map(SecretBytes::new).collect();
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(values.iter().map(SecretBytes::expose))
            .ok()
            .filter(|_| !values.is_empty());
        Self { values, finder }
    }

    /// Returns `text` with every known value replaced.
    pub fn apply(&self, text: &str) -> String {
        let Some(finder) = &self.finder else {
            return text.to_owned();
        };
        let bytes = text.as_bytes();
        let mut out = String::with_capacity(text.len());
        let mut at = 0;
        for found in finder.find_iter(bytes) {
            let value = self.values[found.pattern().as_usize()].expose();
            let is_word = |byte: Option<&u8>| {
                byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
            };
            let before = found
                .start()
                .checked_sub(1)
                .and_then(|index| bytes.get(index));
            let inside_word = is_word(before) || is_word(bytes.get(found.end()));
            if value.len() < WORD_ONLY_BELOW && inside_word {
                continue;
            }
            if !text.is_char_boundary(found.start()) || !text.is_char_boundary(found.end()) {
                continue;
            }
            out.push_str(&text[at..found.start()]);
            out.push_str(MASKED);
            at = found.end();
        }
        out.push_str(&text[at..]);
        out
    }
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
                // A value over several lines may be shown line by line.
                found.extend(
                    bare.split(|&byte| byte == b'\n')
                        .map(|line| line.trim_ascii().to_vec()),
                );
            }
            Item::Comment(text) | Item::Other(text) => {
                found.insert(text.trim_ascii().to_vec());
            }
        }
    }
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] | [b'`', inner @ .., b'`'] => inner,
        _ => value,
    }
}

fn collect_text(text: &[u8], found: &mut BTreeSet<Vec<u8>>) {
    for line in text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii) {
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
    fn other_spellings_are_hidden_too() {
        let mask = Mask::from_plaintexts([(&b"P=can ary/p\"w\n"[..], true)]);
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
        let mask = Mask::from_plaintexts([(&env[..], true), (&sql[..], false)]);
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

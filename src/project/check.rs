//! What must hold of a repository and can be told without a key.
//!
//! Pure: the caller brings the files. One finding for each thing that is wrong, with file and line.

use crate::rules::{Rule, Rules};
use crate::sops::audit::clear_leaves;
use crate::sops::error::DocumentError;
use crate::sops::selector::SelectionRule;
use crate::sops::store::Format;
use crate::sops::{self};

use super::guard;
use super::manifest::{ENCRYPTED_SUFFIX, NamedRecipient};

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, relative to the manifest where it lies below it.
    pub path: String,
    /// The line, from 1, where one can be named.
    pub line: Option<usize>,
    /// The stable word for its kind.
    pub code: &'static str,
    /// What is wrong, in words.
    pub message: String,
}

/// What could not be checked, in words.
pub type Unchecked = String;

/// Returns a finding.
pub fn finding(
    path: &str,
    line: Option<usize>,
    code: &'static str,
    message: impl Into<String>,
) -> Finding {
    Finding {
        path: path.to_owned(),
        line,
        code,
        message: message.into(),
    }
}

/// An encrypted file and what governs it.
pub struct Sealed<'c> {
    /// Its path, for findings.
    pub path: &'c str,
    /// Its content.
    pub content: &'c [u8],
    /// The rules file and what it says; `None` where there is none.
    pub rules: Option<(&'c str, &'c Rules)>,
    /// The path the rules are asked for.
    pub subject: &'c str,
    /// Names of recipients.
    pub recipients: &'c [NamedRecipient],
}

/// Checks one encrypted file.
///
/// # Errors
/// That it is of a form that cannot be read yet.
pub fn check_sealed(sealed: &Sealed<'_>) -> Result<Vec<Finding>, Unchecked> {
    let path = sealed.path;
    let (format, document) = match sops::parse_sealed(sealed.content.to_vec()) {
        Ok(parsed) => parsed,
        Err(DocumentError::ConflictMarker { line }) => {
            let text = "a merge conflict marker in the encrypted file";
            return Ok(vec![finding(path, Some(line), "conflict-marker", text)]);
        }
        Err(DocumentError::UnsupportedForm { form }) => {
            return Err(format!(
                "{path}: stored as {form}, which cannot be read yet"
            ));
        }
        Err(DocumentError::Empty) => {
            return Ok(vec![finding(
                path,
                None,
                "not-encrypted",
                "the encrypted file is empty",
            )]);
        }
        Err(DocumentError::NotSops) => {
            let text = "the file is not encrypted: there is no `sops` metadata in it";
            return Ok(vec![finding(path, None, "not-encrypted", text)]);
        }
        Err(error) => {
            let line = match &error {
                DocumentError::Json { line, .. } | DocumentError::Line { line, .. } => Some(*line),
                _ => None,
            };
            let text = error.to_string();
            let text = line.map_or(text.clone(), |line| {
                text.trim_start_matches(&format!("line {line}"))
                    .trim_start_matches([':', ',', ' '])
                    .to_owned()
            });
            return Ok(vec![finding(path, line, "damaged", text)]);
        }
    };
    let mut found = Vec::new();
    let rule = govern(sealed, &mut found);
    let metadata = &document.metadata;
    let has_selection = format.store().has_selection();
    let selection = match rule {
        Some(rule) if has_selection => &rule.selection,
        _ => &metadata.selection,
    };
    for leaf in clear_leaves(&document, selection) {
        let what = if leaf.is_comment {
            "a comment".to_owned()
        } else {
            format!("`{}`", leaf.key)
        };
        if !leaf.is_allowed || format == Format::Binary {
            let text = format!("{what} is not encrypted, and its rule says that it is");
            found.push(finding(path, Some(leaf.line), "in-clear", text));
        } else if !leaf.is_comment
            && !matches!(selection.rule, SelectionRule::UnencryptedSuffix(_))
            && guard::looks_secret(&leaf.name, &leaf.text)
        {
            let (option, _) = selection.rule.option();
            let text = format!("{what} is left in clear by `{option}`, and sounds secret");
            found.push(finding(path, Some(leaf.line), "secret-in-clear", text));
        }
    }
    if metadata.mac.is_empty() {
        let text = "the `sops` metadata has no MAC: the file could be changed unnoticed";
        found.push(finding(path, None, "no-mac", text));
    }
    if let Some(rule) = rule {
        found.extend(compare_recipients(sealed, rule, metadata));
        if has_selection && !metadata.selection.is_same_in_dotenv(&rule.selection) {
            let text = format!(
                "its options differ from creation rule {}: the file has `{}`, the rule `{}`",
                rule.number,
                metadata.selection.describe(),
                rule.selection.describe()
            );
            found.push(finding(path, None, "options-differ", text));
        }
    }
    Ok(found)
}

fn govern<'r>(sealed: &Sealed<'r>, found: &mut Vec<Finding>) -> Option<&'r Rule> {
    let path = sealed.path;
    let Some((rules_path, rules)) = sealed.rules else {
        let text = "no `.sops.yaml` says who may read it";
        found.push(finding(path, None, "no-rule", text));
        return None;
    };
    let rule = rules.find(sealed.subject);
    if rule.is_none() {
        let text = format!(
            "no creation rule of {rules_path} matches `{}`",
            sealed.subject
        );
        found.push(finding(path, None, "no-rule", text));
    }
    let shorter = sealed
        .subject
        .strip_suffix(ENCRYPTED_SUFFIX)
        .and_then(|subject| rules.find(subject));
    if let (Some(rule), Some(shorter)) = (rule, shorter)
        && shorter.number < rule.number
        && !shorter.says_the_same(rule)
    {
        let text = format!(
            "{rules_path}: creation rule {} matches its name without `.enc`, creation rule {} its full name, and they differ",
            shorter.number, rule.number
        );
        found.push(finding(path, None, "two-rules", text));
    }
    rule
}

fn compare_recipients(
    sealed: &Sealed<'_>,
    rule: &Rule,
    metadata: &sops::metadata::Metadata,
) -> Option<Finding> {
    let words = |key: &str| -> String {
        let words: Vec<_> = key.split_ascii_whitespace().take(2).collect();
        words.join(" ")
    };
    let name = |key: &str| -> String {
        let mut named = sealed.recipients.iter();
        named
            .find(|named| words(&named.key) == words(key))
            .map_or_else(|| key.to_owned(), |named| named.name.clone())
    };
    let have = metadata.age_recipients();
    let is_in = |list: &[&str], key: &str| list.iter().any(|other| words(other) == words(key));
    let want: Vec<&str> = rule.age.iter().map(String::as_str).collect();
    let mut changes = Vec::new();
    for key in &want {
        if !is_in(&have, key) {
            changes.push(format!("{} is in the rule and cannot read it", name(key)));
        }
    }
    for key in &have {
        if !is_in(&want, key) {
            changes.push(format!("{} can read it and is not in the rule", name(key)));
        }
    }
    if rule.unsupported.is_empty() {
        let kinds = metadata.other_kinds();
        changes.extend(
            kinds
                .iter()
                .map(|kind| format!("a key of kind {kind} can read it and is not in the rule")),
        );
    }
    let text = format!(
        "its recipients differ from creation rule {}: {}",
        rule.number,
        changes.join("; ")
    );
    (!changes.is_empty()).then(|| finding(sealed.path, None, "recipients-differ", text))
}

/// Finds the secret half of an age key in a text; returns the line of each.
pub fn identities_in(content: &[u8]) -> Vec<usize> {
    const PREFIX: &[u8] = b"AGE-SECRET-KEY-";
    /// So many characters make it a key, and not a word about keys.
    const SHORTEST: usize = 8;
    let is_key = |at: &usize| {
        let rest = &content[at + PREFIX.len()..];
        let rest = rest.strip_prefix(b"PQ-").unwrap_or(rest);
        rest.strip_prefix(b"1").is_some_and(|key| {
            let length = key
                .iter()
                .take_while(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
                .count();
            length >= SHORTEST
        })
    };
    let mut lines: Vec<usize> = memchr::memmem::find_iter(content, PREFIX)
        .filter(is_key)
        .map(|at| memchr::memchr_iter(b'\n', &content[..at]).count() + 1)
        .collect();
    lines.dedup();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_and_words_about_keys_are_not() {
        let key = format!("AGE-SECRET-KEY-1{}", "Q".repeat(58));
        let hybrid = format!("AGE-SECRET-KEY-PQ-1{}", "Q".repeat(58));
        let text = format!("a\n# {key}\nAGE-SECRET-KEY-1…\nb AGE-SECRET-KEY- c\n{hybrid} {key}\n");
        assert_eq!(identities_in(text.as_bytes()), [2, 5]);
    }
}

//! What must hold of a repository and can be told without a key.
//!
//! Pure: the caller brings the files. One finding for each thing that is wrong, with file and line.

use crate::rules::{Rule, Rules};
use crate::sops;
use crate::sops::audit::clear_leaves;
use crate::sops::cipher::Token;
use crate::sops::document::SealedDocument;
use crate::sops::error::DocumentError;
use crate::sops::master_key::KeyId;
use crate::sops::metadata::{group_changes, groups_in_words};
use crate::sops::selector::{Selection, SelectionRule};
use crate::sops::store::Format;

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
            let mut text = error.to_string();
            if memchr::memmem::find(sealed.content, b"\r\n").is_some() {
                text.push_str("; its line ends were changed, `*.enc -text` in .gitattributes keeps git from that");
            }
            let text = line.map_or(text.clone(), |line| {
                text.trim_start_matches(&format!("line {line}"))
                    .trim_start_matches([':', ',', ' '])
                    .to_owned()
            });
            let mut found = vec![finding(path, line, "damaged", text)];
            // Values can be told from their metadata all the same.
            if let Some(document) = without_metadata(sealed.content) {
                let rule = govern(sealed, &mut Vec::new());
                let selection = rule.map(|rule| rule.selection.clone());
                let selection = selection.unwrap_or_default();
                found.extend(in_clear(path, Format::Dotenv, &document, &selection));
            }
            return Ok(found);
        }
    };
    let mut found = Vec::new();
    let rule = govern(sealed, &mut found);
    let metadata = &document.metadata;
    // A raw age file says neither for whom it is nor when it was made.
    if metadata.is_age_file() {
        return Ok(found);
    }
    let has_selection = format.store().has_selection();
    let selection = match rule {
        Some(rule) if has_selection => &rule.selection,
        _ => &metadata.selection,
    };
    found.extend(in_clear(path, format, &document, selection));
    if metadata.mac.is_empty() {
        let text = "the `sops` metadata has no MAC: the file could be changed unnoticed";
        found.push(finding(path, None, "no-mac", text));
    } else if Token::parse(metadata.mac.as_bytes()).is_err() {
        let text = "the MAC in the `sops` metadata is none: stock `sops` cannot open the file";
        found.push(finding(path, None, "damaged", text));
    }
    for (recipient, wrapped) in metadata.age_keys() {
        let is_whole = wrapped
            .trim()
            .starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n")
            && wrapped
                .trim()
                .ends_with("\n-----END AGE ENCRYPTED FILE-----");
        if !is_whole {
            let text = format!(
                "the data key wrapped for {} is damaged: it cannot be opened by it",
                name_of(sealed, recipient)
            );
            found.push(finding(path, None, "damaged", text));
        }
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

/// Finds what stands in clear and should not.
fn in_clear(
    path: &str,
    format: Format,
    document: &SealedDocument,
    selection: &Selection,
) -> Vec<Finding> {
    let mut found = Vec::new();
    for leaf in clear_leaves(document, selection) {
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
    found
}

/// Reads the values of a dotenv file whose metadata is broken, line by line as they stand.
fn without_metadata(content: &[u8]) -> Option<SealedDocument> {
    const SOUND: &str = "sops_version=3.0.0\nsops_lastmodified=2000-01-01T00:00:00Z\nsops_age__list_0__map_recipient=x\nsops_age__list_0__map_enc=x\n";
    let mut text: Vec<u8> = Vec::new();
    for line in content.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b"sops_") {
            // The lines below keep their numbers.
            text.push(b'\n');
        } else {
            text.extend_from_slice(line);
        }
    }
    if text == content {
        return None;
    }
    if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text.extend_from_slice(SOUND.as_bytes());
    match sops::parse_sealed(text) {
        Ok((Format::Dotenv, document)) => Some(document),
        _ => None,
    }
}

fn name_of(sealed: &Sealed<'_>, key: &str) -> String {
    let mut named = sealed.recipients.iter();
    named
        .find(|named| words(&named.key) == words(key))
        .map_or_else(
            || {
                // The secret half may stand in the wrong place.
                if key.starts_with("age1") || key.starts_with("ssh-") {
                    key.to_owned()
                } else {
                    "something that is no recipient".to_owned()
                }
            },
            |named| named.name.clone(),
        )
}

/// Returns what of a recipient counts: the comment of an SSH key does not.
fn words(key: &str) -> Vec<&str> {
    key.split_ascii_whitespace().take(2).collect()
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
    let name = |key: &KeyId| match key.recipient() {
        Some(recipient) => name_of(sealed, recipient),
        None => format!("{key} ({})", key.kind()),
    };
    let want = rule.key_groups.as_deref().unwrap_or_default();
    let have = &metadata.groups;
    let is_grouped = have.len() > 1 || want.len() > 1;
    let mut changes = Vec::new();
    for (number, change) in (0..).zip(group_changes(have, want, KeyId::canonical)) {
        let group = if is_grouped {
            format!(" in group {number}")
        } else {
            String::new()
        };
        for key in &change.added {
            let name = name(key);
            changes.push(format!("{name} is in the rule{group} and cannot read it"));
        }
        for key in &change.removed {
            let name = name(key);
            changes.push(format!("{name} can read it{group} and is not in the rule"));
        }
    }
    if have.len() != want.len() {
        changes.push(format!(
            "it has {} key groups, the rule {}",
            have.len(),
            want.len()
        ));
    }
    if metadata.needed_groups() != rule.needed_groups() {
        changes.push(format!(
            "{} needed, by the rule {}",
            groups_in_words(metadata.needed_groups()),
            groups_in_words(rule.needed_groups())
        ));
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

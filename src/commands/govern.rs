//! The creation rule that governs an entry: finding it, honouring it, comparing a file with it.

use std::path::Path;

use crate::error::{ErrorKind, Problem};
use crate::keys::KeyError;
use crate::keys::age::shortened;
use crate::project::error::Refusal;
use crate::project::manifest::{ENCRYPTED_SUFFIX, Entry};
use crate::project::terms::Terms;
use crate::rules::{Rule, Rules};
use crate::sops::master_key::KeyId;
use crate::sops::metadata::{Metadata, group_changes, groups_in_words};
use crate::sops::pattern::Pattern;
use crate::sops::selector::Selection;
use crate::sops::store::Format;

use super::open::Encrypted;
use super::workspace::{FoundRules, Workspace};

/// The rule that governs an entry, ready for writing.
pub struct Governing {
    /// Who can open what is written, whatever the groups.
    pub keys: Vec<KeyId>,
    /// The same, by group.
    pub groups: Vec<Vec<KeyId>>,
    /// The rule.
    pub rule: Rule,
    /// An earlier rule that says something else of the plaintext's name.
    pub hidden: Option<Refusal>,
}

impl Governing {
    /// Returns the terms on which it has a file encrypted, in the place of `existing` where there is one.
    pub fn terms(&self, format: Format, existing: Option<&Encrypted>) -> Terms {
        let groups = self.groups.iter().map(|group| group.iter().collect());
        let needed = self.rule.needed_groups();
        let of_file = existing.map(|found| &found.sealed.metadata.selection);
        let of_rule = &self.rule.selection;
        let default = Selection::default();
        let selection = match of_file {
            _ if !format.store().has_selection() => &default,
            Some(of_file) if of_file.is_same_in_dotenv(of_rule) => of_file,
            _ => of_rule,
        };
        Terms::new(format, groups.collect(), needed, selection)
    }

    /// Says in what recipients and options an existing file differs from the rule.
    pub fn differences(&self, workspace: &Workspace, encrypted: &Encrypted) -> Vec<Refusal> {
        let metadata = &encrypted.sealed.metadata;
        let mut found = Vec::new();
        // It does not say for whom it is.
        if metadata.is_age_file() {
            return found;
        }
        let recipients = recipient_changes(workspace, metadata, self);
        if !recipients.is_empty() {
            found.push(Refusal::RecipientsDiffer {
                changes: recipients,
            });
        }
        let has_selection = encrypted.format.store().has_selection();
        if has_selection && !metadata.selection.is_same_in_dotenv(&self.rule.selection) {
            found.push(Refusal::SelectionDiffers {
                file: metadata.selection.describe(),
                rule: self.rule.selection.describe(),
            });
        }
        found
    }
}

/// Finds the rule of an entry and checks that it can be honoured. What speaks against writing under
/// it is added to `refusals`; `None` where there is no rule.
///
/// # Errors
/// Rules that cannot be read, or ask for what is not supported.
pub fn govern(
    workspace: &Workspace,
    entry: &Entry,
    refusals: &mut Vec<Refusal>,
) -> Result<Option<Governing>, Problem> {
    let name = &entry.repository_path;
    let Some(found) = workspace.rules_for(entry) else {
        refusals.push(Refusal::NoRulesFile);
        return Ok(None);
    };
    let FoundRules {
        path,
        folder,
        rules,
    } = &*found;
    let rules = rules.as_ref().map_err(|error| {
        Problem::of(
            name,
            ErrorKind::Rules {
                path: path.clone(),
                source: error.clone(),
            },
        )
        .with_help(format!("mend {}", path.display()))
    })?;
    let file = workspace.repository_file(entry);
    let subject = file
        .strip_prefix(folder)
        .unwrap_or(&file)
        .to_string_lossy()
        .into_owned();
    let Some((rule, hidden)) = find_rule(rules, &subject, path, refusals) else {
        return Ok(None);
    };
    if let Some(key) = rule.unknown_keys().next() {
        // Anything can stand there, even a secret.
        let shown = shortened(key);
        let help = match Rules::known_key_like(key) {
            Some(known) => {
                format!("did you mean `{known}`? stock `sops` takes no notice of `{shown}`")
            }
            None => format!("take it out: stock `sops` takes no notice of `{shown}`"),
        };
        let kind = ErrorKind::UnknownRuleKey {
            path: path.clone(),
            rule: rule.number,
            key: shown,
        };
        return Err(Problem::of(name, kind).with_help(help));
    }
    let groups = rule.key_groups.clone().map_err(|reason| {
        let kind = ErrorKind::RuleKeyMalformed {
            path: path.clone(),
            rule: rule.number,
            reason,
        };
        Problem::of(name, kind).with_help(format!("mend {}", path.display()))
    })?;
    if groups.is_empty() || groups.iter().any(Vec::is_empty) {
        let kind = ErrorKind::RuleWithoutKeys {
            path: path.clone(),
            rule: rule.number,
        };
        return Err(Problem::of(name, kind).with_help(format!(
            "add `age: RECIPIENT` to the rule in {}",
            path.display()
        )));
    }
    for recipient in &rule.age {
        workspace
            .keyring
            .check_recipient(recipient)
            .map_err(|error| {
                let help = match &error {
                    KeyError::PluginNotNamed { name } => format!(
                        "a plugin runs only on your own word: name an identity of it, `-i FILE` with a line `AGE-PLUGIN-{}-1…`",
                        name.to_uppercase()
                    ),
                    _ => format!("mend creation rule {} in {}", rule.number, path.display()),
                };
                Problem::of(name, error).with_help(help)
            })?;
    }
    let missing: Vec<_> = workspace
        .manifest
        .recipients
        .iter()
        .filter(|named| named.break_glass && !rule.age.contains(&named.key))
        .map(|named| named.name.clone())
        .collect();
    if !missing.is_empty() {
        refusals.push(Refusal::BreakGlassMissing {
            names: missing.join(", "),
        });
    }
    Ok(Some(Governing {
        keys: rule.all_keys().into_iter().cloned().collect(),
        groups,
        rule: rule.clone(),
        hidden,
    }))
}

/// Says how to mend rules that speak against writing; `None` for a refusal that is about something else.
pub fn rule_help(refusal: &Refusal) -> Option<String> {
    Some(match refusal {
        Refusal::NoRulesFile => {
            "write a `.sops.yaml` with `creation_rules` and `age: RECIPIENT` beside the manifest"
                .to_owned()
        }
        Refusal::NoRule {
            suggestion: Some(pattern),
            ..
        } => format!("a rule matches the name without `.enc`; write it as `path_regex: {pattern}`"),
        Refusal::NoRule { path, .. } => {
            format!(
                "add a rule whose `path_regex` matches `{path}`, such as `path_regex: '\\.enc$'`"
            )
        }
        Refusal::TwoRules {
            suggestion: Some(pattern),
            without,
            ..
        } => format!(
            "write creation rule {without} as `path_regex: {pattern}`, or take it out if the other one is meant"
        ),
        Refusal::TwoRules { without, .. } => {
            format!(
                "let creation rule {without} match the name with `.enc` too, or take it out if the other one is meant"
            )
        }
        Refusal::BreakGlassMissing { .. } => {
            "add the recipient to the rule in `.sops.yaml`".to_owned()
        }
        _ => return None,
    })
}

/// Finds the rule for a path relative to the rules file, and what speaks against it: an earlier one
/// that says something else of the plaintext's name. That none matches is a refusal.
fn find_rule<'r>(
    rules: &'r Rules,
    subject: &str,
    path: &Path,
    refusals: &mut Vec<Refusal>,
) -> Option<(&'r Rule, Option<Refusal>)> {
    // Rules written for the plaintext paths of a shell loop end before `.enc`.
    let shorter = subject
        .strip_suffix(ENCRYPTED_SUFFIX)
        .and_then(|path| rules.find(path));
    let suggestion = shorter
        .and_then(|rule| rule.path_regex.as_ref())
        .map(|pattern| with_suffix(pattern.as_str()))
        .filter(|pattern| {
            Pattern::new(pattern).is_ok_and(|pattern| pattern.is_match(subject.as_bytes()))
        })
        .map(|pattern| format!("'{}'", pattern.replace('\'', "''")));
    let Some(rule) = rules.find(subject) else {
        refusals.push(Refusal::NoRule {
            rules: path.display().to_string(),
            path: subject.to_owned(),
            suggestion,
        });
        return None;
    };
    let hidden = shorter
        .filter(|shorter| shorter.number < rule.number && !shorter.says_the_same(rule))
        .map(|shorter| Refusal::TwoRules {
            rules: path.display().to_string(),
            with_suffix: rule.number,
            without: shorter.number,
            suggestion,
        });
    Some((rule, hidden))
}

/// Lets every end mark of a pattern stand behind an optional `.enc`.
fn with_suffix(pattern: &str) -> String {
    const SUFFIX: &str = "(\\.enc)?";
    let mut out = String::new();
    let mut characters = pattern.chars();
    let mut in_class = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                let escaped = characters.next();
                if escaped == Some('z') && !in_class {
                    out.push_str(SUFFIX);
                }
                out.push('\\');
                out.extend(escaped);
                continue;
            }
            '[' => in_class = true,
            ']' => in_class = false,
            '$' if !in_class => out.push_str(SUFFIX),
            _ => {}
        }
        out.push(character);
    }
    out
}

/// Says who would be added and removed, by name, and how groups and threshold differ; empty when nothing
/// does.
fn recipient_changes(workspace: &Workspace, metadata: &Metadata, governing: &Governing) -> String {
    let (have, want) = (&metadata.groups, &governing.groups);
    let is_grouped = have.len() > 1 || want.len() > 1;
    let mut changes = Vec::new();
    for (number, change) in (0..).zip(group_changes(have, want, KeyId::canonical)) {
        let group = if is_grouped {
            format!(" in group {number}")
        } else {
            String::new()
        };
        let name = |key: &KeyId| format!("{}{group}", workspace.manifest.name_key(key));
        changes.extend(change.added.iter().map(|key| format!("+ {}", name(key))));
        changes.extend(change.removed.iter().map(|key| format!("- {}", name(key))));
    }
    let (has, needs) = (metadata.needed_groups(), governing.rule.needed_groups());
    if has != needs {
        changes.push(format!(
            "{} needed, by the rule {}",
            groups_in_words(has),
            groups_in_words(needs)
        ));
    }
    changes.join(", ")
}

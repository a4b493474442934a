//! `.sops.yaml`: which creation rule governs a file.
//!
//! Parses text it is given; looking the file up is the caller's business. The reference ignores unknown
//! keys silently, which turns a typing mistake into a file in clear: they are kept by name, so that a write
//! is refused.

use std::collections::BTreeSet;

use crate::sops::mac::MacScope;
use crate::sops::master_key::KeyId;
use crate::sops::metadata::Node;
use crate::sops::pattern::{Pattern, PatternError};
use crate::sops::selector::{Selection, SelectionRule};

/// The name of the rules file.
pub const RULES_FILE: &str = ".sops.yaml";

/// The fields of a rule that name keys, which count only where there are no groups.
const KEY_FIELDS: [&str; 8] = [
    "age",
    "pgp",
    "kms",
    "gcp_kms",
    "azure_keyvault",
    "hc_vault_transit_uri",
    "hckms",
    "aws_profile",
];
/// The other fields that say who can open a file.
const OTHER_FIELDS: [&str; 4] = ["hc_vault", "key_groups", "shamir_threshold", "merge"];
/// The fields of a group, besides those of age and what it merges.
const GROUP_FIELDS: [&str; 6] = [
    "pgp",
    "kms",
    "gcp_kms",
    "hckms",
    "azure_keyvault",
    "hc_vault",
];
/// The other fields of a rule.
const OPTION_FIELDS: [&str; 8] = [
    "path_regex",
    "unencrypted_suffix",
    "encrypted_suffix",
    "unencrypted_regex",
    "encrypted_regex",
    "unencrypted_comment_regex",
    "encrypted_comment_regex",
    "mac_only_encrypted",
];
/// Groups that merge groups that merge groups: no deeper than this.
const DEEPEST_MERGE: usize = 16;

/// A creation rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Position in the file, from 1.
    pub number: usize,
    /// What paths it governs; `None` matches every path.
    pub path_regex: Option<Pattern>,
    /// The age recipients, without duplicates, in file order.
    pub age: Vec<String>,
    /// What is encrypted and what the MAC covers.
    pub selection: Selection,
    /// How many key groups it has; one where it has none.
    pub groups: usize,
    /// Names of its keys, in the file's sense, that are none of SOPS'.
    pub unknown: Vec<String>,
    /// All its keys, by group; why they cannot be told where one is malformed.
    pub key_groups: Result<Vec<Vec<KeyId>>, String>,
    /// How many groups are to be needed; 0 where it does not say.
    pub threshold: usize,
    /// Its selection option as it is written, if it has one.
    pub selection_option: Option<SelectionRule>,
}

/// Where `publish` sends files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The key-value store of Vault.
    Vault {
        /// The server, empty for the user's own.
        address: String,
        /// The path in the store, with a `/` at its end.
        path: String,
        /// Where the store is mounted, with a `/` at its end.
        mount: String,
        /// Version 1 of the store, rather than 2.
        is_first_version: bool,
    },
    /// A storage this program has no client for, by its name.
    Other(&'static str),
}

/// A rule of `destination_rules`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationRule {
    /// Where files go; `None` where the rule names nothing.
    pub destination: Option<Destination>,
    /// Whether their names lose their extension.
    pub omit_extensions: bool,
}

/// What `stores` says of the indents of the formats, where it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConfiguredIndents {
    /// `yaml.indent`.
    pub yaml: Option<i64>,
    /// `json.indent`.
    pub json: Option<i64>,
    /// `json_binary.indent`.
    pub json_binary: Option<i64>,
}

/// The rules file as the reference program reads it: rule by rule, when one is needed.
#[derive(Clone, Debug)]
pub struct Config {
    node: Node,
}

impl Config {
    /// Reads a rules file.
    ///
    /// # Errors
    /// `Yaml`, or a list that is none.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        let node = if text.trim().is_empty() {
            Node::Map(Vec::new())
        } else {
            read_yaml(text)?
        };
        let node = match node {
            Node::Null => Node::Map(Vec::new()),
            node => node,
        };
        let config = Self { node };
        if !matches!(config.node, Node::Map(_)) {
            return Err(malformed(0, "the file", "is not a mapping"));
        }
        for key in ["creation_rules", "destination_rules"] {
            let is_list = matches!(
                config.node.get(key),
                None | Some(Node::Null | Node::List(_))
            );
            if !is_list {
                return Err(malformed(0, key, "is not a list"));
            }
        }
        config.indents()?;
        Ok(config)
    }

    /// Returns what `stores` says of indents.
    ///
    /// # Errors
    /// `Malformed` for what is no number.
    pub fn indents(&self) -> Result<ConfiguredIndents, RulesError> {
        let stores = self.node.get("stores");
        let indent = |store: &str| {
            let node = stores
                .and_then(|stores| stores.get(store))
                .and_then(|store| store.get("indent"));
            match node {
                None | Some(Node::Null) => Ok(None),
                Some(Node::Number(number)) if number.is_i64() => Ok(number.as_i64()),
                Some(_) => Err(malformed(0, "indent", "is not a number")),
            }
        };
        Ok(ConfiguredIndents {
            yaml: indent("yaml")?,
            json: indent("json")?,
            json_binary: indent("json_binary")?,
        })
    }

    /// Returns the first creation rule for `path`, the file's path relative to the folder of the rules
    /// file: `None` where there are no creation rules at all.
    ///
    /// # Errors
    /// `NoRule`; what is wrong with the rule, or with the pattern of one before it.
    pub fn creation_rule(&self, path: &str) -> Result<Option<Rule>, RulesError> {
        let Some(Node::List(rules)) = self.node.get("creation_rules") else {
            return Ok(None);
        };
        for (index, node) in rules.iter().enumerate() {
            if governs(index + 1, node, path)? {
                return parse_rule(index + 1, node).map(Some);
            }
        }
        Err(RulesError::NoRule)
    }

    /// Returns the first destination rule for `path`, the path as it was typed.
    ///
    /// # Errors
    /// `NoDestination`, `SeveralDestinations`; what is wrong with a rule.
    pub fn destination_rule(&self, path: &str) -> Result<DestinationRule, RulesError> {
        let Some(Node::List(rules)) = self.node.get("destination_rules") else {
            return Err(RulesError::NoDestination);
        };
        for (index, node) in rules.iter().enumerate() {
            // The reference takes a pattern that cannot be compiled for one that matches nothing.
            if governs(index + 1, node, path).unwrap_or(false) {
                return parse_destination(node);
            }
        }
        Err(RulesError::NoDestination)
    }
}

/// Returns whether a rule governs a path.
fn governs(number: usize, node: &Node, path: &str) -> Result<bool, RulesError> {
    if !matches!(node, Node::Map(_)) {
        let reason = "holds something that is not a mapping";
        return Err(malformed(number, "creation_rules", reason));
    }
    match node.get("path_regex").map(scalar_text) {
        None => Ok(true),
        Some(None) => Err(malformed(number, "path_regex", "is not a string")),
        Some(Some(pattern)) if pattern.is_empty() => Ok(true),
        Some(Some(pattern)) => {
            let pattern = Pattern::new(&pattern).map_err(|source| RulesError::Pattern {
                rule: number,
                source,
            })?;
            Ok(pattern.is_match(path.as_bytes()))
        }
    }
}

/// Returns a scalar as text; empty for null.
fn scalar_text(node: &Node) -> Option<String> {
    match node {
        Node::Text(text) => Some(text.clone()),
        Node::Number(number) => Some(number.to_string()),
        Node::Bool(flag) => Some(flag.to_string()),
        Node::Null => Some(String::new()),
        Node::List(_) | Node::Map(_) => None,
    }
}

fn parse_destination(node: &Node) -> Result<DestinationRule, RulesError> {
    let text = |key: &str| node.get(key).and_then(scalar_text).unwrap_or_default();
    let with_slash = |text: String| {
        if text.ends_with('/') {
            text
        } else {
            format!("{text}/")
        }
    };
    let (s3, gcs, vault) = (text("s3_bucket"), text("gcs_bucket"), text("vault_path"));
    let named = [&s3, &gcs, &vault];
    if named.iter().filter(|name| !name.is_empty()).count() > 1 {
        return Err(RulesError::SeveralDestinations);
    }
    let destination = if !s3.is_empty() {
        Some(Destination::Other("S3"))
    } else if !gcs.is_empty() {
        Some(Destination::Other("GCS"))
    } else if !vault.is_empty() {
        let mount = match text("vault_kv_mount_name") {
            mount if mount.is_empty() => "secret/".to_owned(),
            mount => mount,
        };
        Some(Destination::Vault {
            address: text("vault_address"),
            path: with_slash(vault),
            mount: with_slash(mount),
            is_first_version: text("vault_kv_version") == "1",
        })
    } else {
        None
    };
    Ok(DestinationRule {
        destination,
        omit_extensions: node.get("omit_extensions") == Some(&Node::Bool(true)),
    })
}

/// Reads the keys of a rule: its groups, or where it has none what stands beside them as one group.
fn keys_of_rule(node: &Node) -> Result<Vec<Vec<KeyId>>, String> {
    if let Some(Node::List(groups)) = node.get("key_groups").filter(|groups| !is_empty(groups)) {
        return groups.iter().map(|group| keys_of_group(group, 0)).collect();
    }
    let list = |key: &str| keys_in(node, key);
    let profile = node.get("aws_profile").and_then(scalar_text);
    let profile = profile.unwrap_or_default();
    let mut keys: Vec<KeyId> = Vec::new();
    keys.extend(list("age")?.iter().map(|key| KeyId::age(key)));
    keys.extend(list("pgp")?.iter().map(|key| KeyId::pgp(key)));
    keys.extend(
        list("kms")?
            .iter()
            .map(|key| KeyId::kms(key, &[], &profile)),
    );
    keys.extend(list("gcp_kms")?.iter().map(|key| KeyId::gcp_kms(key)));
    for key in list("hckms")? {
        keys.push(KeyId::hckms(&key)?);
    }
    for key in list("azure_keyvault")? {
        keys.push(KeyId::azure_kv(&key)?);
    }
    for key in list("hc_vault_transit_uri")? {
        keys.push(KeyId::hc_vault(&key)?);
    }
    Ok(vec![keys])
}

/// Returns the keys under a name: a list, or one text with commas.
fn keys_in(node: &Node, key: &str) -> Result<Vec<String>, String> {
    let wrong =
        || format!("invalid {key} key configuration: expected a string or a list of strings");
    let texts: Vec<String> = match node.get(key) {
        None | Some(Node::Null) => return Ok(Vec::new()),
        Some(Node::List(items)) => items
            .iter()
            .map(|item| match item {
                Node::Text(text) => Ok(text.clone()),
                _ => Err(wrong()),
            })
            .collect::<Result<_, _>>()?,
        Some(Node::Map(_)) => return Err(wrong()),
        Some(other) => vec![scalar_text(other).unwrap_or_default()],
    };
    let keys = texts.iter().flat_map(|text| text.split(',')).map(str::trim);
    Ok(keys
        .filter(|key| !key.is_empty())
        .map(str::to_owned)
        .collect())
}

/// Reads a group: what it merges first, then its own keys, each once.
fn keys_of_group(node: &Node, depth: usize) -> Result<Vec<KeyId>, String> {
    if depth > DEEPEST_MERGE {
        return Err("`merge` is nested too deep".to_owned());
    }
    let items = |key: &str| match node.get(key) {
        None | Some(Node::Null) => Ok(Vec::new()),
        Some(Node::List(items)) => Ok(items.iter().collect()),
        Some(_) => Err(format!("`{key}` of a key group is not a list")),
    };
    let mut keys = Vec::new();
    for merged in items("merge")? {
        keys.extend(keys_of_group(merged, depth + 1)?);
    }
    let field = |item: &Node, name: &str| item.get(name).and_then(scalar_text).unwrap_or_default();
    for key in keys_in(node, "age")? {
        keys.push(KeyId::age(&key));
    }
    for key in keys_in(node, "pgp")? {
        keys.push(KeyId::pgp(&key));
    }
    for item in items("kms")? {
        let context: Vec<(String, String)> = match item.get("context") {
            Some(Node::Map(pairs)) => pairs
                .iter()
                .map(|(key, value)| (key.clone(), scalar_text(value).unwrap_or_default()))
                .collect(),
            _ => Vec::new(),
        };
        let mut id = KeyId::kms(&field(item, "arn"), &context, &field(item, "aws_profile"));
        if let (KeyId::Kms { role, .. }, named) = (&mut id, field(item, "role"))
            && !named.is_empty()
        {
            *role = named;
        }
        keys.push(id);
    }
    for item in items("gcp_kms")? {
        keys.push(KeyId::gcp_kms(&field(item, "resource_id")));
    }
    for item in items("hckms")? {
        keys.push(KeyId::hckms(&field(item, "key_id"))?);
    }
    for item in items("azure_keyvault")? {
        keys.push(KeyId::AzureKv {
            vault_url: field(item, "vaultUrl"),
            name: field(item, "key"),
            version: field(item, "version"),
        });
    }
    for key in keys_in(node, "hc_vault")? {
        keys.push(KeyId::hc_vault(&key)?);
    }
    let mut once: Vec<KeyId> = Vec::new();
    for key in keys {
        if !once.contains(&key) {
            once.push(key);
        }
    }
    Ok(once)
}

impl Rule {
    /// Returns its keys that are none of SOPS'.
    pub fn unknown_keys(&self) -> impl Iterator<Item = &str> {
        self.unknown.iter().map(String::as_str)
    }

    /// Returns all its keys, each once.
    pub fn all_keys(&self) -> Vec<&KeyId> {
        let mut all: Vec<&KeyId> = Vec::new();
        for key in self.key_groups.iter().flatten().flatten() {
            if !all.contains(&key) {
                all.push(key);
            }
        }
        all
    }

    /// Returns how many of its groups are needed: all where it does not say, none where there is one group.
    pub fn needed_groups(&self) -> usize {
        match (self.groups, self.threshold) {
            (0 | 1, _) => 0,
            (groups, 0) => groups,
            (_, threshold) => threshold,
        }
    }

    /// Returns whether both have the same readers and the same options.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let keys = |rule: &Self| -> Vec<BTreeSet<KeyId>> {
            let groups = rule.key_groups.iter().flatten();
            groups
                .map(|group| group.iter().map(KeyId::canonical).collect())
                .collect()
        };
        keys(self) == keys(other)
            && self.needed_groups() == other.needed_groups()
            && self.selection == other.selection
    }
}

/// The creation rules of a file, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    rules: Vec<Rule>,
}

/// What can be wrong with a rules file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// A value of the wrong kind.
    #[error("creation rule {rule}: `{key}` {reason}")]
    Malformed {
        /// Position of the rule, from 1.
        rule: usize,
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No destination rule for a file.
    #[error("no matching destination found in config")]
    NoDestination,
    /// No creation rule for a file.
    #[error("no matching creation rules found")]
    NoRule,
    /// A destination rule with more than one destination.
    #[error(
        "more than one destinations were found in a single destination rule, you can only use one per rule"
    )]
    SeveralDestinations,
    /// A pattern that cannot be compiled.
    #[error("creation rule {rule}: {source}")]
    Pattern {
        /// Position of the rule, from 1.
        rule: usize,
        /// What is wrong with it.
        source: PatternError,
    },
    /// More than one selection option in a rule.
    #[error(
        "creation rule {rule}: only one of the options that select what is encrypted may be given, not {names}"
    )]
    SeveralSelections {
        /// Position of the rule, from 1.
        rule: usize,
        /// The options.
        names: String,
    },
    /// The file cannot be read.
    #[error("cannot be read: {reason}")]
    Unreadable {
        /// The system's reason.
        reason: String,
    },
    /// Not YAML.
    #[error("line {line}, column {column}: not valid YAML")]
    Yaml {
        /// Line, from 1.
        line: u64,
        /// Column, from 1.
        column: u64,
    },
}

impl Rules {
    /// Reads a rules file.
    ///
    /// # Errors
    /// The first thing wrong with it.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let node = read_yaml(text)?;
        let rules = match node.get("creation_rules") {
            None | Some(Node::Null) => Vec::new(),
            Some(Node::List(items)) => items
                .iter()
                .enumerate()
                .map(|(index, item)| parse_rule(index + 1, item))
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(malformed(0, "creation_rules", "is not a list")),
        };
        Ok(Self { rules })
    }

    /// Returns the key of a rule that an unknown one is most likely meant to be.
    pub fn known_key_like(key: &str) -> Option<&'static str> {
        let known = KEY_FIELDS.into_iter().chain(OPTION_FIELDS);
        known
            .filter(|known| known.starts_with(key) || key.starts_with(known))
            .max_by_key(|known| known.len())
    }

    /// Returns the keys of rules that are none of SOPS', with the rule's position: a typing mistake,
    /// which the reference takes no notice of.
    pub fn unknown_keys(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for rule in &self.rules {
            let unknown = rule.unknown_keys();
            found.extend(unknown.map(|key| (rule.number, key.to_owned())));
        }
        found
    }

    /// Returns the rules, in file order.
    pub fn all(&self) -> &[Rule] {
        &self.rules
    }

    /// Returns the first rule whose pattern matches `path`, the encrypted file's path relative to
    /// the folder of the rules file.
    pub fn find(&self, path: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| {
            rule.path_regex
                .as_ref()
                .is_none_or(|pattern| pattern.is_match(path.as_bytes()))
        })
    }
}

fn read_yaml(text: &str) -> Result<Node, RulesError> {
    // The first document counts, as with the reference.
    let documents: Result<Vec<Node>, _> = serde_saphyr::from_multiple(text);
    let first = documents.map(|documents| documents.into_iter().next().unwrap_or(Node::Null));
    first.map_err(|error| {
        let at = error.location();
        RulesError::Yaml {
            line: at.map_or(1, |at| at.line()),
            column: at.map_or(1, |at| at.column()),
        }
    })
}

/// Reads a threshold; `2.0` is 2, as the reference reads it.
fn threshold_of(value: &Node) -> Option<usize> {
    let text = scalar_text(value)?;
    let text = text.strip_suffix(".0").unwrap_or(&text);
    text.parse().ok()
}

fn malformed(rule: usize, key: &str, reason: &'static str) -> RulesError {
    RulesError::Malformed {
        rule,
        key: key.to_owned(),
        reason,
    }
}

fn parse_rule(number: usize, item: &Node) -> Result<Rule, RulesError> {
    let Node::Map(pairs) = item else {
        return Err(malformed(
            number,
            "creation_rules",
            "holds something that is not a mapping",
        ));
    };
    let mut rule = Rule {
        number,
        path_regex: None,
        age: Vec::new(),
        selection: Selection::default(),
        groups: 1,
        unknown: Vec::new(),
        key_groups: keys_of_rule(item),
        threshold: match item.get("shamir_threshold") {
            None | Some(Node::Null) => 0,
            Some(value) => threshold_of(value)
                .ok_or_else(|| malformed(number, "shamir_threshold", "is not a number"))?,
        },
        selection_option: None,
    };
    let compile = |source: PatternError| RulesError::Pattern {
        rule: number,
        source,
    };
    let mut selections: Vec<(String, SelectionRule)> = Vec::new();
    let has_groups = pairs
        .iter()
        .any(|(key, value)| key == "key_groups" && !is_empty(value));
    for (key, value) in pairs {
        // Where there are groups, the keys beside them count for nothing.
        if is_empty(value) || (has_groups && KEY_FIELDS.contains(&key.as_str())) {
            continue;
        }
        match key.as_str() {
            "key_groups" => read_groups(&mut rule, value)?,
            "path_regex" => {
                rule.path_regex =
                    Some(Pattern::new(text_of(number, key, value)?).map_err(compile)?);
            }
            "age" => rule.age = recipients_of(number, value)?,
            "mac_only_encrypted" => match value {
                Node::Bool(true) => rule.selection.scope = MacScope::OnlyEncrypted,
                Node::Bool(false) => {}
                _ => return Err(malformed(number, key, "is not `true` or `false`")),
            },
            known if KEY_FIELDS.contains(&known) || OTHER_FIELDS.contains(&known) => {}
            // As the reference, which reads a number or a truth value as the text that it is.
            option => match scalar_text(value) {
                Some(text) => match SelectionRule::from_option(option, &text) {
                    Some(selection) => selections.push((key.clone(), selection.map_err(compile)?)),
                    None => rule.unknown.push(key.clone()),
                },
                None if SelectionRule::from_option(option, "").is_some() => {
                    return Err(malformed(number, option, "is not a string"));
                }
                None => rule.unknown.push(key.clone()),
            },
        }
    }
    if selections.len() > 1 {
        let names: Vec<_> = selections
            .iter()
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        return Err(RulesError::SeveralSelections {
            rule: number,
            names: names.join(", "),
        });
    }
    if let Some((_, selection)) = selections.pop() {
        rule.selection_option = Some(selection.clone());
        rule.selection.rule = selection;
    }
    Ok(rule)
}

/// Reads `key_groups`: one group is the list of those who can open the file; several of them share
/// the data key out.
fn read_groups(rule: &mut Rule, node: &Node) -> Result<(), RulesError> {
    let Node::List(groups) = node else {
        return Err(malformed(rule.number, "key_groups", "is not a list"));
    };
    rule.groups = groups.len();
    for group in groups {
        read_group(rule, group, 0)?;
    }
    Ok(())
}

/// Reads a group: what it merges first, then its own keys.
fn read_group(rule: &mut Rule, node: &Node, depth: usize) -> Result<(), RulesError> {
    let reason = "holds something that is no group";
    let Node::Map(pairs) = node else {
        return Err(malformed(rule.number, "key_groups", reason));
    };
    if depth > DEEPEST_MERGE {
        return Err(malformed(rule.number, "merge", "is nested too deep"));
    }
    if let Some(merged) = node.get("merge").filter(|merged| !is_empty(merged)) {
        let Node::List(merged) = merged else {
            return Err(malformed(rule.number, "merge", "is not a list"));
        };
        for group in merged {
            read_group(rule, group, depth + 1)?;
        }
    }
    for (key, value) in pairs {
        match key.as_str() {
            "merge" => {}
            _ if is_empty(value) => {}
            "age" => {
                for recipient in recipients_of(rule.number, value)? {
                    if !rule.age.contains(&recipient) {
                        rule.age.push(recipient);
                    }
                }
            }
            known if GROUP_FIELDS.contains(&known) => {}
            _ if !rule.unknown.contains(key) => rule.unknown.push(key.clone()),
            _ => {}
        }
    }
    Ok(())
}

fn is_empty(node: &Node) -> bool {
    match node {
        Node::Null => true,
        Node::Text(text) => text.is_empty(),
        Node::List(items) => items.is_empty(),
        _ => false,
    }
}

fn text_of<'n>(rule: usize, key: &str, node: &'n Node) -> Result<&'n str, RulesError> {
    match node {
        Node::Text(text) => Ok(text),
        _ => Err(malformed(rule, key, "is not a string")),
    }
}

/// Reads recipients: one, a comma-separated list, or a list.
fn recipients_of(rule: usize, node: &Node) -> Result<Vec<String>, RulesError> {
    let texts = match node {
        Node::List(items) => items
            .iter()
            .map(|item| text_of(rule, "age", item))
            .collect::<Result<Vec<_>, _>>()?,
        other => vec![text_of(rule, "age", other)?],
    };
    let mut recipients: Vec<String> = Vec::new();
    for recipient in texts.iter().flat_map(|text| text.split(',')).map(str::trim) {
        if !recipient.is_empty() && !recipients.iter().any(|known| known == recipient) {
            recipients.push(recipient.to_owned());
        }
    }
    Ok(recipients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_governs() {
        let rules = Rules::parse(
            "creation_rules:\n  - path_regex: \\.prod\\.enc$\n    age: [age1a, age1b]\n    encrypted_regex: ^DB_\n  - age: >-\n      age1c,\n      age1d,\n      age1c\n",
        )
        .unwrap();
        let prod = rules.find("envs/.env.prod.enc").unwrap();
        assert_eq!(prod.age, ["age1a", "age1b"]);
        assert_eq!(prod.selection.describe(), "encrypted_regex: ^DB_");
        let other = rules.find("envs/.env.dev.enc").unwrap();
        assert_eq!(
            (other.number, &other.age[..]),
            (2, &["age1c".to_owned(), "age1d".to_owned()][..])
        );
    }

    #[test]
    fn what_is_unknown_is_kept_by_name() {
        let rules =
            Rules::parse("creation_rules:\n- age: x\n  pgp: F\n  encrypted_regexp: a\n  kms: ''\n")
                .unwrap();
        let rule = rules.find("x").unwrap();
        assert_eq!(rule.unknown, ["encrypted_regexp"]);
        let names: Vec<String> = rule.all_keys().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["x", "F"]);
    }

    #[test]
    fn one_group_is_a_list_of_recipients() {
        let text = "team: &team\n  age: [age1a, age1b]\ncreation_rules:\n- path_regex: x\n  age: age1ignored\n  pgp: ignored\n  key_groups:\n  - merge:\n    - *team\n    - age: [age1c]\n    age: [age1b, age1d]\n- key_groups:\n  - {age: [age1a]}\n  - {age: [age1b], pgp: [F]}\n";
        let rules = Rules::parse(text).unwrap();
        let one = rules.find("x").unwrap();
        assert_eq!(one.age, ["age1a", "age1b", "age1c", "age1d"]);
        assert!(one.unknown.is_empty());
        let several = rules.find("y").unwrap();
        assert_eq!((several.groups, several.needed_groups()), (2, 2));
        assert_eq!(several.key_groups.as_ref().unwrap()[1].len(), 2);
        assert!(Rules::parse("creation_rules:\n- key_groups: [7]\n").is_err());
    }

    #[test]
    fn anchors_and_merge_keys_work() {
        let text = "keys:\n  - &server age1a\n  - &laptop age1b\nbase: &base\n  mac_only_encrypted: true\ncreation_rules:\n- <<: *base\n  path_regex: x\n  age: [*server, *laptop]\n";
        let rules = Rules::parse(text).unwrap();
        let rule = rules.find("x").unwrap();
        assert_eq!(rule.age, ["age1a", "age1b"]);
        assert_eq!(rule.selection.scope, MacScope::OnlyEncrypted);
        assert!(rule.unknown.is_empty(), "{:?}", rule.unknown);
    }

    #[test]
    fn broken_rules_are_errors() {
        for text in [
            "creation_rules: 7",
            "creation_rules: [7]",
            "creation_rules:\n- age: {a: b}\n",
            "creation_rules:\n- path_regex: '('\n",
            "creation_rules:\n- encrypted_regex: a\n  encrypted_suffix: b\n",
            "creation_rules:\n- mac_only_encrypted: perhaps\n",
            "creation_rules: [\n",
        ] {
            assert!(Rules::parse(text).is_err(), "{text}");
        }
        assert!(Rules::parse("").unwrap().find("a").is_none());
        assert!(
            Rules::parse("stores:\n  yaml:\n    indent: 2\n")
                .unwrap()
                .find("a")
                .is_none()
        );
    }
}

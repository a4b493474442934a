//! The `sops` block: who can open the file, when it was changed, what is encrypted in it.
//!
//! The block is kept as it was read, order and unknown parts included ([`Node`]); what is needed
//! is read out of it and written back into it. That way a key of a kind this program cannot use
//! survives, and re-encrypting changes two lines. Layouts are the stores' business.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use super::mac::MacScope;
use super::master_key::{KINDS, KeyId, MasterKey};
use super::pattern::PatternError;
use super::selector::{Selection, SelectionRule};

/// The format version written into new files.
pub const FORMAT_VERSION: &str = "3.13.3";

/// A node of the metadata: the common ground of JSON, YAML and the flattened forms.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// A truth value.
    Bool(bool),
    /// A list.
    List(Vec<Self>),
    /// A mapping, in the order it was read.
    Map(Vec<(String, Self)>),
    /// No value.
    Null,
    /// A number as it was spelled.
    Number(serde_json::Number),
    /// A string.
    Text(String),
}

impl Node {
    /// Returns the value under `key` of a mapping.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(pairs) => pairs
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, node)| node),
            _ => None,
        }
    }

    /// Returns a scalar as text, as weakly typed decoding does; empty for null.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Bool(flag) => Some(flag.to_string()),
            Self::Null => Some(String::new()),
            Self::Number(number) => Some(number.to_string()),
            Self::Text(text) => Some(text.clone()),
            Self::List(_) | Self::Map(_) => None,
        }
    }

    /// Returns the items of a list; a single mapping counts as a list of one, null and an empty
    /// mapping as none.
    fn items(&self) -> Option<Vec<&Self>> {
        match self {
            Self::List(items) => Some(items.iter().collect()),
            Self::Map(pairs) if pairs.is_empty() => Some(Vec::new()),
            Self::Map(_) => Some(vec![self]),
            Self::Null => Some(Vec::new()),
            _ => None,
        }
    }

    /// Puts `node` under `key`: replaces it in place, else inserts it in byte-wise order.
    fn set(&mut self, key: &str, node: Self) {
        let Self::Map(pairs) = self else { return };
        if let Some((_, old)) = pairs.iter_mut().find(|(name, _)| name == key) {
            *old = node;
        } else {
            let at = pairs
                .iter()
                .position(|(name, _)| name.as_str() > key)
                .unwrap_or(pairs.len());
            pairs.insert(at, (key.to_owned(), node));
        }
    }

    fn remove(&mut self, key: &str) {
        if let Self::Map(pairs) = self {
            pairs.retain(|(name, _)| name != key);
        }
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(flag) => serializer.serialize_bool(*flag),
            Self::Null => serializer.serialize_unit(),
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Self::Map(pairs) => {
                let mut map = serializer.serialize_map(Some(pairs.len()))?;
                for (key, node) in pairs {
                    map.serialize_entry(key, node)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;
        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a value")
            }
            fn visit_bool<E>(self, flag: bool) -> Result<Node, E> {
                Ok(Node::Bool(flag))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
                Ok(Node::Number(number.into()))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
                Ok(Node::Number(number.into()))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Node, E> {
                Ok(serde_json::Number::from_f64(number).map_or(Node::Null, Node::Number))
            }
            fn visit_str<E>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Text(text.to_owned()))
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Node::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Node, A::Error> {
                let mut map: Vec<(String, Node)> = Vec::new();
                while let Some((key, node)) = pairs.next_entry::<String, Node>()? {
                    // Readers disagree about which of two counts.
                    if map.iter().any(|(known, _)| *known == key) {
                        return Err(serde::de::Error::custom("a key stands twice"));
                    }
                    map.push((key, node));
                }
                Ok(Node::Map(map))
            }
        }
        deserializer.deserialize_any(NodeVisitor)
    }
}

/// What can be wrong with a `sops` block.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// Flattened keys that do not form a tree.
    #[error("broken `sops` metadata: `{key}` {reason}")]
    Flattened {
        /// The flattened key.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A field is missing or has the wrong form.
    #[error("broken `sops` metadata: `{field}` {reason}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No key at all.
    #[error("broken `sops` metadata: no keys found in it")]
    NoKeys,
    /// More than one selection option.
    #[error("broken `sops` metadata: more than one of the options that select what is encrypted")]
    SeveralSelections,
    /// A `version` that is none.
    #[error("broken `sops` metadata: `version` is not a version")]
    Version {
        /// What stands there; empty where nothing does.
        version: String,
        /// Whether there is a MAC.
        has_mac: bool,
    },
    /// A selection pattern that cannot be compiled.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// A group of keys, each of which opens the group's share.
pub type KeyGroup = Vec<MasterKey>;

/// How a group of keys differs from the one that is wanted in its place.
#[derive(Debug, PartialEq, Eq)]
pub struct GroupChange<K> {
    /// Those in both, in the order of the wanted group.
    pub kept: Vec<K>,
    /// Those that are wanted and not there.
    pub added: Vec<K>,
    /// Those that are there and not wanted.
    pub removed: Vec<K>,
}

impl<K> GroupChange<K> {
    /// Returns whether both groups have the same keys.
    pub fn is_none(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

/// Says how many groups are needed, see [`Metadata::needed_groups`].
pub fn groups_in_words(needed: usize) -> String {
    match needed {
        0 => "a single key group".to_owned(),
        1 => "1 key group".to_owned(),
        _ => format!("{needed} key groups"),
    }
}

/// Compares groups by their position, and keys as `form` has them: one key can be written in more than one way.
pub fn group_changes<K: Clone + PartialEq>(
    have: &[KeyGroup],
    wanted: &[Vec<KeyId>],
    form: impl Fn(&KeyId) -> K,
) -> Vec<GroupChange<K>> {
    (0..have.len().max(wanted.len()))
        .map(|number| {
            let have = have.get(number).into_iter().flatten();
            let have: Vec<K> = have.map(|key| form(&key.id)).collect();
            let wanted = wanted.get(number).into_iter().flatten();
            let wanted: Vec<K> = wanted.map(&form).collect();
            let (kept, added) = wanted.iter().cloned().partition(|key| have.contains(key));
            let removed = have.into_iter().filter(|key| !wanted.contains(key));
            GroupChange {
                kept,
                added,
                removed: removed.collect(),
            }
        })
        .collect()
}

/// The `sops` block of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    node: Node,
    /// The key groups; one in most files.
    pub groups: Vec<KeyGroup>,
    /// Which leaves are encrypted and what the MAC covers.
    pub selection: Selection,
    /// The `mac` token, empty when the file has none.
    pub mac: String,
    /// `lastmodified` as it stands in the file.
    pub last_modified: String,
}

impl Metadata {
    /// Reads the block.
    ///
    /// # Errors
    /// When a mandatory field is missing or malformed, there are no keys, or several selection
    /// options.
    pub fn from_node(node: Node) -> Result<Self, MetadataError> {
        if !matches!(node, Node::Map(_)) {
            return Err(MetadataError::Field {
                field: "sops",
                reason: "is not a mapping",
            });
        }
        let text = |field: &'static str| match node.get(field) {
            None => Ok(String::new()),
            Some(value) => value.text().ok_or(MetadataError::Field {
                field,
                reason: "is not a string",
            }),
        };
        let last_modified = text("lastmodified")?;
        if super::value::canonical_time(&last_modified).is_none() {
            let reason = "is not an RFC 3339 time";
            return Err(MetadataError::Field {
                field: "lastmodified",
                reason,
            });
        }
        let version = text("version")?;
        if !is_version(&version) {
            let has_mac = !text("mac")?.is_empty();
            return Err(MetadataError::Version { version, has_mac });
        }
        let groups = read_groups(&node)?;
        if groups.iter().all(Vec::is_empty) {
            return Err(MetadataError::NoKeys);
        }
        let selection = read_selection(&node)?;
        if !matches!(
            node.get("shamir_threshold"),
            None | Some(Node::Null | Node::Number(_))
        ) && text("shamir_threshold")?.parse::<u32>().is_err()
        {
            let reason = "is not a number";
            return Err(MetadataError::Field {
                field: "shamir_threshold",
                reason,
            });
        }
        Ok(Self {
            groups,
            selection,
            mac: text("mac")?,
            last_modified,
            node,
        })
    }

    /// Returns the block of a new file, without keys and MAC. `selection` is `None` for the binary
    /// form, which lists no option.
    pub fn new(selection: Option<&Selection>) -> Self {
        let mut node = Node::Map(Vec::new());
        node.set("version", Node::Text(FORMAT_VERSION.to_owned()));
        let mut metadata = Self {
            node,
            groups: Vec::new(),
            selection: Selection::default(),
            mac: String::new(),
            last_modified: String::new(),
        };
        if let Some(selection) = selection {
            metadata.set_selection(selection);
        }
        metadata
    }

    /// Returns what stands for the metadata of a raw age file: one wrapped key, which holds the content.
    /// It has no recipient in words.
    pub fn of_age_file(armored: &str) -> Self {
        let mut metadata = Self::new(None);
        metadata.node = Node::Map(Vec::new());
        metadata.groups = vec![vec![MasterKey::age("", armored)]];
        metadata
    }

    /// Returns whether this stands for the metadata of a raw age file.
    pub fn is_age_file(&self) -> bool {
        let is_bare = matches!(&self.groups[..], [group] if matches!(&group[..],
            [MasterKey { id: KeyId::Age { recipient }, .. }] if recipient.is_empty()));
        is_bare && self.node == Node::Map(Vec::new())
    }

    /// Replaces the selection option.
    pub fn set_selection(&mut self, selection: &Selection) {
        for name in SELECTION_OPTIONS {
            self.node.remove(name);
        }
        self.node.remove("mac_only_encrypted");
        let (name, value) = selection.rule.option();
        self.node.set(name, Node::Text(value.to_owned()));
        if selection.scope == MacScope::OnlyEncrypted {
            self.node.set("mac_only_encrypted", Node::Bool(true));
        }
        self.selection = selection.clone();
    }

    /// Replaces the MAC token and the time of the last change (RFC 3339, UTC, whole seconds).
    pub fn set_mac(&mut self, mac: String, last_modified: String) {
        self.node
            .set("lastmodified", Node::Text(last_modified.clone()));
        self.node.set("mac", Node::Text(mac.clone()));
        self.mac = mac;
        self.last_modified = last_modified;
    }

    /// Replaces all age keys: pairs of recipient and armored age file. Keys of other kinds stay.
    /// Only for files with at most one key group.
    pub fn set_age_keys(&mut self, keys: &[(String, String)]) {
        let entry = |(recipient, enc): &(String, String)| {
            Node::Map(vec![
                ("enc".to_owned(), Node::Text(enc.clone())),
                ("recipient".to_owned(), Node::Text(recipient.clone())),
            ])
        };
        self.node
            .set("age", Node::List(keys.iter().map(entry).collect()));
        let mut group = self.groups.pop().unwrap_or_default();
        group.retain(|key| key.id.kind() != "age");
        let keys = keys.iter();
        group.extend(keys.map(|(recipient, enc)| MasterKey::age(recipient, enc)));
        self.groups = vec![group];
    }

    /// Replaces all keys: one group is written as lists of the block itself, more as `key_groups`, a
    /// `threshold` of 0 not at all.
    pub fn set_groups(&mut self, groups: Vec<KeyGroup>, threshold: usize) {
        for name in KINDS {
            self.node.remove(name);
        }
        self.node.remove("key_groups");
        self.node.remove("shamir_threshold");
        if threshold != 0 {
            self.node
                .set("shamir_threshold", Node::Number(threshold.into()));
        }
        match &groups[..] {
            [group] => {
                for (kind, list) in lists_of(group) {
                    self.node.set(kind, list);
                }
            }
            groups => {
                let groups = groups.iter().map(|group| {
                    let mut node = Node::Map(Vec::new());
                    // The reference writes these two where they are empty too.
                    node.set("age", Node::List(Vec::new()));
                    node.set("hc_vault", Node::List(Vec::new()));
                    for (kind, list) in lists_of(group) {
                        node.set(kind, list);
                    }
                    node
                });
                self.node.set("key_groups", Node::List(groups.collect()));
            }
        }
        self.groups = groups;
    }

    /// Returns the block as the reference writes it anew: what it knows, in byte-wise order.
    #[must_use]
    pub fn as_stock(&self, has_selection: bool) -> Self {
        let mut metadata = Self::new(has_selection.then_some(&self.selection));
        if !has_selection && self.selection.scope == MacScope::OnlyEncrypted {
            metadata.node.set("mac_only_encrypted", Node::Bool(true));
        }
        metadata.selection = self.selection.clone();
        metadata.set_groups(self.groups.clone(), self.threshold());
        metadata.set_mac(
            self.mac.clone(),
            super::value::without_fraction(&self.last_modified),
        );
        if let Some(version) = self.node.get("version").and_then(Node::text) {
            metadata.node.set("version", Node::Text(version));
        }
        metadata
    }

    /// Returns the version that the block names.
    pub fn version(&self) -> String {
        let version = self.node.get("version").and_then(Node::text);
        version.unwrap_or_default()
    }

    /// Replaces the version.
    pub fn set_version(&mut self, version: &str) {
        self.node.set("version", Node::Text(version.to_owned()));
    }

    /// Returns the block for emission.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Returns the age recipients of all groups, in file order.
    pub fn age_recipients(&self) -> Vec<&str> {
        self.age_keys().map(|(recipient, _)| recipient).collect()
    }

    /// Returns the age recipients of all groups with the data key wrapped for each.
    pub fn age_keys(&self) -> impl Iterator<Item = (&str, &str)> {
        self.keys().filter_map(|key| match &key.id {
            KeyId::Age { recipient } => Some((recipient.as_str(), key.enc.as_str())),
            _ => None,
        })
    }

    /// Returns the keys of all groups, in file order.
    pub fn keys(&self) -> impl Iterator<Item = &MasterKey> {
        self.groups.iter().flatten()
    }

    /// Returns how many groups have to be opened: 0 where the file does not say.
    pub fn threshold(&self) -> usize {
        let text = self.node.get("shamir_threshold").and_then(Node::text);
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Returns how many of several groups are needed, 0 where there is one group.
    pub fn needed_groups(&self) -> usize {
        match (self.groups.len(), self.threshold()) {
            (0 | 1, _) => 0,
            (groups, 0) => groups,
            (_, threshold) => threshold,
        }
    }

    /// Returns which keys open the file, each once.
    pub fn key_ids(&self) -> Vec<KeyId> {
        let mut ids: Vec<KeyId> = Vec::new();
        for key in self.keys() {
            if !ids.contains(&key.id) {
                ids.push(key.id.clone());
            }
        }
        ids
    }

    /// Returns the kinds of keys that this program does not use but the file has.
    pub fn other_kinds(&self) -> Vec<&'static str> {
        let others = self.keys().map(|key| key.id.kind());
        let mut kinds: Vec<_> = others.filter(|kind| *kind != "age").collect();
        kinds.dedup();
        kinds
    }
}

const SELECTION_OPTIONS: [&str; 6] = [
    "encrypted_comment_regex",
    "encrypted_regex",
    "encrypted_suffix",
    "unencrypted_comment_regex",
    "unencrypted_regex",
    "unencrypted_suffix",
];

fn read_selection(node: &Node) -> Result<Selection, MetadataError> {
    let mut selection = Selection::default();
    let mut found = 0;
    for name in SELECTION_OPTIONS {
        let Some(value) = node.get(name) else {
            continue;
        };
        let reason = "is not a string";
        let value = value.text().ok_or(MetadataError::Field {
            field: name,
            reason,
        })?;
        if value.is_empty() {
            continue;
        }
        if let Some(rule) = SelectionRule::from_option(name, &value) {
            selection.rule = rule?;
            found += 1;
        }
    }
    if found > 1 {
        return Err(MetadataError::SeveralSelections);
    }
    // Decoded weakly: a number counts as its truth, a string as Go's `ParseBool` reads it.
    let only = match node.get("mac_only_encrypted") {
        None | Some(Node::Null) => false,
        Some(Node::Bool(flag)) => *flag,
        Some(Node::Number(number)) => number.as_f64() != Some(0.0),
        Some(Node::Text(text)) => match text.as_str() {
            "1" | "t" | "T" | "true" | "True" | "TRUE" => true,
            "" | "0" | "f" | "F" | "false" | "False" | "FALSE" => false,
            _ => return Err(not_a_truth_value()),
        },
        Some(_) => return Err(not_a_truth_value()),
    };
    if only {
        selection.scope = MacScope::OnlyEncrypted;
    }
    Ok(selection)
}

fn not_a_truth_value() -> MetadataError {
    MetadataError::Field {
        field: "mac_only_encrypted",
        reason: "is neither true nor false",
    }
}

/// Returns the lists of a group, by kind.
fn lists_of(group: &KeyGroup) -> Vec<(&'static str, Node)> {
    let list = |kind| {
        let keys = group.iter().filter(|key| key.id.kind() == kind);
        let keys: Vec<Node> = keys.map(MasterKey::to_node).collect();
        (!keys.is_empty()).then_some((kind, Node::List(keys)))
    };
    KINDS.into_iter().filter_map(list).collect()
}

/// Reads the key groups: top-level lists form the only group, else `key_groups` counts.
fn read_groups(node: &Node) -> Result<Vec<KeyGroup>, MetadataError> {
    let top = read_group(node)?;
    if !top.is_empty() {
        return Ok(vec![top]);
    }
    let Some(groups) = node.get("key_groups") else {
        return Ok(Vec::new());
    };
    let reason = "is not a list";
    let groups = groups.items().ok_or(MetadataError::Field {
        field: "key_groups",
        reason,
    })?;
    groups.into_iter().map(read_group).collect()
}

fn read_group(node: &Node) -> Result<KeyGroup, MetadataError> {
    let mut group = Vec::new();
    for kind in KINDS {
        let Some(list) = node.get(kind) else { continue };
        let items = list.items().ok_or(MetadataError::Field {
            field: kind,
            reason: "is not a list",
        })?;
        for item in items {
            if !matches!(item, Node::Map(_)) {
                return Err(MetadataError::Field {
                    field: kind,
                    reason: "holds something that is not a mapping",
                });
            }
            let key = MasterKey::from_node(kind, item);
            if kind != "age" && super::value::canonical_time(&key.created_at).is_none() {
                return Err(MetadataError::Field {
                    field: kind,
                    reason: "holds a key without a `created_at` time",
                });
            }
            group.push(key);
        }
    }
    Ok(group)
}

/// Returns whether SOPS takes `text` for a version: anything that starts with `1.`, or semantic
/// versioning 2.0 with an optional leading `v`.
fn is_version(text: &str) -> bool {
    if text.starts_with("1.") {
        return true;
    }
    let text = text.strip_prefix('v').unwrap_or(text);
    let (text, build) = text
        .split_once('+')
        .map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, pre) = text
        .split_once('-')
        .map_or((text, None), |(core, pre)| (core, Some(pre)));
    let is_number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
            && part.parse::<u64>().is_ok()
    };
    let is_word = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    core.split('.').count() == 3
        && core.split('.').all(is_number)
        && pre.is_none_or(|pre| {
            pre.split('.')
                .all(|part| is_word(part) && (!is_digits(part) || is_number(part)))
        })
        && build.is_none_or(|build| build.split('.').all(is_word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Metadata, MetadataError> {
        Metadata::from_node(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn a_block_is_kept_as_it_was_read() {
        let json = r#"{"kms":null,"zz":{"q":[1,true,"x"]},"age":[{"recipient":"age1x","enc":"E"}],"lastmodified":"2025-01-02T03:04:05Z","mac":"M","pgp":[{"created_at":"2020-01-02T03:04:05Z","fp":"F"}],"version":"3.7.1"}"#;
        let mut metadata = read(json).unwrap();
        assert_eq!(metadata.age_recipients(), ["age1x"]);
        assert_eq!(metadata.other_kinds(), ["pgp"]);
        assert_eq!(serde_json::to_string(metadata.node()).unwrap(), json);
        metadata.set_mac("N".to_owned(), "2026-01-02T03:04:05Z".to_owned());
        let expected = json.replace("\"M\"", "\"N\"").replace("2025", "2026");
        assert_eq!(serde_json::to_string(metadata.node()).unwrap(), expected);
    }

    #[test]
    fn broken_blocks_are_errors() {
        let base = r#""age":[{"recipient":"r","enc":"e"}],"lastmodified":"2025-01-02T03:04:05Z","version":"3.0.0""#;
        assert!(read(&format!("{{{base}}}")).is_ok());
        assert_eq!(
            read(&format!(
                r#"{{{base},"encrypted_regex":"a","encrypted_suffix":"b"}}"#
            )),
            Err(MetadataError::SeveralSelections)
        );
        assert!(matches!(
            read(&format!(r#"{{{base},"encrypted_regex":"("}}"#)),
            Err(MetadataError::Pattern(_))
        ));
        for broken in [
            base.replace("2025-01-02", "yesterday "),
            base.replace("3.0.0", "three"),
            base.replace("3.0.0", "03.0.0"),
            base.replace("3.0.0", "3.1.1-"),
            base.replace("3.0.0", "v1.0"),
            format!("{base},\"mac_only_encrypted\":\"yes\""),
            format!("{base},\"encrypted_regex\":[\"a\"]"),
            format!("{base},\"shamir_threshold\":\"x\""),
            format!("{base},\"pgp\":[{{\"fp\":\"F\"}}]"),
            base.replace(r#"[{"recipient":"r","enc":"e"}]"#, "[\"x\"]"),
            base.replace(r#"[{"recipient":"r","enc":"e"}]"#, "[]"),
            base.replace(r#"[{"recipient":"r","enc":"e"}]"#, "7"),
        ] {
            assert!(read(&format!("{{{broken}}}")).is_err(), "{broken}");
        }
    }
}

//! `encrypt`, `decrypt`, `set`, `unset`, `rotate`: one file in, one file out.

use std::path::Path;

use crate::keys::{KeyError, keyring::Keyring};
use crate::os::RandomPool;
use crate::secret::SecretBytes;
use crate::sops::cipher::TokenError;
use crate::sops::data_key::DataKey;
use crate::sops::document::Container;
use crate::sops::error::DocumentError;
use crate::sops::master_key::{KeyId, MasterKey};
use crate::sops::metadata::Metadata;
use crate::sops::store::{Format, Indents};
use crate::sops::tree::{self, Item, Node, PathStep, Tree};
use crate::sops::tree_cipher::{self, Stash};
use crate::sops::value::Value;

use super::config::NewFile;
use super::failure::{Failure, code};
use super::files::{self, Loaded};
use super::{Run, harmless};

/// An encrypted file, decrypted.
pub(super) struct Opened {
    /// Its values.
    pub tree: Tree<'static>,
    /// Its metadata.
    pub metadata: Metadata,
    /// Its data key.
    pub key: DataKey,
    /// Its tokens.
    pub stash: Stash,
    /// The keys that were at hand.
    pub keyring: Keyring,
}

/// How a file is decrypted.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    /// The kinds of keys to be tried first.
    pub order: Vec<String>,
    /// Whether the MAC may be wrong.
    pub ignore_mac: bool,
}

/// Decrypts an encrypted text.
///
/// # Errors
/// With the codes for missing keys, a broken MAC, values that cannot be decrypted.
pub(super) fn open(
    run: &mut Run<'_>,
    format: Format,
    bytes: SecretBytes,
    reading: &Reading,
) -> Result<Opened, Failure> {
    let Loaded { mut tree, metadata } = files::load_encrypted(format, bytes)?;
    let keyring = run.keyring(&reading.order);
    let key = unwrap(run, &keyring, &metadata)?;
    let opened = tree_cipher::open_tree(&mut tree, &metadata, &key, reading.ignore_mac);
    let opened = opened.map_err(|error| match &error {
        DocumentError::MacMismatch => Failure::new(
            code::MAC,
            if metadata.mac.is_empty() {
                "MAC mismatch. File has no MAC"
            } else {
                "MAC mismatch. The file's values are not those that its MAC was computed from"
            },
        ),
        DocumentError::Token { key, source } if key == "mac" => {
            Failure::new(code::MAC, format!("Cannot decrypt MAC: {source}"))
        }
        // The cipher's own words are looked for by programs.
        DocumentError::Token {
            source: TokenError::NotAuthentic,
            ..
        } => Failure::new(
            code::NOT_OPENED,
            format!("Error decrypting tree: {error}: cipher: message authentication failed"),
        ),
        error => Failure::new(code::NOT_OPENED, format!("Error decrypting tree: {error}")),
    })?;
    if opened.clear_comments > 0 {
        run.warn(
            "Found possibly unencrypted comment in file. This is to be expected if the file being decrypted was created with an older version of SOPS.",
        );
    }
    Ok(Opened {
        tree,
        metadata,
        key,
        stash: opened.stash,
        keyring,
    })
}

/// Returns the data key of a file.
///
/// # Errors
/// With the code for a data key that cannot be had.
pub(super) fn unwrap(
    run: &mut Run<'_>,
    keyring: &Keyring,
    metadata: &Metadata,
) -> Result<DataKey, Failure> {
    if !run.uses_own_keys {
        let text = "Failed to get the data key required to decrypt the SOPS file: no key service is left without the local one";
        return Err(Failure::new(code::NO_KEY, text));
    }
    let key = keyring
        .unwrap(metadata)
        .map_err(|error| Failure::new(code::NO_KEY, key_failure(&error)))?;
    if run.is_verbose {
        run.warn("Data key recovered successfully");
    }
    Ok(key)
}

/// Says why a data key cannot be had, group by group.
fn key_failure(error: &KeyError) -> String {
    let group = |number: usize, is_open: bool, wanted: &[String], looked_at: &[String]| {
        let state = if is_open { "SUCCESS" } else { "FAILED" };
        let mut text = format!("Group {number}: {state}");
        if is_open {
            return text;
        }
        for name in wanted {
            text.push_str(&format!("\n  {}: FAILED", harmless(name)));
        }
        if !looked_at.is_empty() {
            text.push_str("\n    looked for an identity in:");
        }
        for place in looked_at {
            text.push_str(&format!(
                "\n    - {}",
                harmless(place).replace('\n', "\n      ")
            ));
        }
        text
    };
    let mut text = "Failed to get the data key required to decrypt the SOPS file.\n\n".to_owned();
    match error {
        KeyError::NoIdentity { wanted, looked_at } => {
            text.push_str(&group(0, false, wanted, looked_at));
            text.push_str(
                "\n\nRecovery failed because no master key was able to decrypt the file. In\norder for SOPS to recover the file, at least one key has to be successful,\nbut none were.",
            );
        }
        KeyError::TooFewGroups { needed, groups } => {
            let groups_in_words: Vec<String> = groups
                .iter()
                .enumerate()
                .map(|(number, one)| group(number, one.is_open, &one.wanted, &one.looked_at))
                .collect();
            text.push_str(&groups_in_words.join("\n\n"));
            let open = groups.iter().filter(|group| group.is_open).count();
            text.push_str(&format!(
                "\n\nRecovery failed because the file was encrypted with a Shamir threshold of\n{needed}, but only {open} part(s) were successfully recovered, one for each\nsuccessful key group."
            ));
        }
        other => text.push_str(&other.to_string()),
    }
    text
}

/// Says which keys could not be used, as the reference lists errors.
fn list_of(errors: &[KeyError]) -> String {
    let errors: Vec<String> = errors.iter().map(KeyError::to_string).collect();
    format!("[{}]", errors.join(" "))
}

/// Makes a data key and wraps it for all keys of the metadata.
///
/// # Errors
/// With what stands against it; the code is the caller's.
pub(super) fn new_data_key(
    run: &Run<'_>,
    keyring: &Keyring,
    metadata: &mut Metadata,
    threshold: usize,
) -> Result<DataKey, String> {
    let mut pool = RandomPool::new();
    let key = DataKey::generate(&mut |buffer| pool.fill(buffer));
    rewrap(run, keyring, metadata, &key, threshold)?;
    Ok(key)
}

/// Wraps a data key for all keys of the metadata.
///
/// # Errors
/// Which keys could not be used.
pub(super) fn rewrap(
    run: &Run<'_>,
    keyring: &Keyring,
    metadata: &mut Metadata,
    key: &DataKey,
    threshold: usize,
) -> Result<(), String> {
    if !run.uses_own_keys {
        return Err("[no key services provided, cannot update master keys]".to_owned());
    }
    let mut pool = RandomPool::new();
    let mut groups = metadata.groups.clone();
    let threshold = keyring
        .wrap_groups(key, &mut groups, threshold, &mut |buffer| pool.fill(buffer))
        .map_err(|errors| list_of(&errors))?;
    metadata.set_groups(groups, threshold);
    Ok(())
}

/// Encrypts a tree and returns the file.
///
/// # Errors
/// With the codes for a tree that cannot be encrypted or written.
pub(super) fn seal(
    run: &Run<'_>,
    opened: &mut Opened,
    format: Format,
    indents: Indents,
) -> Result<SecretBytes, Failure> {
    let mut pool = RandomPool::new();
    let now = run.env.now();
    tree_cipher::seal_tree(
        &mut opened.tree,
        &mut opened.metadata,
        &opened.key,
        &opened.stash,
        &now,
        &mut |buffer| pool.fill(buffer),
    )
    .map_err(|error| {
        let text = format!("Error encrypting tree: {error}");
        Failure::new(code::NOT_SEALED, text)
    })?;
    files::emit_encrypted(format, &opened.tree, &opened.metadata, indents)
}

/// Encrypts a plain text.
///
/// # Errors
/// With the codes for an input that cannot be read or is encrypted already, for missing keys, and for
/// what cannot be written in the output's format.
pub(super) fn encrypt(
    run: &mut Run<'_>,
    (input, output): (Format, Format),
    bytes: &SecretBytes,
    new: NewFile,
    indents: Indents,
) -> Result<SecretBytes, Failure> {
    let tree = files::load_plain(input, bytes)?;
    files::check_free(output, &tree)?;
    let mut opened = begin(run, tree, new)
        .map_err(|why| Failure::generic(format!("Could not generate data key: {why}")))?;
    seal(run, &mut opened, output, indents)
}

/// Gives a tree a data key of its own.
///
/// # Errors
/// Which keys could not be used.
pub(super) fn begin(run: &Run<'_>, tree: Tree<'static>, new: NewFile) -> Result<Opened, String> {
    let NewFile {
        mut metadata,
        groups,
        threshold,
    } = new;
    metadata.groups = groups;
    let keyring = run.keyring(&[]);
    let key = new_data_key(run, &keyring, &mut metadata, threshold)?;
    Ok(Opened {
        tree,
        metadata,
        key,
        stash: Stash::default(),
        keyring,
    })
}

/// Returns the plain text of a decrypted file, or of what stands at a path in its first document.
///
/// # Errors
/// With the general code for a path to nothing, with that for a tree that cannot be written.
pub(super) fn plain(
    opened: &Opened,
    path: &[PathStep],
    format: Format,
    indents: Indents,
) -> Result<SecretBytes, Failure> {
    if path.is_empty() {
        return files::emit_plain(format, &opened.tree, indents);
    }
    let first = opened.tree.documents.first().map_or(&[][..], Vec::as_slice);
    let node = tree::get(first, false, path)
        .map_err(|error| Failure::generic(format!("error truncating tree: {error}")))?;
    // Other documents would follow in the reference's output; they were not asked for.
    let only = |items| Tree {
        documents: vec![items],
    };
    match node {
        Node::Map(items) => {
            let items = items.iter().map(copy).collect();
            files::emit_plain(format, &only(items), indents)
        }
        Node::Scalar(Value::Empty(Container::Map)) => {
            files::emit_plain(format, &only(Vec::new()), indents)
        }
        Node::Scalar(Value::Str(text)) => Ok(SecretBytes::copy_of(text.expose())),
        node => format.store().emit_value(node, indents).map_err(|error| {
            Failure::new(code::INEXPRESSIBLE, format!("Error dumping tree: {error}"))
        }),
    }
}

fn copy(item: &Item<'static>) -> Item<'static> {
    match item {
        Item::Comment { text, is_inline } => Item::Comment {
            text: text.clone(),
            is_inline: *is_inline,
        },
        Item::Entry { key, node } => Item::Entry {
            key: key.clone(),
            node: match node {
                Node::List(items) => Node::List(items.iter().map(copy).collect()),
                Node::Map(items) => Node::Map(items.iter().map(copy).collect()),
                Node::Scalar(value) => Node::Scalar(value.clone()),
            },
        },
    }
}

/// Reads the value of `set`: JSON. Whole numbers stay whole, and lists are taken too.
///
/// # Errors
/// With the code for a malformed value.
pub(super) fn value_of(json: &SecretBytes) -> Result<Node<'static>, Failure> {
    let malformed = || Failure::new(code::BAD_SET, "Value for --set is not valid JSON");
    let mut whole = SecretBytes::new(Vec::with_capacity(json.len() + 16));
    whole.expose_mut().extend_from_slice(b"{\"value\":");
    whole.expose_mut().extend_from_slice(json.expose());
    whole.expose_mut().extend_from_slice(b"\n}");
    // Alone it must be a value: what closes the braces early is none.
    serde_json::from_slice::<serde::de::IgnoredAny>(json.expose()).map_err(|_| malformed())?;
    let document = Format::Json
        .store()
        .parse(whole.expose())
        .map_err(|_| malformed())?;
    let tree = Tree::of(&document).into_owned();
    let items = tree.documents.into_iter().flatten();
    let node = items.into_iter().find_map(|item| match item {
        Item::Entry { node, .. } => Some(node),
        Item::Comment { .. } => None,
    });
    node.ok_or_else(malformed)
}

/// What `set` and `unset` do to the first document.
pub(super) enum Change {
    /// Puts a value at a path.
    Set(Vec<PathStep>, Node<'static>),
    /// Takes away what stands at a path.
    Unset(Vec<PathStep>),
}

/// Changes one value of an encrypted file. `None` where nothing is different afterwards and
/// `is_idempotent`.
///
/// # Errors
/// As [`open`] and [`seal`]; with the general code for a path to nothing.
pub(super) fn change(
    run: &mut Run<'_>,
    (input, output): (Format, Format),
    path: &Path,
    reading: &Reading,
    change: Change,
    is_idempotent: bool,
) -> Result<Option<SecretBytes>, Failure> {
    let bytes = files::read(run, Some(path))?;
    let mut opened = open(run, input, bytes, reading)?;
    let Some(first) = opened.tree.documents.first_mut() else {
        return Err(Failure::generic("the file has no document"));
    };
    match change {
        Change::Set(path, value) => {
            let is_changed = tree::set(first, false, &path, value).map_err(|error| {
                // The reference ends with a panic here, whose code is this.
                Failure::new(code::UNREADABLE, format!("cannot set this path: {error}"))
            })?;
            files::check_free(output, &opened.tree)?;
            if !is_changed && is_idempotent {
                return Ok(None);
            }
        }
        Change::Unset(path) => match tree::unset(first, false, &path) {
            Ok(()) => {}
            Err(error) if error.is_absence() && is_idempotent => return Ok(None),
            Err(error) => {
                return Err(Failure::generic(match &error {
                    tree::PathError::NoKey(key) => format!("Key not found: {key}"),
                    tree::PathError::NoItem(index) => format!("Index {index} out of bounds"),
                    tree::PathError::NotAList(index) => format!("Key not found: {index}"),
                    other => other.to_string(),
                }));
            }
        },
    }
    let indents = super::config::indents(run, output)?;
    seal(run, &mut opened, output, indents).map(Some)
}

/// Gives a file a new data key, for its keys and those added, without those removed.
///
/// # Errors
/// As [`open`] and [`seal`].
pub(super) fn rotate(
    run: &mut Run<'_>,
    (input, output): (Format, Format),
    path: &Path,
    reading: &Reading,
    added: Vec<KeyId>,
    removed: &[KeyId],
) -> Result<SecretBytes, Failure> {
    let bytes = files::read(run, Some(path))?;
    run.trusted.extend(added.iter().cloned());
    let mut opened = open(run, input, bytes, reading)?;
    let now = run.env.now();
    let mut groups = opened.metadata.groups.clone();
    for id in added {
        let name = id.to_string();
        if let Some(first) = groups.first_mut()
            && first.iter().all(|key| key.id.to_string() != name)
        {
            first.push(MasterKey::new(id, &now));
        }
    }
    for id in removed {
        let name = id.to_string();
        let before: usize = groups.iter().map(Vec::len).sum();
        for group in &mut groups {
            group.retain(|key| key.id.to_string() != name);
        }
        if before == groups.iter().map(Vec::len).sum::<usize>() {
            run.warn(&format!(
                "{name} is none of the file's keys: nothing to remove"
            ));
        }
    }
    let threshold = opened.metadata.threshold();
    opened.metadata.groups = groups;
    opened.stash = Stash::default();
    opened.key = new_data_key(run, &opened.keyring, &mut opened.metadata, threshold)
        .map_err(|why| Failure::generic(format!("Could not generate data key: {why}")))?;
    let indents = super::config::indents(run, output)?;
    seal(run, &mut opened, output, indents)
}

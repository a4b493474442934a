//! `publish`: a decrypted file into the key-value store of a Vault.
//!
//! Where it goes stands in `destination_rules`. Vault is asked first what it holds: what is equal is not
//! written again. Other destinations are refused by name.

use std::path::{Path, PathBuf};

use crate::keys::vault::Vault;
use crate::os::fs;
use crate::rules::Destination;
use crate::secret::SecretBytes;
use crate::sops::store::{Format, Indents};
use crate::sops::tree::{Item, Node, Tree};

use super::config::{self, Found};
use super::crypt::{self, Reading};
use super::failure::{Failure, code};
use super::files;
use super::flags::Parsed;
use super::groups::confirmed;
use super::{Run, check_services, decryption_order};

/// The address where neither rule nor environment names one.
const DEFAULT_ADDRESS: &str = "https://127.0.0.1:8200";

/// Publishes a file, or all files of a folder.
///
/// # Errors
/// As decrypting; what Vault refuses; a destination this program has no client for.
pub(super) fn publish(run: &mut Run<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let Some(found) = config::find(run)? else {
        return Err(Failure::generic("config file not found"));
    };
    let Some(first) = parsed.args.first() else {
        return Err(Failure::new(code::NO_FILE, "Error: no file specified"));
    };
    let typed = PathBuf::from(first);
    let path = run.absolute(first);
    if !fs::exists(&path) {
        let text = format!("stat {}: no such file or directory", typed.display());
        return Err(Failure::generic(text));
    }
    let is_folder = fs::is_folder(&path);
    let is_recursive = parsed.is_on("recursive");
    if is_folder && !is_recursive {
        return Err(Failure::generic(
            "can't operate on a directory without --recursive flag.",
        ));
    }
    check_services(run, parsed)?;
    let reading = Reading {
        order: decryption_order(parsed)?,
        ignore_mac: false,
    };
    let names = if is_folder {
        fs::names_below(&path).map_err(|error| Failure::generic(error.to_string()))?
    } else {
        vec![String::new()]
    };
    for name in names {
        let file = File {
            typed: if name.is_empty() {
                typed.clone()
            } else {
                typed.join(&name)
            },
            path: if name.is_empty() {
                path.clone()
            } else {
                path.join(&name)
            },
            below: is_recursive.then_some(name),
        };
        publish_file(run, parsed, &found, &file, &reading)?;
    }
    Ok(0)
}

/// A file to be published.
struct File {
    /// The path as it was typed, which rules are asked for.
    typed: PathBuf,
    /// The same, absolute.
    path: PathBuf,
    /// The path below the folder that was named.
    below: Option<String>,
}

fn publish_file(
    run: &mut Run<'_>,
    parsed: &Parsed,
    found: &Found,
    file: &File,
    reading: &Reading,
) -> Result<(), Failure> {
    let rule = found
        .config
        .destination_rule(&file.typed.to_string_lossy())
        .map_err(|error| Failure::generic(format!("error loading config: {error}")))?;
    let (address, path, mount, is_first_version) = match rule.destination {
        Some(Destination::Vault {
            address,
            path,
            mount,
            is_first_version,
        }) => (address, path, mount, is_first_version),
        Some(Destination::Other(name)) => {
            return Err(Failure::generic(format!(
                "publishing to {name} is deliberately absent: stock `sops` does it, and `secrets` writes to Vault only"
            )));
        }
        None => {
            return Err(Failure::generic("no destination configured for this file"));
        }
    };
    let mut name = match &file.below {
        Some(below) if !below.is_empty() => below.clone(),
        _ => file
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    };
    if parsed.is_on("omit-extensions") || rule.omit_extensions {
        let extension = Path::new(&name).extension();
        if let Some(extension) = extension {
            let length = extension.len() + 1;
            name.truncate(name.len() - length);
        }
    }
    let format = files::format_of("", file.path.as_os_str());
    let bytes = files::read(run, Some(&file.path))?;
    let opened = crypt::open(run, format, bytes, reading)?;
    let data = map_of(&opened.tree)?;
    drop(opened);
    let secret = if is_first_version {
        format!("{mount}{path}{name}")
    } else {
        format!("{mount}data/{path}{name}")
    };
    let vault = Vault::of(run.env);
    let address = if address.is_empty() {
        vault.address().unwrap_or(DEFAULT_ADDRESS).to_owned()
    } else {
        address
    };
    if !parsed.is_on("yes") {
        let shown = file.path.display();
        let question = format!("uploading {shown} to {address}/v1/{secret} ? (y/n): ");
        if !confirmed(run, &question)? {
            let text = format!("Publication of {shown} canceled");
            if file.below.is_some() {
                run.print(format!("{text}\n").as_bytes())?;
                return Ok(());
            }
            return Err(Failure::generic(text));
        }
    }
    match vault.read(&address, &secret) {
        Ok(Some(answer)) if !is_first_version && holds(&answer, &data) => return Ok(()),
        Ok(_) => {}
        Err(why) => run.warn(&format!(
            "Cannot check if destination secret already exists in {secret}. New version will be created even if the data has not been changed. ({why})"
        )),
    }
    let body = if is_first_version {
        data
    } else {
        let mut body = SecretBytes::new(Vec::with_capacity(data.len() + 16));
        body.expose_mut().extend_from_slice(b"{\"data\":");
        body.expose_mut().extend_from_slice(data.expose());
        body.expose_mut().push(b'}');
        body
    };
    vault
        .write(&address, &secret, &body)
        .map_err(|why| Failure::generic(format!("writing to Vault failed: {why}")))
}

/// Returns the values of all documents as a JSON object; of a key that stands twice the last one counts.
fn map_of(tree: &Tree<'static>) -> Result<SecretBytes, Failure> {
    let mut items: Vec<&Item<'static>> = Vec::new();
    for item in tree.documents.iter().flatten() {
        if let Item::Entry { key, .. } = item {
            items.retain(|known| !matches!(known, Item::Entry { key: other, .. } if other == key));
            items.push(item);
        }
    }
    let items = items.into_iter().map(|item| match item {
        Item::Entry { key, node } => Item::Entry {
            key: key.clone(),
            node: borrowed(node),
        },
        Item::Comment { text, is_inline } => Item::Comment {
            text: text.clone(),
            is_inline: *is_inline,
        },
    });
    let node = Node::Map(items.collect());
    let text = Format::Json.store().emit_value(&node, Indents::default());
    text.map_err(|error| Failure::generic(error.to_string()))
}

fn borrowed<'n>(node: &'n Node<'static>) -> Node<'n> {
    let items = |items: &'n [Item<'static>]| {
        items
            .iter()
            .map(|item| match item {
                Item::Comment { text, is_inline } => Item::Comment {
                    text: text.clone(),
                    is_inline: *is_inline,
                },
                Item::Entry { key, node } => Item::Entry {
                    key: key.clone(),
                    node: borrowed(node),
                },
            })
            .collect()
    };
    match node {
        Node::List(list) => Node::List(items(list)),
        Node::Map(map) => Node::Map(items(map)),
        Node::Scalar(value) => Node::Scalar(value.borrowed()),
    }
}

/// Returns whether Vault's answer has the same data.
fn holds(answer: &SecretBytes, data: &SecretBytes) -> bool {
    #[derive(serde::Deserialize)]
    struct Answer {
        data: Option<Inner>,
    }
    #[derive(serde::Deserialize)]
    struct Inner {
        data: Option<serde_json::Value>,
    }
    let there = serde_json::from_slice::<Answer>(answer.expose()).ok();
    let there = there.and_then(|answer| answer.data?.data);
    let ours = serde_json::from_slice::<serde_json::Value>(data.expose()).ok();
    there.is_some() && there == ours
}

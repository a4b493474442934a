//! Files as the reference program reads and writes them: the format from the name, the tree, the text.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::Path;

use crate::os::fs::FsError;
use crate::os::rewrite::{self, Seen};
use crate::os::scratch::Scratch;
use crate::secret::{SecretBytes, SecretText};
use crate::sops::document::{Document, Note, SealedDocument};
use crate::sops::error::DocumentError;
use crate::sops::metadata::Metadata;
use crate::sops::store::{Format, Indents};
use crate::sops::tree::{Item, Node, Tree};
use crate::sops::value::Value;

use super::Run;
use super::failure::{Failure, code};

/// Mode of new files with plaintext, and of new encrypted files before the mask.
const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o666;
/// Longest file that is read, in bytes.
const LONGEST: u64 = 2 << 30;

/// An encrypted file, read.
pub(super) struct Loaded {
    /// Its values, tokens being strings.
    pub tree: Tree<'static>,
    /// Its metadata, as the reference writes it anew.
    pub metadata: Metadata,
}

/// Returns the format of a type flag, else of a name.
pub(super) fn format_of(kind: &str, path: &OsStr) -> Format {
    match kind {
        "binary" => return Format::Binary,
        "dotenv" => return Format::Dotenv,
        "ini" => return Format::Ini,
        "json" => return Format::Json,
        "yaml" => return Format::Yaml,
        _ => {}
    }
    let name = path.to_string_lossy();
    let has_end = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    if has_end(&[".yaml", ".yml"]) {
        Format::Yaml
    } else if has_end(&[".json"]) {
        Format::Json
    } else if has_end(&[".env"]) {
        Format::Dotenv
    } else if has_end(&[".ini"]) {
        Format::Ini
    } else {
        Format::Binary
    }
}

/// Reads a file, or standard input where there is no path.
///
/// # Errors
/// With the code for an input that cannot be read.
pub(super) fn read(run: &mut Run<'_>, path: Option<&Path>) -> Result<SecretBytes, Failure> {
    let Some(path) = path else {
        let mut bytes = SecretBytes::default();
        let read = std::io::Read::read_to_end(&mut run.env.stdin, bytes.expose_mut());
        return match read {
            Ok(_) => Ok(bytes),
            Err(error) => Err(Failure::new(
                code::UNREADABLE,
                format!("Error reading from stdin: {error}"),
            )),
        };
    };
    let (bytes, seen) = Seen::read(path, LONGEST).map_err(|error| {
        let path = path.display();
        let text = format!("Error reading file: open {path}: {}", in_words(&error));
        Failure::new(code::UNREADABLE, text)
    })?;
    run.seen.insert(path.to_owned(), seen);
    Ok(bytes)
}

/// Says what the system said, as Go says it.
pub(super) fn in_words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => error.to_string(),
    }
}

/// Reads a plain text into a tree.
///
/// # Errors
/// With the code for an input that is not of its format, or encrypted already.
pub(super) fn load_plain(format: Format, bytes: &SecretBytes) -> Result<Tree<'static>, Failure> {
    let unreadable = |error: &DocumentError| {
        Failure::new(
            code::UNREADABLE,
            format!("Error unmarshalling file: {error}"),
        )
    };
    let document = match format.store().parse(bytes.expose()) {
        Ok(document) => document,
        Err(DocumentError::ReservedKey { .. }) => return Err(already_encrypted()),
        // One with as much as a line break is something that cannot be read.
        Err(_) if format == Format::Yaml && bytes.is_empty() => return Err(no_document()),
        Err(error) => return Err(unreadable(&error)),
    };
    if let Some(line) = refused_line(format, &document) {
        let text = format!("Error unmarshalling file: line {line}: invalid dotenv input line");
        return Err(Failure::new(code::UNREADABLE, text));
    }
    let mut tree = Tree::of(&document).into_owned();
    if format == Format::Ini {
        tree.forget_inline_comments();
    }
    if tree.documents.is_empty() {
        return Err(no_document());
    }
    Ok(tree)
}

fn no_document() -> Failure {
    let text = "File cannot be completely empty, it must contain at least one document";
    Failure::new(code::NO_DOCUMENT, text)
}

/// Returns the number of the first line of an environment file that the reference refuses.
fn refused_line(format: Format, document: &Document<'_>) -> Option<usize> {
    let mut leaves = document.leaves.iter();
    let leaf = leaves
        .find(|leaf| format == Format::Dotenv && matches!(leaf.spelling.note, Note::Word { .. }))?;
    let before = &document.source[..leaf.span.start];
    Some(memchr::memchr_iter(b'\n', before).count() + 1)
}

fn already_encrypted() -> Failure {
    let text = "The file you have provided contains a top-level entry called 'sops', or\n\
        for flat file formats top-level entries starting with 'sops_'. This is\n\
        generally due to the file already being encrypted. SOPS uses a top-level\n\
        entry called 'sops' to store the metadata required to decrypt the file. For\n\
        this reason, SOPS can not encrypt files that already contain such an entry.\n\n\
        If this is an unencrypted file, rename the 'sops' entry.\n\n\
        If this is an encrypted file and you want to edit it, use the editor mode,\n\
        for example: `sops edit my_file.yaml`";
    Failure::new(code::ALREADY_ENCRYPTED, text)
}

/// Refuses a tree that has no room for metadata in the format it goes to.
///
/// # Errors
/// With the code for an input that is encrypted already.
pub(super) fn check_free(format: Format, tree: &Tree<'_>) -> Result<(), Failure> {
    let is_reserved = |item: &Item<'_>| match item {
        Item::Entry { key, .. } if format == Format::Dotenv => key.starts_with(b"sops_"),
        Item::Entry { key, .. } => **key == *b"sops",
        Item::Comment { .. } => false,
    };
    let first = tree.documents.first();
    if first.is_some_and(|items| items.iter().any(is_reserved)) {
        return Err(already_encrypted());
    }
    Ok(())
}

/// Reads an encrypted text.
///
/// # Errors
/// With the general code; `sops metadata not found` where there is none.
pub(super) fn load_encrypted(format: Format, bytes: SecretBytes) -> Result<Loaded, Failure> {
    let mut sealed = parse_encrypted(format, bytes.into_public())
        .map_err(|error| Failure::generic(loading_error(&error)))?;
    sealed.forget_notes();
    let metadata = sealed.metadata.as_stock(true);
    let mut tree = Tree::of_sealed(&sealed).into_owned();
    if format == Format::Ini {
        tree.forget_inline_comments();
    }
    Ok(Loaded { tree, metadata })
}

/// Parses an encrypted text; the binary form is JSON of any shape to the reference.
///
/// # Errors
/// As the stores.
pub(super) fn parse_encrypted(
    format: Format,
    bytes: Vec<u8>,
) -> Result<SealedDocument, DocumentError> {
    match format {
        Format::Yaml if bytes.is_empty() => Err(DocumentError::NotSops),
        Format::Binary => Format::Json.store().parse_sealed(bytes),
        format => format.store().parse_sealed(bytes),
    }
}

/// Says why an encrypted text cannot be loaded.
pub(super) fn loading_error(error: &DocumentError) -> String {
    match error {
        DocumentError::NotSops | DocumentError::Empty => "sops metadata not found".to_owned(),
        error => error.to_string(),
    }
}

/// Returns the encrypted text of a tree.
///
/// # Errors
/// With the code for a tree that the format has no words for.
pub(super) fn emit_encrypted(
    format: Format,
    tree: &Tree<'_>,
    metadata: &Metadata,
    indents: Indents,
) -> Result<SecretBytes, Failure> {
    let text = format
        .store()
        .emit_tree(tree, Some(metadata.node()), indents);
    text.map_err(|error| {
        let why = why_not_emitted(format, tree, &error);
        Failure::new(
            code::INEXPRESSIBLE,
            format!("Could not marshal tree: {why}"),
        )
    })
}

/// Returns the plain text of a tree.
///
/// # Errors
/// With the code for a tree that the format has no words for.
pub(super) fn emit_plain(
    format: Format,
    tree: &Tree<'_>,
    indents: Indents,
) -> Result<SecretBytes, Failure> {
    format.store().emit_tree(tree, None, indents).map_err(|error| {
        let hint = if format == Format::Binary {
            "\n\nThis is likely not an encrypted binary file? If not, use --output-type to select the correct output type."
        } else {
            ""
        };
        Failure::new(
            code::INEXPRESSIBLE,
            format!("Error dumping file: {}{hint}", why_not_emitted(format, tree, &error)),
        )
    })
}

/// Says why a format has no words for a tree; a key with more than one value in the reference's words, which
/// programs look for.
fn why_not_emitted(format: Format, tree: &Tree<'_>, error: &DocumentError) -> String {
    let mut items = tree.documents.iter().flatten();
    let offending = items.find_map(|item| match item {
        Item::Entry { key, node } if format == Format::Dotenv && node.is_container() => Some(key),
        _ => None,
    });
    match offending {
        Some(key) => {
            let key = String::from_utf8_lossy(key);
            format!("cannot use complex value in dotenv file; offending key {key}")
        }
        None => error.to_string(),
    }
}

/// What an output holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// An encrypted file.
    Ciphertext,
    /// Plaintext: a new file is the user's alone.
    Plaintext,
}

/// Says and removes what a killed run left beside a file that a command is going to write: it may hold
/// plaintext, and the command may find that there is nothing to be written.
pub(super) fn clean_up(run: &mut Run<'_>, path: &Path) {
    if rewrite::clean_up(path) {
        let text = "removed 1 staging file that an interrupted run left behind";
        drop(writeln!(run.env.stderr, "{text}"));
    }
}

/// Says and removes what killed runs left of plaintext that was in an editor or given to another program.
pub(super) fn clean_up_scratch(run: &mut Run<'_>) {
    let removed = Scratch::clean_up(run.env);
    if removed > 0 {
        let folders = if removed == 1 { "folder" } else { "folders" };
        let text =
            format!("removed {removed} temporary {folders} that an interrupted run left behind");
        drop(writeln!(run.env.stderr, "{text}"));
    }
}

/// Writes a file that was named.
///
/// # Errors
/// With the code for an output that cannot be written.
pub(super) fn write(
    run: &mut Run<'_>,
    path: &Path,
    content: &SecretBytes,
    holds: Holds,
) -> Result<(), Failure> {
    let mode = match holds {
        Holds::Plaintext => PRIVATE,
        Holds::Ciphertext => PUBLIC & !crate::os::process::umask(),
    };
    let (seen, stderr) = (run.seen.remove(path), &mut run.env.stderr);
    let was_read = seen.is_some();
    let done = rewrite::write(path, content.expose(), mode, seen.as_ref(), &mut |text| {
        drop(writeln!(stderr, "{}", super::harmless(text)));
    });
    done.map_err(|error| {
        let reason = match &error {
            FsError::Changed { path } if was_read => {
                let text = format!(
                    "{} was changed since it was read, so nothing is written: run the command again",
                    path.display()
                );
                return Failure::new(code::UNWRITABLE, text);
            }
            FsError::Io { path, source, .. } => {
                format!("open {}: {}", path.display(), in_words(source))
            }
            other => other.to_string(),
        };
        Failure::new(
            code::UNWRITABLE,
            format!("Could not open output file for writing: {reason}"),
        )
    })
}

/// Returns what a new file begins with in the editor.
pub(super) fn example(format: Format, indents: Indents) -> SecretBytes {
    const WELCOME: &str = "Welcome to SOPS! Edit this file as you please!";
    let text = |text: &'static str| Node::Scalar(Value::Str(SecretText::Borrowed(text.as_bytes())));
    let entry = |key: &'static str, node| Item::Entry {
        key: Cow::Borrowed(key.as_bytes()),
        node,
    };
    let comment = |text: &'static str| Item::Comment {
        text: SecretText::Borrowed(text.as_bytes()),
        is_inline: false,
    };
    let list = |nodes: Vec<Node<'static>>| {
        Node::List(nodes.into_iter().map(|node| entry("", node)).collect())
    };
    let items = match format {
        Format::Binary | Format::Age => return SecretBytes::copy_of(WELCOME.as_bytes()),
        Format::Dotenv => vec![
            comment(" This is an example file."),
            entry("hello", text(WELCOME)),
            entry("example_key", text("example_value")),
            entry("example_multiline", text("foo\nbar\nbaz")),
        ],
        Format::Ini => vec![entry(
            "Welcome!",
            Node::Map(vec![
                comment(" This is an example file."),
                entry("hello", text(WELCOME)),
                entry("example_key", text("example_value")),
            ]),
        )],
        Format::Json | Format::Yaml => vec![
            entry("hello", text(WELCOME)),
            entry("example_key", text("example_value")),
            comment(" Example comment"),
            entry(
                "example_array",
                list(vec![text("example_value1"), text("example_value2")]),
            ),
            entry("example_number", Node::Scalar(Value::Float(1234.56789))),
            entry(
                "example_booleans",
                list(vec![
                    Node::Scalar(Value::Bool(true)),
                    Node::Scalar(Value::Bool(false)),
                ]),
            ),
        ],
    };
    let tree = Tree {
        documents: vec![items],
    };
    let text = format.store().emit_tree(&tree, None, indents);
    text.unwrap_or_default()
}

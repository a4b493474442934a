//! What must hold for any bytes that somebody else wrote, parser by parser. `fuzz_targets/parsers.rs` has a
//! coverage-guided fuzzer try them; `tests/it/hostile.rs` plays the corpus, and changes of it, in each run of
//! the tests.

use std::collections::HashMap;
use std::sync::OnceLock;

use secret_files::keys::age::{self, Identity};
use secret_files::keys::vault;
use secret_files::os::journal::Listing;
use secret_files::project::edit::{self, Row};
use secret_files::project::key_drift::{self, Base};
use secret_files::project::keys::Reading;
use secret_files::project::manifest::{self, Kind, Located, Manifest};
use secret_files::project::mask::Mask;
use secret_files::project::merge::{self, Take};
use secret_files::project::record::{Digester, Records};
use secret_files::project::{diff, guard, lines, makefile, pem};
use secret_files::rules::{Config, Rules};
use secret_files::secret::SecretBytes;
use secret_files::sops::cipher::{Cipher, NoteText, Token};
use secret_files::sops::data_key::DataKey;
use secret_files::sops::metadata::Metadata;
use secret_files::sops::pattern::Pattern;
use secret_files::sops::selector::Selection;
use secret_files::sops::store::{Format, Indents, conflict_marker};
use secret_files::sops::tree::{self, Tree};
use secret_files::sops::value::{self, Value};
use secret_files::sops::{self, Layout, Manner, Reuse, shamir};

/// A parser and what must hold for it.
pub(crate) struct Target {
    /// Its name: that of its folder in the corpus.
    pub(crate) name: &'static str,
    /// Tries it with an input; panics where something does not hold.
    pub(crate) run: fn(&[u8]),
}

/// All of them.
pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "age",
        run: |input| store(Format::Age, input),
    },
    Target {
        name: "binary",
        run: |input| store(Format::Binary, input),
    },
    Target {
        name: "dotenv",
        run: |input| store(Format::Dotenv, input),
    },
    Target {
        name: "ini",
        run: |input| store(Format::Ini, input),
    },
    Target {
        name: "json",
        run: |input| store(Format::Json, input),
    },
    Target {
        name: "yaml",
        run: |input| store(Format::Yaml, input),
    },
    Target {
        name: "sealed",
        run: sealed,
    },
    Target {
        name: "tokens",
        run: tokens,
    },
    Target {
        name: "values",
        run: values,
    },
    Target {
        name: "shares",
        run: shares,
    },
    Target {
        name: "rules",
        run: rules,
    },
    Target {
        name: "keys",
        run: keys,
    },
    Target {
        name: "vault",
        run: vault_answer,
    },
    Target {
        name: "manifest",
        run: manifest,
    },
    Target {
        name: "makefile",
        run: makefile,
    },
    Target {
        name: "records",
        run: records,
    },
    Target {
        name: "lines",
        run: |input| plaintexts(Reading::Env, input),
    },
    Target {
        name: "trees",
        run: trees,
    },
    Target {
        name: "journal",
        run: journal,
    },
    Target {
        name: "pem",
        run: |input| drop(pem::blocks(input)),
    },
];

fn data_key() -> DataKey {
    DataKey::from_slice(&[42; 32]).expect("32 bytes")
}

/// A plaintext is refused, or comes back to the byte; reading it as an encrypted file ends with an error
/// or a document.
fn store(format: Format, input: &[u8]) {
    let store = format.store();
    // A file with conflict markers is refused before it is read, and when it is opened.
    let parsed = store.parse(input).ok();
    if let Some(document) = parsed.filter(|_| conflict_marker(input).is_none()) {
        drop(store.emit_tree(&Tree::of(&document), None, Indents::default()));
        let selection = Selection::default();
        let mut metadata = Metadata::new(store.has_selection().then_some(&selection));
        metadata.set_age_keys(&[("age1x".to_owned(), "wrapped\n".to_owned())]);
        let mut counter = 0_u64;
        let mut fill = |buffer: &mut [u8]| {
            counter += 1;
            let bytes = counter.to_le_bytes();
            buffer
                .iter_mut()
                .zip(bytes.iter().cycle())
                .for_each(|(byte, value)| *byte = *value);
        };
        let manner = Manner {
            reuse: Reuse::Nothing,
            layout: Layout::Note,
            now: "2026-01-02T03:04:05Z",
        };
        if let Ok(sealed) = sops::seal(
            format,
            &document,
            &data_key(),
            &metadata,
            &manner,
            &mut fill,
        ) {
            let opened = sops::parse_sealed(sealed.bytes)
                .and_then(|(found, sealed)| sops::open(found, &sealed, &data_key()));
            assert_eq!(
                opened.expect("what was sealed opens").plaintext.expose(),
                input
            );
        }
    }
    if let Ok(sealed) = store.parse_sealed(input.to_vec()) {
        drop(sops::open(format, &sealed, &data_key()));
        let metadata = sealed.metadata.node();
        drop(store.emit_tree(
            &Tree::of_sealed(&sealed),
            Some(metadata),
            Indents::default(),
        ));
        drop(sops::audit::clear_leaves(
            &sealed,
            &sealed.metadata.selection,
        ));
    }
}

/// An encrypted file of which nothing is known.
fn sealed(input: &[u8]) {
    if let Ok((format, sealed)) = sops::parse_sealed(input.to_vec()) {
        let metadata = &sealed.metadata;
        drop((
            metadata.key_ids(),
            metadata.needed_groups(),
            metadata.as_stock(true),
            metadata.version(),
        ));
        for (recipient, _) in metadata.age_keys() {
            drop(age::canonical(recipient));
        }
        drop(sops::open(format, &sealed, &data_key()));
    }
}

/// A token, a note, and what a data key makes of them. Nothing random opens.
fn tokens(input: &[u8]) {
    let (end, note) = NoteText::after(input);
    let cipher = Cipher::new(&data_key());
    if let Some(NoteText::Sealed(text)) = note {
        assert!(cipher.open_note(text, b"A:").is_none());
    }
    let _ = Token::is_likely(input);
    for text in [input, &input[..end]] {
        if let Ok(token) = Token::parse(text) {
            assert!(token.plaintext_len() <= text.len());
            assert!(cipher.open(&token, b"A:").is_err());
        }
    }
}

/// The plaintext of a value with its type, a path as `--set` takes it, a pattern, a time.
fn values(input: &[u8]) {
    for tag in [
        "str", "int", "float", "bool", "bytes", "comment", "time", "",
    ] {
        if let Ok(value) = Value::from_plaintext(tag, SecretBytes::copy_of(input)) {
            drop((value.flat_text(), value.plaintext(), value.is_same(&value)));
        }
    }
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    drop(tree::PathStep::parse(text));
    drop(value::canonical_time(text));
    drop(value::without_fraction(text));
    drop(value::next_change(text, "2026-01-02T03:04:05Z"));
    let (pattern, subject) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(pattern) = Pattern::new(pattern) {
        let _ = pattern.is_match(subject.as_bytes());
    }
}

/// Shares of a data key, one a line length given by the first byte.
fn shares(input: &[u8]) {
    let Some((&length, rest)) = input.split_first() else {
        return;
    };
    let shares: Vec<_> = rest
        .chunks(usize::from(length).max(1))
        .map(SecretBytes::copy_of)
        .collect();
    drop(shamir::combine(&shares));
    let secret = SecretBytes::copy_of(&rest[..rest.len().min(64)]);
    if secret.is_empty() {
        return;
    }
    let (count, threshold) = (usize::from(length % 7), usize::from(length / 7 % 7));
    let mut fill = |buffer: &mut [u8]| buffer.fill(length);
    if let Ok(shares) = shamir::split(&secret, count, threshold, &mut fill) {
        let back = shamir::combine(&shares[..threshold]).expect("enough of them");
        assert_eq!(back.expose(), secret.expose());
    }
}

/// `.sops.yaml`, as stock reads it and as the native commands do.
fn rules(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(config) = Config::parse(text) {
        drop(config.indents());
        for path in ["shared/.env.enc", "a.yaml", ""] {
            drop(
                config
                    .creation_rule(path)
                    .map(|rule| rule.map(|rule| (rule.all_keys().len(), rule.needed_groups()))),
            );
            drop(config.destination_rule(path).map(drop));
        }
    }
    if let Ok(rules) = Rules::parse(text) {
        drop(rules.unknown_keys());
        let _ = rules.find("shared/.env.enc");
    }
}

/// Returns an identity made for this run.
fn identity() -> &'static Identity {
    static MADE: OnceLock<Identity> = OnceLock::new();
    MADE.get_or_init(|| {
        let made = age::generate(false, "2026-01-02T03:04:05Z");
        let text = String::from_utf8_lossy(made.file.expose()).into_owned();
        let line = text.lines().find(|line| line.starts_with("AGE-"));
        line.and_then(Identity::parse)
            .expect("it was made just now")
    })
}

/// A recipient, and an identity.
fn keys(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    drop(age::parse_recipient(text).map(drop));
    drop((age::canonical(text), age::shortened(text)));
    let armored = text.starts_with("-----BEGIN AGE");
    if armored {
        drop(identity().unwrap(text, None));
    }
    if !armored {
        drop(Identity::parse(text).and_then(|identity| identity.recipient()));
    }
}

fn vault_answer(input: &[u8]) {
    let answer = SecretBytes::copy_of(input);
    for name in ["ciphertext", "plaintext"] {
        drop(vault::data_field(Some(&answer), name));
    }
}

/// A manifest: its rows, its patterns, and rows that are added, renamed and removed. What is added stands
/// there then.
fn manifest(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let Ok(mut read) = Manifest::parse(text, "m.toml") else {
        return;
    };
    let candidates = ["a/envs/.env.prod.enc", "x.enc", "shared/.env.enc"]
        .map(str::to_owned)
        .to_vec();
    for family in &read.families {
        for file in &candidates {
            if let Ok(Some(entry)) = manifest::member_of(family, file) {
                assert!(
                    !entry.server_path.split('/').any(|part| part == ".."),
                    "{}",
                    entry.server_path
                );
            }
        }
    }
    let found = vec![candidates; read.families.len()];
    drop(read.expand(&found, "m.toml"));
    for entry in &read.entries {
        for path in [&entry.repository_path, &entry.server_path] {
            assert!(
                !path.starts_with('/')
                    && !path.split('/').any(|part| part == ".." || part == ".git"),
                "{path}"
            );
        }
    }
    drop(manifest::conflicts(&read.entries));
    drop(manifest::select(
        &read.entries,
        &["*.enc".to_owned()],
        |_| Located::default(),
    ));
    let row = Row {
        repository_path: "fuzz-new/x.enc".to_owned(),
        server_path: "fuzz-new/x".to_owned(),
        fields: Vec::new(),
    };
    let names = |text: &str| {
        let read = Manifest::parse(text, "m.toml").ok()?;
        Some(
            read.entries
                .iter()
                .map(|entry| entry.repository_path.clone())
                .collect::<Vec<_>>(),
        )
    };
    let before = names(text).expect("it was read");
    let added = edit::add_rows(text, Kind::Secret, std::slice::from_ref(&row));
    // The caller reads it again and refuses what did not work; nothing else may have changed.
    if let Some(mut after) = names(&added) {
        let new = after.iter().position(|name| *name == row.repository_path);
        after.remove(new.expect("the row stands there"));
        assert_eq!(after, before);
        let moved = edit::move_row(
            &added,
            Kind::Secret,
            "fuzz-new/x.enc",
            "fuzz-new/y.enc",
            Some("fuzz-new/y"),
        );
        let removed =
            moved.and_then(|moved| edit::remove_row(&moved, Kind::Secret, "fuzz-new/y.enc"));
        assert_eq!(
            removed.and_then(|removed| names(&removed)).as_ref(),
            Some(&before)
        );
    }
}

fn makefile(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let read = makefile::read(&text, &["SECRET_FILES"], &["INFRA_FILES"]);
    drop((read.input_type, read.unread));
}

/// A journal is read as far as it can be, and says the same again.
fn journal(input: &[u8]) {
    let mut listing = Listing::parse(input);
    listing.is_damaged = false;
    assert_eq!(Listing::parse(&listing.text()), listing);
    // What is cut off says less, never something else.
    let cut = Listing::parse(&input[..input.len() / 2]);
    assert!(listing.steps.starts_with(&cut.steps));
    assert!(!cut.is_done || listing.is_done);
}

/// The file of records, which only its own user can write, and a digest of any key.
fn records(input: &[u8]) {
    let digester = Digester::new(SecretBytes::copy_of(&[7; 32]));
    if let Some(records) = Records::parse(input, &digester) {
        drop(records.to_bytes(&digester));
    }
    drop((digester.content(input), digester.keys(input, Reading::Env)));
}

fn trees(input: &[u8]) {
    for format in [Format::Yaml, Format::Json, Format::Ini] {
        plaintexts(Reading::of(format), input);
    }
}

/// Two plaintexts, divided by a line of `%%`: compared, merged, guarded, masked.
fn plaintexts(reading: Reading, input: &[u8]) {
    let at = memchr(input);
    let (one, other) = at.map_or((input, input), |at| (&input[..at], &input[at + 4..]));
    drop(lines::multi_line_values(one));
    let found = lines::located(one);
    assert!(found.iter().all(|(range, _)| range.end <= one.len()));
    drop((reading.trouble(one), reading.as_stock(one)));
    drop(guard::check_source(one, Format::Dotenv, reading, Layout::Exact).map(drop));
    let differences = diff::between(one, other, reading);
    assert!(one != other || differences.is_empty());
    let drift = key_drift::compare(one, other, &Base::Unknown, reading);
    assert!(one != other || drift.is_empty());
    let takes: HashMap<_, _> = drift
        .iter()
        .map(|drift| (drift.key.clone(), Take::Other))
        .collect();
    if let Some(merged) = merge::merge(one, other, &takes, reading) {
        let left = key_drift::compare(merged.expose(), other, &Base::Unknown, reading);
        // Comments stay as they are on the side that gives the layout.
        let mut left = left.iter().filter(|drift| !drift.key.starts_with('('));
        assert_eq!(left.next(), None);
    }
    if let Some(mask) = Mask::from_plaintexts([(one, reading)]) {
        let text = String::from_utf8_lossy(other);
        assert!(mask.apply(&text).len() <= text.len().saturating_mul(8) + 64);
    }
}

fn memchr(input: &[u8]) -> Option<usize> {
    input.windows(4).position(|four| four == b"\n%%\n")
}

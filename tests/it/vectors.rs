//! The published vectors and the example of the format description.

use std::fs;

use secret_files::sops::data_key::DataKey;
use secret_files::sops::metadata::Metadata;
use secret_files::sops::store::Format;
use secret_files::sops::{self, Layout, Manner, Reuse};

use super::support::{self, TestProject};

fn data_key() -> DataKey {
    let hex = fs::read_to_string(support::fixtures().join("sops/data-key.hex")).unwrap();
    let hex = hex.trim();
    let bytes: Vec<u8> = (0..hex.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
        .collect();
    DataKey::from_slice(&bytes).unwrap()
}

/// The vectors: name and extension.
fn vectors() -> Vec<(String, String)> {
    let index = fs::read_to_string(support::fixtures().join("sops/index.tsv")).unwrap();
    let rows = index.lines().skip(1).map(|row| {
        let mut fields = row.split('\t').map(str::to_owned);
        (fields.next().unwrap(), fields.next().unwrap())
    });
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows.len(), 127);
    rows
}

fn pair((name, extension): &(String, String)) -> (Vec<u8>, Vec<u8>) {
    let read = |kind: &str| {
        let file = format!("sops/{name}.{kind}.{extension}");
        fs::read(support::fixtures().join(file)).unwrap()
    };
    (read("plain"), read("enc"))
}

fn format_of(extension: &str) -> Format {
    match extension {
        "env" => Format::Dotenv,
        "ini" => Format::Ini,
        "json" => Format::Json,
        _ => Format::Yaml,
    }
}

#[test]
fn every_vector_opens_to_its_source() {
    for vector in vectors() {
        let name = format!("{}.{}", vector.0, vector.1);
        let (plain, encrypted) = pair(&vector);
        let (format, sealed) = sops::parse_sealed(encrypted).unwrap();
        assert_eq!(format, format_of(&vector.1), "{name}");
        let opened = sops::open(format, &sealed, &data_key()).unwrap();
        assert_eq!(opened.plaintext.expose(), plain, "{name}");
        assert!(opened.warnings.is_empty(), "{name}");
        assert!(
            sops::matches(format, &sealed, &data_key(), &plain, None).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn every_source_is_encrypted_again_with_all_tokens_kept() {
    for vector in vectors() {
        let name = format!("{}.{}", vector.0, vector.1);
        let (plain, encrypted) = pair(&vector);
        let (format, sealed) = sops::parse_sealed(encrypted.clone()).unwrap();
        let opened = sops::open(format, &sealed, &data_key()).unwrap();
        let document = format.store().parse(&plain).unwrap();
        let mut fill = |buffer: &mut [u8]| buffer.fill(7);
        let reuse = Reuse::Leaves(&sealed, &opened);
        let now = "2026-01-02T03:04:05Z";
        let again = sops::seal(
            format,
            &document,
            &data_key(),
            &sealed.metadata,
            &Manner {
                reuse,
                layout: Layout::Note,
                now,
            },
            &mut fill,
        )
        .unwrap();
        // Every token with what stands behind it, but for that of the MAC.
        let tokens = |bytes: &[u8]| -> Vec<String> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let (_, file) = sops::parse_sealed(bytes.to_vec()).unwrap();
            let text = text.replace(&file.metadata.mac, "");
            let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`');
            let tokens = text.match_indices("ENC[").map(|(at, _)| {
                let rest = &text[at..];
                rest[..rest.find(ends).unwrap_or(rest.len())].to_owned()
            });
            tokens.collect()
        };
        // There the note is spelled with the anchor, which stays in the text here.
        let is_spelled_otherwise = name == "yaml-tag_anchor.yaml";
        let tokens = |bytes: &[u8]| -> Vec<String> {
            let tokens = tokens(bytes).into_iter();
            tokens
                .map(|token| match token.split_once(']') {
                    Some((token, _)) if is_spelled_otherwise => token.to_owned(),
                    _ => token,
                })
                .collect()
        };
        assert_eq!(tokens(&again.bytes), tokens(&encrypted), "{name}");
    }
}

#[test]
fn a_new_file_of_every_source_opens_to_it() {
    for vector in vectors() {
        let name = format!("{}.{}", vector.0, vector.1);
        let (plain, encrypted) = pair(&vector);
        let (format, sealed) = sops::parse_sealed(encrypted).unwrap();
        let mut metadata = Metadata::new(Some(&sealed.metadata.selection));
        metadata.set_age_keys(&[("age1x".to_owned(), "wrapped\n".to_owned())]);
        let document = format.store().parse(&plain).unwrap();
        let mut counter = 0_u8;
        let mut fill = |buffer: &mut [u8]| {
            counter = counter.wrapping_add(1);
            buffer.fill(counter);
        };
        let now = "2026-01-02T03:04:05Z";
        let bytes = sops::seal(
            format,
            &document,
            &data_key(),
            &metadata,
            &Manner {
                reuse: Reuse::Nothing,
                layout: Layout::Note,
                now,
            },
            &mut fill,
        )
        .unwrap();
        let (format, sealed) = sops::parse_sealed(bytes.bytes).unwrap();
        assert_eq!(
            sops::open(format, &sealed, &data_key())
                .unwrap()
                .plaintext
                .expose(),
            plain,
            "{name}"
        );
    }
}

#[test]
fn vectors_open_with_the_identity_through_the_command() {
    let files = ["a.env", "a.ini", "a.json", "a.yaml"].map(|name| (format!("{name}.enc"), name));
    let files = files
        .each_ref()
        .map(|(stored, name)| (stored.as_str(), *name));
    let mut project = TestProject::with_files(&files, "");
    project.set(
        "SOPS_AGE_KEY_FILE",
        support::fixtures().join("sops/throwaway-identity.txt"),
    );
    for vector in vectors() {
        let (plain, encrypted) = pair(&vector);
        let name = format!("a.{}", vector.1);
        project.write_repo(&format!("{name}.enc"), encrypted);
        let _ = fs::remove_file(project.server_file(&name));
        project.ok(&["decrypt", &name]);
        assert_eq!(project.read_server(&name), plain, "{vector:?}");
    }
}

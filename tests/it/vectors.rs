//! The published dotenv vectors and the example of the format description.

use std::fs;

use secret_files::sops::data_key::DataKey;
use secret_files::sops::metadata::Metadata;
use secret_files::sops::store::Format;
use secret_files::sops::{self, Reuse};

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

fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(support::fixtures().join("sops"))
        .unwrap()
        .filter_map(|entry| {
            entry
                .unwrap()
                .file_name()
                .to_str()?
                .strip_suffix(".enc.env")
                .map(str::to_owned)
        })
        .collect();
    names.sort();
    assert_eq!(names.len(), 18);
    names
}

fn pair(name: &str) -> (Vec<u8>, Vec<u8>) {
    let read =
        |kind: &str| fs::read(support::fixtures().join(format!("sops/{name}.{kind}.env"))).unwrap();
    (read("plain"), read("enc"))
}

#[test]
fn every_vector_opens_to_its_source() {
    for name in names() {
        let (plain, encrypted) = pair(&name);
        let (format, sealed) = sops::parse_sealed(encrypted).unwrap();
        assert_eq!(format, Format::Dotenv, "{name}");
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
    for name in names() {
        let (plain, encrypted) = pair(&name);
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
            &reuse,
            now,
            &mut fill,
        )
        .unwrap();
        let without_mac = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            text.lines()
                .filter(|line| {
                    !line.starts_with("sops_mac=") && !line.starts_with("sops_lastmodified=")
                })
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(without_mac(&again.bytes), without_mac(&encrypted), "{name}");
    }
}

#[test]
fn a_new_file_of_every_source_opens_to_it() {
    for name in names() {
        let (plain, encrypted) = pair(&name);
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
            &Reuse::Nothing,
            now,
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
    let mut project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.set(
        "SOPS_AGE_KEY_FILE",
        support::fixtures().join("sops/throwaway-identity.txt"),
    );
    for name in names() {
        let (plain, encrypted) = pair(&name);
        project.write_repo("a.env.enc", encrypted);
        let _ = fs::remove_file(project.server_file("a.env"));
        project.ok(&["decrypt"]);
        assert_eq!(project.read_server("a.env"), plain, "{name}");
    }
}

//! Laws that hold for any input.

use std::fs;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use secret_files::sops::data_key::DataKey;
use secret_files::sops::error::DocumentError;
use secret_files::sops::metadata::Metadata;
use secret_files::sops::selector::Selection;
use secret_files::sops::store::Format;
use secret_files::sops::{self, Layout, Manner, Reuse};

use super::support::TestProject;

const NOW: &str = "2026-01-02T03:04:05Z";

fn key() -> DataKey {
    DataKey::from_slice(&[42; 32]).unwrap()
}

/// Encrypts in memory; `None` where the format cannot carry the source.
fn seal(format: Format, source: &[u8]) -> Option<Vec<u8>> {
    let store = format.store();
    let document = store.parse(source).ok()?;
    let selection = Selection::default();
    let mut metadata = Metadata::new(store.has_selection().then_some(&selection));
    metadata.set_age_keys(&[("age1x".to_owned(), "wrapped\n".to_owned())]);
    let mut counter = 0_u64;
    let mut fill = |buffer: &mut [u8]| {
        counter += 1;
        buffer
            .iter_mut()
            .zip(counter.to_le_bytes().iter().cycle())
            .for_each(|(byte, value)| *byte = *value);
    };
    let sealed = sops::seal(
        format,
        &document,
        &key(),
        &metadata,
        &Manner {
            reuse: Reuse::Nothing,
            layout: Layout::Note,
            now: NOW,
        },
        &mut fill,
    );
    match sealed {
        Ok(sealed) => Some(sealed.bytes),
        // An alias in clear to a value that is not.
        Err(DocumentError::Line { .. }) => None,
        Err(error) => {
            assert_eq!(error.to_string(), "", "nothing else is refused");
            None
        }
    }
}

fn open(sealed: Vec<u8>) -> Result<Vec<u8>, String> {
    let (format, document) = sops::parse_sealed(sealed).map_err(|error| error.to_string())?;
    let opened = sops::open(format, &document, &key()).map_err(|error| error.to_string())?;
    Ok(opened.plaintext.expose().to_vec())
}

/// How many inputs each property is tried with.
fn cases() -> u32 {
    std::env::var("SECRETS_PROPERTY_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(600)
}

/// Text made of pieces that matter to dotenv.
fn dotenv_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("A=".to_owned()),
        Just("export B=".to_owned()),
        Just("=".to_owned()),
        Just("#".to_owned()),
        Just("\n".to_owned()),
        Just("\n\n".to_owned()),
        Just("\\n".to_owned()),
        Just("\\".to_owned()),
        Just("\r\n".to_owned()),
        Just("\"".to_owned()),
        Just("'".to_owned()),
        Just(" ".to_owned()),
        Just("x_unencrypted=".to_owned()),
        Just("ENC[AES256_GCM,data:x]".to_owned()),
        Just("\u{feff}".to_owned()),
        "[a-z]{0,6}",
        "\\PC{0,4}",
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, rng_seed: RngSeed::Fixed(20_260_131), ..ProptestConfig::default() })]

    #[test]
    fn dotenv_comes_back_or_is_refused(source in dotenv_like()) {
        if let Some(sealed) = seal(Format::Dotenv, &source) {
            prop_assert_eq!(open(sealed), Ok(source));
        }
    }

    #[test]
    fn any_bytes_come_back_or_are_refused(source in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Some(sealed) = seal(Format::Dotenv, &source) {
            prop_assert_eq!(open(sealed), Ok(source.clone()));
        }
        prop_assert_eq!(open(seal(Format::Binary, &source).unwrap()), Ok(source));
    }

    #[test]
    fn parsers_of_encrypted_files_never_panic(source in prop::collection::vec(any::<u8>(), 0..300), dotenv in dotenv_like()) {
        let _ = sops::parse_sealed(source);
        let mut with_metadata = dotenv.clone();
        with_metadata.extend_from_slice(b"\nsops_mac=x\n");
        let _ = sops::parse_sealed(with_metadata);
        let _ = sops::parse_sealed(dotenv);
    }

    #[test]
    fn a_changed_byte_of_an_encrypted_file_is_noticed_or_changes_nothing(at in any::<prop::sample::Index>(), flip in 1_u8..=255) {
        let source = b"# note\nA=one\nB=two\nplain_unencrypted=three\n".to_vec();
        let mut sealed = seal(Format::Dotenv, &source).unwrap();
        let at = at.index(sealed.len());
        sealed[at] ^= flip;
        if let Ok(opened) = open(sealed.clone()) {
            // Names of keys, comments and most metadata are not covered by the MAC in this format;
            // the values are, and their order.
            let values = |text: &[u8]| -> Vec<Vec<u8>> {
                text.split(|&byte| byte == b'\n')
                    .filter(|line| !line.starts_with(b"#") && line.contains(&b'='))
                    .map(|line| line.splitn(2, |&byte| byte == b'=').nth(1).unwrap().to_vec())
                    .collect()
            };
            prop_assert_eq!(values(&opened), values(&source), "{}", String::from_utf8_lossy(&sealed));
        }
    }
}

/// Returns the byte range of a part of the first token of a line.
fn part(text: &str, line: &str, mark: &str) -> std::ops::Range<usize> {
    let line_start = text.find(line).unwrap();
    let start = line_start + text[line_start..].find(mark).unwrap() + mark.len();
    let end = start + text[start..].find([',', ']']).unwrap();
    start..end
}

#[test]
fn a_flipped_byte_anywhere_in_a_token_is_an_error() {
    let sealed =
        String::from_utf8(seal(Format::Dotenv, b"# note\nA=one and more\nB=two\n").unwrap())
            .unwrap();
    let mut checked = 0;
    for line in ["#ENC", "A=", "B=", "sops_mac="] {
        for mark in ["data:", "iv:", "tag:"] {
            for at in part(&sealed, line, mark) {
                for other in [b'A', b'b', b'/', b'!'] {
                    let mut bytes = sealed.clone().into_bytes();
                    if bytes[at] == other {
                        continue;
                    }
                    bytes[at] = other;
                    assert!(open(bytes).is_err(), "{line}{mark} at {at}");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 1000);
}

#[test]
fn a_flipped_byte_in_the_wrapped_key_is_an_error() {
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "A=1\n");
    project.ok(&["encrypt"]);
    fs::remove_file(project.server_file("a.env")).unwrap();
    let text = project.read_repo("a.env.enc");
    let start = text.find("\\nYWdl").unwrap() + 2;
    let end = text.find("\\n-----END").unwrap();
    for at in start..end {
        let mut bytes = text.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        project.write_repo("a.env.enc", bytes);
        assert_eq!(project.run(&["decrypt"]).code, 2, "at {at}");
        assert!(!project.server_file("a.env").exists());
    }
}

#[test]
fn a_large_binary_is_the_same_through_both_paths() {
    for length in [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, (5 << 20) + 12345] {
        let source: Vec<u8> = (0..length)
            .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let sealed = seal(Format::Binary, &source).unwrap();
        let (format, document) = sops::parse_sealed(sealed).unwrap();
        assert_eq!(
            sops::open(format, &document, &key())
                .unwrap()
                .plaintext
                .expose(),
            source
        );
        assert!(sops::matches(format, &document, &key(), &source, None).unwrap());
        let mut other = source.clone();
        other[length as usize / 2] ^= 1;
        assert!(!sops::matches(format, &document, &key(), &other, None).unwrap());
        assert!(!sops::matches(format, &document, &key(), &other[1..], None).unwrap());
    }
}

#[test]
fn planning_again_after_applying_yields_no_steps() {
    let project = TestProject::infrastructure();
    for round in 0..3 {
        project.ok(&["encrypt"]);
        assert!(
            project
                .ok(&["encrypt", "-n"])
                .stderr
                .contains("11 unchanged")
        );
        project.write_server("shared/.env", format!("R={round}\n"));
        project.ok(&["decrypt", "--force"]);
        assert!(
            project
                .ok(&["decrypt", "-n"])
                .stderr
                .contains("11 unchanged")
        );
    }
}

#[test]
fn a_comment_in_the_place_of_a_value_is_an_error() {
    let sealed = String::from_utf8(seal(Format::Dotenv, b"# note\n=empty key\n").unwrap()).unwrap();
    assert!(open(sealed.replacen("#ENC", "=ENC", 1).into_bytes()).is_err());
    assert!(open(sealed.replacen("\n=ENC", "\n#ENC", 1).into_bytes()).is_err());
}

/// Text made of pieces that matter to YAML, JSON and INI.
fn tree_like() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&str; 64] = [
        "a: ",
        "b:\n",
        "- ",
        "  ",
        "    ",
        "\n",
        "\n\n",
        "\r\n",
        "# c\n",
        " # c",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "&x ",
        "*x",
        "<<: ",
        "!!int ",
        "!t ",
        "!alias-x ",
        "|\n",
        "|2-\n",
        ">+\n",
        "'",
        "\"",
        "''",
        "\\n",
        "\\u00e9",
        "\\ud800",
        "? ",
        ": ",
        "---\n",
        "...\n",
        "%YAML 1.1\n",
        "~",
        "null",
        "true",
        "1.50",
        "0x1F",
        "2024-01-02",
        "\u{feff}",
        "é",
        "😀",
        "\t",
        "{\"a\": ",
        "\"x\"",
        "\"sops\": {",
        "sops:\n",
        "  mac: x\n",
        "[s]\n",
        "[sops]\n",
        "k = v\n",
        "k: v\n",
        "; c\n",
        "\"\"\"",
        "`",
        "\\\n",
        "=",
        "ENC[AES256_GCM,data:AA==,iv:AA==,tag:AA==,type:str]",
        "~h1",
        "-----BEGIN AGE ENCRYPTED FILE-----\n",
        "age-encryption.org/v1\n",
        "\0",
    ];
    let piece = (0..PIECES.len()).prop_map(|index| PIECES[index]);
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
}

/// Both parsers of every store end with a document or an error, and what can be sealed comes back.
#[test]
fn parsers_are_total_and_sealing_is_exact() {
    let config = ProptestConfig {
        cases: cases(),
        rng_seed: RngSeed::Fixed(20_261_130),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(source in tree_like())| {
        for format in Format::ALL {
            let _ = format.store().parse_sealed(source.clone());
            if format == Format::Age {
                continue;
            }
            let Some(sealed) = seal(format, &source) else { continue };
            let document = format.store().parse_sealed(sealed).unwrap();
            let opened = sops::open(format, &document, &key()).unwrap();
            prop_assert_eq!(opened.plaintext.expose(), &source[..], "{:?}", format);
        }
        let _ = sops::parse_sealed(source);
    });
}

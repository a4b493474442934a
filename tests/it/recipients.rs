//! Recipients and selection options of existing files change only on purpose.

use std::ffi::OsStr;

use super::support::stock;
use super::support::{LAPTOP_KEY, SERVER_KEY, TestProject, key_file, recipient};

fn project() -> TestProject {
    let project = TestProject::with_files(
        &[("a.env.enc", "a.env"), ("b.enc", "b")],
        &format!(
            "[recipients]\nserver = \"{}\"\nlaptop = \"{}\"\n",
            recipient(SERVER_KEY),
            recipient(LAPTOP_KEY)
        ),
    );
    project.write_server("a.env", "A=canary-Vd81-database\nDB_X=2\n# c\n");
    project.write_server("b", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    project
}

fn token_lines(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| line.contains("ENC[") && !line.starts_with("sops_"))
        .collect()
}

fn data_token(text: &str) -> &str {
    text.lines().find(|line| line.contains("\"data\"")).unwrap()
}

#[test]
fn an_added_recipient_is_wrapped_in_only_on_purpose() {
    let mut project = project();
    project.write_rules(&[recipient(SERVER_KEY), recipient(LAPTOP_KEY)]);
    let before = project.snapshot();
    let output = project.ok(&["encrypt"]);
    assert!(
        output
            .stderr
            .contains("its recipients differ from its rule: + laptop (age1"),
        "{output:#?}"
    );
    assert_eq!(
        project.snapshot(),
        before,
        "an unchanged file is a warning and is not touched"
    );

    project.write_server("a.env", "A=canary-Jr59-rotated\nDB_X=2\n# c\n");
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 3);
    assert!(output.stderr.contains("--update-recipients"), "{output:#?}");
    project.write_server("a.env", "A=canary-Vd81-database\nDB_X=2\n# c\n");

    let (env, bin) = (project.read_repo("a.env.enc"), project.read_repo("b.enc"));
    project.ok(&["encrypt", "--update-recipients"]);
    assert_eq!(
        token_lines(&project.read_repo("a.env.enc")),
        token_lines(&env),
        "the data key stays"
    );
    assert_eq!(data_token(&project.read_repo("b.enc")), data_token(&bin));
    for key in [SERVER_KEY, LAPTOP_KEY] {
        project.set("SOPS_AGE_KEY_FILE", key_file(key));
        assert_eq!(project.ok(&["diff"]).stdout, "");
        if stock::available("sops", "an_added_recipient_is_wrapped_in_only_on_purpose") {
            stock::decrypt(&project.repo(), &key_file(key), "dotenv", "a.env.enc").unwrap();
            stock::decrypt(&project.repo(), &key_file(key), "binary", "b.enc").unwrap();
        }
    }
    assert!(
        project
            .ok(&["encrypt"])
            .stderr
            .ends_with("2 entries: 2 unchanged\n")
    );
}

#[test]
fn a_removed_recipient_means_a_new_data_key() {
    let mut project = project();
    project.write_rules(&[recipient(LAPTOP_KEY)]);
    let keys = std::fs::read_to_string(key_file(SERVER_KEY)).unwrap()
        + &std::fs::read_to_string(key_file(LAPTOP_KEY)).unwrap();
    project.vars.remove(OsStr::new("SOPS_AGE_KEY_FILE"));
    project.set("SOPS_AGE_KEY", keys);
    let (env, bin) = (project.read_repo("a.env.enc"), project.read_repo("b.enc"));
    let output = project.ok(&["encrypt"]);
    assert!(
        output.stderr.contains("+ laptop (age1") && output.stderr.contains("- server (age1"),
        "{output:#?}"
    );
    project.ok(&["encrypt", "--update-recipients"]);
    let now = project.read_repo("a.env.enc");
    assert!(
        token_lines(&now)
            .iter()
            .all(|line| !token_lines(&env).contains(line)),
        "every value has a new token"
    );
    assert_ne!(data_token(&project.read_repo("b.enc")), data_token(&bin));
    project.vars.remove(OsStr::new("SOPS_AGE_KEY"));
    project.set("SOPS_AGE_KEY_FILE", key_file(SERVER_KEY));
    assert_eq!(project.run(&["diff"]).code, 2);
    project.set("SOPS_AGE_KEY_FILE", key_file(LAPTOP_KEY));
    assert_eq!(project.ok(&["diff"]).stdout, "");
}

#[test]
fn a_pushed_selection_rule_does_not_turn_a_capture_into_a_leak() {
    let project = project();
    let rule = format!(
        "creation_rules:\n- age: {}\n  unencrypted_regex: ^A$\n",
        recipient(SERVER_KEY)
    );
    project.write_repo(".sops.yaml", rule);
    project.write_server("a.env", "A=canary-Jr59-rotated\nDB_X=2\n# c\n");
    let output = project.run(&["encrypt", "a.env"]);
    assert_eq!(output.code, 3);
    assert!(
        output.stderr.contains("its options differ from its rule"),
        "{output:#?}"
    );
    assert!(!project.read_repo("a.env.enc").contains("canary"));
    project.ok(&["encrypt", "--update-recipients", "a.env"]);
    assert!(
        project
            .read_repo("a.env.enc")
            .contains("A=canary-Jr59-rotated\nDB_X=ENC[")
    );
    assert_eq!(project.ok(&["diff", "a.env"]).stdout, "");
    if stock::available(
        "sops",
        "a_pushed_selection_rule_does_not_turn_a_capture_into_a_leak",
    ) {
        stock::decrypt(
            &project.repo(),
            &key_file(SERVER_KEY),
            "dotenv",
            "a.env.enc",
        )
        .unwrap();
    }
}

#[test]
fn every_rule_must_name_the_break_glass_recipients() {
    let project = project();
    project.write_manifest(
        &[("a.env.enc", "a.env")],
        &format!(
            "[recipients]\nvault = {{ key = \"{}\", break_glass = true }}\n",
            recipient(LAPTOP_KEY)
        ),
    );
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 3);
    assert!(output.stderr.contains("does not name vault"), "{output:#?}");
    project.write_rules(&[recipient(SERVER_KEY), recipient(LAPTOP_KEY)]);
    project.ok(&["encrypt", "--update-recipients"]);
}

//! Entries whose keys are more than age recipients: PGP, Vault, clouds, several groups.

use std::fs;
use std::process::Command;

use super::support::sandbox::{Ended, Gnupg, Sandbox, Which};
use super::support::vault::{self, Vault};
use super::support::{LAPTOP_KEY, SERVER_KEY, key_file, recipient, stock};

/// Returns a repository with one entry in a sandbox, its root beside it.
fn project(rule: &str) -> Sandbox {
    let mut sandbox = Sandbox::new(if stock::available("sops", "groups") {
        Which::Stock
    } else {
        Which::Ours
    });
    let state = sandbox.path("../state");
    sandbox.set("SECRETS_STATE_DIR", state);
    fs::create_dir(sandbox.path("../srv")).unwrap();
    let root = sandbox.path("../srv");
    sandbox.write(
        "secret-files.toml",
        format!(
            "version = 1\n[defaults]\nroot = \"{}\"\n[files]\n\"app.yaml.enc\" = \"app.yaml\"\n",
            root.display()
        ),
    );
    sandbox.write(".sops.yaml", format!("creation_rules:\n{rule}"));
    sandbox.write("../srv/app.yaml", "user: one\npassword: first\n");
    sandbox
}

fn secrets(sandbox: &Sandbox, args: &[&str]) -> Ended {
    let output = Command::new(env!("CARGO_BIN_EXE_secrets"))
        .args(args)
        .current_dir(sandbox.path(""))
        .env_clear()
        .envs(&sandbox.vars)
        .output()
        .unwrap();
    Ended {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn stock_plain(sandbox: &Sandbox) -> String {
    let args = [
        "decrypt",
        "--input-type",
        "yaml",
        "--output-type",
        "yaml",
        "app.yaml.enc",
    ];
    sandbox.sops(&args).ok().text()
}

/// Returns the lines of one text that the other has not.
fn new_lines<'t>(before: &str, after: &'t str) -> Vec<&'t str> {
    let before: Vec<&str> = before.lines().collect();
    let lines = after.lines();
    lines.filter(|line| !before.contains(line)).collect()
}

#[test]
fn an_entry_with_pgp_keys_goes_both_ways() {
    if !stock::available("gpg", "an_entry_with_pgp_keys_goes_both_ways") {
        return;
    }
    let gpg = Gnupg::new();
    let (one, two) = (&gpg.fingerprints[0], &gpg.fingerprints[1]);
    let mut project = project(&format!("  - pgp: {one}\n"));
    project.set("GNUPGHOME", gpg.home());
    project
        .vars
        .remove(std::ffi::OsStr::new("SOPS_AGE_KEY_FILE"));
    secrets(&project, &["encrypt"]).ok();
    assert_eq!(stock_plain(&project), project.read("../srv/app.yaml"));
    let before = project.read("app.yaml.enc");
    // A changed value is that line, time and MAC.
    project.write("../srv/app.yaml", "user: one\npassword: second\n");
    secrets(&project, &["encrypt"]).ok();
    let after = project.read("app.yaml.enc");
    assert_eq!(new_lines(&before, &after).len(), 3);
    // Backups need no age identity either.
    project.write("../srv/app.yaml", "user: one\npassword: lost\n");
    secrets(&project, &["decrypt", "--force", "-y"]).ok();
    secrets(&project, &["undo", "-y"]).ok();
    assert!(project.read("../srv/app.yaml").contains("lost"));
    secrets(&project, &["decrypt", "--force", "-y"]).ok();
    // Another key is added to the rule: the wrapped one stays, and so does the data key.
    let server = recipient(SERVER_KEY);
    project.write(
        ".sops.yaml",
        format!("creation_rules:\n  - pgp: [{one}, {two}]\n    age: {server}\n"),
    );
    let told = secrets(&project, &["check"]).fails(1);
    assert!(
        told.text().contains(&format!("{two} (pgp)")),
        "{}",
        told.text()
    );
    let listed = secrets(&project, &["list"]).ok();
    assert!(listed.text().contains(one.as_str()), "{}", listed.text());
    secrets(&project, &["encrypt", "--update-recipients"]).ok();
    let both = project.read("app.yaml.enc");
    let message = |text: &str| {
        let at = text.find("-----BEGIN PGP MESSAGE-----").unwrap();
        text[at..at + 200].to_owned()
    };
    assert_eq!(message(&after), message(&both));
    assert!(both.contains(two) && both.contains(&server));
    assert_eq!(stock_plain(&project), project.read("../srv/app.yaml"));
    secrets(&project, &["check"]).ok();
    // One is taken out: the data key is another one.
    project.write(".sops.yaml", format!("creation_rules:\n  - pgp: {two}\n"));
    secrets(&project, &["encrypt", "--update-recipients"]).ok();
    let last = project.read("app.yaml.enc");
    assert!(!last.contains(one) && !last.contains(&server));
    assert_eq!(stock_plain(&project), project.read("../srv/app.yaml"));
}

#[test]
fn an_entry_with_groups_needs_as_many_as_its_rule_says() {
    let [server, laptop, third] = [SERVER_KEY, LAPTOP_KEY, "throwaway-third.txt"].map(recipient);
    let rule = |threshold: usize| {
        format!(
            "creation_rules:\n  - shamir_threshold: {threshold}\n    key_groups:\n      - age: [{server}]\n      - age: [{laptop}]\n      - age: [{third}]\n"
        )
    };
    let mut project = project("  - {}\n");
    project.write(".sops.yaml", rule(2));
    let keys = |project: &mut Sandbox, names: &[&str]| {
        let texts: Vec<String> = names
            .iter()
            .map(|name| fs::read_to_string(key_file(name)).unwrap())
            .collect();
        project.write("../keys.txt", texts.join("\n"));
        let path = project.path("../keys.txt");
        project.set("SOPS_AGE_KEY_FILE", path);
    };
    // Nothing is written that could not be opened here.
    keys(&mut project, &[SERVER_KEY]);
    let refused = secrets(&project, &["encrypt"]);
    assert_ne!(refused.code, Some(0));
    assert!(!project.path("app.yaml.enc").exists());
    keys(&mut project, &[SERVER_KEY, "throwaway-third.txt"]);
    secrets(&project, &["encrypt"]).ok();
    assert_eq!(stock_plain(&project), project.read("../srv/app.yaml"));
    let before = project.read("app.yaml.enc");
    project.write("../srv/app.yaml", "user: two\npassword: first\n");
    secrets(&project, &["encrypt"]).ok();
    assert_eq!(new_lines(&before, &project.read("app.yaml.enc")).len(), 3);
    fs::remove_file(project.path("../srv/app.yaml")).unwrap();
    keys(&mut project, &[LAPTOP_KEY]);
    let failed = secrets(&project, &["decrypt"]).fails(2);
    for words in [
        "3 key groups, 2 of which are needed, and 1 could",
        "1: opened",
        "2: not opened",
    ] {
        assert!(failed.stderr.contains(words), "{}", failed.stderr);
    }
    keys(&mut project, &[LAPTOP_KEY, SERVER_KEY]);
    secrets(&project, &["decrypt"]).ok();
    assert_eq!(
        project.read("../srv/app.yaml"),
        "user: two\npassword: first\n"
    );
    // Another threshold is a change of who can read it.
    project.write(".sops.yaml", rule(3));
    let told = secrets(&project, &["check"]).fails(1);
    assert!(
        told.text().contains("2 key groups needed, by the rule 3"),
        "{}",
        told.text()
    );
    keys(
        &mut project,
        &[LAPTOP_KEY, SERVER_KEY, "throwaway-third.txt"],
    );
    secrets(&project, &["encrypt", "--update-recipients"]).ok();
    secrets(&project, &["check"]).ok();
    assert!(project.read("app.yaml.enc").contains("shamir_threshold: 3"));
    assert_eq!(stock_plain(&project), project.read("../srv/app.yaml"));
}

#[test]
fn an_entry_with_a_vault_key_asks_a_named_server_only() {
    let vault = Vault::start();
    let mut project = project(&format!(
        "  - hc_vault_transit_uri: {}/v1/transit/keys/main\n",
        vault.address
    ));
    project.set("VAULT_TOKEN", vault::TOKEN);
    let refused = secrets(&project, &["encrypt"]).fails(2);
    assert!(
        refused.stderr.contains("Allowlist does not allow"),
        "{}",
        refused.stderr
    );
    assert!(vault.seen().is_empty());
    project.set("VAULT_ADDR", &vault.address);
    secrets(&project, &["encrypt"]).ok();
    assert_eq!(stock_plain(&project), project.read("../srv/app.yaml"));
    fs::remove_file(project.path("../srv/app.yaml")).unwrap();
    secrets(&project, &["decrypt"]).ok();
    project.write("../srv/app.yaml", "user: one\npassword: second\n");
    secrets(&project, &["encrypt"]).ok();
    assert_eq!(stock_plain(&project), project.read("../srv/app.yaml"));
}

#[test]
fn keys_of_a_cloud_are_kept_and_removed() {
    const ARN: &str = "arn:aws:kms:eu-west-1:123456789012:key/throwaway";
    let server = recipient(SERVER_KEY);
    let project = project(&format!("  - age: {server}\n"));
    secrets(&project, &["encrypt"]).ok();
    // As stock would have left it, the wrapped key opaque.
    let kms = format!(
        "    kms:\n        - arn: {ARN}\n          aws_profile: \"\"\n          created_at: \"2026-01-02T03:04:05Z\"\n          enc: b3BhcXVl\n"
    );
    let text = project.read("app.yaml.enc");
    let at = text.find("    lastmodified:").unwrap();
    project.write(
        "app.yaml.enc",
        format!("{}{kms}{}", &text[..at], &text[at..]),
    );
    project.write(
        ".sops.yaml",
        format!("creation_rules:\n  - age: {server}\n    kms: {ARN}\n"),
    );
    secrets(&project, &["check"]).ok();
    secrets(&project, &["trust", "app.yaml"]).ok();
    let listed = secrets(&project, &["list"]).ok();
    assert!(listed.text().contains(ARN), "{}", listed.text());
    project.write("../srv/app.yaml", "user: one\npassword: second\n");
    secrets(&project, &["encrypt"]).ok();
    assert!(project.read("app.yaml.enc").contains(&kms));
    assert_eq!(stock_plain(&project), project.read("../srv/app.yaml"));
    // A data key that would have to be wrapped for it anew is stock's business.
    let other = format!("creation_rules:\n  - age: {server}\n    kms: {ARN}2\n");
    project.write(".sops.yaml", other);
    let before = project.read("app.yaml.enc");
    let refused = secrets(&project, &["encrypt", "--update-recipients"]).fails(2);
    for words in ["`kms`", "sops updatekeys"] {
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    assert_eq!(project.read("app.yaml.enc"), before);
    project.write(
        ".sops.yaml",
        format!("creation_rules:\n  - age: {server}\n"),
    );
    secrets(&project, &["encrypt", "--update-recipients"]).ok();
    assert!(!project.read("app.yaml.enc").contains("kms"));
}

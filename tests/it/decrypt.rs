//! `decrypt`: refusals, damage, keys, what is placed and how.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::support::stock;
use super::support::{LAPTOP_KEY, SERVER_KEY, TestProject, has_staging_files, key_file, recipient};

/// A project whose two entries are encrypted and not on the server.
fn encrypted() -> TestProject {
    let project =
        TestProject::with_files(&[("a.env.enc", "a.env"), ("b.bin.enc", "dir/b.bin")], "");
    project.write_server("a.env", "# c\nA=canary-Vd81-database\nB=two\n\nC=3\n");
    project.write_server("dir/b.bin", b"\x00\x01canary-Ku36-sqlrole\xff");
    project.ok(&["encrypt"]);
    fs::remove_dir_all(project.root()).unwrap();
    fs::create_dir(project.root()).unwrap();
    project
}

/// Damages `a.env.enc` and checks that nothing is placed; returns what is said.
fn damaged(change: impl Fn(&str) -> String) -> String {
    let project = encrypted();
    let text = project.read_repo("a.env.enc");
    let broken = change(&text);
    assert_ne!(text, broken);
    project.write_repo("a.env.enc", &broken);
    let output = project.run(&["decrypt"]);
    assert_eq!(output.code, 2, "{output:#?}");
    assert!(output.stderr.contains("error: a.env.enc: "), "{output:#?}");
    assert!(output.stderr.contains("nothing was written"), "{output:#?}");
    assert_eq!(fs::read_dir(project.root()).unwrap().count(), 0);
    let output = project.run(&["decrypt", "-k"]);
    assert_eq!(output.code, 2);
    assert!(project.server_file("dir/b.bin").exists(), "{output:#?}");
    assert!(!project.server_file("a.env").exists());
    output.stderr
}

fn line_of(text: &str, start: &str) -> String {
    text.lines()
        .find(|line| line.starts_with(start))
        .unwrap()
        .to_owned()
}

#[test]
fn a_tampered_leaf_is_named_with_file_and_key() {
    let stderr = damaged(|text| {
        let line = line_of(text, "B=");
        let at = "B=ENC[AES256_GCM,data:".len();
        let other = if line.as_bytes()[at] == b'A' {
            "B"
        } else {
            "A"
        };
        text.replace(&line, &format!("{}{other}{}", &line[..at], &line[at + 1..]))
    });
    assert!(stderr.contains("a.env.enc: `B`: altered"), "{stderr}");
}

#[test]
fn lines_that_were_moved_removed_or_copied_are_noticed() {
    let swapped = damaged(|text| {
        let (b, c) = (line_of(text, "B="), line_of(text, "C="));
        text.replace(&b, "@").replace(&c, &b).replace('@', &c)
    });
    assert!(swapped.contains("MAC mismatch"), "{swapped}");
    let removed = damaged(|text| text.replace(&format!("{}\n", line_of(text, "B=")), ""));
    assert!(removed.contains("MAC mismatch"), "{removed}");
    let renamed = damaged(|text| text.replace("\nB=ENC", "\nX=ENC"));
    assert!(renamed.contains("`X`: altered"), "{renamed}");
    let added = damaged(|text| format!("NEW=plain\n{text}"));
    assert!(added.contains("`NEW` is not encrypted"), "{added}");
    let comment = damaged(|text| text.replacen("data:", "data:AAAA", 1));
    assert!(comment.contains("`comment`"), "{comment}");
}

#[test]
fn broken_files_are_errors() {
    assert!(damaged(|_| String::new()).contains("the file is empty"));
    assert!(damaged(|_| "A=1\nB=2\n".to_owned()).contains("not a SOPS file"));
    assert!(
        damaged(|text| format!("<<<<<<< HEAD\n{text}")).contains("line 1: merge conflict marker")
    );
    assert!(damaged(|text| text[..text.len() - 40].to_owned()).contains("a line without `=`"));
    assert!(damaged(|text| text[..text.len() - 21].to_owned()).contains("`version`"));
    assert!(damaged(|text| text.replace("sops_mac=", "sops_mac_=")).contains("MAC mismatch"));
    assert!(
        damaged(|text| text.replace("sops_lastmodified=2026", "sops_lastmodified=2027"))
            .contains("`mac`: altered")
    );
    assert!(damaged(|_| "a: 1\nsops:\n  mac: x\n".to_owned()).contains("`lastmodified`"));
    assert!(
        damaged(|_| "{\"a\": 1, \"sops\": {\"mac\": \"x\"}}".to_owned()).contains("`lastmodified`")
    );
    assert!(damaged(|_| "{\"data\": \"ENC[".to_owned()).contains("not valid JSON"));
    let wrapped = damaged(|text| text.replace("\\nYWdl", "\\nYWdm"));
    assert!(wrapped.contains("damaged"), "{wrapped}");
}

#[test]
fn a_missing_encrypted_file_is_an_error() {
    let project = encrypted();
    fs::remove_file(project.repo_file("a.env.enc")).unwrap();
    let output = project.run(&["decrypt"]);
    assert_eq!(output.code, 3);
    assert!(
        output
            .stderr
            .contains("a.env.enc: its encrypted file was in the repository"),
        "{output:#?}"
    );
    fs::remove_dir_all(project.path("state")).unwrap();
    let output = project.run(&["decrypt"]);
    assert_eq!(output.code, 3);
    assert!(
        output.stderr.contains("the encrypted file does not exist"),
        "{output:#?}"
    );
    assert!(!project.server_file("dir").exists());
}

#[test]
fn without_the_right_key_every_place_looked_at_is_listed() {
    let mut project = encrypted();
    project.write_manifest(
        &[("a.env.enc", "a.env")],
        &format!("[recipients]\nserver = \"{}\"\n", recipient(SERVER_KEY)),
    );
    project.set("SOPS_AGE_KEY_FILE", key_file(LAPTOP_KEY));
    let output = project.run(&["decrypt"]);
    assert_eq!(output.code, 2);
    for expected in [
        "encrypted for: server (age1",
        "SOPS_AGE_KEY: not set",
        "throwaway-laptop.txt: holds age1",
        "keys.txt: does not exist",
        "-i FILE",
    ] {
        assert!(output.stderr.contains(expected), "{expected}: {output:#?}");
    }
    project
        .vars
        .remove(std::ffi::OsStr::new("SOPS_AGE_KEY_FILE"));
    assert_eq!(project.run(&["decrypt"]).code, 2);
    assert_eq!(fs::read_dir(project.root()).unwrap().count(), 0);
}

#[test]
fn identities_are_found_in_every_source() {
    let secret = fs::read_to_string(key_file(SERVER_KEY)).unwrap();
    let secret = secret.lines().last().unwrap();
    let laptop = fs::read_to_string(key_file(LAPTOP_KEY)).unwrap();
    let cases: Vec<(&str, String)> = vec![
        ("SOPS_AGE_KEY", format!("{laptop} {secret}")),
        (
            "SOPS_AGE_KEY_CMD",
            format!("cat '{}'", key_file(SERVER_KEY).display()),
        ),
        (
            "SOPS_AGE_KEY_CMD",
            format!(
                "sh -c 'test \"$SOPS_AGE_RECIPIENT\" = {} && cat {}'",
                recipient(SERVER_KEY),
                key_file(SERVER_KEY).display()
            ),
        ),
    ];
    for (name, value) in cases {
        let mut project = encrypted();
        project
            .vars
            .remove(std::ffi::OsStr::new("SOPS_AGE_KEY_FILE"));
        project.set("PATH", std::env::var_os("PATH").unwrap());
        assert_eq!(project.run(&["decrypt"]).code, 2);
        project.set(name, &value);
        let output = project.run(&["decrypt"]);
        assert_eq!(output.code, 0, "{name}: {output:#?}");
    }
    let mut project = encrypted();
    project
        .vars
        .remove(std::ffi::OsStr::new("SOPS_AGE_KEY_FILE"));
    fs::create_dir_all(project.path("home/.config/sops/age")).unwrap();
    let odd = format!("# comment\n\nnot an identity\nAGE-PLUGIN-YUBIKEY-1ABC\n{secret}\r\n");
    fs::write(project.path("home/.config/sops/age/keys.txt"), odd).unwrap();
    project.ok(&["decrypt"]);

    let mut project = encrypted();
    project
        .vars
        .remove(std::ffi::OsStr::new("SOPS_AGE_KEY_FILE"));
    let key = key_file(SERVER_KEY);
    project.ok(&["decrypt", "-i", key.to_str().unwrap()]);
    // Where `-i` is given, only that is used.
    project.set("SOPS_AGE_KEY_FILE", &key);
    let laptop = key_file(LAPTOP_KEY);
    assert_eq!(
        project.run(&["diff", "-i", laptop.to_str().unwrap()]).code,
        2
    );
}

#[test]
fn the_identity_of_the_manifest_is_relative_to_it() {
    let mut project = encrypted();
    project
        .vars
        .remove(std::ffi::OsStr::new("SOPS_AGE_KEY_FILE"));
    fs::copy(key_file(SERVER_KEY), project.repo_file("id.txt")).unwrap();
    let text = project
        .read_repo("secret-files.toml")
        .replace("[defaults]\n", "[defaults]\nidentity = \"id.txt\"\n");
    project.write_repo("secret-files.toml", text);
    project.ok(&["decrypt"]);
}

#[test]
fn force_keeps_a_backup_that_stock_opens() {
    let project = encrypted();
    project.write_server("a.env", "A=canary-Jr59-rotated\n");
    assert_eq!(project.run(&["decrypt"]).code, 3);
    assert!(
        !project.server_file("dir/b.bin").exists(),
        "one refused entry leaves all alone"
    );
    let output = project.ok(&["decrypt", "--force"]);
    assert!(
        output
            .stderr
            .contains("open it with: sops decrypt --input-type binary"),
        "{output:#?}"
    );
    assert!(project.read_server("a.env").starts_with(b"# c\nA="));
    let backup = fs::read_dir(project.path("state/backups"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    assert_eq!(fs::metadata(&backup).unwrap().mode() & 0o777, 0o600);
    assert_eq!(
        fs::metadata(project.path("state")).unwrap().mode() & 0o777,
        0o700
    );
    assert!(
        output.stderr.contains(backup.to_str().unwrap()),
        "{output:#?}"
    );
    if stock::available("sops", "force_keeps_a_backup_that_stock_opens") {
        let output = stock::sops(
            &project.repo(),
            &key_file(SERVER_KEY),
            &["decrypt", backup.to_str().unwrap()],
        );
        assert_eq!(output.stdout, b"A=canary-Jr59-rotated\n", "{output:?}");
    }
    assert!(!has_staging_files(&project.snapshot()));
}

#[test]
fn missing_only_leaves_what_exists() {
    let project = encrypted();
    project.write_server("a.env", "A=other\n");
    let output = project.ok(&["decrypt", "--missing-only"]);
    assert!(
        output.stderr.contains("1 created, 1 left out"),
        "{output:#?}"
    );
    assert_eq!(project.read_server("a.env"), b"A=other\n");
    assert!(project.server_file("dir/b.bin").exists());
}

#[test]
fn declared_modes_are_set_and_mended() {
    let project = encrypted();
    project.write_manifest(
        &[
            ("a.env.enc", "{ path = \"a.env\", mode = \"0640\" }"),
            ("b.bin.enc", "dir/b.bin"),
        ],
        "",
    );
    project.ok(&["decrypt"]);
    let mode = |name: &str| fs::metadata(project.server_file(name)).unwrap().mode() & 0o7777;
    assert_eq!(
        (mode("a.env"), mode("dir/b.bin"), mode("dir")),
        (0o640, 0o600, 0o755)
    );
    fs::set_permissions(
        project.server_file("a.env"),
        fs::Permissions::from_mode(0o666),
    )
    .unwrap();
    fs::set_permissions(
        project.server_file("dir/b.bin"),
        fs::Permissions::from_mode(0o604),
    )
    .unwrap();
    let diff = project.run(&["diff"]);
    assert_eq!(diff.code, 1);
    assert!(
        diff.stdout.contains("  ~ mode is 0666, should be 0640\n")
            && diff
                .stdout
                .contains("  ~ mode is 0604, was 0600 at the last sync\n"),
        "{diff:#?}"
    );
    let inode = fs::metadata(project.server_file("a.env")).unwrap().ino();
    let output = project.ok(&["decrypt"]);
    assert!(
        output.stderr.contains("1 mended, 1 unchanged"),
        "{output:#?}"
    );
    assert_eq!((mode("a.env"), mode("dir/b.bin")), (0o640, 0o604));
    assert_eq!(
        fs::metadata(project.server_file("a.env")).unwrap().ino(),
        inode
    );
    // A replaced file whose mode is not declared keeps it.
    project.write_server("dir/b.bin", "x");
    fs::set_permissions(
        project.server_file("dir/b.bin"),
        fs::Permissions::from_mode(0o604),
    )
    .unwrap();
    project.ok(&["decrypt", "--force"]);
    assert_eq!(mode("dir/b.bin"), 0o604);
}

#[test]
fn a_dry_run_says_what_would_happen_and_writes_nothing() {
    let project = encrypted();
    let before = project.snapshot();
    let output = project.ok(&["decrypt", "--dry-run"]);
    assert!(output.stderr.contains("would create"), "{output:#?}");
    assert_eq!(project.snapshot(), before);
    project.write_server("a.env", "A=1\n");
    assert_eq!(project.run(&["decrypt", "--dry-run"]).code, 3);
    fs::remove_dir_all(project.root()).unwrap();
    assert_eq!(project.run(&["decrypt", "--dry-run"]).code, 2);
    project.ok(&["decrypt", "--dry-run", "--create-root"]);
    assert!(!project.root().exists());
}

#[test]
fn an_empty_file_in_the_repository_is_restored() {
    if !stock::available("sops", "an_empty_file_in_the_repository_is_restored") {
        return;
    }
    let project = encrypted();
    project.write_repo("empty", "");
    let output = stock::sops(
        &project.repo(),
        &key_file(SERVER_KEY),
        &[
            "encrypt",
            "--age",
            &recipient(SERVER_KEY),
            "--filename-override",
            "b.bin.enc",
            "--output",
            "b.bin.enc",
            "empty",
        ],
    );
    assert!(output.status.success(), "{output:?}");
    project.ok(&["decrypt", "b.bin"]);
    assert_eq!(project.read_server("dir/b.bin"), b"");
}

#[test]
fn json_reports_name_entries_and_never_values() {
    let project = encrypted();
    project.write_server("a.env", "A=other\n");
    let output = project.run(&["decrypt", "--json"]);
    assert_eq!(output.code, 3);
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(report["schema_version"], 1);
    assert_eq!(report["applied"], false);
    assert_eq!(report["problems"][0]["code"], "server-ahead");
    assert_eq!(report["entries"][0]["action"], "refuse");
}

#[test]
fn one_cause_is_told_once_with_all_its_entries() {
    let mut project = TestProject::infrastructure();
    project.ok(&["encrypt"]);
    project.set("SOPS_AGE_KEY_FILE", key_file(LAPTOP_KEY));
    let output = project.run(&["decrypt"]);
    assert_eq!(output.code, 2);
    assert!(
        output
            .stderr
            .starts_with("error: 11 entries: no identity opens it\n  envs/billing/.env.dev.enc\n"),
        "{output:#?}"
    );
    assert_eq!(output.stderr.matches("encrypted for:").count(), 1);
    assert!(
        output
            .stderr
            .ends_with("11 entries: 11 failed; nothing was written\n"),
        "{output:#?}"
    );
    let output = project.run(&["decrypt", "-i", "/nowhere/key.txt"]);
    assert_eq!(
        (
            output.code,
            output.stderr.matches("there is no such file").count()
        ),
        (2, 1)
    );
}

#[test]
fn create_root_makes_no_root_for_a_run_that_fails() {
    let mut project = encrypted();
    fs::remove_dir(project.root()).unwrap();
    project.set("SOPS_AGE_KEY_FILE", key_file(LAPTOP_KEY));
    assert_eq!(project.run(&["decrypt", "--create-root"]).code, 2);
    assert!(!project.root().exists());
    project.set("SOPS_AGE_KEY_FILE", key_file(SERVER_KEY));
    project.ok(&["decrypt", "--create-root"]);
}

#[test]
fn the_backup_command_names_the_identity_where_stock_would_not_find_it() {
    let mut project = encrypted();
    project
        .vars
        .remove(std::ffi::OsStr::new("SOPS_AGE_KEY_FILE"));
    project.write_server("a.env", "A=other\n");
    let key = key_file(SERVER_KEY);
    let output = project.ok(&["decrypt", "--force", "-i", key.to_str().unwrap()]);
    let line = output
        .stderr
        .lines()
        .find_map(|line| line.split("open it with: ").nth(1))
        .unwrap();
    assert!(line.starts_with("SOPS_AGE_KEY_FILE="), "{line}");
    if stock::available(
        "sops",
        "the_backup_command_names_the_identity_where_stock_would_not_find_it",
    ) {
        let output = std::process::Command::new("sh")
            .args(["-c", line])
            .env("HOME", project.path("home"))
            .env_remove("SOPS_AGE_KEY_FILE")
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"A=other\n", "{output:?}");
    }
}

#[test]
fn a_hostile_depth_of_metadata_is_an_error() {
    let stderr = damaged(|text| format!("{text}sops_q{}=1\n", "__map_a".repeat(20_000)));
    assert!(stderr.contains("nested deeper"), "{stderr}");
    let stderr = damaged(|text| {
        (0..9000).fold(text.to_owned(), |text, number| {
            text + &format!("sops_z{number}=1\n")
        })
    });
    assert!(
        stderr.contains("more entries than any real file"),
        "{stderr}"
    );
}

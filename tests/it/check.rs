//! `check`: each violation is found once, with file and line; a clean repository is silent.

use std::fs;
use std::process::Command;

use super::support::{LAPTOP_KEY, SERVER_KEY, TestProject, key_file, recipient, stock};

fn project() -> TestProject {
    let mut project = TestProject::with_files(
        &[("a.env.enc", "a.env"), ("b.sql.enc", "b.sql")],
        "[check]\nallow = [\"keys/**\"]\n",
    );
    project.write_server(
        "a.env",
        "# note\nA=canary-Vd81-database\nB_unencrypted=open\nEMPTY=\n",
    );
    project.write_server("b.sql", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    project.write_repo("keys/demo.txt", fs::read(key_file(SERVER_KEY)).unwrap());
    project.commit();
    // Nothing is needed but the repository.
    project
        .vars
        .remove(std::ffi::OsStr::new("SOPS_AGE_KEY_FILE"));
    fs::remove_dir_all(project.root()).unwrap();
    project
}

/// Returns the findings as `path:line code`.
fn findings(project: &TestProject, args: &[&str]) -> (u8, Vec<String>) {
    let mut all = vec!["check", "--json"];
    all.extend(args);
    let output = project.run(&all);
    let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let list = json["findings"].as_array().unwrap();
    let text = list
        .iter()
        .map(|one| {
            let line = one["line"]
                .as_u64()
                .map_or(String::new(), |line| format!(":{line}"));
            format!(
                "{}{line} {}",
                one["path"].as_str().unwrap(),
                one["code"].as_str().unwrap()
            )
        })
        .collect();
    (output.code, text)
}

#[test]
fn a_clean_repository_is_silent() {
    let project = project();
    let output = project.ok(&["check"]);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
    project.ok(&["check", "--staged"]);
    project.ok(&["check", "--changed", "HEAD"]);
    fs::remove_dir_all(project.repo_file(".git")).unwrap();
    project.ok(&["check"]);
    assert_eq!(project.run(&["check", "--staged"]).code, 2);
}

#[test]
fn each_violation_is_found_once() {
    type Plant = fn(&TestProject);
    fn replace(project: &TestProject, name: &str, change: impl Fn(&str) -> String) {
        let text = project.read_repo(name);
        let changed = change(&text);
        assert_ne!(text, changed, "{name}");
        project.write_repo(name, changed);
    }
    fn line(text: &str, start: &str, with: &str) -> String {
        let lines = text
            .lines()
            .map(|line| if line.starts_with(start) { with } else { line });
        lines.collect::<Vec<_>>().join("\n") + "\n"
    }
    let cases: [(&str, Plant, &[&str]); 16] = [
        (
            "a value in clear",
            |p| replace(p, "a.env.enc", |t| line(t, "A=", "A=open")),
            &["a.env.enc:2 in-clear"],
        ),
        (
            "a comment in clear",
            |p| replace(p, "a.env.enc", |t| line(t, "#ENC", "# open")),
            &["a.env.enc:1 in-clear"],
        ),
        (
            "no MAC",
            |p| replace(p, "a.env.enc", |t| line(t, "sops_mac=", "sops_x=1")),
            &["a.env.enc no-mac"],
        ),
        (
            "no version",
            |p| replace(p, "a.env.enc", |t| line(t, "sops_version=", "sops_x=1")),
            &["a.env.enc damaged"],
        ),
        (
            "a conflict",
            |p| {
                replace(p, "a.env.enc", |t| {
                    format!("<<<<<<< ours\n{t}=======\n>>>>>>> theirs\n")
                });
            },
            &["a.env.enc:1 conflict-marker"],
        ),
        (
            "plain",
            |p| p.write_repo("a.env.enc", "A=1\n"),
            &["a.env.enc not-encrypted"],
        ),
        (
            "empty",
            |p| p.write_repo("b.sql.enc", ""),
            &["b.sql.enc not-encrypted"],
        ),
        (
            "cut",
            |p| replace(p, "b.sql.enc", |t| t[..t.len() / 2].to_owned()),
            &["b.sql.enc:6 damaged"],
        ),
        (
            "missing",
            |p| fs::remove_file(p.repo_file("b.sql.enc")).unwrap(),
            &["secret-files.toml:8 missing"],
        ),
        (
            "an orphan",
            |p| {
                fs::copy(p.repo_file("a.env.enc"), p.repo_file("c.env.enc"))
                    .map(drop)
                    .unwrap();
            },
            &["c.env.enc orphan"],
        ),
        (
            "another reader",
            |p| p.write_rules(&[recipient(SERVER_KEY), recipient(LAPTOP_KEY)]),
            &["a.env.enc recipients-differ", "b.sql.enc recipients-differ"],
        ),
        (
            "no rule",
            |p| {
                p.write_repo(
                    ".sops.yaml",
                    "creation_rules:\n  - path_regex: \\.sql\\.enc$\n    age: AGE\n"
                        .replace("AGE", &recipient(SERVER_KEY)),
                );
            },
            &["a.env.enc no-rule"],
        ),
        (
            "a typing mistake in the rules",
            |p| replace(p, ".sops.yaml", |t| format!("{t}    encrypted_regexp: x\n")),
            &[".sops.yaml:4 unknown-rule-key"],
        ),
        (
            "an identity",
            |p| {
                p.write_repo(
                    "notes.txt",
                    format!("x\n{}", fs::read_to_string(key_file(LAPTOP_KEY)).unwrap()),
                );
                p.git(&["add", "-A"]);
            },
            &["notes.txt:4 identity"],
        ),
        (
            "tracked plaintext",
            |p| {
                p.write_repo("a.env", "A=1\n");
                p.git(&["add", "-A"]);
            },
            &["a.env tracked-plaintext"],
        ),
        (
            "a target that git sees",
            |p| {
                replace(p, "secret-files.toml", |t| {
                    line(t, "root", "root = \"srv\"")
                });
            },
            &[
                "secret-files.toml:7 not-ignored",
                "secret-files.toml:8 not-ignored",
            ],
        ),
    ];
    for (what, plant, expected) in cases {
        let project = project();
        plant(&project);
        let (code, found) = findings(&project, &[]);
        assert_eq!(found, expected, "{what}");
        assert_eq!(code, 1, "{what}");
        let text = project.run(&["check"]).stdout;
        assert_eq!(text.lines().count(), expected.len(), "{what}: {text}");
    }
}

#[test]
fn what_cannot_be_checked_is_no_pass() {
    let project = project();
    project.write_repo(".sops.yaml", "creation_rules: [\n");
    let output = project.run(&["check"]);
    assert_eq!(output.code, 2, "{output:#?}");
    assert!(output.stderr.contains(".sops.yaml: line 1"), "{output:#?}");
    let project = self::project();
    assert_eq!(project.run(&["check", "--changed", "nowhere"]).code, 2);
}

#[test]
fn staged_is_what_the_next_commit_would_hold() {
    let project = project();
    let good = project.read_repo("a.env.enc");
    project.write_repo("a.env.enc", "A=1\n");
    project.ok(&["check", "--staged"]);
    project.git(&["add", "a.env.enc"]);
    project.write_repo("a.env.enc", good);
    project.ok(&["check"]);
    let (code, found) = findings(&project, &["--staged"]);
    assert_eq!(
        (code, found),
        (1, vec!["a.env.enc not-encrypted".to_owned()])
    );
    project.git(&["reset", "-q"]);
    project.write_repo("new.enc", "x\n");
    project.ok(&["check", "--staged"]);
    assert_eq!(
        findings(&project, &[]).1,
        ["new.enc orphan"],
        "before it is added"
    );
}

#[test]
fn changed_looks_at_what_differs_from_a_commit() {
    let project = project();
    project.write_repo("old.enc", "x\n");
    project.commit();
    project.ok(&["check", "--changed", "HEAD"]);
    assert_eq!(
        findings(&project, &["--changed", "HEAD~1"]).1,
        ["old.enc orphan"]
    );
    project.write_repo("b.sql.enc", "");
    assert_eq!(
        findings(&project, &["--changed", "HEAD"]).1,
        ["b.sql.enc not-encrypted"]
    );
}

#[test]
fn filestatus_of_stock_agrees_where_it_can_tell() {
    let test = "filestatus_of_stock_agrees_where_it_can_tell";
    if !stock::available("sops", test) {
        return;
    }
    let project = project();
    let status = |name: &str, kind: &str| {
        let output = Command::new("sops")
            .args(["filestatus", "--input-type", kind, name])
            .env("SOPS_DISABLE_VERSION_CHECK", "true")
            .current_dir(project.repo())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).contains("\"encrypted\":true")
    };
    assert!(status("a.env.enc", "dotenv") && status("b.sql.enc", "binary"));
    project.write_repo("a.env.enc", "A=1\n");
    assert!(!status("a.env.enc", "dotenv"));
    assert_eq!(project.run(&["check"]).code, 1);
}

#[test]
fn the_hook_of_a_partial_commit_sees_what_is_committed() {
    let project = project();
    let hook = format!(
        "#!/bin/sh\nexec {} check --staged\n",
        env!("CARGO_BIN_EXE_secrets")
    );
    project.write_repo(".git/hooks/pre-commit", hook);
    let file = project.repo_file(".git/hooks/pre-commit");
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    project.write_repo("keys/demo.txt", "rotated\n");
    let commit = |args: &[&str]| {
        Command::new("git")
            .args([
                "-c",
                "user.name=t",
                "-c",
                "user.email=t@example.org",
                "commit",
                "-q",
            ])
            .args(args)
            .current_dir(project.repo())
            .env("HOME", project.path("home"))
            .output()
            .unwrap()
    };
    assert!(commit(&["-am", "fine"]).status.success());
    let secret = fs::read_to_string(key_file(LAPTOP_KEY)).unwrap();
    project.write_repo(".gitignore", format!("x\n{secret}"));
    project.git(&["add", ".gitignore"]);
    project.write_repo(".gitignore", "x\n");
    let output = commit(&["-m", "staged"]);
    assert!(!output.status.success(), "{output:?}");
    project.git(&["reset", "-q"]);
    project.git(&["-c", "core.hooksPath=/dev/null", "add", ".gitignore"]);
    project.git(&[
        "-c",
        "core.hooksPath=/dev/null",
        "commit",
        "-q",
        "-m",
        "ignore",
    ]);
    project.write_repo(".gitignore", format!("x\n{secret}"));
    for args in [&["-am", "leak"][..], &["-m", "leak", ".gitignore"]] {
        let output = commit(args);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = told + &String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && told.contains("[identity]"),
            "{args:?}: {told}"
        );
    }
}

#[test]
fn a_secret_key_in_the_rules_is_not_repeated() {
    let project = project();
    let secret = fs::read_to_string(key_file(LAPTOP_KEY)).unwrap();
    let secret = secret
        .lines()
        .find(|line| line.starts_with("AGE-"))
        .unwrap();
    project.write_repo(
        ".sops.yaml",
        format!("creation_rules:\n  - age: {secret}\n"),
    );
    for args in [
        &["check"][..],
        &["check", "--json"],
        &["list"],
        &["encrypt"],
    ] {
        let output = project.run(args);
        assert!(
            !(output.stdout + &output.stderr).contains(&secret[..30]),
            "{args:?}"
        );
    }
}

#[test]
fn what_an_allow_lets_pass_of_rows_is_told() {
    let project = project();
    let manifest = project.read_repo("secret-files.toml");
    project.write_repo("secret-files.toml", manifest.replace("keys/**", "**"));
    let row = "a.env.enc";
    project.write_repo(row, "A=in clear\n");
    let output = project.ok(&["check"]);
    assert!(output.stdout.is_empty(), "{output:#?}");
    let told = "let pass by `allow` of [check] (**), though it is about files of rows: 1";
    assert!(output.stderr.contains(told), "{output:#?}");
}

#[test]
fn an_ssh_key_is_an_identity_where_files_are_encrypted_for_it() {
    let test = "an_ssh_key_is_an_identity_where_files_are_encrypted_for_it";
    if !stock::available("ssh-keygen", test) {
        return;
    }
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    for name in ["reader", "deploy"] {
        let args = ["-q", "-t", "ed25519", "-N", "", "-f"];
        let made = Command::new("ssh-keygen")
            .args(args)
            .arg(project.repo_file(name))
            .status();
        assert!(made.unwrap().success());
    }
    let reader = project.read_repo("reader.pub");
    project.write_rules(&[recipient(SERVER_KEY), reader.trim_end().to_owned()]);
    project.write_server("a.env", "A=canary-Vd81-database\n");
    project.ok(&["encrypt"]);
    project.commit();
    let found = vec!["reader:1 identity".to_owned()];
    assert_eq!(findings(&project, &[]), (1, found.clone()));
    assert_eq!(findings(&project, &["--staged"]), (1, found));
    project.git(&["rm", "-q", "--cached", "reader"]);
    assert_eq!(findings(&project, &["--staged"]), (0, Vec::new()));
}

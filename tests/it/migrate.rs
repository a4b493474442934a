//! Moving in: from a Makefile to a manifest, and deciding what nobody knows.

use std::fs;

use super::support::{SERVER_KEY, TestProject, fixtures, has_staging_files, key_file, recipient};

/// A Makefile of the fixtures, and what its manifest must say.
struct Style {
    file: &'static str,
    args: &'static [&'static str],
    rows: &'static [(&'static str, &'static str)],
    lines: &'static [&'static str],
    notes: usize,
}

const STYLES: [Style; 5] = [
    Style {
        file: "1-classic.mk",
        args: &[],
        rows: &[
            ("shared/.env.enc", "shared/.env"),
            ("envs/billing/.env.prod.enc", "billing/envs/.env.prod"),
            ("envs/mailer/.env.enc", "mailer/.env"),
            ("nginx/.htpasswd.enc", "nginx/.htpasswd"),
            ("scripts/backup.sh", "bin/backup.sh"),
        ],
        lines: &[
            "root     = \"/opt/docker\"",
            "identity = \"/opt/docker/.age-key.txt\"",
            "owner    = \"root\"",
            "group    = \"debian\"",
            "mode     = \"0640\"",
        ],
        notes: 0,
    },
    Style {
        file: "2-one-liner.mk",
        args: &["--secret-var", "FILES", "--plain-var", "PLAIN"],
        rows: &[],
        lines: &["root     = \"/srv/shop\"", "mode     = \"0600\""],
        notes: 0,
    },
    Style {
        file: "3-absolute.mk",
        args: &["--secret-var", "SECRETS", "--plain-var", "CONFIGS"],
        rows: &[
            ("app/.env.enc", "app/.env"),
            ("app/jwt.pem.enc", "app/keys/jwt.pem"),
            ("db/password.enc", "db/password"),
        ],
        lines: &[
            "root     = \"/var/lib/stack\"",
            "identity = \"~/.config/sops/age/keys.txt\"",
            "owner    = \"app\"",
            "mode     = \"0440\"",
            "format = \"binary\"",
        ],
        notes: 2,
    },
    Style {
        file: "4-crlf-append.mk",
        args: &["--secret-var", "FILES", "--plain-var", "STATIC"],
        rows: &[],
        lines: &[
            "root     = \"/home/deploy/site\"",
            "identity = \"keys/age.txt\"",
            "owner    = \"deploy\"",
        ],
        notes: 6,
    },
    Style {
        file: "5-odd.mk",
        args: &["--secret-var", "ALL", "--plain-var", "STAT"],
        rows: &[],
        lines: &["root     = \"/data/apps\"", "identity = \"~/.age/key.txt\""],
        notes: 9,
    },
];

#[test]
fn five_makefiles_move_in_and_nothing_changes() {
    for style in STYLES {
        let project = TestProject::new();
        let makefile = fixtures().join("makefiles").join(style.file);
        fs::copy(makefile, project.repo_file("Makefile")).unwrap();
        let mut args = vec!["init", "--from-makefile", "Makefile"];
        args.extend(style.args);
        let dry = project.ok(&[&args[..], &["-n"]].concat());
        assert!(!project.repo_file("secret-files.toml").exists());
        let output = project.ok(&args);
        let text = project.read_repo("secret-files.toml");
        assert_eq!(dry.stdout, text, "{}", style.file);
        for line in style.lines {
            assert!(text.contains(line), "{}: {line}\n{text}", style.file);
        }
        for (repository, server) in style.rows {
            let row = text
                .lines()
                .find(|line| line.starts_with(&format!("\"{repository}\"")));
            assert!(row.unwrap().contains(&format!("\"{server}\"")), "{text}");
        }
        assert_eq!(
            output.stderr.matches("of the Makefile:").count(),
            style.notes,
            "{output:#?}"
        );
        assert!(
            output
                .stdout
                .starts_with("encrypt decrypt diff deploy:\n\tsecrets $@\n"),
            "{output:#?}"
        );
        assert_eq!(project.read_repo(".gitattributes"), "*.enc -text\n");
        // Decrypts, diffs clean and encrypts without change, whatever the root of that machine is.
        let root = project.root().display().to_string();
        let json = project.ok(&["list", "--json", "--root", &root]).stdout;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let entries = json["entries"].as_array().unwrap();
        assert!(entries.len() >= 4, "{}: {text}", style.file);
        for entry in entries {
            let target = entry["target"].as_str().unwrap();
            let name = target.strip_prefix(&format!("{root}/")).unwrap();
            if entry["kind"] == "secret" {
                let is_json = name.ends_with(".json");
                let text = if is_json {
                    "{\"A\": \"canary-Vd81-database\"}\n"
                } else {
                    "A=canary-Vd81-database\n"
                };
                project.write_server(name, text);
            } else {
                project.write_server(name, "plain\n");
                project.write_repo(entry["entry"].as_str().unwrap(), "plain\n");
            }
        }
        let run = |args: &[&str]| project.ok(&[&["--root", &root], args].concat());
        run(&["encrypt", "--no-owner"]);
        let sealed = project.snapshot();
        fs::remove_dir_all(project.root()).unwrap();
        fs::create_dir(project.root()).unwrap();
        run(&["deploy", "--no-owner"]);
        run(&["diff", "--no-owner"]);
        run(&["encrypt", "--no-owner"]);
        assert_eq!(project.snapshot(), sealed, "{}", style.file);
        let again = project.run(&args);
        assert_eq!(again.code, 3, "never overwritten: {again:#?}");
    }
}

#[test]
fn a_root_that_the_makefile_does_not_say_is_left_to_fill_in() {
    let mut project = TestProject::new();
    project.set("DEST", "/from/the/environment");
    project.write_repo(
        "Makefile",
        "SECRET_FILES = a.env b.env\ndecrypt:\n\tfor f in $(SECRET_FILES); do sops -d $$f.enc > $(DEST)/$$f; done\n",
    );
    let output = project.ok(&["init", "--from-makefile"]);
    let text = project.read_repo("secret-files.toml");
    assert!(text.contains("# root     = "), "{text}");
    assert!(
        text.contains("$(DEST)") && !text.contains("environment"),
        "{text}"
    );
    assert!(output.stderr.contains("fill in `root`"), "{output:#?}");
    assert_eq!(project.run(&["status"]).code, 2);
}

#[test]
fn families_are_folded_where_nothing_changes() {
    let project = TestProject::infrastructure();
    project.ok(&["encrypt"]);
    let rows: Vec<String> = ["billing", "portal"]
        .iter()
        .flat_map(|app| {
            ["dev", "staging", "prod"]
                .map(|env| format!("envs/{app}/.env.{env}:{app}/envs/.env.{env}"))
        })
        .collect();
    let makefile = format!(
        "DEST := {}\nSECRET_FILES := {} shared/.env\nd:\n\tsops -d $$x > $(DEST)/$$y\n",
        project.root().display(),
        rows.join(" ")
    );
    project.write_repo("Makefile", makefile);
    fs::remove_file(project.repo_file("secret-files.toml")).unwrap();
    project.ok(&["init", "--from-makefile", "--fold"]);
    let text = project.read_repo("secret-files.toml");
    assert!(
        text.contains("\"envs/{app}/.env.{env}.enc\" = \"{app}/envs/.env.{env}\"\n"),
        "{text}"
    );
    assert!(!text.contains("billing"), "{text}");
    // The files on this server say mode and owner.
    assert!(text.contains("mode     = \"0640\""), "{text}");
    let output = project.ok(&["encrypt", "--no-owner"]);
    assert!(
        output.stderr.contains("7 entries: 7 unchanged"),
        "{output:#?}"
    );
    assert!(project.ok(&["diff", "--no-owner"]).stdout.is_empty());
}

#[test]
fn a_new_repository_gets_everything_it_needs() {
    let project = TestProject::new();
    fs::remove_file(project.repo_file(".sops.yaml")).unwrap();
    project.git(&["init", "-q", "-b", "main"]);
    project.ok(&["init"]);
    let rules = project.read_repo(".sops.yaml");
    assert!(rules.contains(&recipient(SERVER_KEY)), "{rules}");
    let text = project.read_repo("secret-files.toml");
    let root = project.root().display().to_string();
    project.write_repo(
        "secret-files.toml",
        text.replace(
            "# root     = \"/opt/docker\"  ",
            &format!("root = \"{root}\"  "),
        ),
    );
    project.write_server("shared/.env", "A=1\n");
    project.ok(&["add", "shared/.env"]);
    assert_eq!(project.run(&["diff"]).code, 0);
    project.commit();
    project.ok(&["check"]);
}

#[test]
fn init_tests_the_rules_and_proposes_the_mended_one() {
    let project = TestProject::new();
    project.write_repo(
        ".sops.yaml",
        format!(
            "creation_rules:\n  - path_regex: \\.env\\.prod$\n    age: {}\n",
            recipient(SERVER_KEY)
        ),
    );
    project.write_repo(
        "Makefile",
        "SECRET_FILES = a/.env.prod:/srv/a/.env.prod b:/srv/b\n",
    );
    let output = project.ok(&["init", "--from-makefile"]);
    assert!(
        output
            .stderr
            .contains("path_regex: '\\.env\\.prod(\\.enc)?$'"),
        "{output:#?}"
    );
    assert!(
        output.stderr.contains("b.enc: no creation rule"),
        "{output:#?}"
    );
}

/// Eleven files after a move: three edited on the server, one behind, one differing in layout only.
fn drifted() -> (TestProject, Vec<(&'static str, String)>) {
    let mut project = TestProject::infrastructure();
    project.ok(&["encrypt"]);
    project.commit();
    project.capture_elsewhere("monitoring/.env", "GRAFANA=canary-Jr59-rotated\n");
    project.commit();
    let text = |name: &str| String::from_utf8(project.read_server(name)).unwrap();
    let billing = text("billing/envs/.env.prod");
    let edited = vec![
        (
            "shared/.env",
            text("shared/.env").replace("canary-Zt47-registry", "canary-Jr59-rotated"),
        ),
        ("nginx/.htpasswd", "bob:canary-Jr59-rotated\n".to_owned()),
        (
            "portal/envs/.env.dev",
            text("portal/envs/.env.dev") + "NEW=canary-Jr59-rotated\n",
        ),
        ("billing/envs/.env.prod", billing.replace("\n\n", "\n")),
    ];
    for (name, text) in &edited {
        project.write_server(name, text);
    }
    fs::remove_dir_all(project.path("state")).unwrap();
    (project, edited)
}

#[test]
fn a_move_with_drift_loses_nothing() {
    let (project, edited) = drifted();
    let status = project.ok(&["status"]);
    for expected in [
        "unknown            shared/.env.enc  ~ REGISTRY_TOKEN",
        "repo ahead         monitoring/.env.enc",
        "layout only        envs/billing/.env.prod.enc",
        "4 of unknown direction: `secrets adopt`",
        "1 newer in the repository or missing on the server: `secrets decrypt`",
    ] {
        assert!(status.stdout.contains(expected), "{expected}: {status:#?}");
    }
    let before = project.snapshot();
    for command in ["decrypt", "encrypt"] {
        let refused = project.run(&[command]);
        assert_eq!(refused.code, 3);
        assert!(
            refused.stderr.contains("`secrets adopt shared/.env.enc`"),
            "{refused:#?}"
        );
        assert_eq!(project.snapshot(), before);
    }
    // Behind is behind, whatever else is undecided.
    project.ok(&["decrypt", "monitoring/.env"]);
    let blind = project.run(&["adopt"]);
    assert_eq!(blind.code, 2);
    assert!(
        blind.stderr.contains("no terminal") && blind.stderr.contains("`--server`"),
        "{blind:#?}"
    );
    // Asked in manifest order: billing prod, portal dev, shared, nginx.
    let (output, questions) = project.run_answering(&["skip", "s", "what?", "r", "k"], &["adopt"]);
    assert_eq!(output.code, 1, "two are undecided: {output:#?}");
    assert_eq!(questions.len(), 5, "{questions:?}");
    assert!(
        output.stderr.contains("+ NEW") && output.stderr.contains("server: changed "),
        "{output:#?}"
    );
    assert!(output.stderr.contains("repository: commit "), "{output:#?}");
    assert_eq!(
        project.opened("envs/portal/.env.dev.enc"),
        edited[2].1.as_bytes()
    );
    assert!(
        project
            .read_server("shared/.env")
            .starts_with(b"export REGISTRY_TOKEN=canary-Zt47")
    );
    assert_eq!(
        project.read_server("nginx/.htpasswd"),
        edited[1].1.as_bytes()
    );
    // What was replaced is kept, and comes back.
    project.ok(&["undo"]);
    assert_eq!(project.read_server("shared/.env"), edited[0].1.as_bytes());
    project.ok(&["adopt", "--server"]);
    assert_eq!(project.run(&["diff"]).code, 0);
    for (name, text) in &edited {
        assert_eq!(project.read_server(name), text.as_bytes(), "{name}");
    }
    project.ok(&["adopt"]);
    assert!(!has_staging_files(&project.snapshot()));
}

#[test]
fn adopt_can_take_the_repository_for_all() {
    let (project, _) = drifted();
    let before = project.snapshot();
    let output = project.run(&["adopt", "-n"]);
    assert_eq!(output.code, 1, "{output:#?}");
    assert_eq!(project.snapshot(), before);
    project.ok(&["adopt", "--repository"]);
    project.ok(&["decrypt"]);
    assert_eq!(project.run(&["diff"]).code, 0);
    assert_eq!(
        fs::read_dir(project.path("state/backups")).unwrap().count(),
        4
    );
}

#[test]
fn keygen_never_overwrites() {
    use std::os::unix::fs::PermissionsExt;
    let project = TestProject::new();
    let output = project.ok(&["keygen", "-o", "new.txt"]);
    let text = project.read_repo("new.txt");
    assert!(
        text.contains(&format!("# public key: {}", output.stdout)),
        "{output:#?}"
    );
    assert!(output.stderr.contains("password manager"), "{output:#?}");
    let mode = |name: &str| {
        fs::metadata(project.repo_file(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("new.txt"), 0o600);
    assert_eq!(project.run(&["keygen", "-o", "new.txt"]).code, 3);
    assert_eq!(project.read_repo("new.txt"), text);
    project.ok(&["keygen", "--pq", "-o", "pq.txt", "--mode", "0640"]);
    assert_eq!(mode("pq.txt"), 0o640);
    assert!(project.read_repo("pq.txt").contains("AGE-SECRET-KEY-PQ-1"));
    for args in [
        &["keygen", "-o", "x", "--mode", "0644"][..],
        &["keygen", "--mode", "0600"],
        &["keygen", "--json"],
    ] {
        assert_eq!(project.run(args).code, 2, "{args:?}");
    }
    assert!(key_file(SERVER_KEY).exists());
    project.git(&["init", "-q"]);
    for (folder, is_told) in [("repo/in.txt", true), ("out.txt", false)] {
        let path = project.path(folder);
        let output = project.ok(&["keygen", "-o", path.to_str().unwrap()]);
        assert_eq!(output.stderr.contains(".gitignore"), is_told, "{output:#?}");
    }
    project.write_repo(".gitignore", "ignored.txt\n");
    let output = project.ok(&["keygen", "-o", "ignored.txt"]);
    assert!(!output.stderr.contains("git"), "{output:#?}");
}

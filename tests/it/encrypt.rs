//! `encrypt`: guards, reuse, what is written and what is not.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::support::{
    LAPTOP_KEY, SERVER_KEY, TestProject, has_staging_files, key_file, recipient, timeless,
};

fn one() -> TestProject {
    TestProject::with_files(&[("a.env.enc", "a.env"), ("b.bin.enc", "b.bin")], "")
}

/// Encrypts a source that must be refused, and checks that nothing was written.
fn refused(source: &[u8]) -> String {
    let project = one();
    project.write_server("a.env", source);
    project.write_server("b.bin", "fine\n");
    let before = project.snapshot();
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(
        output.stderr.contains("refused: a.env.enc: "),
        "{output:#?}"
    );
    assert!(output.stderr.contains("help: "), "{output:#?}");
    assert!(output.stderr.contains("nothing was written"), "{output:#?}");
    assert_eq!(project.snapshot(), before);
    output.stderr
}

#[test]
fn encrypt_refuses_sources_that_hold_nothing() {
    assert!(refused(b"").contains("empty (zero bytes)"));
    assert!(refused(b"\n  \n").contains("only blanks"));
    assert!(refused(b"# c\n#\n").contains("only comments"));
}

#[test]
fn encrypt_refuses_conflict_markers() {
    assert!(
        refused(b"A=1\n<<<<<<< HEAD\nB=2\n=======\nB=3\n>>>>>>> x\n")
            .contains("line 2: the source holds a merge conflict marker")
    );
    assert!(refused(b"A=1\n=======\n").contains("line 2"));
}

#[test]
fn encrypt_refuses_lines_that_stock_misreads_and_names_them() {
    let output = refused(b"KEY=\"canary-Vd81-database\nabc=\n\"\n");
    assert!(output.contains("line 1: the value of `KEY`"), "{output}");
    assert!(output.contains("format = \"binary\""), "{output}");
    let output = refused(b"A=1\n  # canary-Vd81-database\n");
    assert!(output.contains("line 2: an indented comment"), "{output}");
    assert!(refused(b"A=1\ncanary-Vd81-database\n").contains("line 2: a line without `=`"));
    assert!(refused(b"A=1\r\n\r\nB=2\r\n").contains("line 2: a blank line that ends in CR"));
    assert!(refused(b"sops_mac=1\n").contains("reserves"));
}

#[test]
fn encrypt_refuses_what_is_encrypted_already() {
    let project = one();
    project.write_server("a.env", "A=1\n");
    project.write_server("b.bin", "x\n");
    project.ok(&["encrypt"]);
    for name in ["a.env", "b.bin"] {
        assert!(
            refused(project.read_repo(&format!("{name}.enc")).as_bytes())
                .contains("already encrypted")
        );
    }
}

#[test]
fn encrypt_refuses_what_is_no_readable_regular_file() {
    let project = one();
    project.write_server("b.bin", "x\n");
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 3);
    assert!(
        output
            .stderr
            .contains("a.env.enc: the source does not exist"),
        "{output:#?}"
    );
    symlink(project.server_file("b.bin"), project.server_file("a.env")).unwrap();
    assert!(
        project
            .run(&["encrypt"])
            .stderr
            .contains("it is a symbolic link")
    );
    fs::remove_file(project.server_file("a.env")).unwrap();
    fs::create_dir(project.server_file("a.env")).unwrap();
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 3);
    assert!(output.stderr.contains("it is a directory"), "{output:#?}");
    assert!(!project.repo_file("b.bin.enc").exists());
}

#[test]
fn encrypt_refuses_a_source_that_is_too_large() {
    let project = one();
    project.write_server("a.env", "A=1\n");
    project.write_server("b.bin", vec![b'x'; 5000]);
    let output = project.run(&["encrypt", "--max-size", "4KiB"]);
    assert_eq!(output.code, 3);
    assert!(
        output
            .stderr
            .contains("5000 bytes long, more than the limit of 4096"),
        "{output:#?}"
    );
    project.ok(&["encrypt", "--max-size", "5k"]);
}

#[test]
fn encrypt_lists_every_problem_at_once() {
    let project = one();
    project.write_server("a.env", "");
    let output = project.run(&["encrypt"]);
    assert!(
        output.stderr.contains("a.env.enc: the source is empty"),
        "{output:#?}"
    );
    assert!(
        output
            .stderr
            .contains("b.bin.enc: the source does not exist"),
        "{output:#?}"
    );
}

#[test]
fn keep_going_does_the_rest_and_still_fails() {
    let project = one();
    project.write_server("b.bin", "x\n");
    let output = project.run(&["encrypt", "-k"]);
    assert_eq!(output.code, 3);
    assert!(project.repo_file("b.bin.enc").exists());
    // Named alone, the bad one is not asked for.
    project.write_server("b.bin", "y\n");
    project.ok(&["encrypt", "b.bin"]);
}

#[test]
fn an_optional_source_may_be_missing() {
    let project = TestProject::with_files(
        &[("a.env.enc", "{ path = \"a.env\", optional = true }")],
        "",
    );
    assert!(project.ok(&["encrypt"]).stderr.contains("1 left out"));
    assert!(project.ok(&["decrypt"]).stderr.contains("1 left out"));
    project.write_server("a.env", "");
    assert_eq!(project.run(&["encrypt"]).code, 3);
}

#[test]
fn a_dry_run_writes_nothing_and_ends_the_same() {
    let project = one();
    project.write_server("a.env", "A=1\n");
    project.write_server("b.bin", "x\n");
    let before = project.snapshot();
    let output = project.ok(&["encrypt", "-n"]);
    assert!(
        output
            .stderr
            .contains("2 to be created; nothing was written (dry run)"),
        "{output:#?}"
    );
    assert_eq!(project.snapshot(), before);
    assert!(!project.path("state").exists());
    project.write_server("a.env", "");
    assert_eq!(project.run(&["encrypt", "-n"]).code, 3);
}

#[test]
fn rules_are_needed_and_found_from_the_entry() {
    let project = TestProject::with_files(&[("sub/a.env.enc", "a.env")], "");
    project.write_server("a.env", "A=1\n");
    fs::remove_file(project.repo_file(".sops.yaml")).unwrap();
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 3);
    assert!(
        output.stderr.contains("there is no `.sops.yaml`"),
        "{output:#?}"
    );

    project.write_repo(
        "sub/.sops.yaml",
        format!(
            "creation_rules:\n- path_regex: ^b\n  age: {}\n",
            recipient(SERVER_KEY)
        ),
    );
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 3);
    assert!(output.stderr.contains("matches `a.env.enc`"), "{output:#?}");

    project.write_repo(
        "sub/.sops.yaml",
        format!(
            "creation_rules:\n- path_regex: ^a\\.env\n  age: [{}]\n",
            recipient(SERVER_KEY)
        ),
    );
    project.ok(&["encrypt"]);
    // From a folder with rules of its own, those are a warning.
    project.write_repo("other/.sops.yaml", "creation_rules: []\n");
    let output = project.run_in(&project.repo_file("other"), &["encrypt"]);
    assert_eq!(output.code, 0);
    assert!(
        output
            .stderr
            .contains("warning: stock `sops` called in this folder would use"),
        "{output:#?}"
    );
}

#[test]
fn what_a_rule_holds_beyond_is_refused_by_name() {
    let project = one();
    project.write_server("a.env", "A=1\n");
    project.write_server("b.bin", "x\n");
    for (extra, word) in [
        ("encrypted_regexp: x", "`encrypted_regexp`"),
        ("hc_vault_transit_uri: nowhere", "missing scheme"),
        ("key_groups: [{}]", "a group without one"),
        ("key_groups: [{age: [x], pgpp: [F]}]", "`pgpp`"),
    ] {
        project.write_repo(
            ".sops.yaml",
            format!(
                "creation_rules:\n- age: {}\n  {extra}\n",
                recipient(SERVER_KEY)
            ),
        );
        let output = project.run(&["encrypt"]);
        assert_eq!(output.code, 3, "{output:#?}");
        assert!(output.stderr.contains(word), "{output:#?}");
    }
    for (age, word) in [
        (
            "ssh-ed25519 AAAA x",
            "neither ssh-ed25519 nor ssh-rsa, or damaged",
        ),
        ("age1pq1abc", "is not an age recipient"),
        ("age1yubikey1abc", "is not an age recipient"),
        ("age1abc", "is not an age recipient"),
    ] {
        project.write_repo(".sops.yaml", format!("creation_rules:\n- age: {age}\n"));
        let output = project.run(&["encrypt"]);
        assert_eq!(output.code, 2, "{output:#?}");
        assert!(output.stderr.contains(word), "{output:#?}");
    }
    project.write_repo(".sops.yaml", "creation_rules:\n- path_regex: '('\n");
    assert!(
        project
            .run(&["encrypt"])
            .stderr
            .contains("creation rule 1: `(` is not a regular expression")
    );
    project.write_repo(".sops.yaml", "creation_rules: [\n");
    assert!(project.run(&["encrypt"]).stderr.contains("not valid YAML"));
}

#[test]
fn the_stored_form_is_kept_unless_written_out() {
    let project = TestProject::with_files(
        &[("a.env.enc", "{ path = \"a.env\", format = \"binary\" }")],
        "",
    );
    project.write_server("a.env", "KEY=\"two\nlines\"\n");
    project.ok(&["encrypt"]);
    assert!(
        project
            .read_repo("a.env.enc")
            .starts_with("{\n\t\"data\": \"ENC[")
    );
    project.write_server("a.env", "KEY=one\nB=2\n");
    // Not written out any more: the content decides, and keys are still named.
    project.write_manifest(&[("a.env.enc", "a.env")], "");
    let diff = project.run(&["diff"]);
    assert!(
        timeless(&diff.stdout).contains("~ KEY  server, TIME\n  + B  "),
        "{diff:#?}"
    );
    project.ok(&["encrypt"]);
    assert!(project.read_repo("a.env.enc").starts_with('{'));
    project.write_manifest(
        &[("a.env.enc", "{ path = \"a.env\", format = \"dotenv\" }")],
        "",
    );
    // That shows the names of its keys.
    assert_eq!(project.run(&["encrypt"]).code, 3);
    let output = project.ok(&["encrypt", "--update-recipients"]);
    assert!(
        output.stderr.contains("stored as dotenv from now on"),
        "{output:#?}"
    );
    assert!(project.read_repo("a.env.enc").starts_with("KEY=ENC["));
    fs::remove_file(project.server_file("a.env")).unwrap();
    project.ok(&["decrypt"]);
    assert_eq!(project.read_server("a.env"), b"KEY=one\nB=2\n");
}

#[test]
fn structured_names_are_stored_as_what_they_are() {
    for (name, text, stored) in [
        ("a.yaml", "a: 1 # c\nl: [x]\n", "a: ENC["),
        ("a.yml", "a: 'x'\n", "a: 'ENC["),
        ("a.json", "{\"a\": \"x\", \"b\": 2}\n", "{\"a\": \"ENC["),
        ("a.ini", "[s]\na = 1\n", "[s]\na = ENC["),
    ] {
        let project = TestProject::with_files(&[(&format!("{name}.enc"), name)], "");
        project.write_server(name, text);
        project.ok(&["encrypt"]);
        let file = project.read_repo(&format!("{name}.enc"));
        assert!(file.starts_with(stored), "{file}");
        assert_eq!(project.ok(&["diff"]).stdout, "");
        fs::remove_file(project.server_file(name)).unwrap();
        project.ok(&["decrypt"]);
        assert_eq!(project.read_server(name), text.as_bytes());
    }
}

#[test]
fn an_encrypted_file_that_is_damaged_is_not_overwritten() {
    let project = one();
    project.write_server("a.env", "A=1\nB=2\n");
    project.write_server("b.bin", "x\n");
    project.ok(&["encrypt"]);
    let good = project.read_repo("a.env.enc");
    for broken in [
        "",
        "A=plain\n",
        &good.replace("A=ENC", "A=EMC"),
        &good[..good.len() / 2],
    ] {
        project.write_repo("a.env.enc", broken);
        project.write_server("a.env", "A=1\nB=3\n");
        let output = project.run(&["encrypt"]);
        assert_eq!(output.code, 2, "{broken}: {output:#?}");
        assert_eq!(project.read_repo("a.env.enc"), *broken);
    }
}

#[test]
fn a_replaced_file_that_was_never_committed_is_kept() {
    let project = one();
    project.write_server("a.env", "A=1\n");
    project.write_server("b.bin", "x\n");
    project.ok(&["encrypt"]);
    project.commit();
    let backups = || fs::read_dir(project.path("state/backups")).map_or(0, Iterator::count);
    project.write_server("a.env", "A=2\n");
    project.ok(&["encrypt"]);
    assert_eq!(backups(), 0, "the old version is in HEAD");
    project.write_server("a.env", "A=3\n");
    let output = project.ok(&["encrypt"]);
    assert!(
        output
            .stderr
            .contains("(what was there before: a.env.enc, in the repository)"),
        "{output:#?}"
    );
    assert_eq!(backups(), 1);
}

#[test]
fn modes_of_repository_files_are_kept_and_new_ones_are_readable() {
    let project = one();
    project.write_server("a.env", "A=1\n");
    project.write_server("b.bin", "x\n");
    project.ok(&["encrypt"]);
    let mode = |name: &str| fs::metadata(project.repo_file(name)).unwrap().mode() & 0o7777;
    assert_eq!(mode("a.env.enc") & 0o600, 0o600);
    fs::set_permissions(
        project.repo_file("a.env.enc"),
        fs::Permissions::from_mode(0o664),
    )
    .unwrap();
    project.write_server("a.env", "A=2\n");
    project.ok(&["encrypt"]);
    assert_eq!(mode("a.env.enc"), 0o664);
    assert!(!has_staging_files(&project.snapshot()));
}

#[test]
fn what_cannot_be_opened_here_is_not_written() {
    let mut project = one();
    project.write_server("a.env", "A=1\n");
    project.write_server("b.bin", "x\n");
    project.set("SOPS_AGE_KEY_FILE", key_file(LAPTOP_KEY));
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 3);
    assert!(output.stderr.contains("--allow-unreadable"), "{output:#?}");
    assert!(!project.repo_file("a.env.enc").exists());
    project.ok(&["encrypt", "--allow-unreadable"]);
    project.set("SOPS_AGE_KEY_FILE", key_file(SERVER_KEY));
    assert_eq!(project.ok(&["diff"]).stdout, "");
}

#[test]
fn layout_is_kept_and_layout_changes_are_captured() {
    let project = one();
    project.write_server("b.bin", "x\n");
    for text in [
        "A=1\n\n\n# c\nB=2",
        "A=1\n# c\n\nB=2\n",
        "\nA=1\n# c\nB=2\n\n",
    ] {
        project.write_server("a.env", text);
        project.ok(&["encrypt"]);
        fs::remove_file(project.server_file("a.env")).unwrap();
        project.ok(&["decrypt"]);
        assert_eq!(project.read_server("a.env"), text.as_bytes());
    }
}

#[test]
fn wrapped_base64_and_pem_are_refused_and_not_shown() {
    let wrapped = "S=pG0mE5Sg6ywQ0b3mVwz0mYx8kCkV1o0mYx8kCkV1o0mYx8kCkV1o0mYx8kCkV1o0\ngVHBWbUpCojq6jZqDM1xQA==\n";
    let output = refused(wrapped.as_bytes());
    assert!(
        output.contains("line 1: the value of `S` goes on"),
        "{output}"
    );
    assert!(!output.contains("gVHBWbUp"), "{output}");
    let output = refused(b"A=1\nB='x\ny'\nC=2\nD=\"x\ny=z\"\n");
    for line in ["line 2: the value of `B`", "line 5: the value of `D`"] {
        assert!(output.contains(line), "{output}");
    }
    let project = TestProject::with_files(
        &[("a.env.enc", "{ path = \"a.env\", format = \"binary\" }")],
        "",
    );
    project.write_server("a.env", "B=1\n");
    project.ok(&["encrypt"]);
    project.write_server("a.env", wrapped);
    for command in ["diff", "status", "encrypt", "decrypt"] {
        let output = project.run(&[command]);
        assert!(
            !(output.stdout + &output.stderr).contains("gVHBWbUp"),
            "{command}"
        );
    }
}

#[test]
fn a_file_may_begin_with_a_brace() {
    let project = one();
    project.write_server("a.env", "{A=1\n{}=2\n");
    project.write_server("b.bin", "{\"data\": 5}\n");
    project.ok(&["encrypt"]);
    assert_eq!(project.ok(&["diff"]).stdout, "");
}

#[test]
fn the_layout_of_an_envelope_written_by_others_is_kept() {
    let project = one();
    project.write_server("a.env", "A=1\n");
    project.write_server("b.bin", "one\n");
    project.ok(&["encrypt"]);
    let ours = project.read_repo("b.bin.enc");
    let parsed: serde_json::Value = serde_json::from_str(&ours).unwrap();
    let token = parsed["data"].as_str().unwrap();
    let layouts = [
        ours.replace('\t', "  "),
        ours.trim_end().to_owned(),
        ours.replace('\n', "\r\n"),
        serde_json::to_string(&parsed).unwrap(),
    ];
    for (round, layout) in layouts.iter().enumerate() {
        project.write_repo("b.bin.enc", layout);
        project.commit();
        project.write_server("b.bin", format!("changed {round}\n"));
        project.ok(&["encrypt", "--force"]);
        let changed = project.git(&["diff", "--numstat"]);
        let expected = if layout.contains('\n') {
            "3\t3\tb.bin.enc\n"
        } else {
            "1\t1\tb.bin.enc\n"
        };
        assert_eq!(changed, expected, "{layout}");
        assert_eq!(project.ok(&["diff"]).stdout, "");
    }
    // Escapes inside the token, as other JSON writers make them.
    project.write_repo(
        "b.bin.enc",
        ours.replace(
            token,
            &token.replace('/', "\\/").replacen("ENC", "\\u0045NC", 1),
        ),
    );
    project.write_server("b.bin", "once more\n");
    project.ok(&["encrypt", "--force"]);
    assert_eq!(project.ok(&["diff"]).stdout, "");
}

#[test]
fn options_with_line_feeds_are_compared_as_they_are_kept() {
    let project = one();
    project.write_server("b.bin", "x\n");
    let rule = format!(
        "creation_rules:\n- age: {}\n  encrypted_regex: '^[^\\n]+$'\n",
        recipient(SERVER_KEY)
    );
    project.write_repo(".sops.yaml", rule);
    for round in 0..3 {
        project.write_server("a.env", format!("A={round}\n"));
        project.ok(&["encrypt"]);
    }
}

#[test]
fn clear_values_that_look_like_tokens_survive_a_change_of_rule() {
    let project = one();
    project.write_server("b.bin", "x\n");
    let source = "A=1\nB=ENC[AES256_GCM,data:Zm9v,iv:Zm9v,tag:Zm9v,type:str]\n";
    project.write_server("a.env", source);
    let rule = |option: &str| {
        format!(
            "creation_rules:\n- age: {}\n  {option}: ^A\n",
            recipient(SERVER_KEY)
        )
    };
    project.write_repo(".sops.yaml", rule("encrypted_regex"));
    project.ok(&["encrypt"]);
    project.write_repo(".sops.yaml", rule("unencrypted_regex"));
    project.ok(&["encrypt", "--update-recipients"]);
    fs::remove_file(project.server_file("a.env")).unwrap();
    project.ok(&["decrypt"]);
    assert_eq!(project.read_server("a.env"), source.as_bytes());
}

#[test]
fn metadata_stays_first_where_it_was() {
    let project = one();
    project.write_server("b.bin", "x\n");
    project.write_server("a.env", "A=1\nB=2");
    project.ok(&["encrypt"]);
    project.commit();
    project.write_server("a.env", "A=1\nB=2\n");
    project.ok(&["encrypt"]);
    let changed = project.git(&["diff", "--numstat"]);
    assert_eq!(changed, "3\t3\ta.env.enc\n", "{}", project.git(&["diff"]));
}

#[test]
fn an_unreadable_rules_file_is_no_missing_one() {
    let project = one();
    project.write_server("a.env", "A=1\n");
    project.write_server("b.bin", "x\n");
    fs::remove_file(project.repo_file(".sops.yaml")).unwrap();
    fs::create_dir(project.repo_file(".sops.yaml")).unwrap();
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("cannot be read"), "{output:#?}");
}

#[test]
fn a_rule_for_the_plaintext_name_that_another_rule_hides_is_refused() {
    let project = one();
    project.write_server("a.env", "A=1\n");
    let (server, laptop) = (recipient(SERVER_KEY), recipient(LAPTOP_KEY));
    let rules = |first: &str| {
        format!(
            "creation_rules:\n  - path_regex: {first}\n    age: {laptop},{server}\n  - path_regex: \\.enc$\n    age: {server}\n"
        )
    };
    project.write_repo(".sops.yaml", rules(r"\.env$"));
    let output = project.run(&["encrypt", "a.env"]);
    assert_eq!(output.code, 3, "{output:#?}");
    for (pattern, proposed) in [
        (r"\.env$", r"'\.env(\.enc)?$'"),
        (r"\.env\z", r"'\.env(\.enc)?\z'"),
        (r"'[.]sql$|[.]env$'", r"'[.]sql(\.enc)?$|[.]env(\.enc)?$'"),
    ] {
        project.write_repo(".sops.yaml", rules(pattern));
        let output = project.run(&["encrypt", "a.env"]);
        assert_eq!(output.code, 3, "{output:#?}");
        let help = format!("write creation rule 1 as `path_regex: {proposed}`");
        assert!(output.stderr.contains(&help), "{output:#?}");
        project.write_repo(".sops.yaml", rules(proposed));
        project.ok(&["encrypt", "-n", "a.env"]);
    }
    project.write_repo(".sops.yaml", rules(r"\.env(\.enc)?$"));
    project.ok(&["encrypt", "a.env"]);
    assert!(project.read_repo("a.env.enc").contains(&laptop));
    // A file that follows its rule shows which of the two is meant; order of recipients says nothing.
    let same = format!(
        "creation_rules:\n  - path_regex: \\.env$\n    age: {server}\n  - path_regex: \\.enc$\n    age: {laptop},{server}\n"
    );
    project.write_repo(".sops.yaml", same);
    project.write_server("a.env", "A=2\n");
    project.ok(&["encrypt", "a.env"]);
    fs::remove_file(project.repo_file("a.env.enc")).unwrap();
    fs::remove_dir_all(project.path("state")).unwrap();
    assert_eq!(project.run(&["encrypt", "a.env"]).code, 3);
    let rules = format!(
        "creation_rules:\n  - path_regex: \\.env$\n    age: {server},{laptop}\n  - path_regex: \\.enc$\n    age: {laptop},{server}\n"
    );
    project.write_repo(".sops.yaml", rules.clone());
    project.ok(&["encrypt", "-n", "a.env"]);
    project.write_repo(
        ".sops.yaml",
        rules.replacen("    age", "    kms: x\n    age", 1),
    );
    assert_eq!(project.run(&["encrypt", "-n", "a.env"]).code, 3);
}

#[test]
fn a_secret_that_a_rule_leaves_in_clear_is_a_warning() {
    let project = one();
    project.write_server("a.env", "DB_PASSWORD=12345678\nDB_HOST=12345678\n");
    let rule = format!(
        "creation_rules:\n- age: {}\n  unencrypted_regex: ^DB_\n",
        recipient(SERVER_KEY)
    );
    project.write_repo(".sops.yaml", rule);
    let output = project.ok(&["encrypt", "a.env"]);
    assert!(
        output.stderr.contains("warning: a.env.enc: stored in clear by `unencrypted_regex: ^DB_`, though the name sounds secret: DB_PASSWORD\n"),
        "{output:#?}"
    );
}

//! Guards on capture that compare with what is stored: an accident looks like one.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use super::support::{LAPTOP_KEY, SERVER_KEY, TestProject, assert_hidden, key_file, recipient};

const FULL: &str = "A=1\nB=2\nC=3\nD=4\nE=5\n";

fn stored() -> TestProject {
    let rows = [
        ("a.env.enc", "{ path = \"a.env\", required = [\"A\"] }"),
        ("b.sql.enc", "b.sql"),
    ];
    let project = TestProject::with_files(&rows, "");
    project.write_server("a.env", FULL);
    project.write_server("b.sql", "create database one;\ncreate database two;\n");
    project.ok(&["encrypt"]);
    project.commit();
    project.ok(&["decrypt"]);
    project
}

/// Runs `encrypt`, which is to refuse for the named reason until it is told to go on.
fn refused(project: &TestProject, reason: &str, allow: &[&str]) {
    let before = project.snapshot();
    for args in [
        &["encrypt"][..],
        &["encrypt", "--force"],
        &["encrypt", "-n"],
    ] {
        let output = project.run(args);
        assert_eq!(output.code, 3, "{args:?}: {output:#?}");
        assert!(output.stderr.contains(reason), "{args:?}: {output:#?}");
        assert!(output.stderr.contains(&allow.join(" ")), "{output:#?}");
        assert_eq!(project.snapshot(), before, "{args:?}");
    }
    project.ok(&[&["encrypt"], allow].concat());
    assert_eq!(project.run(&["diff"]).code, 0);
}

#[test]
fn a_capture_that_shrinks_a_file_is_refused() {
    let project = stored();
    project.write_server("a.env", "A=1\nB=2\n");
    refused(
        &project,
        "the source has 2 keys, and 5 are stored",
        &["--allow-shrink", "a.env.enc"],
    );
    let project = stored();
    project.write_server("b.sql", "create one;\n");
    refused(
        &project,
        "the source has 12 bytes, and 42 are stored",
        &["--allow-shrink", "b.sql.enc"],
    );
    let project = stored();
    project.write_server("a.env", "B=2\nC=3\nD=4\nE=5\n");
    refused(
        &project,
        "it lacks what the manifest requires: A",
        &["--allow-shrink", "a.env.enc"],
    );
    // Half of them, or more bytes than half, is no accident.
    let project = stored();
    project.write_server("a.env", "A=1\nB=2\nC=3\n");
    project.write_server("b.sql", "create database one;\n;\n");
    project.ok(&["encrypt"]);
    // A misspelled name is said, not ignored.
    let output = project.run(&["encrypt", "--allow-shrink", "nothing"]);
    assert_eq!(output.code, 2, "{output:#?}");
}

#[test]
fn a_large_file_that_shrinks_is_refused_without_being_opened() {
    let project = TestProject::with_files(&[("dump.enc", "dump")], "");
    project.write_server("dump", vec![7; 3 << 20]);
    project.ok(&["encrypt"]);
    project.write_server("dump", vec![7; 1 << 20]);
    refused(
        &project,
        "the source has 1048576 bytes, and 3145728 are stored",
        &["--allow-shrink", "dump.enc"],
    );
}

#[test]
fn a_value_that_became_a_placeholder_is_refused() {
    for value in [
        "",
        "changeme",
        "xxx",
        "<password>",
        "TODO",
        "REPLACE_ME",
        "${B}",
        "'change-me'",
    ] {
        let project = stored();
        project.write_server("a.env", FULL.replace("B=2", &format!("B={value}")));
        let reason = "the value became empty or a placeholder: B";
        refused(&project, reason, &["--allow-placeholder", "B"]);
        // What is stored already is no news.
        project.write_server(
            "a.env",
            FULL.replace("B=2", &format!("B={value}"))
                .replace("C=3", "C=9"),
        );
        project.ok(&["encrypt"]);
    }
    let project = stored();
    project.write_server("a.env", FULL.replace("B=2", "B=").replace("C=3", "C=TODO"));
    let output = project.run(&["encrypt", "--allow-placeholder", "B"]);
    assert_eq!(output.code, 3);
    assert!(output.stderr.contains("placeholder: C\n"), "{output:#?}");
    project.ok(&[
        "encrypt",
        "--allow-placeholder",
        "B",
        "--allow-placeholder",
        "C",
    ]);
}

#[test]
fn a_required_key_is_required_from_the_first_capture() {
    let rows = [(
        "a.env.enc",
        "{ path = \"a.env\", required = [\"A\", \"B\"] }",
    )];
    let project = TestProject::with_files(&rows, "");
    project.write_server("a.env", "A=1\n");
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(output.stderr.contains("requires: B"), "{output:#?}");
    let wrong = TestProject::with_files(
        &[("a.sql.enc", "{ path = \"a.sql\", required = [\"A\"] }")],
        "",
    );
    let output = wrong.run(&["list"]);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("a file of this format has none"),
        "{output:#?}"
    );
}

#[test]
fn a_file_that_is_being_written_is_refused() {
    let project = stored();
    let path = project.server_file("b.sql");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all(b"insert;\n").unwrap();
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        std::thread::sleep(Duration::from_millis(20));
        let sealed = project.read_repo("b.sql.enc");
        let output = project.run(&["encrypt"]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(output.code, 3, "{output:#?}");
        assert!(
            output.stderr.contains("being written right now"),
            "{output:#?}"
        );
        assert_eq!(project.read_repo("b.sql.enc"), sealed);
    });
    std::thread::sleep(Duration::from_millis(20));
    project.ok(&["encrypt"]);
}

#[test]
fn against_the_direction_only_the_direction_is_told() {
    let mut project = stored();
    project.capture_elsewhere(
        "a.env",
        "A=1\nB=2\nC=3\nD=4\nE=5\nF=6\nG=7\nH=8\nI=9\nJ=1\nK=1\n",
    );
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 3);
    assert!(
        output.stderr.contains("the repository is ahead"),
        "{output:#?}"
    );
    assert!(!output.stderr.contains("are stored"), "{output:#?}");
}

#[test]
fn a_large_environment_file_is_looked_at_by_key() {
    let rows = [(
        "a.env.enc",
        "{ path = \"a.env\", format = \"binary\", required = [\"LAST\"] }",
    )];
    let project = TestProject::with_files(&rows, "");
    let mut text = String::new();
    for number in 0..40_000 {
        text.push_str(&format!("KEY_{number}=some value or other {number}\n"));
    }
    project.write_server("a.env", format!("{text}LAST=1\n"));
    project.ok(&["encrypt"]);
    project.write_server("a.env", &text);
    let output = project.run(&["encrypt", "-n"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(output.stderr.contains("requires: LAST"), "{output:#?}");
    let placeholder = text.replacen("some value or other 7\n", "changeme\n", 1);
    project.write_server("a.env", format!("{placeholder}LAST=1\n"));
    let output = project.run(&["encrypt", "-n"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(
        output.stderr.contains("placeholder: KEY_7\n"),
        "{output:#?}"
    );
}

#[test]
fn one_command_lets_all_guards_of_an_entry_pass() {
    let project = stored();
    project.write_server("a.env", "A=\nB=2\n");
    let output = project.run(&["encrypt", "--force"]);
    assert_eq!(output.code, 3);
    let command =
        "`secrets encrypt --force --allow-shrink a.env.enc --allow-placeholder A a.env.enc`";
    assert!(output.stderr.contains(command), "{output:#?}");
    let words = shlex::split(command.trim_matches('`')).unwrap();
    let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    project.ok(&words);
}

/// A project that is in sync, and an attacker who may push: the file of one entry anew, for the same readers,
/// under another data key.
fn with_a_foreign_key() -> TestProject {
    let mut project = TestProject::with_files(&[("a.env.enc", "a.env"), ("b.enc", "b")], "");
    project.write_server("a.env", "ONE=canary-Vd81-database\nTWO=2\n");
    project.write_server("b", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    project.commit();
    project.ok(&["status"]);
    let push = |project: &TestProject| {
        project.git(&["add", "-A"]);
        project.git(&["-c", "user.name=Mallory", "commit", "-q", "-m", "rotation"]);
    };
    fs::remove_file(project.repo_file("a.env.enc")).unwrap();
    push(&project);
    let other = project.path("attacker");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("a.env"), "ONE=mallory\nTWO=2\n").unwrap();
    let state = project.path("attacker-state");
    let own = project
        .vars
        .insert("SECRETS_STATE_DIR".into(), state.into());
    project.ok(&["encrypt", "--root", other.to_str().unwrap(), "a.env"]);
    project
        .vars
        .insert("SECRETS_STATE_DIR".into(), own.unwrap());
    push(&project);
    project
}

#[test]
fn a_data_key_that_somebody_replaced_is_told_with_commit_and_author() {
    let project = with_a_foreign_key();
    let commit = project.git(&["rev-parse", "--short=7", "HEAD"]);
    let told = format!("its data key was replaced in commit {}", commit.trim());
    let tells = |output: &super::support::Output| {
        let text = format!("{}{}", output.stdout, output.stderr);
        assert!(
            text.contains(&told) && text.contains("Mallory"),
            "{output:#?}"
        );
        assert!(!text.contains("b.enc: its data key"), "{output:#?}");
    };
    tells(&project.ok(&["status"]));
    let output = project.ok(&["status", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(json["entries"][0]["data_key"]["author"], "Mallory");
    assert!(json["entries"][1].get("data_key").is_none());
    tells(&project.run(&["encrypt", "--force", "-n"]));
    tells(&project.ok(&["decrypt"]));
    // It was used; that does not make it known.
    tells(&project.ok(&["decrypt"]));
    tells(&project.ok(&["status"]));
    project.write_server("a.env", "ONE=canary-Vd81-database\nTWO=3\n");
    let output = project.ok(&["encrypt"]);
    tells(&output);
    assert!(
        output
            .stderr
            .contains("`secrets encrypt --new-data-key a.env.enc`"),
        "{output:#?}"
    );
    let opened_by_mallory = project.read_repo("a.env.enc");
    let output = project.ok(&["encrypt", "--new-data-key", "a.env"]);
    assert!(
        !output.stderr.contains("data key was replaced"),
        "{output:#?}"
    );
    let now = project.read_repo("a.env.enc");
    let wrapped = |text: &str| {
        let line = text.lines().find(|line| line.contains("map_enc"));
        line.unwrap().to_owned()
    };
    assert_ne!(wrapped(&now), wrapped(&opened_by_mallory));
    assert_eq!(project.opened("a.env.enc"), project.read_server("a.env"));
    assert_eq!(
        project.ok(&["status"]).stdout.matches("data key").count(),
        0
    );
    // What the same user does with the new key is no news.
    project.write_server("a.env", "ONE=canary-Vd81-database\nTWO=4\n");
    let output = project.ok(&["encrypt"]);
    assert!(!output.stderr.contains("data key"), "{output:#?}");
}

#[test]
fn a_data_key_that_is_known_can_be_agreed_to() {
    let project = with_a_foreign_key();
    project.ok(&["decrypt"]);
    let output = project.ok(&["trust", "a.env"]);
    assert!(
        output
            .stderr
            .contains("a.env.enc: agreed, its data key was replaced"),
        "{output:#?}"
    );
    for command in ["status", "decrypt", "encrypt"] {
        let output = project.ok(&[command]);
        let text = format!("{}{}", output.stdout, output.stderr);
        assert!(!text.contains("data key"), "{output:#?}");
    }
    let output = project.ok(&["trust", "a.env", "b", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(json["entries"][1], "b.enc");
}

#[test]
fn a_merge_of_both_sides_tells_a_replaced_data_key_once() {
    let project = with_a_foreign_key();
    project.write_server("a.env", "ONE=canary-Vd81-database\nTWO=3\n");
    let output = project.ok(&["merge"]);
    let told = output.stderr.matches("its data key was replaced");
    assert_eq!(told.count(), 1, "{output:#?}");
    assert_eq!(project.read_server("a.env"), b"ONE=mallory\nTWO=3\n");
    assert_eq!(project.opened("a.env.enc"), project.read_server("a.env"));
}

#[test]
fn a_new_data_key_is_made_where_nothing_else_changes() {
    let project = TestProject::with_files(
        &[
            ("a.env.enc", "a.env"),
            ("b.enc", "b"),
            ("c.yaml.enc", "c.yaml"),
        ],
        "",
    );
    project.write_server("a.env", "ONE=1\n");
    project.write_server("b", "canary-Ku36-sqlrole\n");
    project.write_server("c.yaml", "one: canary-Zt47-registry\n");
    project.ok(&["encrypt"]);
    let names = ["a.env.enc", "b.enc", "c.yaml.enc"];
    let before = names.map(|name| project.read_repo(name));
    let output = project.ok(&["encrypt", "--new-data-key", "-n"]);
    assert!(output.stderr.contains("3 to be replaced"), "{output:#?}");
    assert_eq!(names.map(|name| project.read_repo(name)), before);
    project.ok(&["encrypt", "--new-data-key"]);
    for (name, before) in names.into_iter().zip(&before) {
        let now = project.read_repo(name);
        let lines: Vec<_> = before
            .lines()
            .filter(|line| line.contains("ENC["))
            .collect();
        assert!(lines.iter().all(|line| !now.contains(line)), "{name}");
        assert_eq!(
            project.opened(name),
            project.read_server(name.trim_end_matches(".enc"))
        );
    }
    project.ok(&["undo"]);
    assert_eq!(names.map(|name| project.read_repo(name)), before);
}

/// Runs a command as somebody else on another host, of which nothing is remembered here.
fn as_somebody_else(project: &mut TestProject, args: &[&str]) {
    let state = project.path("others-state").into();
    let own = project.vars.insert("SECRETS_STATE_DIR".into(), state);
    project.ok(args);
    project
        .vars
        .insert("SECRETS_STATE_DIR".into(), own.unwrap());
}

/// Has somebody who may push let these keys read all files, by the rule too.
fn push_readers(project: &mut TestProject, keys: &[&str]) {
    let keys: Vec<String> = keys.iter().map(|key| recipient(key)).collect();
    project.write_rules(&keys);
    as_somebody_else(project, &["encrypt", "--update-recipients"]);
    project.git(&["add", "-A"]);
    project.git(&["-c", "user.name=Mallory", "commit", "-q", "-m", "readers"]);
}

/// A project that is in sync, and somebody who may push and lets another key read all files, by the rule too.
fn with_a_new_reader() -> TestProject {
    let mut project = TestProject::with_files(&[("a.env.enc", "a.env"), ("b.enc", "b")], "");
    project.write_rules(&[recipient(SERVER_KEY)]);
    project.write_server("a.env", "ONE=canary-Vd81-database\nTWO=2\n");
    project.write_server("b", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    project.commit();
    push_readers(&mut project, &[SERVER_KEY, LAPTOP_KEY]);
    project
}

#[test]
fn for_a_reader_that_somebody_added_nothing_is_encrypted_until_the_user_agrees() {
    let project = with_a_new_reader();
    let commit = project.git(&["rev-parse", "--short=7", "HEAD"]);
    let told = format!("can read it since commit {}", commit.trim());
    for args in [
        &["status"][..],
        &["decrypt"],
        &["encrypt"],
        &["encrypt", "-n"],
    ] {
        let output = project.ok(args);
        let text = format!("{}{}", output.stdout, output.stderr);
        assert!(
            text.contains(&told) && text.contains("by Mallory"),
            "{output:#?}"
        );
    }
    let before = project.read_repo("a.env.enc");
    project.write_server("a.env", "ONE=canary-Vd81-database\nTWO=3\n");
    for args in [
        &["encrypt"][..],
        &["encrypt", "--new-data-key", "a.env"],
        &["encrypt", "--force"],
        &["encrypt", "-n"],
    ] {
        let output = project.run(args);
        assert_eq!(output.code, 3, "{output:#?}");
        let refusal = "a.env.enc: it would be encrypted on other terms than this host knows";
        assert!(output.stderr.contains(refusal), "{output:#?}");
        assert!(output.stderr.contains("--update-recipients"), "{output:#?}");
    }
    assert_eq!(project.read_repo("a.env.enc"), before);
    // One file by one option, the other by the other.
    let output = project.ok(&["encrypt", "--update-recipients", "a.env"]);
    let agreed = output.stderr.contains("a.env.enc: agreed, ");
    assert!(
        agreed && output.stderr.contains("by Mallory"),
        "{output:#?}"
    );
    project.ok(&["trust", "b"]);
    project.write_server("a.env", "ONE=canary-Vd81-database\nTWO=4\n");
    project.write_server("b", "canary-Ku36-sqlrole 2\n");
    for args in [&["encrypt"][..], &["status"]] {
        let output = project.ok(args);
        let text = format!("{}{}", output.stdout, output.stderr);
        assert!(!text.contains("can read it"), "{output:#?}");
    }
}

#[test]
fn a_row_under_another_name_brings_no_reader_along() {
    let project = with_a_new_reader();
    project.git(&["mv", "a.env.enc", "z.env.enc"]);
    fs::remove_file(project.repo_file("z.env.enc")).unwrap();
    project.write_manifest(&[("z.env.enc", "a.env"), ("b.enc", "b")], "");
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(
        output
            .stderr
            .contains("z.env.enc: it would be encrypted on other terms"),
        "{output:#?}"
    );
    // Nor does it leave in clear what was encrypted.
    let server = recipient(SERVER_KEY);
    let rules = format!("creation_rules:\n  - unencrypted_regex: .*\n    age: {server}\n");
    project.write_repo(".sops.yaml", rules);
    let output = project.run(&["encrypt", "z.env"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(
        output.stderr.contains("`unencrypted_regex: .*`"),
        "{output:#?}"
    );
    assert!(!project.repo_file("z.env.enc").exists());
    // A file that nobody knows is new with whom the rule names; who was no reader of any file is named.
    project.write_rules(&[server, recipient(LAPTOP_KEY)]);
    project.write_manifest(&[("n.env.enc", "n.env"), ("b.enc", "b")], "");
    project.write_server("n.env", "N=canary-Ny18-htpasswd\n");
    let output = project.ok(&["encrypt", "n.env"]);
    assert!(
        output.stderr.contains("n.env.enc: ")
            && output
                .stderr
                .contains("can read it; so far that is so of no file here"),
        "{output:#?}"
    );
}

#[test]
fn a_data_key_under_another_name_is_told() {
    let project = with_a_foreign_key();
    project.git(&["mv", "a.env.enc", "z.env.enc"]);
    project.write_manifest(&[("z.env.enc", "a.env"), ("b.enc", "b")], "");
    project.commit();
    for command in ["status", "decrypt"] {
        let output = project.ok(&[command]);
        let text = format!("{}{}", output.stdout, output.stderr);
        let told = "in the place of a.env.enc, which stood for this file on the server: its data key is another one since";
        assert!(text.contains(told), "{output:#?}");
    }
}

#[test]
fn a_root_that_is_another_folder_under_the_same_name_stops() {
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    let manifest = project.read_repo("secret-files.toml");
    let line = manifest
        .lines()
        .find(|line| line.starts_with("root"))
        .unwrap();
    project.write_repo(
        "secret-files.toml",
        manifest.replace(line, "root = \"live/root\""),
    );
    project.write_repo(".gitignore", "live/\n");
    project.write_repo("live/root/a.env", "ONE=canary-Vd81-database\n");
    project.ok(&["encrypt"]);
    fs::rename(project.repo_file("live/root"), project.path("moved")).unwrap();
    let elsewhere = project.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, project.repo_file("live/root")).unwrap();
    let output = project.run(&["decrypt"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(output.stderr.contains("secrets trust"), "{output:#?}");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    project.ok(&["trust"]);
    project.ok(&["decrypt"]);
    assert!(elsewhere.join("a.env").exists());
}

#[test]
fn another_name_of_an_identity_and_own_files_are_never_captured() {
    let mut project = TestProject::with_files(&[("a.enc", "a"), ("b.enc", "own/records.json")], "");
    fs::create_dir_all(project.server_file("own")).unwrap();
    project.set("SECRETS_STATE_DIR", project.server_file("own"));
    fs::copy(key_file(SERVER_KEY), project.server_file("key")).unwrap();
    project.set("SOPS_AGE_KEY_FILE", project.server_file("key"));
    fs::hard_link(project.server_file("key"), project.server_file("a")).unwrap();
    project.write_server("own/records.json", "{}");
    for (name, what) in [
        ("a", "is an identity file"),
        ("b", "lies in the state directory"),
    ] {
        let output = project.run(&["encrypt", &format!("{name}.enc")]);
        assert_eq!(output.code, 3, "{output:#?}");
        assert!(output.stderr.contains(what), "{output:#?}");
        assert!(!project.repo_file(&format!("{name}.enc")).exists());
    }
    // Nor moved.
    fs::remove_file(project.server_file("a")).unwrap();
    project.write_manifest(&[("a.enc", "key")], "");
    for more in [&[][..], &["-n"]] {
        let args = ["mv", "a.enc", "b.enc", "--server", "x/key"];
        let output = project.run(&[&args, more].concat());
        assert_eq!(output.code, 3, "{output:#?}");
        assert!(output.stderr.contains("is an identity file"), "{output:#?}");
    }
    assert!(project.server_file("key").exists());
}

#[test]
fn what_the_option_agrees_to_is_told() {
    let mut project = with_a_new_reader();
    // Nothing else is to be done.
    let output = project.ok(&["encrypt", "--update-recipients", "a.env"]);
    assert!(output.stderr.contains("a.env.enc: agreed, "), "{output:#?}");
    // A reader that the rule takes away is not agreed to; that it goes is told where the content changes, too.
    project.write_rules(&[recipient(SERVER_KEY)]);
    project.write_server("b", "canary-Ku36-sqlrole 2\n");
    let output = project.ok(&["encrypt", "--update-recipients", "b"]);
    let told = format!("- {}; its rule is followed", recipient(LAPTOP_KEY));
    assert!(
        output.stderr.contains(&told) && !output.stderr.contains("agreed"),
        "{output:#?}"
    );
    push_readers(&mut project, &[SERVER_KEY, LAPTOP_KEY]);
    let output = project.ok(&["status"]);
    assert!(output.stdout.contains("can read it since"), "{output:#?}");
}

#[test]
fn a_reader_that_was_taken_away_and_comes_back_is_new() {
    let mut project = with_a_new_reader();
    project.ok(&["trust", "a.env", "b"]);
    let tells = |project: &TestProject| project.ok(&["status"]).stdout.contains("can read it");
    assert!(!tells(&project));
    push_readers(&mut project, &[SERVER_KEY]);
    project.ok(&["decrypt"]);
    assert!(!tells(&project));
    push_readers(&mut project, &[SERVER_KEY, LAPTOP_KEY]);
    assert!(tells(&project));
    project.write_server("b", "canary-Ku36-sqlrole 3\n");
    assert_eq!(project.run(&["encrypt", "b"]).code, 3);
}

#[test]
fn a_raw_age_file_takes_the_terms_of_its_rule() {
    let row = "{ path = \"g\", format = \"age\" }";
    let project = TestProject::with_files(&[("g.age.enc", row)], "");
    project.write_rules(&[recipient(SERVER_KEY)]);
    project.write_server("g", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    project.commit();
    project.write_rules(&[recipient(SERVER_KEY), recipient(LAPTOP_KEY)]);
    project.write_server("g", "canary-Ku36-sqlrole 2\n");
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(
        output.stderr.contains("other terms than this host knows"),
        "{output:#?}"
    );
    project.ok(&["trust", "g"]);
    project.ok(&["encrypt"]);
    project.write_server("g", "canary-Ku36-sqlrole 3\n");
    project.ok(&["encrypt"]);
}

#[test]
fn another_path_on_the_server_makes_nothing_known() {
    let project = with_a_foreign_key();
    project.write_manifest(&[("a.env.enc", "elsewhere.env"), ("b.enc", "b")], "");
    project.commit();
    // Before it is placed, and after.
    for command in ["status", "decrypt", "status", "encrypt"] {
        let output = project.ok(&[command]);
        let text = format!("{}{}", output.stdout, output.stderr);
        assert!(
            text.contains("its data key was replaced in commit"),
            "{output:#?}"
        );
    }
    let project = with_a_new_reader();
    project.write_manifest(&[("a.env.enc", "elsewhere.env"), ("b.enc", "b")], "");
    project.ok(&["decrypt"]);
    project.write_server("elsewhere.env", "ONE=canary-Vd81-database\nTWO=3\n");
    let output = project.run(&["encrypt", "a.env"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(
        output.stderr.contains("secrets trust a.env.enc"),
        "{output:#?}"
    );
}

#[test]
fn a_new_file_does_not_bring_a_new_reader_along() {
    let mut project = with_a_new_reader();
    // Somebody adds a file, too, that only they encrypted so far.
    let rows = [("a.env.enc", "a.env"), ("b.enc", "b"), ("n.enc", "n")];
    project.write_manifest(&rows, "");
    project.write_server("n", "canary-Ny18-htpasswd\n");
    as_somebody_else(&mut project, &["encrypt", "n"]);
    project.commit();
    fs::remove_file(project.server_file("n")).unwrap();
    let output = project.ok(&["decrypt"]);
    // What is the same of several files is said once.
    assert_eq!(
        output.stderr.matches("can read it").count(),
        2,
        "{output:#?}"
    );
    assert!(
        output.stderr.contains("a.env.enc, b.enc: ")
            && output
                .stderr
                .contains("3 entries on other terms than this host knows"),
        "{output:#?}"
    );
    assert!(
        output
            .stderr
            .contains("`secrets trust a.env.enc b.enc n.enc`"),
        "{output:#?}"
    );
    let output = project.ok(&["status", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let terms = json["entries"][2]["terms"][0].as_str().unwrap();
    assert!(terms.ends_with("can read it"), "{terms}");
    project.write_server("n", "canary-Ny18-htpasswd 2\n");
    assert_eq!(project.run(&["encrypt", "n"]).code, 3);
    project.ok(&["trust", "n"]);
    project.ok(&["encrypt", "n"]);
}

#[test]
fn a_form_that_shows_the_names_of_keys_is_agreed_to_first() {
    let project = TestProject::with_files(&[], "");
    let row = |format: &str| {
        let manifest = project.read_repo("secret-files.toml");
        let start = manifest.split("[files]").next().unwrap().to_owned();
        let row = format!("\"t.json.enc\" = {{ path = \"t.json\", format = \"{format}\" }}");
        project.write_repo("secret-files.toml", format!("{start}[files]\n{row}\n"));
    };
    row("binary");
    project.write_server("t.json", "{\"canary-Kn30-token\":\"admin\"}\n");
    project.ok(&["encrypt"]);
    row("json");
    project.ok(&["decrypt"]);
    project.write_server("t.json", "{\"canary-Kn30-token\":\"guest\"}\n");
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(
        output.stderr.contains("the names of its keys are in clear"),
        "{output:#?}"
    );
    assert!(!project.read_repo("t.json.enc").contains("canary-Kn30"));
    project.ok(&["encrypt", "--update-recipients"]);
    assert!(project.read_repo("t.json.enc").contains("canary-Kn30"));
    // The other way shows less.
    row("binary");
    project.write_server("t.json", "{\"canary-Kn30-token\":\"other\"}\n");
    project.ok(&["encrypt"]);
    assert!(!project.read_repo("t.json.enc").contains("canary-Kn30"));
}

/// Writes a rule with key groups; all of them are needed.
fn write_groups(project: &TestProject, groups: &[&[&str]]) {
    let mut rule = "creation_rules:\n  - key_groups:\n".to_owned();
    for keys in groups {
        rule += "      - age:\n";
        for key in *keys {
            rule += &format!("          - {}\n", recipient(key));
        }
    }
    project.write_repo(".sops.yaml", rule);
}

#[test]
fn what_asks_for_less_keys_of_groups_is_news() {
    const THIRD: &str = "throwaway-third.txt";
    let mut project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    let laptop = fs::read_to_string(key_file(LAPTOP_KEY)).unwrap();
    project.set("SOPS_AGE_KEY", laptop);
    write_groups(&project, &[&[SERVER_KEY, THIRD], &[LAPTOP_KEY, THIRD]]);
    project.write_server("a.env", "ONE=canary-Vd81-database\n");
    project.ok(&["encrypt"]);
    project.commit();
    write_groups(&project, &[&[LAPTOP_KEY, THIRD], &[THIRD, SERVER_KEY]]);
    as_somebody_else(&mut project, &["encrypt", "--update-recipients"]);
    let output = project.ok(&["status"]);
    assert!(!output.stdout.contains("key group"), "{output:#?}");
    // Nor is a key less, or a further group that is needed, too.
    for groups in [
        &[&[SERVER_KEY][..], &[LAPTOP_KEY, THIRD]][..],
        &[&[SERVER_KEY], &[LAPTOP_KEY], &[THIRD, LAPTOP_KEY]],
    ] {
        write_groups(&project, groups);
        as_somebody_else(&mut project, &["encrypt", "--update-recipients"]);
        let output = project.ok(&["status"]);
        assert!(
            !output.stdout.contains("key group"),
            "{groups:?} {output:#?}"
        );
        project.ok(&["decrypt"]);
    }
    // That it comes back is.
    write_groups(&project, &[&[SERVER_KEY, THIRD], &[LAPTOP_KEY, THIRD]]);
    as_somebody_else(&mut project, &["encrypt", "--update-recipients"]);
    let output = project.ok(&["status"]);
    assert!(
        output.stdout.contains("can open one of its key groups"),
        "{output:#?}"
    );
    // And that they need each other no more.
    project.write_rules(&[SERVER_KEY, LAPTOP_KEY].map(recipient));
    as_somebody_else(&mut project, &["encrypt", "--update-recipients"]);
    let output = project.ok(&["status"]);
    assert!(
        output.stdout.contains("any one of its keys opens it"),
        "{output:#?}"
    );
}

#[test]
fn a_copy_of_an_identity_is_told() {
    let project = TestProject::with_files(&[("a.env.enc", "a.env"), ("b.enc", "b")], "");
    let key = fs::read_to_string(key_file(SERVER_KEY)).unwrap();
    let other = fs::read_to_string(key_file(LAPTOP_KEY)).unwrap();
    let line = |text: &str| text.lines().last().unwrap().to_owned();
    project.write_server("a.env", format!("SOPS_AGE_KEY=\"{}\"\n", line(&key)));
    project.write_server("b", other);
    let output = project.ok(&["encrypt"]);
    assert!(
        output
            .stderr
            .contains("a.env.enc: it holds an identity that this run uses"),
        "{output:#?}"
    );
    assert!(!output.stderr.contains("b.enc: it holds"), "{output:#?}");
}

#[test]
fn what_is_told_can_be_agreed_to_before_the_file_is_here() {
    let mut project = with_a_new_reader();
    let rows = [("a.env.enc", "a.env"), ("b.enc", "b"), ("n.enc", "n")];
    project.write_manifest(&rows, "");
    project.write_server("n", "canary-Ny18-htpasswd\n");
    as_somebody_else(&mut project, &["encrypt", "n"]);
    project.commit();
    fs::remove_file(project.server_file("n")).unwrap();
    assert!(
        project
            .ok(&["status"])
            .stdout
            .contains("secrets trust a.env.enc b.enc n.enc")
    );
    project.ok(&["trust", "n"]);
    for command in ["status", "decrypt", "encrypt"] {
        let output = project.ok(&[command, "n"]);
        let text = format!("{}{}", output.stdout, output.stderr);
        assert!(!text.contains("can read it"), "{output:#?}");
    }
    project.write_server("n", "canary-Ny18-htpasswd 2\n");
    project.ok(&["encrypt", "n"]);
}

#[test]
fn a_data_key_in_the_place_of_a_plain_file_stays_told() {
    let project = with_a_foreign_key();
    let manifest = project.read_repo("secret-files.toml");
    let plain = "\n[plain]\n\"p.env\" = \"p.env\"\n";
    project.write_repo("secret-files.toml", manifest + plain);
    project.write_repo("p.env", "A=1\n");
    project.git(&["add", "p.env"]);
    project.ok(&["deploy"]);
    project.write_manifest(&[("a.env.enc", "p.env"), ("b.enc", "b")], "");
    project.commit();
    for args in [&["decrypt", "--force"][..], &["decrypt"], &["status"]] {
        let output = project.ok(args);
        let text = format!("{}{}", output.stdout, output.stderr);
        assert!(text.contains("its data key was replaced"), "{output:#?}");
    }
}

#[test]
fn repositories_with_one_root_know_their_own_files() {
    let mut project = TestProject::with_files(&[("a.env.enc", "x/a.env"), ("b.enc", "b")], "");
    project.write_server("x/a.env", "ONE=canary-Vd81-database\n");
    project.write_server("b", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    // Another repository, with a file of the same name for other readers.
    let other = project.path("other");
    fs::create_dir(&other).unwrap();
    let manifest = project.read_repo("secret-files.toml");
    let manifest = manifest
        .replace("\"x/a.env\"", "\"y/a.env\"")
        .replace("\"b.enc\" = \"b\"\n", "");
    fs::write(other.join("secret-files.toml"), manifest).unwrap();
    let readers = [SERVER_KEY, LAPTOP_KEY].map(recipient).join(",");
    let rules = format!("creation_rules:\n  - age: {readers}\n");
    fs::write(other.join(".sops.yaml"), rules).unwrap();
    project.write_server("y/a.env", "TWO=canary-Qx22-smtp\n");
    let at = ["-C", other.to_str().unwrap()];
    let run = |project: &TestProject, command: &str| project.ok(&[&at[..], &[command]].concat());
    run(&project, "encrypt");
    let output = run(&project, "status");
    assert!(!output.stdout.contains("data key"), "{output:#?}");
    project.set("SECRETS_STATE_DIR", project.path("third-state"));
    project.ok(&["decrypt"]);
    fs::remove_file(project.server_file("y/a.env")).unwrap();
    let output = run(&project, "decrypt");
    assert!(!output.stderr.contains("data key"), "{output:#?}");
}

#[test]
fn a_data_key_where_there_was_none_is_told() {
    let mut project = TestProject::with_files(&[], "");
    project.write_rules(&[recipient(SERVER_KEY)]);
    let row = |project: &TestProject, format: &str| {
        let row = format!("{{ path = \"g\", format = \"{format}\" }}");
        project.write_manifest(&[("g.enc", &row)], "");
    };
    row(&project, "age");
    project.write_server("g", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    // Somebody stores it with a data key of their own.
    row(&project, "binary");
    fs::remove_file(project.repo_file("g.enc")).unwrap();
    as_somebody_else(&mut project, &["encrypt"]);
    for (args, is_told) in [
        (&["status"][..], true),
        (&["decrypt"], true),
        (&["encrypt"], true),
        (&["trust", "g"], true),
        (&["status"], false),
    ] {
        let output = project.ok(args);
        let text = format!("{}{}", output.stdout, output.stderr);
        assert_eq!(
            text.contains("its data key was replaced"),
            is_told,
            "{output:#?}"
        );
    }
}

#[test]
fn what_restore_and_merge_put_there_first_is_known() {
    for args in [
        &["restore", "a.env", "--rev", "HEAD", "--force"][..],
        &["merge", "a.env", "--repository"],
    ] {
        let mut project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
        project.write_rules(&[recipient(SERVER_KEY)]);
        project.write_server("a.env", "ONE=canary-Vd81-database\n");
        project.ok(&["encrypt"]);
        project.commit();
        fs::remove_dir_all(project.path("state")).unwrap();
        project.write_server("a.env", "ONE=canary-Vd81-database\nTWO=2\n");
        let output = project.run(args);
        assert!(output.code == 0, "{output:#?}");
        push_readers(&mut project, &[SERVER_KEY, LAPTOP_KEY]);
        let output = project.ok(&["status"]);
        assert!(
            output.stdout.contains("can read it since"),
            "{args:?} {output:#?}"
        );
    }
}

#[test]
fn what_undo_takes_back_is_not_agreed_to() {
    let mut project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_rules(&[recipient(SERVER_KEY)]);
    project.write_server("a.env", "ONE=canary-Vd81-database\n");
    project.ok(&["encrypt"]);
    project.commit();
    // One's own new reader, and a new data key, thought better of.
    project.write_rules(&[SERVER_KEY, LAPTOP_KEY].map(recipient));
    project.ok(&["encrypt", "--update-recipients", "--new-data-key"]);
    project.ok(&["undo"]);
    project.write_rules(&[recipient(SERVER_KEY)]);
    let output = project.ok(&["status"]);
    assert!(!output.stdout.contains("data key"), "{output:#?}");
    push_readers(&mut project, &[SERVER_KEY, LAPTOP_KEY]);
    let output = project.ok(&["status"]);
    assert!(output.stdout.contains("can read it since"), "{output:#?}");
}

#[test]
fn an_older_checkout_forgets_nothing_and_trust_passes_over_what_is_not_there() {
    let project = with_a_new_reader();
    let rows = [("a.env.enc", "a.env"), ("b.enc", "b"), ("n.enc", "n")];
    project.write_manifest(&rows, "");
    project.commit();
    // One row has no file yet.
    let output = project.ok(&["trust", "**"]);
    assert_eq!(output.stderr.matches("agreed, ").count(), 2, "{output:#?}");
    assert!(
        output.stderr.contains("n.enc: nothing to agree to"),
        "{output:#?}"
    );
    project.ok(&["decrypt", "a.env", "b"]);
    project.git(&["checkout", "-q", "HEAD~2"]);
    project.ok(&["decrypt"]);
    project.git(&["checkout", "-q", "-"]);
    let output = project.ok(&["status"]);
    assert!(!output.stdout.contains("can read it"), "{output:#?}");
}

#[test]
fn a_raw_age_file_is_encrypted_anew_for_whom_its_rule_names() {
    let row = "{ path = \"g\", format = \"age\" }";
    let project = TestProject::with_files(&[("g.age.enc", row)], "");
    project.write_rules(&[recipient(SERVER_KEY)]);
    project.write_server("g", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    let before = project.read_repo("g.age.enc");
    project.ok(&["encrypt", "--update-recipients"]);
    assert_eq!(project.read_repo("g.age.enc"), before);
    project.write_rules(&[SERVER_KEY, LAPTOP_KEY].map(recipient));
    project.ok(&["encrypt", "--update-recipients"]);
    let after = project.read_repo("g.age.enc");
    assert_ne!(after, before);
    project.ok(&["encrypt", "--update-recipients"]);
    assert_eq!(project.read_repo("g.age.enc"), after);
    project.ok(&["encrypt", "--new-data-key"]);
    assert_ne!(project.read_repo("g.age.enc"), after);
    let output = project.ok(&["status"]);
    assert!(!output.stdout.contains("by its rule"), "{output:#?}");
}

#[test]
fn the_first_file_whose_form_shows_keys_is_no_news() {
    let mut project = TestProject::with_files(&[("b.enc", "b")], "");
    project.write_rules(&[recipient(SERVER_KEY)]);
    project.write_server("b", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    project.commit();
    project.write_manifest(&[("b.enc", "b"), ("n.env.enc", "n.env")], "");
    project.write_server("n.env", "N=canary-Ny18-htpasswd\n");
    as_somebody_else(&mut project, &["encrypt", "n.env"]);
    project.commit();
    fs::remove_file(project.server_file("n.env")).unwrap();
    project.ok(&["decrypt"]);
    project.write_server("n.env", "N=canary-Ny18-htpasswd2\n");
    project.ok(&["encrypt"]);
}

#[test]
fn a_plain_row_in_the_place_of_an_encrypted_one_shows_no_value() {
    let project = TestProject::with_files(&[("a.env.enc", "a.env"), ("b.enc", "b")], "");
    project.write_server("a.env", "ONE=canary-Vd81-database\n");
    project.write_server("b", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    project.commit();
    fs::remove_file(project.repo_file("a.env.enc")).unwrap();
    project.write_repo("a.txt", "hi\n");
    let plain = "\n[plain]\n\"a.txt\" = \"a.env\"\n";
    project.write_manifest(&[("b.enc", "b")], plain);
    project.commit();
    // What is shown is searched for values by the tests' own means.
    let output = project.run(&["diff"]);
    assert_eq!(output.code, 1, "{output:#?}");
    let output = project.ok(&["deploy", "-n"]);
    let told = "a.txt: a plain row takes the place of a.env.enc, which was encrypted";
    assert!(output.stderr.contains(told), "{output:#?}");
}

#[test]
fn an_identity_below_the_root_is_nobodys_own() {
    let mut project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_rules(&[recipient(SERVER_KEY)]);
    project.write_server("a.env", "ONE=canary-Vd81-database\n");
    project.ok(&["encrypt"]);
    project.commit();
    // Somebody had a row place a key that they have, too, and names it.
    fs::copy(key_file(LAPTOP_KEY), project.server_file("app.conf")).unwrap();
    let manifest = project.read_repo("secret-files.toml");
    let identity = project.server_file("app.conf");
    let line = format!("[defaults]\nidentity = \"{}\"", identity.display());
    project.write_repo("secret-files.toml", manifest.replace("[defaults]", &line));
    push_readers(&mut project, &[SERVER_KEY, LAPTOP_KEY]);
    let output = project.ok(&["status"]);
    assert!(output.stdout.contains("can read it since"), "{output:#?}");
}

#[test]
fn a_new_reader_is_told_also_where_no_row_is_left() {
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_rules(&[recipient(SERVER_KEY)]);
    project.write_server("a.env", "ONE=canary-Vd81-database\n");
    project.ok(&["encrypt"]);
    project.commit();
    project.write_rules(&[recipient(SERVER_KEY), recipient(LAPTOP_KEY)]);
    fs::remove_file(project.repo_file("a.env.enc")).unwrap();
    project.write_manifest(&[("z.env.enc", "z.env")], "");
    project.write_server("z.env", "Z=canary-Ny18-htpasswd\n");
    let output = project.ok(&["encrypt"]);
    let told = "can read it; so far that is so of no file here";
    assert!(output.stderr.contains(told), "{output:#?}");
}

#[test]
fn a_manifest_in_a_subfolder_brings_no_root_of_its_own() {
    let project = TestProject::with_files(&[("a.enc", "a")], "");
    project.write_server("a", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    let other = project.path("other");
    fs::create_dir(&other).unwrap();
    fs::create_dir(project.repo_file("docs")).unwrap();
    let pushed = format!(
        "version = 1\n[defaults]\nroot = \"{}\"\n[plain]\n\"job\" = \"job\"\n",
        other.display()
    );
    project.write_repo("docs/secret-files.toml", pushed);
    project.write_repo("docs/job", "x\n");
    project.commit();
    let there = ["-C", "docs"];
    for args in [&["deploy"][..], &["deploy", "-n"], &["encrypt"]] {
        let output = project.run(&[&there, args].concat());
        assert_eq!(output.code, 3, "{output:#?}");
        assert!(
            output.stderr.contains("this manifest is new here"),
            "{output:#?}"
        );
    }
    assert!(!other.join("job").exists());
    project.ok(&["-C", "docs", "trust"]);
    project.ok(&["-C", "docs", "deploy"]);
    assert!(other.join("job").exists());
}

#[test]
fn a_form_that_a_new_row_names_stores_no_value_as_the_name_of_a_key() {
    let lone = "8b9cRRmKJM95canaryJr59rotatedXyZ0123456789AB=\n";
    for (format, content) in [
        ("dotenv", lone.to_owned()),
        ("dotenv", "A=1\nalice:canary-Ny18-htpasswd=x\n".to_owned()),
        ("dotenv", "Zb9cRRmKJM95canaryJr59rotated=\n".to_owned()),
        ("ini", lone.to_owned()),
        ("yaml", "Zb9cRRmKJM95canaryJr59rotated:\n".to_owned()),
        (
            "json",
            "{\"Zb9cRRmKJM95canaryJr59rotated\": null}\n".to_owned(),
        ),
    ] {
        let row = format!("{{ path = \"wg\", format = \"{format}\" }}");
        let project = TestProject::with_files(&[("wg.enc", &row)], "");
        project.write_server("wg", &content);
        for args in [&["encrypt"][..], &["encrypt", "--force"]] {
            let output = project.run(args);
            assert_eq!(output.code, 3, "{content} {output:#?}");
            assert!(output.stderr.contains("stored in clear"), "{output:#?}");
        }
        assert!(!project.repo_file("wg.enc").exists());
    }
    // Names are names.
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "# x\n\nexport MY_KEY=\nmy.key-2=\"a b\"\nEMPTY=\n");
    project.ok(&["encrypt"]);
}

/// Whoever may push a row of `[plain]` must not publish what only lies in the checkout.
#[test]
fn a_row_of_plain_places_and_shows_nothing_that_is_not_shared() {
    let mut project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "ONE=canary-Vd81-database\n");
    project.ok(&["encrypt"]);
    project.write_repo(".gitignore", "/identity.txt\n/.env\n");
    project.commit();
    fs::copy(key_file(SERVER_KEY), project.repo_file("identity.txt")).unwrap();
    project.set("SOPS_AGE_KEY_FILE", project.repo_file("identity.txt"));
    project.write_repo(".env", "canary-Ku36-sqlrole\n");
    project.write_repo("untracked", "canary-Ku36-sqlrole\n");
    let manifest = project.read_repo("secret-files.toml");
    for (source, word) in [
        ("identity.txt", "is an identity file"),
        (".env", "git does not track"),
        ("untracked", "git does not track"),
    ] {
        let row = format!("\n[plain]\n\"{source}\" = {{ path = \"www/x\", mode = \"0644\" }}\n");
        project.write_repo("secret-files.toml", manifest.clone() + &row);
        let output = project.run(&["deploy"]);
        assert_eq!(output.code, 3, "{output:#?}");
        assert!(output.stderr.contains(word), "{output:#?}");
        assert!(!project.server_file("www/x").exists(), "{source}");
        let output = project.run(&["check"]);
        assert!(output.stdout.contains("[untracked]"), "{output:#?}");
        // Nor is it shown beside another file.
        project.write_server("www/x", "something\n");
        let output = project.run(&["diff"]);
        assert_hidden(&output.stdout, "diff");
        assert!(!output.stdout.contains("AGE-SECRET-KEY"));
        fs::remove_file(project.server_file("www/x")).unwrap();
    }
    // Nor is its mode opened, where it is a target itself, or what the target holds is the same.
    let row = "\n[plain]\n\"untracked\" = { path = \"www/x\", mode = \"0644\" }\n";
    project.write_repo("secret-files.toml", manifest.clone() + row);
    project.write_server("www/x", "canary-Ku36-sqlrole\n");
    let file = project.server_file("www/x");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(project.run(&["deploy"]).code, 3);
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::remove_file(&file).unwrap();
    // What `status` proposes is what can be done.
    assert_eq!(project.run(&["status"]).code, 3);
    // A repository below is another one.
    fs::create_dir(project.repo_file("below")).unwrap();
    project.write_repo("below/p", "canary-Ku36-sqlrole\n");
    for args in [&["init", "-q"][..], &["add", "p"]] {
        project.git(&[&["-C", "below"], args].concat());
    }
    let row = "\n[plain]\n\"below/p\" = { path = \"www/x\", mode = \"0644\" }\n";
    project.write_repo("secret-files.toml", manifest.clone() + row);
    assert_eq!(project.run(&["deploy"]).code, 3);
    assert!(!file.exists());
    let row = "\n[plain]\n\"untracked\" = { path = \"www/x\", mode = \"0644\" }\n";
    project.write_repo("secret-files.toml", manifest + row);
    // What git tracks is placed.
    project.git(&["add", "untracked"]);
    project.ok(&["deploy"]);
    assert!(project.server_file("www/x").exists());
}

#[test]
fn a_row_of_plain_shows_no_file_that_no_sync_has_seen() {
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "ONE=canary-Vd81-database\n");
    project.ok(&["encrypt"]);
    let manifest = project.read_repo("secret-files.toml");
    project.write_server("shadow", "root:one\n");
    project.write_repo("p", "x\n");
    let row = "\n[plain]\n\"p\" = \"shadow\"\n";
    project.write_repo("secret-files.toml", manifest + row);
    project.commit();
    let file = project.server_file("shadow");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let output = project.run(&["diff"]);
    assert_eq!(output.code, 1, "{output:#?}");
    assert!(!output.stdout.contains("root:"), "{output:#?}");
    // What everybody may read is, and what was placed.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let folders = [project.path(""), project.root()];
    for (mode, is_shown) in [(0o700, false), (0o755, true)] {
        for folder in &folders {
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        }
        let output = project.run(&["diff"]);
        assert_eq!(output.stdout.contains("root:"), is_shown, "{output:#?}");
    }
    project.ok(&["deploy", "--force"]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    project.write_server("shadow", "root:x\n");
    assert!(project.run(&["diff"]).stdout.contains("root:"));
}

#[test]
fn a_row_of_plain_does_not_take_the_plaintext_of_another() {
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    let inside = project.repo_file("srv");
    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("a.env"), "ONE=canary-Vd81-database\n").unwrap();
    let root = ["--root", inside.to_str().unwrap()];
    let run = |args: &[&str]| project.run(&[&root[..], args].concat());
    assert_eq!(run(&["encrypt"]).code, 0);
    let manifest = project.read_repo("secret-files.toml");
    let row = "\n[plain]\n\"srv/a.env\" = { path = \"www/a\", mode = \"0644\" }\n";
    project.write_repo("secret-files.toml", manifest + row);
    let output = run(&["deploy"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(
        output.stderr.contains("is the plaintext of `a.env.enc`"),
        "{output:#?}"
    );
    assert!(!inside.join("www/a").exists());
}

#[test]
fn the_places_of_keys_are_no_targets_where_none_is_yet() {
    let mut project = TestProject::with_files(&[("a.enc", "home/.config/sops/age/keys.txt")], "");
    let home = project.server_file("home");
    fs::create_dir_all(home.join(".config/sops/age")).unwrap();
    project.write_server("home/.config/sops/age/keys.txt", "AGE-PLUGIN-EVIL-1QQQQ\n");
    project.ok(&["encrypt"]);
    fs::remove_file(home.join(".config/sops/age/keys.txt")).unwrap();
    project.set("HOME", &home);
    project.vars.remove(std::ffi::OsStr::new("XDG_CONFIG_HOME"));
    let output = project.run(&["decrypt"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(output.stderr.contains("is an identity file"), "{output:#?}");
    assert!(!home.join(".config/sops/age/keys.txt").exists());
}

#[test]
fn a_file_of_another_user_gets_no_secret() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("SECRETS_CI").is_none(), "CI is root");
        drop(writeln!(
            std::io::stderr(),
            "skipped: a_file_of_another_user_gets_no_secret (not root)"
        ));
        return;
    }
    let mut project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "ONE=1\n");
    project.ok(&["encrypt"]);
    project.commit();
    project.capture_elsewhere("a.env", "ONE=2\n");
    let file = project.server_file("a.env");
    std::os::unix::fs::chown(&file, Some(1234), None).unwrap();
    for args in [
        &["decrypt"][..],
        &["decrypt", "--force"],
        &["merge", "--repository"],
    ] {
        let output = project.run(args);
        assert_eq!(output.code, 3, "{output:#?}");
        assert!(
            output.stderr.contains("is another user's now"),
            "{output:#?}"
        );
        assert_eq!(project.read_server("a.env"), b"ONE=1\n");
    }
    // Declared, it is meant.
    project.write_manifest(
        &[("a.env.enc", "{ path = \"a.env\", owner = \"1234\" }")],
        "",
    );
    if project.run(&["decrypt", "-n"]).code != 0 {
        // Accounts that do not exist here cannot be declared.
        project.write_manifest(&[("a.env.enc", "a.env")], "");
        std::os::unix::fs::chown(&file, Some(0), None).unwrap();
    }
    project.ok(&["decrypt"]);
    assert_eq!(project.read_server("a.env"), b"ONE=2\n");
}

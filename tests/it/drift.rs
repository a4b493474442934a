//! Which side is behind: the table of verdicts, case by case, and what each command does with it.

use std::fs;
use std::process::Command;

use super::support::{LAPTOP_KEY, SERVER_KEY, TestProject, recipient};

/// Three versions of a file, and one that has the values of the first in another layout.
struct Versions {
    name: &'static str,
    texts: [&'static str; 3],
    layout: Option<&'static str>,
}

const ENV: Versions = Versions {
    name: "a.env",
    texts: ["A=1\nB=1\n", "A=2\nB=1\n", "A=3\nB=1\n"],
    layout: Some("A=1\n\nB=1\n"),
};
const BINARY: Versions = Versions {
    name: "a.sql",
    texts: ["one\n", "two\n", "three\n"],
    layout: None,
};

impl Versions {
    fn sealed(&self) -> String {
        format!("{}.enc", self.name)
    }

    /// Returns a project whose sides agree on the first version, recorded and committed.
    fn agreed(&self) -> TestProject {
        let project = TestProject::with_files(&[(&self.sealed(), self.name)], "");
        project.write_server(self.name, self.texts[0]);
        project.ok(&["encrypt"]);
        project.commit();
        // The record now knows the commit.
        project.ok(&["decrypt"]);
        project
    }

    fn forget(project: &TestProject) {
        fs::remove_file(project.path("state/records.json")).unwrap();
    }
}

/// What a case must come to.
struct Expected {
    verdict: &'static str,
    /// Exit codes of `encrypt`, `decrypt`, `diff`.
    codes: [u8; 3],
}

/// Prepares the case anew for each command, and compares exit codes and both sides afterwards.
fn check(versions: &Versions, what: &str, expected: &Expected, prepare: impl Fn(&mut TestProject)) {
    let case = format!("{what} ({})", versions.name);
    let fresh = || {
        let mut project = versions.agreed();
        prepare(&mut project);
        project
    };
    let sides = |project: &TestProject| {
        let server = fs::read(project.server_file(versions.name)).ok();
        let sealed = project.repo_file(&versions.sealed());
        let repository = sealed.exists().then(|| project.opened(&versions.sealed()));
        (server, repository)
    };
    let project = fresh();
    let json = project.run(&["status", "--json"]).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        json["entries"][0]["verdict"], expected.verdict,
        "{case}: {json}"
    );
    let (server, repository) = sides(&project);
    let before = project.snapshot();
    let diff = project.run(&["diff"]);
    assert_eq!(diff.code, expected.codes[2], "{case}: {diff:#?}");
    for (command, code) in [
        ("encrypt", expected.codes[0]),
        ("decrypt", expected.codes[1]),
    ] {
        let project = if command == "encrypt" {
            &project
        } else {
            &fresh()
        };
        let dry = project.run(&[command, "-n"]);
        assert_eq!(dry.code, code, "{case}: dry {command}: {dry:#?}");
        let output = project.run(&[command]);
        assert_eq!(output.code, code, "{case}: {command}: {output:#?}");
        let after = sides(project);
        if code != 0 {
            assert_eq!(
                after,
                (server.clone(), repository.clone()),
                "{case}: {command}"
            );
            if command == "encrypt" {
                assert_eq!(project.snapshot(), before, "{case}: {command}");
            }
            continue;
        }
        let wanted = if command == "encrypt" {
            &server
        } else {
            &repository
        };
        let wanted = wanted.clone().or(repository.clone()).or(server.clone());
        let untouched = command == "encrypt" && server.is_none();
        if !untouched {
            assert_eq!(after.0, wanted, "{case}: {command}: server");
            assert_eq!(after.1, wanted, "{case}: {command}: repository");
        }
        // What agrees now is remembered.
        assert_eq!(project.run(&["diff"]).code, 0, "{case}: {command}");
    }
}

fn table(versions: &Versions) {
    let [_, second, third] = versions.texts;
    let name = versions.name;
    let sealed = versions.sealed();
    let case = |verdict, codes| Expected { verdict, codes };
    check(
        versions,
        "nothing moved",
        &case("in-sync", [0, 0, 0]),
        |_| {},
    );
    check(
        versions,
        "server",
        &case("server-ahead", [0, 3, 1]),
        |project| {
            project.write_server(name, second);
        },
    );
    check(
        versions,
        "repository",
        &case("repo-ahead", [3, 0, 1]),
        |project| {
            project.capture_elsewhere(name, second);
        },
    );
    check(
        versions,
        "both alike",
        &case("in-sync", [0, 0, 0]),
        |project| {
            project.capture_elsewhere(name, second);
            project.write_server(name, second);
        },
    );
    check(
        versions,
        "both",
        &case("both-moved", [3, 3, 1]),
        |project| {
            project.capture_elsewhere(name, second);
            project.write_server(name, third);
        },
    );
    check(
        versions,
        "missing on server",
        &case("missing-on-server", [3, 0, 1]),
        |project| {
            fs::remove_file(project.server_file(name)).unwrap();
        },
    );
    check(
        versions,
        "missing on server, no record",
        &case("missing-on-server", [3, 0, 1]),
        |project| {
            fs::remove_file(project.server_file(name)).unwrap();
            Versions::forget(project);
        },
    );
    check(
        versions,
        "deleted, recorded",
        &case("deleted-in-repo", [3, 3, 1]),
        |project| {
            project.git(&["rm", "-q", &sealed]);
            project.git(&["commit", "-q", "-m", "gone"]);
        },
    );
    check(
        versions,
        "deleted, in HEAD",
        &case("deleted-in-repo", [3, 3, 1]),
        |project| {
            fs::remove_file(project.repo_file(&sealed)).unwrap();
            Versions::forget(project);
        },
    );
    check(
        versions,
        "never encrypted",
        &case("not-encrypted-yet", [0, 3, 1]),
        |project| {
            project.git(&["rm", "-q", &sealed]);
            project.git(&["commit", "-q", "-m", "gone"]);
            Versions::forget(project);
        },
    );
    check(
        versions,
        "unknown",
        &case("unknown", [3, 3, 1]),
        |project| {
            project.write_server(name, second);
            Versions::forget(project);
        },
    );
    check(
        versions,
        "behind",
        &case("repo-ahead", [3, 0, 1]),
        |project| {
            project.capture_elsewhere(name, second);
            project.commit();
            Versions::forget(project);
        },
    );
    check(
        versions,
        "behind, not committed",
        &case("repo-ahead", [3, 0, 1]),
        |project| {
            project.capture_elsewhere(name, second);
            Versions::forget(project);
        },
    );
    check(
        versions,
        "equal, no record",
        &case("in-sync", [0, 0, 0]),
        Versions::forget_in,
    );
    let stale = |project: &mut TestProject, server: &str| {
        project.capture_elsewhere(name, second);
        project.commit();
        project.capture_elsewhere(name, third);
        project.commit();
        project.write_server(name, server);
    };
    check(
        versions,
        "another user decrypted since",
        &case("repo-ahead", [3, 0, 1]),
        |project| {
            stale(project, second);
        },
    );
}

impl Versions {
    fn forget_in(project: &mut TestProject) {
        Self::forget(project);
    }
}

#[test]
fn the_table_holds_for_environment_files() {
    table(&ENV);
}

#[test]
fn the_table_holds_for_binary_files() {
    table(&BINARY);
}

#[test]
fn a_difference_of_layout_is_no_second_mover() {
    let layout = ENV.layout.unwrap();
    let [first, second, _] = ENV.texts;
    let case = |verdict, codes| Expected { verdict, codes };
    check(
        &ENV,
        "server layout",
        &case("server-ahead", [0, 3, 1]),
        |project| {
            project.write_server(ENV.name, layout);
        },
    );
    check(
        &ENV,
        "repository layout",
        &case("repo-ahead", [3, 0, 1]),
        |project| {
            project.capture_elsewhere(ENV.name, layout);
        },
    );
    check(
        &ENV,
        "repository layout, server value",
        &case("server-ahead", [0, 3, 1]),
        |project| {
            project.capture_elsewhere(ENV.name, layout);
            project.write_server(ENV.name, second);
        },
    );
    check(
        &ENV,
        "server layout, repository value",
        &case("repo-ahead", [3, 0, 1]),
        |project| {
            project.capture_elsewhere(ENV.name, second);
            project.write_server(ENV.name, layout);
        },
    );
    check(
        &ENV,
        "layout, no record",
        &case("unknown", [3, 3, 1]),
        |project| {
            project.write_server(ENV.name, layout);
            Versions::forget(project);
        },
    );
    let project = ENV.agreed();
    project.write_server(ENV.name, layout);
    let json = project.ok(&["status", "--json"]).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["entries"][0]["state"], "layout-only");
    assert!(project.ok(&["status"]).stdout.starts_with("layout only"));
    assert_ne!(first, layout);
}

#[test]
fn the_commit_that_the_server_is_behind_at_is_named() {
    let mut project = ENV.agreed();
    let commit = project.git(&["rev-parse", "--short=10", "HEAD"]);
    project.capture_elsewhere(ENV.name, ENV.texts[1]);
    project.commit();
    Versions::forget(&project);
    let diff = project.run(&["diff"]);
    let expected = format!("the server has commit {}", commit.trim());
    assert!(diff.stdout.contains(&expected), "{diff:#?}");
    let refused = project.run(&["encrypt"]);
    assert!(refused.stderr.contains(&expected), "{refused:#?}");
    assert!(
        refused.stderr.contains("`secrets decrypt a.env.enc`"),
        "{refused:#?}"
    );
    // What is committed needs no backup.
    project.ok(&["decrypt"]);
    assert!(!project.path("state/backups").exists());
}

#[test]
fn a_history_that_is_cut_is_said_and_a_tarball_works() {
    let mut project = ENV.agreed();
    project.capture_elsewhere(ENV.name, ENV.texts[1]);
    project.commit();
    project.capture_elsewhere(ENV.name, ENV.texts[2]);
    project.commit();
    let full = project.repo();
    let shallow = project.path("shallow");
    let source = format!("file://{}", full.display());
    let cloned = Command::new("git")
        .args(["clone", "-q", "--depth", "1", &source])
        .arg(&shallow)
        .status();
    assert!(cloned.unwrap().success());
    Versions::forget(&project);
    let refused = project.run_in(&shallow, &["decrypt"]);
    assert_eq!(refused.code, 3, "{refused:#?}");
    assert!(refused.stderr.contains("shallow clone"), "{refused:#?}");
    fs::remove_dir_all(shallow.join(".git")).unwrap();
    assert_eq!(project.run_in(&shallow, &["decrypt"]).code, 3);
    // A record needs no git.
    project.write_server(ENV.name, ENV.texts[2]);
    assert_eq!(project.run_in(&shallow, &["decrypt"]).code, 0);
    project.write_server(ENV.name, ENV.texts[0]);
    let output = project.run_in(&shallow, &["encrypt"]);
    assert_eq!(output.code, 0, "the server moved since: {output:#?}");
}

#[test]
fn a_clone_without_old_versions_counts_as_cut() {
    let mut project = ENV.agreed();
    project.capture_elsewhere(ENV.name, ENV.texts[1]);
    project.commit();
    project.capture_elsewhere(ENV.name, ENV.texts[2]);
    project.commit();
    project.git(&["config", "uploadpack.allowFilter", "true"]);
    let partial = project.path("partial");
    let source = format!("file://{}", project.repo().display());
    let cloned = Command::new("git")
        .args(["clone", "-q", "--filter=blob:none", &source])
        .arg(&partial)
        .status();
    assert!(cloned.unwrap().success());
    Versions::forget(&project);
    let before = project.snapshot();
    let refused = project.run_in(&partial, &["decrypt"]);
    assert_eq!(refused.code, 3, "{refused:#?}");
    assert!(refused.stderr.contains("clone"), "{refused:#?}");
    assert_eq!(project.snapshot(), before);
}

#[test]
fn a_pull_followed_by_decrypt_needs_no_flag() {
    let mut project = TestProject::infrastructure();
    project.ok(&["encrypt"]);
    project.commit();
    project.capture_elsewhere("shared/.env", "REGISTRY_TOKEN=canary-Jr59-rotated\n");
    project.commit();
    let output = project.ok(&["decrypt"]);
    assert!(
        output.stderr.contains("1 replaced, 10 unchanged"),
        "{output:#?}"
    );
    assert_eq!(project.run(&["diff"]).code, 0);
}

#[test]
fn reading_commands_write_nothing() {
    let project = ENV.agreed();
    fs::remove_dir_all(project.path("state")).unwrap();
    for args in [
        &["status"][..],
        &["diff"],
        &["list"],
        &["check"],
        &["decrypt", "-n"],
        &["undo", "--list"],
    ] {
        project.run(args);
        assert!(!project.path("state").exists(), "{args:?}");
    }
}

#[test]
fn damaged_records_lead_to_a_refusal_that_says_so() {
    let project = ENV.agreed();
    fs::write(project.path("state/records.json"), "{").unwrap();
    project.write_server(ENV.name, ENV.texts[1]);
    for command in ["encrypt", "decrypt"] {
        let output = project.run(&[command]);
        assert_eq!(output.code, 3);
        assert!(
            output
                .stderr
                .contains("records of the last sync are damaged"),
            "{output:#?}"
        );
    }
    project.ok(&["encrypt", "--force"]);
    project.write_server(ENV.name, ENV.texts[2]);
    project.ok(&["encrypt"]);
}

#[test]
fn undo_brings_back_files_and_verdicts() {
    let mut project = ENV.agreed();
    project.capture_elsewhere(ENV.name, ENV.texts[1]);
    project.write_server(ENV.name, ENV.texts[2]);
    let before = project.snapshot();
    for command in ["decrypt", "encrypt"] {
        let output = project.ok(&[command, "--force"]);
        assert!(output.stderr.contains("kept "), "{output:#?}");
        assert_eq!(project.run(&["diff"]).code, 0);
        let list = project.ok(&["undo", "--list"]).stdout;
        assert!(list.lines().next().unwrap().contains(command), "{list}");
        assert_eq!(project.ok(&["undo", "-n"]).code, 0);
        assert_ne!(project.snapshot(), before);
        project.ok(&["undo"]);
        assert_eq!(project.snapshot(), before, "{command}");
        assert_eq!(project.run(&[command]).code, 3, "both moved, as before");
        assert_ne!(project.ok(&["undo", "--list"]).stdout, list);
    }
    project.ok(&["decrypt", "--force"]);
    project.write_server(ENV.name, "A=9\n");
    let output = project.run(&["undo"]);
    assert_eq!(output.code, 3);
    assert!(
        output
            .stderr
            .contains("is not what that run wrote any more"),
        "{output:#?}"
    );
    assert_eq!(project.read_server(ENV.name), b"A=9\n");
}

#[test]
fn a_changed_root_stops_the_run_until_it_is_trusted() {
    let project = ENV.agreed();
    let other = project.path("other");
    fs::create_dir(&other).unwrap();
    let manifest = project.read_repo("secret-files.toml");
    let old = project.root().display().to_string();
    project.write_repo(
        "secret-files.toml",
        manifest.replace(&old, other.to_str().unwrap()),
    );
    for args in [
        &["decrypt"][..],
        &["decrypt", "-n"],
        &["encrypt"],
        &["deploy"],
    ] {
        let output = project.run(args);
        assert_eq!(output.code, 3, "{output:#?}");
        assert!(output.stderr.contains("`secrets trust`"), "{output:#?}");
    }
    assert!(fs::read_dir(&other).unwrap().next().is_none());
    project.ok(&["decrypt", "--root", &old]);
    let output = project.ok(&["trust"]);
    assert!(output.stderr.contains("(before: "), "{output:#?}");
    project.ok(&["decrypt"]);
    assert!(other.join(ENV.name).exists());
}

#[test]
fn owner_and_mode_that_nothing_declares_are_compared_with_the_record() {
    use std::os::unix::fs::PermissionsExt;
    let project = ENV.agreed();
    let file = project.server_file(ENV.name);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap();
    let diff = project.run(&["diff"]);
    assert_eq!(diff.code, 1);
    assert!(
        diff.stdout
            .contains("mode is 0604, was 0640 at the last sync"),
        "{diff:#?}"
    );
    let output = project.ok(&["decrypt"]);
    assert!(
        output.stderr.contains("not declared, left as it is"),
        "{output:#?}"
    );
}

#[test]
fn deploy_places_plain_and_secret_files_in_one_plan() {
    use std::os::unix::fs::PermissionsExt;
    let project = TestProject::infrastructure();
    project.ok(&["encrypt"]);
    fs::remove_dir_all(project.root()).unwrap();
    fs::create_dir(project.root()).unwrap();
    let output = project.ok(&["deploy"]);
    assert!(
        output.stderr.ends_with("13 entries: 13 created\n"),
        "{output:#?}"
    );
    let mode = fs::metadata(project.server_file("compose.yaml"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o644);
    project.write_repo("compose.yaml", "new\n");
    project.ok(&["deploy"]);
    assert_eq!(project.read_server("compose.yaml"), b"new\n");
    project.write_server("compose.yaml", "edited\n");
    project.write_server("shared/.env", "A=1\n");
    let before = project.snapshot();
    assert_eq!(project.run(&["deploy"]).code, 3);
    assert_eq!(project.snapshot(), before);
    project.ok(&["deploy", "--force"]);
    assert_eq!(project.read_server("compose.yaml"), b"new\n");
    project.ok(&["undo"]);
    assert_eq!(project.snapshot(), before);
    let sealed = project.read_repo("shared/.env.enc");
    project.write_repo("compose.yaml", sealed);
    let output = project.run(&["deploy", "compose.yaml"]);
    assert_eq!(output.code, 3, "ciphertext is never deployed: {output:#?}");
}

#[test]
fn a_checkout_that_went_back_is_not_ahead() {
    let mut project = ENV.agreed();
    let [first, second, _] = ENV.texts;
    // A capture that was thrown away: the server has the only copy.
    project.write_server(ENV.name, second);
    project.ok(&["encrypt"]);
    project.git(&["checkout", "-q", "--", "a.env.enc"]);
    let output = project.run(&["decrypt"]);
    assert_eq!(output.code, 3, "{output:#?}");
    let words = "the repository does not have it";
    assert!(output.stderr.contains(words), "{output:#?}");
    let status = project.run(&["status"]).stdout;
    assert!(
        status.contains("was captured last is not in the repository"),
        "{status}"
    );
    project.ok(&["encrypt"]);
    project.commit();
    project.ok(&["encrypt"]);
    // An older checkout.
    project.git(&["checkout", "-q", "HEAD~1"]);
    let output = project.run(&["decrypt"]);
    assert_eq!(output.code, 3);
    assert!(
        output.stderr.contains("this checkout is older than commit"),
        "{output:#?}"
    );
    assert_eq!(project.read_server(ENV.name), second.as_bytes());
    project.git(&["checkout", "-q", "main"]);
    // A revert is a step forward.
    project.git(&["revert", "--no-edit", "HEAD"]);
    project.ok(&["decrypt"]);
    assert_eq!(project.read_server(ENV.name), first.as_bytes());
    project.capture_elsewhere(ENV.name, second);
    project.ok(&["decrypt"]);
}

#[test]
fn layout_that_stock_dropped_is_no_conflict_once_committed() {
    let test = "layout_that_stock_dropped_is_no_conflict_once_committed";
    if !super::support::stock::available("sops", test) {
        return;
    }
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "A=1\n\n\nB=2\n");
    project.ok(&["encrypt"]);
    project.commit();
    let status = Command::new("sops")
        .args(["set", "--input-type", "dotenv", "--output-type", "dotenv"])
        .args(["a.env.enc", "[\"A\"]", "\"1\""])
        .env("SOPS_DISABLE_VERSION_CHECK", "true")
        .envs(&project.vars)
        .current_dir(project.repo())
        .status();
    assert!(status.unwrap().success());
    project.commit();
    let status = project.ok(&["status"]);
    assert!(
        status
            .stdout
            .starts_with("layout only        a.env.enc  repo ahead"),
        "{status:#?}"
    );
    project.ok(&["decrypt"]);
    assert_eq!(project.read_server("a.env"), b"A=1\nB=2\n");
}

#[test]
fn a_run_that_was_killed_can_be_undone_and_damaged_lists_are_said() {
    let mut project = ENV.agreed();
    project.capture_elsewhere(ENV.name, ENV.texts[1]);
    project.write_server(ENV.name, ENV.texts[2]);
    project.ok(&["decrypt", "--force"]);
    let list = project.path("state/undo.json");
    let noted = fs::read(&list).unwrap();
    project.ok(&["undo"]);
    // As a run leaves it that was killed before its first rename: the old content is in place.
    fs::write(&list, &noted).unwrap();
    project.ok(&["undo"]);
    assert_eq!(project.read_server(ENV.name), ENV.texts[2].as_bytes());
    fs::write(&list, "{").unwrap();
    assert_eq!(project.run(&["undo", "--list"]).code, 2);
    project.ok(&["decrypt", "--force"]);
    project.ok(&["undo"]);
    let kept = fs::read_dir(project.path("state")).unwrap().flatten();
    let kept = kept.filter(|entry| entry.file_name().to_string_lossy().contains("damaged"));
    assert_eq!(kept.count(), 1, "nothing of it is lost");
    // A damaged list of what is trusted trusts nothing.
    fs::write(project.path("state/trust.json"), "{").unwrap();
    assert_eq!(project.run(&["decrypt"]).code, 3);
    project.ok(&["trust"]);
    assert_eq!(project.run(&["undo", "nothing"]).code, 1);
}

#[test]
fn encrypt_does_not_take_over_a_changed_mode() {
    use std::os::unix::fs::PermissionsExt;
    let project = ENV.agreed();
    let file = project.server_file(ENV.name);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    project.ok(&["encrypt"]);
    project.ok(&["decrypt"]);
    assert_eq!(project.run(&["diff"]).code, 1, "it is still said");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(project.run(&["diff"]).code, 0);
}

#[test]
fn a_stale_clone_is_refused_and_rewritten_history_is_not() {
    let mut project = ENV.agreed();
    let [_, second, third] = ENV.texts;
    let stale = project.path("stale");
    let cloned = Command::new("git")
        .args(["clone", "-q"])
        .args([&project.repo(), &stale])
        .status();
    assert!(cloned.unwrap().success());
    project.write_server(ENV.name, second);
    project.ok(&["encrypt"]);
    project.commit();
    project.ok(&["encrypt"]);
    let output = project.run_in(&stale, &["decrypt"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(
        output.stderr.contains("does not have commit"),
        "{output:#?}"
    );
    assert_eq!(project.read_server(ENV.name), second.as_bytes());
    // The commit of the last sync is gone for good, what was synced is not.
    project.git(&["commit", "-q", "--amend", "-m", "reworded"]);
    project.git(&["reflog", "expire", "--expire=now", "--all"]);
    project.git(&["gc", "-q", "--prune=now"]);
    project.capture_elsewhere(ENV.name, third);
    project.commit();
    project.ok(&["decrypt"]);
    assert_eq!(project.read_server(ENV.name), third.as_bytes());
}

#[test]
fn a_live_revert_is_a_live_edit() {
    let project = ENV.agreed();
    let [first, second, _] = ENV.texts;
    project.write_server(ENV.name, second);
    project.ok(&["encrypt"]);
    project.commit();
    project.write_server(ENV.name, first);
    let output = project.run(&["decrypt"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(output.stderr.contains("the server's file was changed"));
    project.ok(&["encrypt"]);
}

#[test]
fn what_the_mac_does_not_cover_counts_as_moved() {
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    let rules = project.read_repo(".sops.yaml");
    project.write_repo(
        ".sops.yaml",
        rules + "    encrypted_regex: ^PW\n    mac_only_encrypted: true\n",
    );
    project.write_server("a.env", "PW=1\nPW2=1\nHOST=one\n");
    project.ok(&["encrypt"]);
    project.commit();
    let sealed = project.read_repo("a.env.enc");
    project.write_repo("a.env.enc", sealed.replace("HOST=one", "HOST=two"));
    project.ok(&["decrypt", "-n"]);
    project.write_server("a.env", "PW=1\nPW2=2\nHOST=one\n");
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 3);
    assert!(output.stderr.contains("both sides"), "{output:#?}");
}

#[test]
fn a_backup_opens_whatever_the_labels_in_a_file_say() {
    let project = ENV.agreed();
    let sealed = project.read_repo("a.env.enc");
    let own = recipient(SERVER_KEY);
    let other = recipient(LAPTOP_KEY);
    project.write_repo("a.env.enc", sealed.replace(&own, &other));
    project.write_server(ENV.name, ENV.texts[2]);
    project.ok(&["decrypt", "--force"]);
    project.ok(&["undo"]);
    assert_eq!(project.read_server(ENV.name), ENV.texts[2].as_bytes());
}

#[test]
fn undo_keeps_what_it_replaces_and_follows_no_link_out() {
    let mut project = ENV.agreed();
    project.capture_elsewhere(ENV.name, ENV.texts[1]);
    project.write_server(ENV.name, ENV.texts[2]);
    project.ok(&["encrypt", "--force"]);
    let captured = project.read_repo("a.env.enc");
    fs::remove_file(project.server_file(ENV.name)).unwrap();
    let output = project.ok(&["undo"]);
    assert!(output.stderr.contains("kept  "), "{output:#?}");
    let backups = fs::read_dir(project.path("state/backups"))
        .unwrap()
        .flatten();
    let mut kept = backups.map(|entry| fs::read_to_string(entry.path()).unwrap());
    assert!(
        kept.any(|text| text == captured),
        "the only copy of a value"
    );

    let project = TestProject::with_files(&[("a.enc", "sub/a")], "");
    project.write_server("sub/a", "1\n");
    project.ok(&["encrypt"]);
    project.write_server("sub/a", "2\n");
    project.ok(&["decrypt", "--force"]);
    fs::remove_dir_all(project.server_file("sub")).unwrap();
    let evil = project.path("evil");
    fs::create_dir(&evil).unwrap();
    std::os::unix::fs::symlink(&evil, project.server_file("sub")).unwrap();
    assert!(project.run(&["undo"]).code >= 2);
    assert!(fs::read_dir(&evil).unwrap().next().is_none());
}

#[test]
fn a_target_that_two_hosts_share_has_a_record_for_each() {
    let mut project = TestProject::with_files(
        &[
            ("h1.enc", "{ path = \"x\", hosts = [\"alpha\"] }"),
            ("h2.enc", "{ path = \"x\", hosts = [\"beta\"] }"),
        ],
        "",
    );
    project.set("SECRETS_HOST", "beta");
    project.write_server("x", "beta\n");
    project.ok(&["encrypt"]);
    fs::remove_dir_all(project.path("state")).unwrap();
    project.set("SECRETS_HOST", "alpha");
    project.write_server("x", "alpha\n");
    project.ok(&["encrypt"]);
    project.set("SECRETS_HOST", "beta");
    let output = project.run(&["encrypt"]);
    assert_eq!(
        output.code, 3,
        "alpha's record says nothing of beta: {output:#?}"
    );
}

#[test]
fn a_capture_that_was_thrown_away_is_known_after_further_commits() {
    let project = ENV.agreed();
    project.write_server(ENV.name, ENV.texts[1]);
    project.ok(&["encrypt"]);
    project.git(&["checkout", "-q", "--", "a.env.enc"]);
    project.write_repo("unrelated", "x\n");
    project.commit();
    let output = project.run(&["decrypt"]);
    assert_eq!(output.code, 3, "{output:#?}");
    project.ok(&["encrypt"]);
}

#[test]
fn adopt_leads_on_where_the_rule_changed_too() {
    let project = ENV.agreed();
    let [_, second, _] = ENV.texts;
    project.write_server(ENV.name, second);
    fs::remove_dir_all(project.path("state")).unwrap();
    project.write_rules(&[recipient(SERVER_KEY), recipient(LAPTOP_KEY)]);
    let output = project.run(&["adopt", "--server"]);
    assert_eq!(output.code, 3, "{output:#?}");
    let way_on = "encrypt --force --update-recipients";
    assert!(output.stderr.contains(way_on), "{output:#?}");
    project.ok(&["encrypt", "--force", "--update-recipients"]);
    assert_eq!(project.opened("a.env.enc"), second.as_bytes());
}

#[test]
fn what_placing_a_missing_file_leaves_out_is_told() {
    // A version that was put there for good reason, and a capture that was thrown away.
    for is_pinned in [true, false] {
        let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
        let versions = ["A=canary-Vd81-database\n", "A=canary-Qx22-smtp\n"];
        for version in versions {
            project.write_server("a.env", version);
            project.ok(&["encrypt"]);
            if is_pinned || version == versions[0] {
                project.commit();
            }
        }
        let told = if is_pinned {
            project.ok(&["restore", "a.env", "--rev", "HEAD~1"]);
            let commit = project.git(&["rev-parse", "HEAD~1"]);
            format!("`restore` had put the version of commit {}", &commit[..10])
        } else {
            project.git(&["checkout", "-q", "--", "a.env.enc"]);
            "what was captured last, at ".to_owned()
        };
        fs::remove_file(project.server_file("a.env")).unwrap();
        for args in [&["decrypt", "-n"][..], &["decrypt"]] {
            let output = project.ok(args);
            let text = format!("{}{}", output.stdout, output.stderr);
            assert!(text.contains(&told), "{args:?} {output:#?}");
        }
        let placed = versions[usize::from(is_pinned)];
        assert_eq!(project.read_server("a.env"), placed.as_bytes());
    }
}

#[test]
fn an_old_version_that_is_pushed_as_a_new_one_is_told() {
    let mut project = ENV.agreed();
    let [first, second, third] = ENV.texts;
    for text in [second, third] {
        project.write_server(ENV.name, text);
        project.ok(&["encrypt"]);
        project.commit();
    }
    project.ok(&["decrypt"]);
    let old = project.git(&["rev-parse", "HEAD~2"]);
    let file = project.git(&["show", "HEAD~2:a.env.enc"]);
    project.write_repo("a.env.enc", file);
    project.git(&["-c", "user.name=Mallory", "commit", "-qam", "tidy"]);
    let told = format!(
        "a.env.enc: the repository has what it had in commit {}",
        &old[..10]
    );
    for args in [&["decrypt", "-n"][..], &["decrypt"]] {
        let output = project.ok(args);
        assert!(output.stderr.contains(&told), "{output:#?}");
    }
    assert_eq!(project.read_server(ENV.name), first.as_bytes());
    // What is new is not.
    project.capture_elsewhere(ENV.name, second);
    let output = project.ok(&["decrypt"]);
    assert!(!output.stderr.contains("once more"), "{output:#?}");
    assert_eq!(project.read_server(ENV.name), second.as_bytes());
}

/// Merges a branch from before, as Mallory, so that the old encrypted file comes back.
fn merge_an_old_branch(project: &TestProject, from: &str) {
    let mallory = ["-c", "user.name=Mallory"];
    let run = |args: &[&str]| project.git(&[&mallory[..], args].concat());
    run(&["checkout", "-q", "-b", "old", from]);
    run(&["commit", "-q", "--allow-empty", "-m", "side"]);
    run(&["checkout", "-q", "main"]);
    run(&["merge", "-q", "-s", "ours", "--no-commit", "old"]);
    run(&["checkout", "-q", "old", "--", "a.env.enc"]);
    run(&["commit", "-q", "-m", "Merge"]);
}

#[test]
fn an_old_version_that_a_merge_brings_back_is_told() {
    let project = ENV.agreed();
    let [_, second, third] = ENV.texts;
    for text in [second, third] {
        project.write_server(ENV.name, text);
        project.ok(&["encrypt"]);
        project.commit();
    }
    project.ok(&["decrypt"]);
    merge_an_old_branch(&project, "HEAD~2");
    let output = project.ok(&["decrypt"]);
    let told = "a.env.enc: the repository has what it had in commit";
    assert!(output.stderr.contains(told), "{output:#?}");

    // And one without a MAC.
    let project =
        TestProject::with_files(&[("a.age.enc", "{ path = \"a\", format = \"age\" }")], "");
    for text in ["one", "two"] {
        project.write_server("a", text);
        project.ok(&["encrypt"]);
        project.commit();
    }
    project.ok(&["decrypt"]);
    project.git(&["checkout", "-q", "HEAD~1", "--", "a.age.enc"]);
    project.commit();
    let output = project.ok(&["decrypt"]);
    assert!(output.stderr.contains("once more"), "{output:#?}");

    // So is an old data key, by whom it came back.
    let project = ENV.agreed();
    project.ok(&["encrypt", "--new-data-key"]);
    project.commit();
    project.ok(&["decrypt"]);
    merge_an_old_branch(&project, "HEAD~1");
    let merge = project.git(&["rev-parse", "HEAD"]);
    let output = project.ok(&["status"]);
    let told = format!("its data key was replaced in commit {}", &merge[..10]);
    assert!(output.stdout.contains(&told), "{output:#?}");
    assert!(output.stdout.contains("by Mallory"), "{output:#?}");
}

/// Puts a commit on the branch whose author's date is none; git itself reads it.
fn commit_with_a_bad_date(project: &TestProject) {
    let [tree, parent] =
        [&["write-tree"][..], &["rev-parse", "HEAD"]].map(|args| project.git(args));
    let who = "M <m@example.org> abc +0000";
    let text = format!(
        "tree {}\nparent {}\nauthor {who}\ncommitter {who}\n\nx\n",
        tree.trim(),
        parent.trim()
    );
    project.write_repo(".git/odd", text);
    let args = [
        "hash-object",
        "-t",
        "commit",
        "-w",
        "--literally",
        ".git/odd",
    ];
    let commit = project.git(&args);
    project.git(&["update-ref", "HEAD", commit.trim()]);
}

#[test]
fn a_commit_that_the_library_cannot_read_hides_no_history() {
    let project = ENV.agreed();
    let old = project.git(&["rev-parse", "HEAD"]);
    commit_with_a_bad_date(&project);
    project.write_server(ENV.name, ENV.texts[1]);
    project.ok(&["encrypt"]);
    project.commit();
    project.ok(&["decrypt"]);
    let output = project.ok(&["history", ENV.name]);
    assert!(output.stdout.contains("A "), "{output:#?}");
    project.git(&["reset", "-q", "--hard", old.trim()]);
    let output = project.ok(&["status"]);
    assert!(output.stdout.starts_with("repo behind"), "{output:#?}");
    let output = project.run(&["decrypt"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert_eq!(project.read_server(ENV.name), ENV.texts[1].as_bytes());
}

#[test]
fn a_server_that_was_set_back_is_told() {
    let project = ENV.agreed();
    let [first, second, _] = ENV.texts;
    project.write_server(ENV.name, second);
    project.ok(&["encrypt"]);
    project.commit();
    project.ok(&["decrypt"]);
    let commit = project.git(&["rev-parse", "HEAD~1"]);
    project.write_server(ENV.name, first);
    let output = project.ok(&["encrypt", "-n"]);
    let told = format!(
        "a.env.enc: what the server has is the version of commit {}",
        &commit[..10]
    );
    assert!(output.stderr.contains(&told), "{output:#?}");
    project.ok(&["decrypt", "--force"]);
    assert_eq!(project.read_server(ENV.name), second.as_bytes());
}

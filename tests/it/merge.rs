//! Key by key: which side changed what, `merge`, and what is kept of everything it replaces.

use std::fs;

use super::support::{CANARIES, SERVER_KEY, TestProject, key_file, pty, stock, timeless};

/// What one side has of the key in question.
type Side = Option<&'static str>;

fn env(key: Side) -> String {
    let key = key.map_or_else(String::new, |value| format!("K={value}\n"));
    format!("# head\nA=1\nB=2\n{key}C=3\n")
}

/// Returns a project whose sides agreed on `base`, with `repository` and `server` since.
fn apart(base: Side, repository: Side, server: Side) -> TestProject {
    let mut project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", env(base));
    project.ok(&["encrypt"]);
    project.commit();
    project.ok(&["decrypt"]);
    if repository != base {
        project.capture_elsewhere("a.env", &env(repository));
        project.commit();
    }
    project.write_server("a.env", env(server));
    project
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

/// One case for each combination of same, changed, added and removed on both sides.
#[test]
fn every_combination_of_changes_has_its_side_and_merges_by_it() {
    let secret = Some(CANARIES[0]);
    let other = Some(CANARIES[1]);
    let third = Some(CANARIES[2]);
    for base in [None, secret] {
        let mut states = vec![None, other, third];
        states.extend((base.is_some()).then_some(base));
        for &repository in &states {
            for &server in &states {
                let project = apart(base, repository, server);
                let case = format!("{base:?} repository {repository:?} server {server:?}");
                let expected = if server == repository {
                    None
                } else if server == base {
                    Some(("repository", repository))
                } else if repository == base {
                    Some(("server", server))
                } else {
                    Some(("both", None))
                };
                let status = project.run(&["status", "--json"]);
                let diff = project.run(&["diff", "--json"]);
                assert_eq!(diff.code, u8::from(expected.is_some()), "{case}");
                let status = json(&status.stdout);
                let row = &json(&diff.stdout)["entries"][0];
                let Some((side, value)) = expected else {
                    assert_eq!(status["entries"][0]["state"], "in-sync", "{case}");
                    continue;
                };
                assert_eq!(row["changes"].as_array().unwrap().len(), 1, "{case}: {row}");
                assert_eq!(row["changes"][0]["key"], "K", "{case}");
                assert_eq!(row["changes"][0]["side"], side, "{case}: {row}");
                assert_eq!(status["entries"][0]["keys"], row["changes"], "{case}");
                let has = |name: &str| row["changes"][0].get(name).is_some();
                assert_eq!(has("server"), side != "repository", "{case}: {row}");
                assert_eq!(has("repository"), side != "server", "{case}: {row}");
                let before = project.snapshot();
                let code = if side == "both" { 3 } else { 0 };
                assert_eq!(project.run(&["merge", "-n"]).code, code, "{case}");
                assert_eq!(project.snapshot(), before, "{case}");
                let output = project.run(&["merge", "--yes"]);
                assert_eq!(output.code, code, "{case}: {output:#?}");
                if side == "both" {
                    assert_eq!(project.snapshot(), before, "{case}");
                    assert!(
                        output.stderr.contains("both sides changed K"),
                        "{output:#?}"
                    );
                    continue;
                }
                let wanted = env(value);
                assert_eq!(project.read_server("a.env"), wanted.as_bytes(), "{case}");
                assert_eq!(project.opened("a.env.enc"), wanted.as_bytes(), "{case}");
                assert_eq!(project.run(&["diff"]).code, 0, "{case}");
                project.ok(&["undo"]);
                assert_eq!(project.snapshot(), before, "{case}: undone");
            }
        }
    }
}

#[test]
fn a_file_without_keys_merges_as_a_whole() {
    for (repository, server, side) in [
        ("one\ntwo\n", "one\nthree\n", "server"),
        ("one\nthree\n", "one\ntwo\n", "repository"),
        ("one\nthree\n", "one\nfour\n", "both"),
    ] {
        let mut project = TestProject::with_files(&[("a.sql.enc", "a.sql")], "");
        project.write_server("a.sql", "one\ntwo\n");
        project.ok(&["encrypt"]);
        project.commit();
        project.ok(&["decrypt"]);
        if repository != "one\ntwo\n" {
            project.capture_elsewhere("a.sql", repository);
        }
        project.write_server("a.sql", server);
        let diff = json(&project.run(&["diff", "--json"]).stdout);
        assert_eq!(diff["entries"][0]["changes"][0]["side"], side);
        let (args, wanted) = match side {
            "server" => (vec!["merge"], server),
            "repository" => (vec!["merge"], repository),
            _ => {
                let output = project.run(&["merge"]);
                assert_eq!(output.code, 3, "{output:#?}");
                (vec!["merge", "--key", "content=repository"], repository)
            }
        };
        project.ok(&args);
        assert_eq!(project.read_server("a.sql"), wanted.as_bytes());
        assert_eq!(project.opened("a.sql.enc"), wanted.as_bytes());
    }
}

/// Both sides changed several keys, one of them both.
fn conflicting() -> TestProject {
    let mut project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "# base\nA=1\nB=1\nC=1\nD=1\n");
    project.ok(&["encrypt"]);
    project.commit();
    project.ok(&["decrypt"]);
    let theirs = format!("# theirs\nA=1\n\nB={}\nC=1\nD=9\nE=5\n", CANARIES[0]);
    project.capture_elsewhere("a.env", &theirs);
    project.commit();
    project.write_server("a.env", format!("# base\nA=7\nB={}\nD=1\n", CANARIES[1]));
    project
}

#[test]
fn a_true_conflict_is_asked_about_and_never_decided_by_yes() {
    let project = conflicting();
    let before = project.snapshot();
    let output = project.run(&["merge", "-y"]);
    assert_eq!(output.code, 3);
    assert!(
        output.stderr.contains("a.env.enc: both sides changed B\n"),
        "{output:#?}"
    );
    assert_eq!(project.snapshot(), before);
    let (output, questions) = project.run_answering(&["s"], &["merge"]);
    assert_eq!(output.code, 0, "{output:#?}");
    assert_eq!(questions.len(), 1, "{questions:?}");
    assert!(
        questions[0].contains("a.env.enc: ~ B (both sides"),
        "{questions:?}"
    );
    // The repository changed as many keys as the server, and the comments.
    let merged = format!("# theirs\nA=7\n\nB={}\nD=9\nE=5\n", CANARIES[1]);
    assert_eq!(project.read_server("a.env"), merged.as_bytes());
    assert_eq!(project.opened("a.env.enc"), merged.as_bytes());
    project.ok(&["undo"]);
    assert_eq!(project.snapshot(), before);

    let (output, _) = project.run_answering(&["t", CANARIES[2]], &["merge", "--layout", "server"]);
    assert_eq!(output.code, 0, "{output:#?}");
    let merged = format!("# base\nA=7\nB={}\nD=9\nE=5\n", CANARIES[2]);
    assert_eq!(project.read_server("a.env"), merged.as_bytes());
    project.ok(&["undo"]);

    let (output, _) = project.run_answering(&["k"], &["merge"]);
    assert_eq!(output.code, 1, "skipped");
    assert_eq!(project.snapshot(), before);
    for (args, value) in [
        (&["merge", "--server"][..], CANARIES[1]),
        (&["merge", "--repository"], CANARIES[0]),
        (&["merge", "--key", "B=server"], CANARIES[1]),
        (&["merge", "--server", "--key", "B=repository"], CANARIES[0]),
    ] {
        project.ok(args);
        let text = String::from_utf8(project.read_server("a.env")).unwrap();
        assert!(
            text.contains(&format!("B={value}\n")) && text.contains("A=7\n"),
            "{args:?}"
        );
        project.ok(&["undo"]);
        assert_eq!(project.snapshot(), before);
    }
    let unknown = project.run(&["merge", "--key", "NOPE=server"]);
    assert_eq!(unknown.code, 2, "{unknown:#?}");
}

#[test]
fn a_value_is_typed_on_a_terminal_and_not_shown() {
    let test = "a_value_is_typed_on_a_terminal_and_not_shown";
    if !stock::available("script", test) {
        return;
    }
    let project = conflicting();
    let program = env!("CARGO_BIN_EXE_secrets");
    let key = key_file(SERVER_KEY);
    let (is_done, shown) = pty::type_at(
        &project,
        &format!("{program} merge"),
        &[("SOPS_AGE_KEY_FILE", key.to_str().unwrap())],
        &[("[s/r/t/k]", "t"), ("not shown", CANARIES[3])],
    );
    assert!(is_done, "{shown}");
    assert!(!shown.contains("canary"), "{shown}");
    let text = String::from_utf8(project.read_server("a.env")).unwrap();
    assert!(text.contains(&format!("B={}\n", CANARIES[3])), "{text}");
}

#[test]
fn without_a_record_history_tells_which_keys_are_behind() {
    let project = conflicting();
    fs::remove_file(project.path("state/records.json")).unwrap();
    let diff = json(&project.run(&["diff", "--json"]).stdout);
    let changes = diff["entries"][0]["changes"].as_array().unwrap();
    let side = |key: &str| {
        let change = changes.iter().find(|change| change["key"] == key);
        change.unwrap()["side"].as_str().unwrap().to_owned()
    };
    // The server has what was committed before of these.
    assert_eq!(side("D"), "repository");
    assert_eq!(side("E"), "repository");
    assert_eq!(side("A"), "unknown");
    let output = project.run(&["merge"]);
    assert_eq!(output.code, 3);
    assert!(
        output
            .stderr
            .contains("nothing tells which side changed A, B, C"),
        "{output:#?}"
    );
    project.ok(&["merge", "--server"]);
    let text = String::from_utf8(project.read_server("a.env")).unwrap();
    assert!(
        text.contains("D=9\nE=5\n") && text.contains("A=7\n"),
        "{text}"
    );
    assert!(!text.contains("C="), "{text}");
}

#[test]
fn merged_files_open_in_stock_and_change_only_their_lines() {
    let test = "merged_files_open_in_stock_and_change_only_their_lines";
    if !stock::available("sops", test) {
        return;
    }
    let project = conflicting();
    let before = project.read_repo("a.env.enc");
    project.ok(&["merge", "--server"]);
    let after = project.read_repo("a.env.enc");
    let old: Vec<&str> = before.lines().collect();
    let new: Vec<&str> = after.lines().filter(|line| !old.contains(line)).collect();
    let keys: Vec<&str> = new
        .iter()
        .filter_map(|line| line.split('=').next())
        .collect();
    assert_eq!(keys, ["A", "B", "sops_lastmodified", "sops_mac"]);
    let opened = stock::decrypt(
        &project.repo(),
        &key_file(SERVER_KEY),
        "dotenv",
        "a.env.enc",
    );
    let server = String::from_utf8(project.read_server("a.env")).unwrap();
    // Stock knows no blank lines.
    assert_eq!(opened.unwrap(), server.replace("\n\n", "\n").into_bytes());
}

#[test]
fn an_older_checkout_is_refused_until_it_is_allowed() {
    let mut project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "A=1\nB=1\n");
    project.ok(&["encrypt"]);
    project.commit();
    project.capture_elsewhere("a.env", "A=2\nB=1\n");
    project.commit();
    project.ok(&["decrypt"]);
    project.git(&["checkout", "-q", "HEAD~1"]);
    for args in [
        &["decrypt"][..],
        &["decrypt", "--force"],
        &["decrypt", "-n"],
    ] {
        let output = project.run(args);
        assert_eq!(output.code, 3, "{args:?}: {output:#?}");
        assert!(
            output.stderr.contains("is older than commit"),
            "{output:#?}"
        );
        assert!(
            output.stderr.contains("decrypt --allow-rollback"),
            "{output:#?}"
        );
    }
    assert_eq!(project.run(&["encrypt"]).code, 3);
    assert_eq!(project.run(&["merge"]).code, 3);
    let status = json(&project.ok(&["status", "--json"]).stdout);
    assert_eq!(status["entries"][0]["state"], "repo-behind");
    assert_eq!(project.read_server("a.env"), b"A=2\nB=1\n");
    // Also where the file is gone meanwhile, and where it was changed there.
    fs::remove_file(project.server_file("a.env")).unwrap();
    assert_eq!(project.run(&["decrypt"]).code, 3);
    project.write_server("a.env", "A=2\nB=live\n");
    assert_eq!(project.run(&["decrypt", "--force"]).code, 3);
    assert_eq!(project.run(&["decrypt", "--allow-rollback"]).code, 3);
    project.ok(&["decrypt", "--allow-rollback", "--force"]);
    assert_eq!(project.read_server("a.env"), b"A=1\nB=1\n");
    project.ok(&["undo"]);
    assert_eq!(project.read_server("a.env"), b"A=2\nB=live\n");
    // A revert is a step forward.
    project.git(&["checkout", "-q", "main"]);
    project.ok(&["decrypt", "--force"]);
    project.git(&["revert", "--no-edit", "HEAD"]);
    project.ok(&["decrypt"]);
    assert_eq!(project.read_server("a.env"), b"A=1\nB=1\n");
    // Another branch is a warning.
    project.git(&["checkout", "-q", "-b", "other", "HEAD~1"]);
    project.git(&["commit", "-q", "--allow-empty", "-m", "elsewhere"]);
    let output = project.ok(&["decrypt"]);
    assert!(
        output.stderr.contains("warning: a.env.enc: commit")
            && output.stderr.contains("on another branch"),
        "{output:#?}"
    );
    assert_eq!(project.read_server("a.env"), b"A=2\nB=1\n");
}

#[test]
fn history_is_told_from_ciphertext_and_settled_with_a_key() {
    let test = "history_is_told_from_ciphertext_and_settled_with_a_key";
    if !stock::available("sops", test) {
        return;
    }
    let mut project =
        TestProject::with_files(&[("a.env.enc", "a.env"), ("b.sql.enc", "b.sql")], "");
    let history = |project: &TestProject, args: &[&str]| -> Vec<(String, String)> {
        let args = [&["history", "--json"], args].concat();
        let rows = json(&project.ok(&args).stdout)["rows"].clone();
        let word = |row: &serde_json::Value, name: &str| row[name].as_str().unwrap().to_owned();
        rows.as_array()
            .unwrap()
            .iter()
            .map(|row| (word(row, "key"), word(row, "event")))
            .collect()
    };
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        let pairs = pairs.iter();
        pairs
            .map(|(key, event)| ((*key).to_owned(), (*event).to_owned()))
            .collect()
    };
    project.write_server("a.env", format!("export A={}\nB=1\nGONE=1\n", CANARIES[0]));
    project.write_server("b.sql", "one\n");
    project.ok(&["encrypt"]);
    project.git(&["init", "-q", "-b", "main"]);
    let text = project.ok(&["history", "a.env"]).stdout;
    assert!(text.starts_with("+ A     not committed\n"), "{text}");
    project.commit();
    project.write_server("a.env", format!("export A={}\nB=1\n", CANARIES[1]));
    project.ok(&["encrypt"]);
    project.commit();
    let changed = pairs(&[("A", "changed"), ("B", "added"), ("GONE", "removed")]);
    assert_eq!(history(&project, &["a.env"]), changed);
    let twice = pairs(&[("A", "changed"), ("A", "added")]);
    assert_eq!(history(&project, &["a.env", "A"]), twice);
    assert_eq!(project.run(&["history", "a.env", "NEVER"]).code, 1);
    for (kind, file) in [("dotenv", "a.env.enc"), ("binary", "b.sql.enc")] {
        let args = [
            "rotate",
            "-i",
            "--input-type",
            kind,
            "--output-type",
            kind,
            file,
        ];
        let output = stock::sops(&project.repo(), &key_file(SERVER_KEY), &args);
        assert!(output.status.success(), "{output:?}");
    }
    project.commit();
    assert_eq!(history(&project, &["a.env"]), changed, "settled with a key");
    assert_eq!(
        history(&project, &["b.sql"]),
        pairs(&[("(content)", "added")])
    );
    project.set("SOPS_AGE_KEY_FILE", project.path("nothing"));
    let unknown = pairs(&[
        ("A", "re-encrypted"),
        ("B", "re-encrypted"),
        ("GONE", "removed"),
    ]);
    assert_eq!(history(&project, &["a.env"]), unknown);
    assert_eq!(
        history(&project, &["b.sql"]),
        pairs(&[("(content)", "re-encrypted")])
    );
    let text = timeless(&project.ok(&["history", "a.env"]).stdout);
    assert!(
        text.contains("? A     TIME") && text.contains("content unknown"),
        "{text}"
    );
}

#[test]
fn history_of_merges_and_shallow_clones() {
    let mut project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "A=1\nB=1\n");
    project.ok(&["encrypt"]);
    project.commit();
    project.git(&["checkout", "-q", "-b", "side"]);
    project.capture_elsewhere("a.env", "A=2\nB=1\n");
    project.commit();
    let side = project.git(&["rev-parse", "--short=10", "HEAD"]);
    project.git(&["checkout", "-q", "main"]);
    project.git(&["commit", "-q", "--allow-empty", "-m", "main goes on"]);
    project.git(&["merge", "-q", "--no-ff", "--no-edit", "side"]);
    let rows = json(&project.ok(&["history", "--json", "a.env", "A"]).stdout)["rows"].clone();
    assert_eq!(rows[0]["commit"], side.trim(), "not the merge: {rows}");
    assert_eq!(rows.as_array().unwrap().len(), 2);
    let url = format!("file://{}", project.repo().display());
    project.git(&["clone", "-q", "--depth", "1", &url, "../shallow"]);
    let output = project.run_in(&project.path("shallow"), &["history", "a.env"]);
    assert_eq!(output.code, 0, "{output:#?}");
    assert!(
        output.stdout.contains("(or before: the history is cut)"),
        "{output:#?}"
    );
    fs::remove_dir_all(project.path("shallow/.git")).unwrap();
    let output = project.run_in(&project.path("shallow"), &["history", "a.env"]);
    assert_eq!(output.code, 2, "{output:#?}");
}

#[test]
fn a_restored_version_stays_until_somebody_says_otherwise() {
    for (name, versions) in [
        ("a.env", ["A=1\nB=1\n", "A=2\nB=1\n", "A=3\nB=1\n"]),
        ("a.sql", ["one\nline\n", "two\nline\n", "three\nline\n"]),
    ] {
        let sealed = format!("{name}.enc");
        let project = TestProject::with_files(&[(&sealed, name)], "");
        for version in versions {
            project.write_server(name, version);
            project.ok(&["encrypt"]);
            project.commit();
        }
        project.ok(&["decrypt"]);
        let before = project.snapshot();
        assert_eq!(project.run(&["restore", name, "--rev", "nonsense"]).code, 2);
        assert_eq!(
            project.ok(&["restore", name, "--rev", "HEAD~2", "-n"]).code,
            0
        );
        assert_eq!(project.snapshot(), before);
        let output = project.ok(&["restore", name, "--rev", "HEAD~2"]);
        assert!(output.stderr.contains("is pinned to commit"), "{output:#?}");
        assert_eq!(project.read_server(name), versions[0].as_bytes());
        assert_eq!(
            project.read_repo(&sealed),
            String::from_utf8(before[&project.repo_file(&sealed)].clone()).unwrap()
        );
        let status = json(&project.ok(&["status", "--json"]).stdout);
        assert_eq!(status["entries"][0]["state"], "pinned");
        for command in ["encrypt", "decrypt", "merge"] {
            let output = project.run(&[command]);
            assert_eq!(output.code, 3, "{command}: {output:#?}");
        }
        assert_eq!(project.read_server(name), versions[0].as_bytes());
        // Another version on the user's word; the same needs none.
        project.ok(&["restore", name, "--rev", "HEAD~1"]);
        assert_eq!(project.read_server(name), versions[1].as_bytes());
        project.ok(&["undo"]);
        assert_eq!(project.read_server(name), versions[0].as_bytes());
        assert_eq!(project.run(&["decrypt"]).code, 3, "{name}: pinned again");
        project.ok(&["decrypt", "--force"]);
        assert_eq!(project.read_server(name), versions[2].as_bytes());
        assert_eq!(project.run(&["diff"]).code, 0);
        // What was changed on the server and never captured is not overwritten unasked.
        let live = versions[2].replace('3', "9").replace("three", "nine");
        project.write_server(name, &live);
        assert_eq!(project.run(&["restore", name, "--rev", "HEAD~2"]).code, 3);
        assert_eq!(project.read_server(name), live.as_bytes());
        project.ok(&["restore", name, "--rev", "HEAD~2", "--force"]);
        project.ok(&["encrypt", "--force"]);
        assert_eq!(project.opened(&sealed), versions[0].as_bytes());
        assert_eq!(project.run(&["diff"]).code, 0);
    }
}

#[test]
fn undo_takes_back_ordinary_runs_too() {
    let mut project = TestProject::with_files(
        &[
            ("a.env.enc", "a.env"),
            ("b.sql.enc", "{ path = \"b.sql\", mode = \"0600\" }"),
        ],
        "[plain]\n\"c.conf\" = \"c.conf\"\n",
    );
    project.write_repo("c.conf", "x\n");
    project.write_server("a.env", "A=1\nB=1\n");
    project.write_server("b.sql", "one\n");
    let bare = project.snapshot();
    project.ok(&["encrypt"]);
    project.ok(&["undo"]);
    assert_eq!(project.snapshot(), bare, "made files are gone again");
    project.ok(&["encrypt"]);
    project.commit();
    project.ok(&["deploy"]);
    let deployed = project.snapshot();
    project.ok(&["undo"]);
    assert!(!project.server_file("c.conf").exists());
    project.ok(&["deploy"]);
    // What was replaced from git's history needs no backup, and comes back from it.
    project.capture_elsewhere("a.env", "A=2\nB=1\n");
    project.commit();
    let pulled = project.snapshot();
    let backups = || fs::read_dir(project.path("state/backups")).map_or(0, Iterator::count);
    let kept = backups();
    project.ok(&["decrypt"]);
    assert_eq!(backups(), kept);
    assert_eq!(project.read_server("a.env"), b"A=2\nB=1\n");
    project.ok(&["undo"]);
    assert_eq!(project.snapshot(), pulled);
    assert_eq!(
        project.read_server("a.env"),
        deployed[&project.server_file("a.env")]
    );
    let json = json(&project.ok(&["status", "--json"]).stdout);
    assert_eq!(json["entries"][0]["state"], "repo-ahead", "as before");
    project.ok(&["decrypt"]);
    project.write_server("a.env", "A=9\nB=1\n");
    assert_eq!(project.run(&["undo"]).code, 3, "changed since");
    assert_eq!(project.read_server("a.env"), b"A=9\nB=1\n");
}

#[test]
fn only_backups_that_are_kept_elsewhere_are_pruned() {
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "A=1\nB=1\n");
    project.ok(&["encrypt"]);
    project.commit();
    project.ok(&["decrypt"]);
    let backups = || -> Vec<String> {
        let names = fs::read_dir(project.path("state/backups")).unwrap();
        names
            .map(|name| name.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    // Kept nowhere else.
    project.write_server("a.env", "A=live\nB=1\n");
    project.ok(&["decrypt", "--force"]);
    assert_eq!(backups().len(), 1);
    let only_copy = backups()[0].clone();
    // Kept on the server again by undoing, so that the second backup is not needed.
    project.write_server("a.env", "A=other\nB=1\n");
    project.ok(&["decrypt", "--force"]);
    project.write_server("a.env", "A=other\nB=1\n");
    project.ok(&["encrypt"]);
    project.commit();
    assert_eq!(backups().len(), 2);
    let dry = project.ok(&["undo", "--prune", "-n"]);
    assert!(dry.stderr.contains("1 would remove,"), "{dry:#?}");
    assert_eq!(backups().len(), 2);
    let output = project.ok(&["undo", "--prune"]);
    assert!(output.stderr.contains("1 stay"), "{output:#?}");
    assert_eq!(backups(), [only_copy]);
    let again = project.ok(&["undo", "--prune", "--json"]).stdout;
    assert_eq!(json(&again)["pruned"].as_array().unwrap().len(), 0);
}

/// Two clones on one host, and a record that speaks of a commit that only one of them has.
fn second_clone(project: &TestProject) -> std::path::PathBuf {
    project.git(&["clone", "-q", ".", "../second"]);
    let clone = project.path("second");
    for (name, value) in [
        ("user.name", "second"),
        ("user.email", "second@example.org"),
    ] {
        project.git(&["-C", clone.to_str().unwrap(), "config", name, value]);
    }
    clone
}

/// A colleague sets `C` with stock `sops`.
fn change_with_stock(clone: &std::path::Path) {
    let form = ["--input-type", "dotenv", "--output-type", "dotenv"];
    let args = [&["set"], &form[..], &["a.env.enc", "[\"C\"]", "\"theirs\""]].concat();
    let output = stock::sops(clone, &key_file(SERVER_KEY), &args);
    assert!(output.status.success(), "{output:?}");
}

fn agreed(text: &str) -> TestProject {
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", text);
    project.ok(&["encrypt"]);
    project.commit();
    project.ok(&["decrypt"]);
    project
}

#[test]
fn a_clone_that_lacks_the_last_capture_does_not_undo_it() {
    let test = "a_clone_that_lacks_the_last_capture_does_not_undo_it";
    if !stock::available("sops", test) {
        return;
    }
    let project = agreed("A=1\nB=1\nC=1\n");
    let clone = second_clone(&project);
    // Captured and committed in the first clone; the record knows the commit before.
    project.write_server("a.env", "A=rotated\nB=1\nC=1\n");
    project.ok(&["encrypt"]);
    project.commit();
    change_with_stock(&clone);
    let status = project.run_in(&clone, &["status", "--json"]);
    let row = json(&status.stdout)["entries"][0].clone();
    assert_eq!(row["state"], "both-moved", "{row}");
    let sides: Vec<_> = row["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| (key["key"].clone(), key["side"].clone()))
        .collect();
    assert_eq!(
        sides,
        [
            ("A".into(), "server".into()),
            ("C".into(), "repository".into())
        ]
    );
    assert_eq!(project.run_in(&clone, &["decrypt"]).code, 3);
    assert_eq!(project.read_server("a.env"), b"A=rotated\nB=1\nC=1\n");
    let merged = project.run_in(&clone, &["merge"]);
    assert_eq!(merged.code, 0, "{merged:#?}");
    assert_eq!(project.read_server("a.env"), b"A=rotated\nB=1\nC=theirs\n");
}

#[test]
fn a_rebased_capture_does_not_make_a_colleagues_change_the_servers() {
    let project = agreed("A=1\nB=1\n");
    let clone = second_clone(&project);
    project.write_server("a.env", "A=2\nB=1\n");
    project.ok(&["encrypt"]);
    project.commit();
    project.ok(&["encrypt"]);
    // The commit is amended, and a colleague's change comes on top of it.
    project.git(&["commit", "-q", "--amend", "-m", "another message"]);
    project.git(&["-C", clone.to_str().unwrap(), "fetch", "-q", "origin"]);
    project.git(&[
        "-C",
        clone.to_str().unwrap(),
        "reset",
        "-q",
        "--hard",
        "origin/main",
    ]);
    let other = project.path("other-server");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("a.env"), "A=2\nB=colleague\n").unwrap();
    let mut colleague = project.vars.clone();
    colleague.insert(
        "SECRETS_STATE_DIR".into(),
        project.path("state-colleague").into(),
    );
    let args = ["encrypt", "--force", "--root", other.to_str().unwrap()];
    assert_eq!(
        super::support::run_as(&colleague, &clone, &args, None, b"").code,
        0
    );
    project.git(&[
        "-C",
        clone.to_str().unwrap(),
        "commit",
        "-q",
        "-am",
        "colleague",
    ]);
    project.git(&["pull", "-q", "--ff-only", clone.to_str().unwrap(), "main"]);
    let status = json(&project.ok(&["status", "--json"]).stdout);
    assert_eq!(status["entries"][0]["state"], "repo-ahead", "{status}");
    assert_eq!(project.run(&["encrypt"]).code, 3);
    let output = project.ok(&["decrypt"]);
    assert!(output.stderr.contains("warning"), "{output:#?}");
    assert_eq!(project.read_server("a.env"), b"A=2\nB=colleague\n");
}

#[test]
fn a_merge_waits_for_a_writer_and_says_nothing_of_values() {
    use std::io::Write;
    let project = conflicting();
    let before = project.snapshot();
    let path = project.server_file("a.env");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(250));
            file.write_all(b"LATE=1\n").unwrap();
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        let output = project.run(&["merge", "--server"]);
        assert!(output.code >= 2, "{output:#?}");
    });
    let after = project.snapshot();
    assert_eq!(
        after[&project.repo_file("a.env.enc")],
        before[&project.repo_file("a.env.enc")]
    );
    let text = String::from_utf8(project.read_server("a.env")).unwrap();
    assert!(text.ends_with("LATE=1\n"), "{text}");
    // Whoever types a value where a side belongs does not see it again.
    let output = project.run(&["merge", "--key", &format!("B={}", CANARIES[4])]);
    assert_eq!(output.code, 2);
    let output = project.run(&["merge", "--key", "B=server", "--key", "B=repository"]);
    assert_eq!(output.code, 2, "{output:#?}");
}

#[test]
fn comments_of_the_other_side_are_not_dropped_in_silence() {
    let mut project = agreed("# c\nA=1\nB=1\nC=1\n");
    project.capture_elsewhere("a.env", "# c\nA=2\nB=2\nC=1\n");
    project.write_server("a.env", "# rotated by Jane\nA=1\nB=1\nC=9\n");
    let output = project.ok(&["merge", "-n"]);
    assert!(
        output.stderr.contains("`--layout server` takes them"),
        "{output:#?}"
    );
    project.ok(&["merge", "--layout", "server"]);
    assert_eq!(
        project.read_server("a.env"),
        b"# rotated by Jane\nA=2\nB=2\nC=9\n"
    );
    // Without a record nothing tells whose comments are newer.
    let project = agreed("# c\nA=1\n");
    project.write_server("a.env", "# other\nA=1\n");
    fs::remove_file(project.path("state/records.json")).unwrap();
    let output = project.run(&["merge"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(
        output
            .stderr
            .contains("nothing tells which side changed (comments)"),
        "{output:#?}"
    );
    project.ok(&["merge", "--server"]);
    assert_eq!(project.opened("a.env.enc"), b"# other\nA=1\n");
}

#[test]
fn a_capture_that_was_stashed_away_is_not_undone_by_a_rebase() {
    let project = agreed("A=1\nB=1\nC=1\n");
    let clone = second_clone(&project);
    project.git(&["commit", "-q", "--allow-empty", "-m", "local"]);
    project.write_server("a.env", "A=hotfix\nB=1\nC=1\n");
    project.ok(&["encrypt"]);
    project.git(&["stash", "-q"]);
    // A colleague's change is below the local commit after the rebase.
    if !stock::available(
        "sops",
        "a_capture_that_was_stashed_away_is_not_undone_by_a_rebase",
    ) {
        return;
    }
    change_with_stock(&clone);
    let clone = clone.to_str().unwrap().to_owned();
    project.git(&["-C", &clone, "commit", "-q", "-am", "theirs"]);
    project.git(&["pull", "-q", "--rebase", &clone, "main"]);
    let status = json(&project.ok(&["status", "--json"]).stdout);
    assert_eq!(status["entries"][0]["state"], "both-moved", "{status}");
    assert_eq!(project.run(&["decrypt"]).code, 3);
    project.ok(&["merge"]);
    assert_eq!(project.read_server("a.env"), b"A=hotfix\nB=1\nC=theirs\n");
}

#[test]
fn a_run_that_cannot_be_undone_can_be_taken_off_the_list() {
    let project = agreed("A=1\nB=1\n");
    project.write_server("a.env", "A=2\nB=1\n");
    project.ok(&["decrypt", "--force"]);
    project.write_server("a.env", "A=3\nB=1\n");
    project.ok(&["decrypt", "--force"]);
    project.write_server("a.env", "A=4\nB=1\n");
    assert_eq!(project.run(&["undo"]).code, 3);
    project.ok(&["undo", "--forget"]);
    let list = project.ok(&["undo", "--list"]).stdout;
    assert_eq!(
        list.lines().filter(|line| line.contains("decrypt")).count(),
        1,
        "{list}"
    );
    let output = project.run(&["diff", "A=canary-Vd81-database"]);
    assert_eq!(output.code, 2);
}

#[test]
fn interrupting_a_hidden_prompt_leaves_the_terminal_as_it_was() {
    let test = "interrupting_a_hidden_prompt_leaves_the_terminal_as_it_was";
    if !stock::available("script", test) {
        return;
    }
    let project = conflicting();
    let key = key_file(SERVER_KEY);
    let program = env!("CARGO_BIN_EXE_secrets");
    let line = format!(
        "trap : INT; {program} merge; echo ended=$?; stty -a | tr ' ;' '\\n\\n' | grep -x -e echo -e -echo"
    );
    let variables = [("SOPS_AGE_KEY_FILE", key.to_str().unwrap())];
    let answers = [("[s/r/t/k]", "t"), ("not shown", "\u{3}")];
    let (_, shown) = pty::type_at(
        &project,
        &format!("sh -c '{}'", line.replace('\'', "'\\''")),
        &variables,
        &answers,
    );
    assert!(shown.contains("ended=130"), "{shown}");
    assert!(shown.lines().any(|line| line.trim() == "echo"), "{shown}");
    // Of several lines at once none is taken, and none is left for the shell.
    let pasted = format!("{}\nSECOND\nTHIRD", CANARIES[5]);
    let answers = [("[s/r/t/k]", "t"), ("not shown", pasted.as_str())];
    let (is_done, shown) =
        pty::type_at(&project, &format!("{program} merge"), &variables, &answers);
    assert!(!is_done && shown.contains("a value is one line"), "{shown}");
    assert!(
        !shown.contains("SECOND") && !shown.contains("canary"),
        "{shown}"
    );
}

/// The items that a number names on the two sides may be different ones.
#[test]
fn a_list_that_both_sides_changed_is_not_put_together_by_numbers() {
    let mut project = TestProject::with_files(&[("a.yaml.enc", "a.yaml")], "");
    let anna = "  - name: anna\n    token: one\n    role: user\n";
    project.write_server("a.yaml", format!("users:\n{anna}other: 1\n"));
    project.ok(&["encrypt"]);
    project.commit();
    let admin = anna.replace("user", "admin");
    project.capture_elsewhere("a.yaml", &format!("users:\n{admin}other: 1\n"));
    let guest = "  - name: guest\n    token: two\n    role: user\n";
    let now = format!("users:\n{guest}{anna}other: 1\n");
    project.write_server("a.yaml", &now);
    let output = project.run(&["merge", "--no-input"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert!(output.stderr.contains("users[0].role"), "{output:#?}");
    assert_eq!(project.read_server("a.yaml"), now.as_bytes());
    // An item more on one side alone is taken.
    project.write_server("a.yaml", format!("users:\n{anna}{guest}other: 1\n"));
    project.capture_elsewhere("a.yaml", &format!("users:\n{anna}other: 2\n"));
    project.ok(&["merge", "--no-input"]);
    assert_eq!(
        project.read_server("a.yaml"),
        format!("users:\n{anna}{guest}other: 2\n").as_bytes()
    );
}

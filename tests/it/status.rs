//! `status` and `list`.

use std::fs;
use std::process::Command;

use super::support::{SERVER_KEY, TestProject, recipient, timeless};

#[test]
fn every_state_has_its_line_and_count() {
    let project = TestProject::with_files(
        &[
            ("a.env.enc", "a.env"),
            ("b.env.enc", "b.env"),
            ("c.env.enc", "c.env"),
            ("d.env.enc", "d.env"),
            ("e.env.enc", "e.env"),
        ],
        "",
    );
    for name in ["a", "b", "c", "e"] {
        project.write_server(&format!("{name}.env"), "A=canary-Vd81-database\nB=2\n");
    }
    project.ok(&["encrypt", "a.env", "b.env", "c.env"]);
    project.write_server("b.env", "A=canary-Jr59-rotated\nB=2\n");
    fs::remove_file(project.server_file("c.env")).unwrap();
    let output = project.ok(&["status"]);
    assert_eq!(
        timeless(&output.stdout),
        "in sync            a.env.enc
server ahead       b.env.enc  ~ A (server, TIME)
missing on server  c.env.enc
on neither side    d.env.enc
not encrypted yet  e.env.enc
5 entries: 1 in sync, 1 server ahead, 1 missing on server, 1 not encrypted yet, 1 on neither side
1 newer in the repository or missing on the server: `secrets decrypt`
2 newer on the server or not encrypted yet: `secrets encrypt`
"
    );
    assert_eq!(project.run(&["status", "--check"]).code, 1);
    assert_eq!(project.run(&["status", "--check", "a.env"]).code, 0);
    let output = project.run(&["diff", "d.env"]);
    assert_eq!(output.code, 1, "both say so: {output:#?}");
    assert!(output.stdout.contains("  ! on neither side"), "{output:#?}");
    let output = project.run(&["decrypt", "d.env"]);
    assert!(!output.stderr.contains("git checkout"), "{output:#?}");
    project.write_repo("a.env.enc", "garbage");
    let output = project.run(&["status"]);
    assert_eq!(output.code, 2);
    assert!(
        output.stdout.starts_with("error              a.env.enc\n"),
        "{output:#?}"
    );
}

#[test]
fn an_absent_root_is_said_and_is_no_failure() {
    let project = TestProject::infrastructure();
    project.ok(&["encrypt"]);
    fs::remove_dir_all(project.root()).unwrap();
    let output = project.ok(&["status"]);
    assert!(
        output.stdout.starts_with("This is not the server: "),
        "{output:#?}"
    );
    for command in ["diff", "encrypt", "decrypt"] {
        assert_eq!(project.run(&[command]).code, 2);
    }
    let json = project.ok(&["status", "--json"]);
    let parsed: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(parsed["is_server"], false);
}

#[test]
fn git_tells_what_is_not_committed_not_pushed_and_ahead() {
    let project = TestProject::with_files(&[("a.env.enc", "a.env"), ("b.env.enc", "b.env")], "");
    project.write_server("a.env", "A=1\n");
    project.write_server("b.env", "B=1\n");
    project.ok(&["encrypt"]);
    let output = project.ok(&["status"]);
    assert!(
        !output.stdout.contains("not committed"),
        "no git at all: {output:#?}"
    );
    project.git(&["init", "-q", "-b", "main"]);
    let output = project.ok(&["status"]);
    assert!(
        output
            .stdout
            .contains("2 encrypted files are not committed"),
        "{output:#?}"
    );
    project.commit();
    assert!(!project.ok(&["status"]).stdout.contains("not committed"));

    let remote = project.path("remote.git");
    let run = |args: &[&str]| assert!(Command::new("git").args(args).status().unwrap().success());
    run(&[
        "init",
        "-q",
        "--bare",
        "-b",
        "main",
        remote.to_str().unwrap(),
    ]);
    project.git(&["remote", "add", "origin", remote.to_str().unwrap()]);
    project.git(&["push", "-q", "-u", "origin", "main"]);
    assert!(!project.ok(&["status"]).stdout.contains("push"));
    project.write_server("a.env", "A=2\n");
    project.ok(&["encrypt"]);
    assert!(
        project
            .ok(&["status"])
            .stdout
            .contains("a.env.enc  [not committed]\n")
    );
    project.commit();
    let output = project.ok(&["status"]);
    assert!(
        output.stdout.contains("a.env.enc  [not pushed]\n"),
        "{output:#?}"
    );
    assert!(
        output
            .stdout
            .contains("1 encrypted file is not pushed: `git push`"),
        "{output:#?}"
    );

    let other = project.path("other");
    run(&[
        "clone",
        "-q",
        remote.to_str().unwrap(),
        other.to_str().unwrap(),
    ]);
    fs::write(other.join("x"), "x").unwrap();
    let in_other = |args: &[&str]| {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"];
        assert!(
            Command::new("git")
                .args(identity)
                .args(args)
                .current_dir(&other)
                .status()
                .unwrap()
                .success()
        );
    };
    in_other(&["add", "x"]);
    in_other(&["commit", "-q", "-m", "x"]);
    in_other(&["push", "-q"]);
    project.git(&["fetch", "-q"]);
    let output = project.ok(&["status"]);
    assert!(
        output
            .stdout
            .contains("origin/main is 1 commit ahead as of the last fetch: `git pull`"),
        "{output:#?}"
    );
}

#[test]
fn repositories_the_library_cannot_open_go_through_git() {
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "A=1\n");
    project.git(&["init", "-q", "-b", "main", "--object-format=sha256"]);
    let mut project = project;
    project.set("PATH", std::env::var_os("PATH").unwrap());
    project.ok(&["encrypt"]);
    assert!(project.ok(&["status"]).stdout.contains("[not committed]"));
    project.commit();
    assert!(!project.ok(&["status"]).stdout.contains("[not committed]"));
    project.write_server("a.env", "A=2\n");
    let output = project.ok(&["encrypt"]);
    assert!(!output.stderr.contains("was not committed"), "{output:#?}");
}

#[test]
fn list_shows_what_the_manifest_means() {
    let project = TestProject::with_files(
        &[
            (
                "a.env.enc",
                "{ path = \"x/a.env\", mode = \"0640\", owner = \"root\", group = 1000 }",
            ),
            ("b.enc", "b"),
        ],
        &format!("[recipients]\nserver = \"{}\"\n", recipient(SERVER_KEY)),
    );
    let output = project.ok(&["list"]);
    let root = project.root();
    assert_eq!(
        output.stdout,
        format!(
            "a.env.enc  {0}/x/a.env  dotenv  root:1000  0640\nb.enc      {0}/b        binary  -          -\n\nreadable by  server\na.env.enc    +\nb.enc        +\n",
            root.display()
        )
    );
    let parsed: serde_json::Value =
        serde_json::from_str(&project.ok(&["list", "--json", "b"]).stdout).unwrap();
    assert_eq!(parsed["entries"].as_array().unwrap().len(), 1);
    assert_eq!(parsed["entries"][0]["format"], "binary");
}

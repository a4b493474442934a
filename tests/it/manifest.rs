//! Finding the manifest, its errors, and the names of entries on the command line.

use std::fs;

use super::support::TestProject;

#[test]
fn errors_have_file_line_and_column() {
    let project = TestProject::with_files(&[("a.enc", "a")], "");
    project.write_repo(
        "secret-files.toml",
        "version = 1\n[defaults]\nroot = \"/x\"\nmod = \"0640\"\n[files]\n\"a.enc\" = 3\n",
    );
    let output = project.run(&["list"]);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains(
            "secret-files.toml:4:1: unknown key `mod` in [defaults]; did you mean `mode`?"
        ),
        "{output:#?}"
    );
    assert!(
        output
            .stderr
            .contains("secret-files.toml:6:11: `a.enc`: is neither a server path"),
        "{output:#?}"
    );
    project.write_repo("secret-files.toml", "version = \n");
    assert!(
        project
            .run(&["list"])
            .stderr
            .contains("secret-files.toml:1:")
    );
}

#[test]
fn an_older_program_says_upgrade() {
    let project = TestProject::with_files(&[("a.enc", "a")], "");
    project.write_repo("secret-files.toml", "version = 1\nrequires = \"99.1\"\n");
    let output = project.run(&["list"]);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("needs `secrets` 99.1 or later"),
        "{output:#?}"
    );
}

#[test]
fn the_manifest_is_found_upward_or_named() {
    let mut project = TestProject::with_files(&[("sub/a.enc", "a")], "");
    project.write_server("a", "x\n");
    fs::create_dir_all(project.repo_file("sub/deep")).unwrap();
    let folder = project.repo_file("sub/deep");
    assert_eq!(project.run_in(&folder, &["encrypt"]).code, 0);
    let nowhere = project.path("home");
    let output = project.run_in(&nowhere, &["status"]);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("no `secret-files.toml`"),
        "{output:#?}"
    );
    let manifest = project.repo_file("secret-files.toml");
    assert_eq!(
        project
            .run_in(&nowhere, &["status", "-m", manifest.to_str().unwrap()])
            .code,
        0
    );
    assert_eq!(
        project.run_in(&nowhere, &["-C", "../repo", "status"]).code,
        0
    );
    assert_eq!(
        project.run_in(&nowhere, &["-C", "absent", "status"]).code,
        2
    );
    project.set("SECRETS_MANIFEST", &manifest);
    assert_eq!(project.run_in(&nowhere, &["status"]).code, 0);
    // A manifest that is named and absent is never replaced by another.
    assert_eq!(project.run(&["-m", "absent.toml", "status"]).code, 2);
}

#[test]
fn the_root_is_by_option_then_variable_then_manifest() {
    let mut project = TestProject::with_files(&[("a.enc", "a")], "");
    project.write_server("a", "x\n");
    project.ok(&["encrypt"]);
    fs::create_dir(project.path("one")).unwrap();
    fs::create_dir(project.path("two")).unwrap();
    project.set("SECRETS_ROOT", project.path("one"));
    project.ok(&["decrypt"]);
    assert!(project.path("one/a").exists());
    let two = project.path("two");
    project.ok(&["decrypt", "--root", two.to_str().unwrap()]);
    assert!(project.path("two/a").exists());
    // Without any, only listing works.
    let mut project = project;
    project.vars.remove(std::ffi::OsStr::new("SECRETS_ROOT"));
    project.write_repo(
        "secret-files.toml",
        "version = 1\n[files]\n\"a.enc\" = \"a\"\n",
    );
    project.ok(&["list"]);
    let output = project.run(&["decrypt"]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("--root DIR"), "{output:#?}");
}

#[test]
fn a_word_that_names_nothing_gets_the_closest_name() {
    let project = TestProject::infrastructure();
    let output = project.run(&["status", "shared/.evn"]);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("did you mean `shared/.env`?"),
        "{output:#?}"
    );
    let output = project.run(&["encrypt", "compose.yaml"]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("row of [plain]"), "{output:#?}");
    let output = project.run(&["encrypt", "envs/billing/*"]);
    assert!(
        output.stderr.ends_with("3 entries: 3 created\n"),
        "{output:#?}"
    );
    let output = project.run(&["encrypt", "envs/"]);
    assert!(
        output
            .stderr
            .ends_with("6 entries: 3 created, 3 unchanged\n"),
        "{output:#?}"
    );
}

#[test]
fn a_secret_key_among_the_recipients_is_refused_and_not_repeated() {
    let project = TestProject::with_files(
        &[("a.enc", "a")],
        "[recipients]\nme = \"AGE-SECRET-KEY-1CANARY\"\n",
    );
    let output = project.run(&["list"]);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("`me`: is not a recipient"),
        "{output:#?}"
    );
    assert!(!output.stderr.contains("CANARYCANARY"));
    let project = TestProject::with_files(&[("a.enc", "{ path = \"a\", owner = 4294967295 }")], "");
    assert!(
        project
            .run(&["list"])
            .stderr
            .contains("`owner` is not the name or number")
    );
}

#[test]
fn proposed_commands_repeat_the_options_that_matter() {
    let project = TestProject::with_files(&[("sub/a b.env.enc", "a.env")], "");
    project.write_server("a.env", "A=1\n");
    project.ok(&["encrypt"]);
    let other = project.path("other root");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("a.env"), "A=2\n").unwrap();
    let manifest = project.repo_file("secret-files.toml");
    let args = [
        "-m",
        manifest.to_str().unwrap(),
        "--root",
        other.to_str().unwrap(),
        "decrypt",
    ];
    let output = project.run_in(&project.path("home"), &args);
    assert_eq!(output.code, 3);
    let start = output.stderr.find("`secrets").unwrap() + 1;
    let line = &output.stderr[start..];
    let words = shlex::split(&line[..line.find('`').unwrap()]).unwrap();
    let words: Vec<_> = words[1..].iter().map(String::as_str).collect();
    assert_eq!(
        words,
        ["-m", args[1], "--root", args[3], "adopt", "sub/a b.env.enc"]
    );
    let mut words = words;
    words[4] = "diff";
    assert_eq!(project.run_in(&project.path("home"), &words).code, 1);
}

//! `add`, `remove`, `mv`: rows, files and ignore lines together, or nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::support::{TestProject, has_staging_files};

const MANIFEST: &str = "# ours\nversion = 1\n\n[defaults]\nroot = \"ROOT\"\nmode = \"0640\"\n\n[files]  # all of them\n# databases\n\"db/.env.enc\"     = \"db/.env\"      # the first\n\"web/.htpasswd.enc\" = { path = \"web/.htpasswd\", mode = \"0644\" }\n\n# not secret\n[plain]\n";

fn project() -> TestProject {
    let project = TestProject::new();
    let root = project.root().display().to_string();
    project.write_repo("secret-files.toml", MANIFEST.replace("ROOT", &root));
    project.write_server("db/.env", "A=canary-Vd81-database\n");
    project.write_server("web/.htpasswd", "a:canary-Ny18-htpasswd\n");
    fs::set_permissions(
        project.server_file("web/.htpasswd"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    project.ok(&["encrypt"]);
    project.commit();
    project
}

fn manifest(project: &TestProject) -> String {
    let root = project.root().display().to_string();
    project
        .read_repo("secret-files.toml")
        .replace(&root, "ROOT")
}

#[test]
fn add_writes_row_and_file_and_keeps_the_rest() {
    let project = project();
    project.write_server("app/.env", "B=canary-Qx22-smtp\n");
    project.write_server("app/config.yaml", "b: canary-Lw93-session\n");
    fs::set_permissions(
        project.server_file("app/config.yaml"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    let before = project.snapshot();
    project.ok(&["add", "-n", "app/.env"]);
    assert_eq!(project.snapshot(), before);
    project.ok(&[
        "add",
        "app/.env",
        project.server_file("app/config.yaml").to_str().unwrap(),
    ]);
    let expected = MANIFEST.replace(
        "mode = \"0644\" }\n",
        "mode = \"0644\" }\n\"app/.env.enc\"      = \"app/.env\"\n\"app/config.yaml.enc\" = { path = \"app/config.yaml\", mode = \"0600\" }\n",
    );
    assert_eq!(manifest(&project), expected);
    assert_eq!(project.run(&["diff"]).code, 0);
    assert_eq!(project.opened("app/.env.enc"), b"B=canary-Qx22-smtp\n");
    let again = project.run(&["add", "app/.env"]);
    assert_eq!(again.code, 3);
    assert!(again.stderr.contains("is there already"), "{again:#?}");
    project.write_server("other", "x\n");
    project.ok(&["add", "other", "--as", "kept/elsewhere"]);
    assert!(project.repo_file("kept/elsewhere.enc").exists());
}

#[test]
fn add_refuses_and_writes_nothing() {
    let project = project();
    project.write_server("empty", "");
    project.write_server("taken", "x\n");
    project.write_repo("taken.enc", "something else\n");
    let before = project.snapshot();
    for (path, words) in [
        ("empty", "zero bytes"),
        ("nowhere", "does not exist"),
        ("taken", "taken.enc is there already"),
        ("/etc/hostname", "is not below the root"),
    ] {
        let output = project.run(&["add", path]);
        assert!(output.code >= 2, "{output:#?}");
        assert!(output.stderr.contains(words), "{output:#?}");
        assert_eq!(project.snapshot(), before, "{path}");
    }
    project.write_repo(
        ".sops.yaml",
        "creation_rules:\n  - path_regex: \\.env$\n    age: age1x\n",
    );
    project.write_server("app/.env", "B=1\n");
    let before = project.snapshot();
    let output = project.run(&["add", "app/.env"]);
    assert_eq!(output.code, 3);
    assert!(
        output.stderr.contains("path_regex: '\\.env(\\.enc)?$'"),
        "{output:#?}"
    );
    assert_eq!(project.snapshot(), before);
}

#[test]
fn plaintext_inside_the_repository_is_ignored() {
    let project = TestProject::new();
    project.write_repo(
        "secret-files.toml",
        "version = 1\n[defaults]\nroot = \"srv\"\n[files]\n",
    );
    project.write_repo("srv/a.env", "A=1\n");
    project.write_repo(".gitignore", "*.tmp");
    project.git(&["init", "-q", "-b", "main"]);
    let output = project.ok(&["add", "srv/a.env"]);
    assert!(
        output.stderr.contains("added to .gitignore: "),
        "{output:#?}"
    );
    assert_eq!(
        project.read_repo(".gitignore"),
        "*.tmp\n\n# Plaintext of secret files.\n/srv/a.env\n"
    );
    assert!(project.repo_file("a.env.enc").exists());
    project.commit();
    assert_eq!(project.git(&["ls-files", "srv"]), "");
    project.ok(&["check"]);
    project.ok(&["remove", "--wipe", "a.env"]);
    assert!(!project.repo_file("srv/a.env").exists());
    assert!(!project.read_repo(".gitignore").contains("/srv/a.env"));
}

#[test]
fn remove_takes_the_row_and_keeps_the_server() {
    let project = project();
    project.ok(&["remove", "-n", "db/.env"]);
    assert_eq!(manifest(&project), MANIFEST);
    let output = project.ok(&["remove", "db/.env"]);
    let expected = MANIFEST.replace("\"db/.env.enc\"     = \"db/.env\"      # the first\n", "");
    assert_eq!(manifest(&project), expected);
    assert!(!project.repo_file("db/.env.enc").exists());
    assert!(project.server_file("db/.env").exists(), "{output:#?}");
    assert!(!project.path("state/backups").exists(), "it is in HEAD");
    assert!(!has_staging_files(&project.snapshot()));
    // What is not in history is not wiped, and what is not committed is kept.
    project.write_server("web/.htpasswd", "a:canary-Jr59-rotated\n");
    let output = project.run(&["remove", "--wipe", "web/.htpasswd"]);
    assert_eq!(output.code, 3);
    assert!(
        output.stderr.contains("history does not hold"),
        "{output:#?}"
    );
    project.ok(&["encrypt"]);
    let output = project.ok(&["remove", "web/.htpasswd"]);
    assert!(output.stderr.contains("kept  "), "{output:#?}");
    assert_eq!(
        fs::read_dir(project.path("state/backups")).unwrap().count(),
        1
    );
}

#[test]
fn mv_moves_file_row_and_record() {
    let project = project();
    let sealed = project.read_repo("db/.env.enc");
    project.ok(&["mv", "db/.env", "data/.env"]);
    let moved = MANIFEST.replace(
        "\"db/.env.enc\"     = \"db/.env\"",
        "\"data/.env.enc\"     = \"db/.env\"",
    );
    assert_eq!(manifest(&project), moved);
    assert_eq!(project.read_repo("data/.env.enc"), sealed);
    assert!(!project.repo_file("db/.env.enc").exists());
    project.ok(&["mv", "data/.env", "data/.env", "--server", "data/.env"]);
    assert_eq!(
        manifest(&project),
        moved.replace("= \"db/.env\"", "= \"data/.env\"")
    );
    assert!(!project.server_file("db/.env").exists());
    project.write_server("data/.env", "A=canary-Jr59-rotated\n");
    let output = project.ok(&["encrypt"]);
    assert!(
        output.stderr.contains("1 replaced"),
        "the record followed: {output:#?}"
    );
    let before = project.snapshot();
    let output = project.run(&["mv", "data/.env", "web/.htpasswd"]);
    assert!(output.code >= 2, "{output:#?}");
    assert_eq!(project.snapshot(), before);
}

#[test]
fn a_plaintext_inside_the_repository_never_becomes_visible() {
    let project = TestProject::new();
    project.write_repo(
        "secret-files.toml",
        "version = 1\n[defaults]\nroot = \".\"\n[files]\n",
    );
    project.write_repo("[g]/x.env", "A=1\n");
    project.write_repo("b.env", "A=1\n");
    project.write_repo("tracked.env", "A=1\n");
    project.git(&["init", "-q", "-b", "main"]);
    project.git(&["add", "tracked.env"]);
    project.ok(&["add", "[g]/x.env", "b.env"]);
    project.ok(&["mv", "b.env", "sub/c.env", "--server", "sub/c.env"]);
    project.commit();
    let tracked = project.git(&["ls-files"]);
    assert!(
        !tracked.contains("x.env\n") && !tracked.contains("c.env\n"),
        "{tracked}"
    );
    assert!(!project.read_repo(".gitignore").contains("/b.env"));
    project.ok(&["check"]);
    let output = project.run(&["add", "tracked.env"]);
    assert_eq!(output.code, 3, "{output:#?}");
    let output = project.run(&["add", "secret-files.toml"]);
    assert!(output.code >= 2, "{output:#?}");
}

#[test]
fn rows_that_the_manifest_cannot_have_are_refused_in_words() {
    let project = project();
    let root = project.root().display().to_string();
    let text = MANIFEST.replace("ROOT", &root)
        + "\n[files.\"envs/{app}.env.enc\"]\npath = \"w/{app}.env\"\n";
    project.write_repo("secret-files.toml", text);
    project.write_server("n.env", "A=1\n");
    project.write_server("w/shop.env", "A=1\n");
    let before = project.snapshot();
    for (args, words) in [
        (
            &["add", "n.env", "--as", "envs/n.env"][..],
            "the manifest cannot have that row",
        ),
        (&["add", "n.env", "--as", "db/.env"], "is there already"),
        (&["add", "n.env", "--as", "../x"], "leads out with `..`"),
        (&["add", "w/shop.env"], "the pattern of `w/shop.env`"),
        (
            &["mv", "db/.env", "envs/n.env"],
            "the manifest cannot have that row",
        ),
        (&["mv", "db/.env", "web/.htpasswd"], "is there already"),
        (
            &["mv", "db/.env", "x", "--server", "/abs"],
            "the path is absolute",
        ),
        (&["remove", "db/*"], "name one entry in full"),
    ] {
        let output = project.run(args);
        assert!(output.code >= 2, "{args:?}: {output:#?}");
        assert!(output.stderr.contains(words), "{args:?}: {output:#?}");
        assert!(!output.stderr.contains("toml:"), "{args:?}: {output:#?}");
        assert_eq!(project.snapshot(), before, "{args:?}");
    }
    // What git threw away can be added again.
    project.ok(&["add", "n.env"]);
    project.git(&["checkout", "-q", "."]);
    fs::remove_file(project.repo_file("n.env.enc")).unwrap();
    project.write_repo("secret-files.toml", MANIFEST.replace("ROOT", &root));
    project.ok(&["add", "n.env"]);
}

#[test]
fn a_manifest_in_another_layout_is_not_torn_apart() {
    let project = TestProject::new();
    let root = project.root().display().to_string();
    project.write_repo(
        "secret-files.toml",
        format!(
            "version = 1\nfiles = {{ \"a.enc\" = \"a\", \"b.enc\" = \"b\" }}\n[defaults]\nroot = \"{root}\"\n"
        ),
    );
    project.write_server("a", "a\n");
    project.write_server("b", "b\n");
    project.write_server("c", "c\n");
    project.ok(&["encrypt"]);
    let before = project.snapshot();
    for args in [&["remove", "a"][..], &["add", "c"]] {
        let output = project.run(args);
        assert!(output.code >= 2, "{args:?}: {output:#?}");
        assert!(output.stderr.contains("by hand"), "{args:?}: {output:#?}");
        assert_eq!(project.snapshot(), before, "{args:?}");
    }
    project.ok(&["mv", "a", "sub/a"]);
    assert!(project.repo_file("sub/a.enc").exists());
}

#[test]
fn the_nearest_ignore_list_has_the_last_word() {
    let project = TestProject::new();
    project.write_repo(
        "secret-files.toml",
        "version = 1\n[defaults]\nroot = \".\"\n[files]\n",
    );
    project.write_repo("sub/.gitignore", "!*.env\n");
    project.write_repo("sub/x.env", "A=1\n");
    project.git(&["init", "-q", "-b", "main"]);
    project.ok(&["add", "sub/x.env"]);
    project.commit();
    assert!(!project.git(&["ls-files"]).contains("sub/x.env\n"));
    project.ok(&["check"]);
}

#[test]
fn undo_takes_back_no_older_run_in_the_place_of_one_that_git_takes_back() {
    for args in [
        &["mv", "db/.env.enc", "data/.env.enc"][..],
        &["remove", "db/.env.enc"],
        &["add", "new.env"],
    ] {
        let project = project();
        project.write_server("new.env", "N=canary-Ny18-htpasswd\n");
        project.ok(args);
        let before = project.snapshot();
        for more in [&[][..], &["-n"]] {
            let output = project.run(&[&["undo"], more].concat());
            assert_eq!(output.code, 3, "{output:#?}");
            let told = format!("the last run was `{}` at ", args[0]);
            assert!(output.stderr.contains(&told), "{output:#?}");
            assert!(output.stderr.contains("undo --forget"), "{output:#?}");
        }
        assert_eq!(project.snapshot(), before);
        let output = project.ok(&["undo", "--list"]);
        assert!(
            output.stdout.contains(&format!("  {}  ", args[0])),
            "{output:#?}"
        );
        let output = project.ok(&["undo", "--forget"]);
        assert!(
            !output.stdout.contains(&format!("  {}  ", args[0])),
            "{output:#?}"
        );
    }
}

//! Where plaintext may go: links, mounts, owners, what must never be overwritten.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use super::support::{SERVER_KEY, TestProject, assert_hidden, has_staging_files, key_file};

fn encrypted(server_path: &str) -> TestProject {
    let project = TestProject::with_files(&[("a.enc", server_path)], "");
    project.write_server(server_path, "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    fs::remove_dir_all(project.root()).unwrap();
    fs::create_dir(project.root()).unwrap();
    project
}

#[test]
fn a_link_at_the_target_is_refused() {
    let project = encrypted("a");
    fs::write(project.path("elsewhere"), "precious").unwrap();
    symlink(project.path("elsewhere"), project.server_file("a")).unwrap();
    for args in [&["decrypt"][..], &["decrypt", "--force"]] {
        let output = project.run(args);
        assert_eq!(output.code, 3, "{output:#?}");
        assert!(
            output.stderr.contains("it is a symbolic link"),
            "{output:#?}"
        );
    }
    assert_eq!(fs::read(project.path("elsewhere")).unwrap(), b"precious");
}

#[test]
fn links_inside_the_root_are_fine_and_others_are_not() {
    let project = encrypted("current/a");
    fs::create_dir_all(project.server_file("releases/1")).unwrap();
    symlink("releases/1", project.server_file("current")).unwrap();
    project.ok(&["decrypt"]);
    assert!(project.server_file("releases/1/a").exists());
    fs::remove_file(project.server_file("current")).unwrap();
    symlink(
        project.server_file("releases/1"),
        project.server_file("current"),
    )
    .unwrap();
    project.ok(&["decrypt"]);

    fs::remove_file(project.server_file("current")).unwrap();
    fs::create_dir(project.path("outside")).unwrap();
    symlink(project.path("outside"), project.server_file("current")).unwrap();
    let output = project.run(&["decrypt"]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("leads out of"), "{output:#?}");
    assert_eq!(fs::read_dir(project.path("outside")).unwrap().count(), 0);

    // The root itself may be a link.
    let project = encrypted("a");
    fs::rename(project.root(), project.path("real")).unwrap();
    symlink(project.path("real"), project.root()).unwrap();
    project.ok(&["decrypt"]);
    assert!(project.path("real/a").exists());
}

#[test]
fn identities_and_tracked_files_are_never_targets() {
    let mut project = TestProject::with_files(&[("a.enc", "key.txt"), ("b.enc", "tracked")], "");
    project.write_server("key.txt", fs::read(key_file(SERVER_KEY)).unwrap());
    project.write_server("tracked", "x\n");
    project.ok(&["encrypt"]);
    project.set("SOPS_AGE_KEY_FILE", project.server_file("key.txt"));
    project.write_server("tracked", "y\n");
    let output = project.run(&["decrypt", "--force", "key.txt"]);
    assert_eq!(output.code, 3);
    assert!(output.stderr.contains("is an identity file"), "{output:#?}");

    let text = project.read_repo("secret-files.toml").replace(
        &format!("root = \"{}\"", project.root().display()),
        "root = \".\"",
    );
    project.write_repo("secret-files.toml", text);
    project.write_repo("tracked", "from git\n");
    project.commit();
    let output = project.run(&["decrypt", "--force", "tracked"]);
    assert_eq!(output.code, 3, "another root is not trusted: {output:#?}");
    assert!(output.stderr.contains("`secrets trust`"), "{output:#?}");
    project.ok(&["trust"]);
    let output = project.run(&["decrypt", "--force", "tracked"]);
    assert_eq!(output.code, 3);
    assert!(
        output.stderr.contains("git tracks the plaintext file"),
        "{output:#?}"
    );
    assert_eq!(project.read_repo("tracked"), "from git\n");
}

#[test]
fn in_place_keeps_the_inode_and_a_backup() {
    let project = encrypted("a");
    project.write_manifest(&[("a.enc", "{ path = \"a\", write = \"in-place\" }")], "");
    project.write_server(
        "a",
        "a longer content than the one that is to be written there\n",
    );
    let inode = fs::metadata(project.server_file("a")).unwrap().ino();
    assert_eq!(project.run(&["decrypt"]).code, 3);
    project.ok(&["decrypt", "--force"]);
    assert_eq!(fs::metadata(project.server_file("a")).unwrap().ino(), inode);
    assert_eq!(project.read_server("a"), b"canary-Ku36-sqlrole\n");
    assert_eq!(
        fs::read_dir(project.path("state/backups")).unwrap().count(),
        1
    );
    fs::remove_file(project.server_file("a")).unwrap();
    project.ok(&["decrypt"]);
    assert_eq!(project.read_server("a"), b"canary-Ku36-sqlrole\n");
}

#[test]
fn unknown_accounts_are_all_listed_before_anything_is_written() {
    let project = TestProject::with_files(&[("a.enc", "a"), ("b.enc", "b")], "");
    project.write_server("a", "x\n");
    project.write_server("b", "y\n");
    project.ok(&["encrypt"]);
    fs::remove_file(project.server_file("a")).unwrap();
    fs::remove_file(project.server_file("b")).unwrap();
    project.write_manifest(
        &[
            ("a.enc", "{ path = \"a\", owner = \"nobody-of-this-name\" }"),
            ("b.enc", "{ path = \"b\", group = \"no-such-group\" }"),
        ],
        "",
    );
    let output = project.run(&["decrypt"]);
    assert_eq!(output.code, 2);
    assert!(
        output
            .stderr
            .contains("a.enc: the user `nobody-of-this-name` does not exist here"),
        "{output:#?}"
    );
    assert!(
        output
            .stderr
            .contains("b.enc: the group `no-such-group` does not exist here"),
        "{output:#?}"
    );
    assert!(!project.server_file("a").exists() && !project.server_file("b").exists());
    project.ok(&["decrypt", "--no-owner"]);
    assert!(project.server_file("a").exists());
}

/// Runs the real binary as another user.
fn as_user(project: &TestProject, uid: u32, args: &[&str]) -> (i32, String) {
    use std::os::unix::process::CommandExt;
    let program = project.program_for_others();
    let output = Command::new(program)
        .args(args)
        .current_dir(project.repo())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", project.path("userhome"))
        .env("SOPS_AGE_KEY_FILE", project.path("id.txt"))
        .uid(uid)
        .gid(uid)
        .output()
        .unwrap();
    let talk = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_hidden(&talk, &format!("{args:?}"));
    assert_hidden(
        &String::from_utf8_lossy(&output.stdout),
        &format!("{args:?}"),
    );
    (output.status.code().unwrap(), talk)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn skip_without_root(test: &str) -> bool {
    use std::io::Write;
    if is_root() {
        return false;
    }
    let _ = writeln!(std::io::stderr(), "skipped: {test} needs root");
    true
}

#[test]
fn root_leaves_nothing_of_its_own_in_somebody_elses_checkout() {
    const USER: u32 = 4242;
    if skip_without_root("root_leaves_nothing_of_its_own_in_somebody_elses_checkout") {
        return;
    }
    let project = TestProject::with_files(&[("a.env.enc", "a.env"), ("new/deep/b.enc", "b")], "");
    project.write_server("a.env", "A=1\n");
    project.write_server("b", "x\n");
    project.git(&["init", "-q", "-b", "main"]);
    fs::copy(key_file(SERVER_KEY), project.path("id.txt")).unwrap();
    let chown = |path: &std::path::Path| {
        let status = Command::new("chown")
            .args(["-R", "4242:4242"])
            .arg(path)
            .status()
            .unwrap();
        assert!(status.success());
    };
    chown(&project.repo());
    project.ok(&["encrypt"]);
    project.ok(&["status"]);
    let all_owned = || {
        let output = Command::new("find")
            .arg(project.repo())
            .args(["!", "-uid", "4242"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(all_owned(), "");
    // The user goes on working, with git and with the program.
    fs::create_dir(project.path("userhome")).unwrap();
    for path in [
        project.path("userhome"),
        project.path("id.txt"),
        project.root(),
    ] {
        chown(&path);
    }
    fs::set_permissions(project.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let git = |args: &[&str]| {
        use std::os::unix::process::CommandExt;
        let identity = ["-c", "user.name=u", "-c", "user.email=u@example.org"];
        let status = Command::new("git")
            .args(identity)
            .args(args)
            .current_dir(project.repo())
            .env("HOME", project.path("userhome"))
            .uid(USER)
            .gid(USER)
            .status();
        assert!(status.unwrap().success(), "{args:?}");
    };
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "x"]);
    fs::write(project.server_file("a.env"), "A=2\n").unwrap();
    // The user has no record of what root did: which side is newer is theirs to say.
    let (code, stderr) = as_user(&project, USER, &["encrypt"]);
    assert_eq!(code, 3, "{stderr}");
    let (code, stderr) = as_user(&project, USER, &["encrypt", "--force"]);
    assert_eq!(code, 0, "{stderr}");
    git(&["commit", "-q", "-am", "y"]);
    fs::write(project.server_file("a.env"), "A=3\n").unwrap();
    assert_eq!(
        project.run(&["encrypt"]).code,
        3,
        "both moved, as root sees it"
    );
    project.ok(&["encrypt", "--force"]);
    assert_eq!(all_owned(), "");
    git(&["commit", "-q", "-am", "z"]);
}

#[test]
fn a_plain_user_is_told_before_anything_is_written() {
    const USER: u32 = 4243;
    if skip_without_root("a_plain_user_is_told_before_anything_is_written") {
        return;
    }
    let project = TestProject::with_files(
        &[
            ("a.enc", "{ path = \"a\", owner = \"root\" }"),
            ("b.enc", "b"),
        ],
        "",
    );
    project.write_server("a", "x\n");
    project.write_server("b", "y\n");
    project.ok(&["encrypt"]);
    fs::remove_file(project.server_file("a")).unwrap();
    fs::remove_file(project.server_file("b")).unwrap();
    fs::copy(key_file(SERVER_KEY), project.path("id.txt")).unwrap();
    fs::create_dir(project.path("userhome")).unwrap();
    for name in ["server", "id.txt", "userhome"] {
        assert!(
            Command::new("chown")
                .arg("4243:4243")
                .arg(project.path(name))
                .status()
                .unwrap()
                .success()
        );
    }
    fs::set_permissions(project.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let (code, stderr) = as_user(&project, USER, &["decrypt"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr.contains("no right to give the file to user root"),
        "{stderr}"
    );
    assert!(!project.server_file("b").exists());
    let (code, stderr) = as_user(&project, USER, &["decrypt", "--no-owner"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(fs::metadata(project.server_file("a")).unwrap().uid(), USER);
    assert!(!has_staging_files(&project.snapshot()));
}

#[test]
fn declared_owners_are_set_and_mended_by_root() {
    if skip_without_root("declared_owners_are_set_and_mended_by_root") {
        return;
    }
    let project = TestProject::with_files(
        &[(
            "a.enc",
            "{ path = \"sub/a\", owner = 4244, group = \"4245\" }",
        )],
        "",
    );
    project.write_server("sub/a", "x\n");
    project.ok(&["encrypt"]);
    let diff = project.run(&["diff"]);
    assert!(
        diff.stdout.contains("owner is root, should be 4244"),
        "{diff:#?}"
    );
    project.ok(&["decrypt"]);
    let owner = |name: &str| {
        fs::metadata(project.server_file(name))
            .map(|metadata| (metadata.uid(), metadata.gid()))
            .unwrap()
    };
    assert_eq!(owner("sub/a"), (4244, 4245));
    fs::remove_dir_all(project.server_file("sub")).unwrap();
    project.ok(&["decrypt"]);
    assert_eq!((owner("sub"), owner("sub/a")), ((4244, 4245), (4244, 4245)));
    // Not declared: the owner of what is replaced is kept.
    project.write_manifest(&[("a.enc", "sub/a")], "");
    fs::write(project.server_file("sub/a"), "changed\n").unwrap();
    project.ok(&["decrypt", "--force"]);
    assert_eq!(owner("sub/a"), (4244, 4245));
}

#[test]
fn nothing_is_placed_in_a_git_folder_whatever_it_is_called() {
    let project = encrypted("hooks/x");
    project.commit();
    let git = project.repo_file(".git");
    symlink(&git, project.server_file("link")).unwrap();
    fs::create_dir_all(project.server_file("separate/objects")).unwrap();
    fs::create_dir_all(project.server_file("separate/refs")).unwrap();
    fs::write(
        project.server_file("separate/HEAD"),
        "ref: refs/heads/main\n",
    )
    .unwrap();
    let text = project.read_repo("secret-files.toml");
    for (root, path) in [
        (project.root(), "separate/hooks/x"),
        (project.server_file("link"), "hooks/x"),
        (git.clone(), "hooks/x"),
        (git.join("hooks"), "x"),
        (project.path(""), "repo/link/hooks/x"),
    ] {
        if path.starts_with("repo/") {
            symlink(".git", project.repo_file("link")).unwrap();
        }
        let changed = text.replace("\"hooks/x\"", &format!("\"{path}\""));
        project.write_repo("secret-files.toml", changed);
        let output = project.run(&["decrypt", "--root", root.to_str().unwrap()]);
        assert_eq!(output.code, 3, "{path}: {output:#?}");
        assert!(
            output.stderr.contains("lies in a git folder"),
            "{output:#?}"
        );
        assert!(!root.join(path).exists());
    }
}

#[test]
fn two_rows_that_lead_to_one_file_are_refused() {
    let project = TestProject::with_files(&[("a.enc", "x/f"), ("b.enc", "y/f")], "");
    project.write_server("x/f", "one\n");
    symlink("x", project.server_file("y")).unwrap();
    for command in ["encrypt", "decrypt"] {
        let output = project.run(&[command]);
        assert_eq!(output.code, 2, "{output:#?}");
        assert!(
            output
                .stderr
                .contains("a.enc: its file on the server is also that of `b.enc`"),
            "{output:#?}"
        );
    }
    assert!(!project.repo_file("a.enc").exists());
}

#[test]
fn a_root_that_cannot_be_used_is_not_called_absent() {
    let project = encrypted("a");
    fs::remove_dir(project.root()).unwrap();
    fs::write(project.root(), "").unwrap();
    for command in ["status", "diff", "decrypt", "encrypt"] {
        let output = project.run(&[command]);
        assert_eq!(output.code, 2, "{output:#?}");
        assert!(output.stderr.contains("it is not a folder"), "{output:#?}");
    }
    fs::remove_file(project.root()).unwrap();
    symlink("nowhere", project.root()).unwrap();
    assert!(
        project
            .run(&["status"])
            .stderr
            .contains("a link to nothing")
    );
}

#[test]
fn special_files_are_trouble_for_reading_commands_and_do_not_hang() {
    let project = encrypted("a");
    let fifo = |path: &std::path::Path| {
        let _ = fs::remove_file(path);
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    fifo(&project.server_file("a"));
    assert_eq!(project.run(&["status"]).code, 2);
    assert_eq!(project.run(&["diff"]).code, 2);
    assert_eq!(project.run(&["decrypt"]).code, 3);
    assert_eq!(project.run(&["encrypt"]).code, 3);
    fs::remove_file(project.server_file("a")).unwrap();
    fifo(&project.repo_file("a.enc"));
    for command in ["status", "diff", "decrypt", "encrypt"] {
        let output = project.run(&[command]);
        assert_eq!(output.code, 2, "{output:#?}");
    }
    fifo(&project.repo_file("secret-files.toml"));
    assert_eq!(project.run(&["status"]).code, 2);
}

#[test]
fn keep_going_leaves_out_entries_whose_owner_is_unknown() {
    let project = TestProject::with_files(&[("a.enc", "a"), ("b.enc", "b")], "");
    project.write_server("a", "x\n");
    project.write_server("b", "y\n");
    project.ok(&["encrypt"]);
    fs::remove_file(project.server_file("a")).unwrap();
    fs::remove_file(project.server_file("b")).unwrap();
    project.write_manifest(
        &[
            ("a.enc", "{ path = \"a\", owner = \"nobody-of-this-name\" }"),
            ("b.enc", "b"),
        ],
        "",
    );
    let output = project.run(&["decrypt", "-k"]);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.ends_with("2 entries: 1 created, 1 failed\n"),
        "{output:#?}"
    );
    assert!(!project.server_file("a").exists() && project.server_file("b").exists());
    // What is declared cannot be compared either, unless told to leave it.
    let output = project.run(&["diff", "b"]);
    assert_eq!(output.code, 0, "{output:#?}");
    project.write_server("a", "x\n");
    assert_eq!(project.run(&["diff"]).code, 2);
    assert_eq!(project.run(&["diff", "--no-owner"]).code, 0);
}

#[test]
fn an_encrypted_file_behind_a_link_out_of_the_repository_is_refused_with_a_way_out() {
    let project = TestProject::with_files(&[("out/a.enc", "a")], "");
    fs::create_dir_all(project.path("elsewhere")).unwrap();
    symlink(project.path("elsewhere"), project.repo_file("out")).unwrap();
    project.write_server("a", "x\n");
    for command in ["decrypt", "encrypt", "diff"] {
        let output = project.run(&[command]);
        assert_eq!(output.code, 2, "{output:#?}");
        assert!(
            output.stderr.contains("error: out/a.enc: ")
                && output
                    .stderr
                    .contains("help: put a folder in the place of the link"),
            "{output:#?}"
        );
    }
    assert_eq!(fs::read_dir(project.path("elsewhere")).unwrap().count(), 0);
}

#[test]
fn a_plaintext_that_git_would_take_along_is_told() {
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "A=canary-Vd81-database\n");
    project.ok(&["encrypt"]);
    project.commit();
    fs::create_dir(project.repo_file("out")).unwrap();
    let root = project.repo_file("out");
    let args = ["decrypt", "--root", root.to_str().unwrap()];
    let output = project.ok(&args);
    assert!(
        output.stderr.contains("a.env.enc: git does not ignore "),
        "{output:#?}"
    );
    project.write_repo(".gitignore", "/out/\n");
    let output = project.ok(&args);
    assert!(
        !output.stderr.contains("git does not ignore"),
        "{output:#?}"
    );
}

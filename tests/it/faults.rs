//! What goes wrong while writing, in process: leftovers, locks, a state directory that is not
//! there.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::fs::{FlockOperation, flock};

use super::support::{TestProject, has_staging_files};

fn encrypted() -> TestProject {
    let project =
        TestProject::with_files(&[("a.enc", "x/a"), ("b.enc", "y/b"), ("c.enc", "z/c")], "");
    for name in ["x/a", "y/b", "z/c"] {
        project.write_server(name, format!("canary-Ku36-sqlrole {name}\n"));
    }
    project.ok(&["encrypt"]);
    project
}

#[test]
fn leftovers_of_a_killed_run_are_removed_and_said() {
    let project = encrypted();
    let staged = project.server_file("x/.secrets-staging-0123456789abcdef");
    fs::write(&staged, "plaintext").unwrap();
    let foreign = project.server_file("x/.secrets-staging-not-ours");
    fs::write(&foreign, "keep").unwrap();
    fs::create_dir_all(project.path("state/journal")).unwrap();
    let journal = project.path("state/journal/0000000000000001");
    let lines = format!(
        "{}\0{}\0{}\0/etc/passwd\0",
        staged.display(),
        foreign.display(),
        project.server_file("x/a").display()
    );
    fs::write(&journal, lines).unwrap();
    assert_eq!(
        project
            .ok(&["decrypt", "-n"])
            .stderr
            .matches("removed")
            .count(),
        0
    );
    assert!(staged.exists(), "a dry run removes nothing");
    let output = project.ok(&["decrypt"]);
    assert!(
        output
            .stderr
            .contains("removed 1 staging file that an interrupted run left behind"),
        "{output:#?}"
    );
    assert!(!staged.exists() && !journal.exists());
    assert!(foreign.exists() && project.server_file("x/a").exists());
}

#[test]
fn files_of_a_running_writer_are_left_alone() {
    let project = encrypted();
    let staged = project.server_file("x/.secrets-staging-0123456789abcdef");
    fs::write(&staged, "plaintext").unwrap();
    fs::create_dir_all(project.path("state/journal")).unwrap();
    let journal = project.path("state/journal/0000000000000001");
    fs::write(&journal, format!("{}\0", staged.display())).unwrap();
    fs::create_dir_all(project.path("state/backups")).unwrap();
    let backup = project.path("state/backups/20260101-a.enc.partial");
    let whole = project.path("state/backups/20260101-b.enc");
    fs::write(&backup, "half").unwrap();
    fs::write(&whole, "whole").unwrap();
    let held = [&journal, &backup].map(|path| {
        let file = fs::File::open(path).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        file
    });
    project.ok(&["decrypt"]);
    assert!(staged.exists() && backup.exists());
    drop(held);
    let output = project.ok(&["decrypt"]);
    assert!(output.stderr.contains("removed 2 "), "{output:#?}");
    assert!(!staged.exists() && !backup.exists() && !journal.exists());
    assert!(whole.exists());
}

#[test]
fn a_second_writer_is_told_who_holds_the_lock() {
    let project = encrypted();
    fs::remove_file(project.server_file("x/a")).unwrap();
    let held = fs::File::open(project.root()).unwrap();
    flock(&held, FlockOperation::LockExclusive).unwrap();
    let output = project.run(&["decrypt", "--no-wait"]);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("another run is writing here"),
        "{output:#?}"
    );
    assert!(
        output
            .stderr
            .contains(&format!("process number {}", std::process::id())),
        "{output:#?}"
    );
    // Reading needs no lock.
    assert_eq!(project.run(&["diff"]).code, 1);
    drop(held);
    project.ok(&["decrypt", "--no-wait"]);
}

#[test]
fn without_a_state_directory_only_new_files_are_placed() {
    let mut project = encrypted();
    fs::write(project.path("file"), "").unwrap();
    project.set("SECRETS_STATE_DIR", project.path("file/state"));
    fs::remove_file(project.server_file("x/a")).unwrap();
    let output = project.ok(&["decrypt"]);
    assert!(
        output
            .stderr
            .contains("warning: the state directory cannot be used"),
        "{output:#?}"
    );
    project.write_server("x/a", "other\n");
    let output = project.run(&["decrypt", "--force", "-n"]);
    assert_eq!(output.code, 2, "a dry run tells it too: {output:#?}");
    let output = project.run(&["decrypt", "--force"]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("SECRETS_STATE_DIR"), "{output:#?}");
    assert_eq!(project.read_server("x/a"), b"other\n");
}

#[test]
fn a_target_that_cannot_be_written_is_found_before_anything_is() {
    let project = encrypted();
    for name in ["x/a", "y/b", "z/c"] {
        project.write_server(name, "other\n");
    }
    // Failures while writing are in sweep.rs and trouble.rs.
    fs::remove_file(project.server_file("z/c")).unwrap();
    fs::create_dir(project.server_file("z/c")).unwrap();
    let before = project.snapshot();
    let output = project.run(&["decrypt", "--force"]);
    assert_eq!(output.code, 3, "{output:#?}");
    assert_eq!(project.snapshot(), before);
    assert!(!has_staging_files(&project.snapshot()));
}

#[test]
fn a_folder_open_to_everybody_is_a_warning() {
    let project = encrypted();
    fs::set_permissions(project.server_file("x"), fs::Permissions::from_mode(0o777)).unwrap();
    let output = project.ok(&["decrypt"]);
    assert!(
        output
            .stderr
            .contains("warning: a.enc: everybody may write the folder"),
        "{output:#?}"
    );
}

#[test]
fn a_state_directory_that_exists_keeps_its_mode() {
    use std::os::unix::fs::PermissionsExt;
    let mut project = encrypted();
    let folder = project.path("shared-state");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777)).unwrap();
    project.set("SECRETS_STATE_DIR", &folder);
    project.write_server("x/a", "other\n");
    project.ok(&["decrypt", "--force"]);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&folder), 0o1777);
    assert_eq!(mode(&folder.join("backups")), 0o700);
}

#[test]
fn leftovers_in_a_root_that_is_away_are_not_forgotten() {
    let project = encrypted();
    let away = project.path("away");
    let staged = away.join("x/.secrets-staging-0123456789abcdef");
    fs::create_dir_all(project.path("state/journal")).unwrap();
    let journal = project.path("state/journal/0000000000000001");
    let list = format!("{}/\0{}\0", away.display(), staged.display());
    fs::write(&journal, list).unwrap();
    let output = project.ok(&["decrypt"]);
    assert!(
        output.stderr.contains("which is not there now"),
        "{output:#?}"
    );
    fs::create_dir_all(away.join("x")).unwrap();
    fs::write(&staged, "plaintext").unwrap();
    let output = project.ok(&["decrypt"]);
    assert!(output.stderr.contains("removed 1 "), "{output:#?}");
    assert!(!staged.exists() && !journal.exists());
}

#[test]
fn staging_files_of_others_are_told_of() {
    let project = encrypted();
    let staged = project.server_file("x/.secrets-staging-0123456789abcdef");
    fs::write(&staged, "plaintext").unwrap();
    for args in [
        &["status"][..],
        &["decrypt"],
        &["encrypt"],
        &["diff"],
        &["decrypt", "-n"],
        &["encrypt", "-n"],
        &["merge", "-n"],
    ] {
        let output = project.ok(args);
        assert!(
            output.stderr.contains("warning: 1 staging file in "),
            "{args:?} {output:#?}"
        );
    }
    let output = project.run(&["doctor"]);
    assert!(output.stdout.contains("1 staging file in "), "{output:#?}");
    assert!(staged.exists());
    fs::remove_file(&staged).unwrap();
    assert!(!project.ok(&["status"]).stderr.contains("staging"));
}

//! What others do while a run is at work, between two runs, and around them: writers, a second run, an editor
//! that outlives its caller, access lists, git folders that lie elsewhere.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::process::{Pid, Signal, kill_process};
use secret_files::os::fs::FsError;
use secret_files::os::place::{Base, FileState, Found, Ownership, Place};
use secret_files::os::staging::{Attributes, InPlace, Removed, Staged};

use super::support::{LAPTOP_KEY, SERVER_KEY, TestProject, key_file, recipient, stock};
use super::trouble::{ended, injected, secrets};

const STAGING_NAME: &str = ".secrets-staging-0123456789abcdef";

const ATTRIBUTES: Attributes = Attributes {
    owner: Ownership {
        uid: None,
        gid: None,
    },
    mode: 0o600,
    keep_access_list: false,
};

fn place(folder: &Path, name: &str) -> Place {
    Base::open(folder).unwrap().place(name.as_ref()).unwrap()
}

fn state(place: &Place) -> FileState {
    match place.look() {
        Found::File(state, _) => state,
        found => panic!("{found:?}"),
    }
}

/// A folder in which the file `a` has changed places with a new one that is not finished.
fn replaced(old: Option<&str>) -> (tempfile::TempDir, PathBuf, Staged) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a");
    if let Some(old) = old {
        fs::write(&file, old).unwrap();
    }
    let place = place(folder.path(), "a");
    let seen = old.map(|_| state(&place));
    let name = OsString::from(STAGING_NAME);
    let mut staged = Staged::write(place, name, b"new content", ATTRIBUTES, seen).unwrap();
    staged.replace().unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"new content");
    (folder, file, staged)
}

fn append(file: &Path, text: &str) {
    // The times of files are as coarse as the clock of the system.
    thread::sleep(Duration::from_millis(20));
    let mut file = OpenOptions::new().append(true).open(file).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn nothing_is_rolled_back_over_what_somebody_wrote() {
    // A file that was replaced: written into, replaced once more, removed; or left alone.
    let (folder, file, mut staged) = replaced(Some("old"));
    append(&file, " and more");
    let kept = folder.path().join(STAGING_NAME);
    let failed = staged.roll_back();
    assert!(
        matches!(&failed, Err(FsError::NotBroughtBack { kept: Some(path), .. }) if path.file_name() == kept.file_name()),
        "{failed:?}"
    );
    assert_eq!(fs::read(&file).unwrap(), b"new content and more");
    assert_eq!(fs::read(&kept).unwrap(), b"old");

    let (folder, file, mut staged) = replaced(Some("old"));
    fs::write(folder.path().join("b"), "somebody's").unwrap();
    fs::rename(folder.path().join("b"), &file).unwrap();
    assert!(staged.roll_back().is_err());
    assert_eq!(fs::read(&file).unwrap(), b"somebody's");
    assert_eq!(fs::read(folder.path().join(STAGING_NAME)).unwrap(), b"old");

    for is_removed in [true, false] {
        let (folder, file, mut staged) = replaced(Some("old"));
        if is_removed {
            fs::remove_file(&file).unwrap();
        }
        staged.roll_back().unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    // A file that was made.
    let (_folder, file, mut staged) = replaced(None);
    append(&file, " and more");
    assert!(staged.roll_back().is_err());
    assert_eq!(fs::read(&file).unwrap(), b"new content and more");
    let (folder, _, mut staged) = replaced(None);
    staged.roll_back().unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn nothing_is_put_back_over_what_somebody_wrote() {
    // A file that was taken away.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a");
    let take = || {
        fs::write(&file, "old").unwrap();
        let place = place(folder.path(), "a");
        let seen = state(&place);
        Removed::take(place, STAGING_NAME.into(), &seen).unwrap()
    };
    let mut removed = take();
    fs::write(&file, "made anew").unwrap();
    assert!(matches!(
        removed.roll_back(),
        Err(FsError::NotBroughtBack { kept: Some(_), .. })
    ));
    assert_eq!(fs::read(&file).unwrap(), b"made anew");
    assert_eq!(fs::read(folder.path().join(STAGING_NAME)).unwrap(), b"old");
    take().roll_back().unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"old");

    // One that is written in place.
    let place = place(folder.path(), "a");
    let open = || InPlace::open(&place, &state(&place)).unwrap();
    let written = open();
    written.write(b"new content", ATTRIBUTES).unwrap();
    append(&file, " and more");
    assert!(written.put_back(b"old", ATTRIBUTES).is_err());
    assert_eq!(fs::read(&file).unwrap(), b"new content and more");
    let written = open();
    written.write(b"newer", ATTRIBUTES).unwrap();
    written.put_back(b"old", ATTRIBUTES).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"old");
}

const ACCESS_LIST: &str = "system.posix_acl_access";

/// Gives a file a list: its group nothing, one user reading, so that its mode shows as 0640.
fn give_access_list(file: &Path) -> Vec<u8> {
    let entry = |tag: u8, rights: u8, id: [u8; 4]| {
        let mut entry = vec![tag, 0, rights, 0];
        entry.extend(id);
        entry
    };
    let nobody = [255; 4];
    let list = [
        vec![2, 0, 0, 0],
        entry(1, 6, nobody),
        entry(2, 4, [146, 16, 0, 0]),
        entry(4, 0, nobody),
        entry(16, 4, nobody),
        entry(32, 0, nobody),
    ]
    .concat();
    setxattr(file, ACCESS_LIST, &list, XattrFlags::empty()).unwrap();
    assert_eq!(mode_of(file), 0o640);
    list
}

fn access_list(file: &Path) -> Option<Vec<u8>> {
    let mut list = vec![0; 4096];
    let length = getxattr(file, ACCESS_LIST, &mut list[..]).ok()?;
    list.truncate(length);
    Some(list)
}

fn mode_of(file: &Path) -> u32 {
    fs::metadata(file).unwrap().permissions().mode() & 0o7777
}

#[test]
fn an_access_list_is_kept_or_nobody_gets_its_rights() {
    let test = "an_access_list_is_kept_or_nobody_gets_its_rights";
    let project = TestProject::with_files(&[("a.enc", "a"), ("b.enc", "b")], "");
    for name in ["a", "b"] {
        project.write_server(name, "canary-Ku36-sqlrole\n");
    }
    project.ok(&["encrypt"]);
    project.write_server("a", "canary-Ku36-sqlrole of the server\n");
    let file = project.server_file("a");
    let list = give_access_list(&file);
    if stock::available("strace", test) {
        let output = secrets_under(
            &project,
            &["strace", "-f", "-qqq", "-o", "/dev/null"],
            &["-e", "inject=fsetxattr:error=ENOSPC"],
            &["decrypt", "--force", "a"],
        );
        assert_eq!(output.0, 2, "{}", output.1);
        assert!(
            output.1.contains("cannot keep its access list"),
            "{}",
            output.1
        );
        assert!(project.read_server("a").ends_with(b"of the server\n"));
    }
    project.ok(&["decrypt", "--force", "a"]);
    assert_eq!(access_list(&file).as_ref(), Some(&list));
    assert_eq!(mode_of(&file), 0o640);

    // Gone meanwhile, it comes back without the list, and closed to its group.
    fs::remove_file(&file).unwrap();
    project.ok(&["undo"]);
    assert_eq!((access_list(&file), mode_of(&file)), (None, 0o600));

    let file = project.server_file("b");
    give_access_list(&file);
    let output = project.ok(&["mv", "b.enc", "c.enc", "--server", "c"]);
    assert!(
        output.stderr.contains("its access list does not move"),
        "{output:#?}"
    );
    let moved = project.server_file("c");
    assert_eq!((access_list(&moved), mode_of(&moved)), (None, 0o600));

    project.write_server("d", "canary-Ku36-sqlrole\n");
    give_access_list(&project.server_file("d"));
    project.ok(&["add", project.server_file("d").to_str().unwrap()]);
    let manifest = project.read_repo("secret-files.toml");
    assert!(manifest.contains("\"d.enc\" = \"d\""), "{manifest}");
}

#[test]
fn a_file_without_an_access_list_gets_none_of_its_folder() {
    let project = TestProject::with_files(&[("a.enc", "x/a")], "");
    project.write_server("x/a", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    let file = project.server_file("x/a");
    project.write_server("x/a", "canary-Ku36-sqlrole of the server\n");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let folder = file.parent().unwrap();
    let twin = folder.join("twin");
    fs::write(&twin, "").unwrap();
    let list = give_access_list(&twin);
    setxattr(
        folder,
        "system.posix_acl_default",
        &list,
        XattrFlags::empty(),
    )
    .unwrap();
    fs::write(folder.join("new"), "").unwrap();
    assert!(
        access_list(&folder.join("new")).is_some(),
        "the folder gives its list"
    );
    project.ok(&["decrypt", "--force"]);
    assert_eq!((access_list(&file), mode_of(&file)), (None, 0o640));
}

#[test]
fn a_key_that_is_there_meanwhile_is_not_renamed_over() {
    let folder = tempfile::tempdir().unwrap();
    let [new, old] = ["new", "old"].map(|name| folder.path().join(name));
    fs::write(&new, "new").unwrap();
    fs::write(&old, "old").unwrap();
    let renamed = secret_files::os::fs::rename_new(&new, &old);
    assert_eq!(
        renamed.unwrap_err().kind(),
        std::io::ErrorKind::AlreadyExists
    );
    assert_eq!(fs::read(&old).unwrap(), b"old");
    fs::remove_file(&old).unwrap();
    secret_files::os::fs::rename_new(&new, &old).unwrap();
    assert_eq!(fs::read(&old).unwrap(), b"new");
}

#[test]
fn a_command_that_is_given_secrets_ignores_what_its_caller_ignores() {
    let project = TestProject::new();
    project.write_repo("a.env", "A=1\n");
    let reader = recipient(SERVER_KEY);
    let encrypt = [
        "sops",
        "--config",
        "/dev/null",
        "encrypt",
        "-i",
        "--age",
        &reader,
        "a.env",
    ];
    project.ok(&encrypt);
    let started = project.path("started");
    let line = format!(
        "trap '' HUP; exec \"$0\" sops exec-env a.env \"touch '{}'; sleep 1\"",
        started.display()
    );
    let args = ["-c", &line, env!("CARGO_BIN_EXE_secrets")];
    let child = secrets(&project, "sh", &args).spawn().unwrap();
    wait_for(&started);
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    let (code, said) = ended(child);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn an_old_file_that_is_kept_is_not_called_a_leftover() {
    let project = TestProject::with_files(&[("a.enc", "a")], "");
    project.write_server("a", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    // As a run leaves it that could not bring back a file which somebody wrote into.
    let kept = project.server_file(STAGING_NAME);
    fs::write(&kept, "canary-Ku36-sqlrole of before\n").unwrap();
    let old = fs::metadata(&kept).unwrap();
    let target = project.server_file("a");
    let mark = |inode: u64, length: u64, seconds: i64, nanoseconds: i64| {
        format!("{inode} {length} {seconds} {nanoseconds}")
    };
    let words = [
        format!("{}/", project.root().display()),
        kept.display().to_string(),
        "step".to_owned(),
        target.display().to_string(),
        STAGING_NAME.to_owned(),
        mark(old.ino(), old.len(), old.mtime(), old.mtime_nsec()),
        mark(fs::metadata(&target).unwrap().ino(), 1, 0, 0),
    ];
    let journal: String = words.iter().map(|word| format!("{word}\0")).collect();
    fs::write(project.path("state/journal/0000000000000001"), journal).unwrap();
    for args in [&["status"][..], &["encrypt", "-n"]] {
        let output = project.ok(args);
        let words = format!("its old content is in {}", kept.display());
        assert!(output.stderr.contains(&words), "{output:#?}");
        assert!(!output.stderr.contains("removes them"), "{output:#?}");
    }
    project.ok(&["encrypt"]);
    assert!(kept.exists());
}

/// Runs the built program under another one. Returns its code and what it said.
fn secrets_under(
    project: &TestProject,
    program: &[&str],
    more: &[&str],
    args: &[&str],
) -> (i32, String) {
    let mut all = program[1..].to_vec();
    all.extend(more);
    all.push(env!("CARGO_BIN_EXE_secrets"));
    all.extend(args);
    ended(secrets(project, program[0], &all).spawn().unwrap())
}

fn wait_for(what: &Path) {
    let started = Instant::now();
    while !what.exists() {
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "{}",
            what.display()
        );
        thread::sleep(Duration::from_millis(5));
    }
}

fn script(project: &TestProject, name: &str, text: &str) -> PathBuf {
    let path = project.path(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

const DOTENV: [&str; 5] = [
    "--input-type",
    "dotenv",
    "--output-type",
    "dotenv",
    "a.env.enc",
];

#[test]
fn what_another_run_wrote_is_not_written_over() {
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "ONE=1\nTWO=2\n");
    project.ok(&["encrypt"]);
    for (round, slow) in [
        [&["sops", "set"][..], &DOTENV, &["[\"ONE\"]", "\"slow\""]].concat(),
        [&["sops", "unset"][..], &DOTENV, &["[\"ONE\"]"]].concat(),
        [&["sops", "rotate", "-i"][..], &DOTENV].concat(),
    ]
    .into_iter()
    .enumerate()
    {
        let (started, go) = (project.path("started"), project.path("go"));
        let waiting = format!(
            "touch '{}'; while [ ! -e '{}' ]; do sleep 0.02; done; cat '{}'",
            started.display(),
            go.display(),
            key_file(SERVER_KEY).display()
        );
        let mut command = secrets(&project, env!("CARGO_BIN_EXE_secrets"), &slow);
        let child = command
            .env_remove("SOPS_AGE_KEY_FILE")
            .env("SOPS_AGE_KEY_CMD", script(&project, "key.sh", &waiting))
            .spawn()
            .unwrap();
        wait_for(&started);
        let value = format!("\"fast {round}\"");
        let fast = [&["sops", "set"][..], &DOTENV, &["[\"TWO\"]", &value]].concat();
        project.ok(&fast);
        let written = project.read_repo("a.env.enc");
        fs::write(&go, "").unwrap();
        let (code, said) = ended(child);
        assert_eq!(code, 3, "{slow:?}: {said}");
        assert!(said.contains("was changed since it was read"), "{said}");
        assert_eq!(project.read_repo("a.env.enc"), written, "{slow:?}");
        for file in [started, go] {
            fs::remove_file(file).unwrap();
        }
    }
    assert_eq!(project.opened("a.env.enc"), b"ONE=1\nTWO=fast 2\n");
}

/// Reads until a text was there so many times.
fn read_until(child: &mut Child, text: &str, times: usize) {
    let output = child.stdout.as_mut().unwrap();
    let mut read = Vec::new();
    let mut byte = [0];
    while String::from_utf8_lossy(&read).matches(text).count() < times {
        assert_eq!(
            output.read(&mut byte).unwrap(),
            1,
            "{}",
            String::from_utf8_lossy(&read)
        );
        read.push(byte[0]);
    }
}

#[test]
fn a_signal_at_a_question_ends_the_run_also_when_files_were_written() {
    let project = TestProject::new();
    let rules = |readers: &[&str]| {
        let readers: Vec<_> = readers.iter().map(|key| recipient(key)).collect();
        let rules = format!("creation_rules:\n  - age: {}\n", readers.join(","));
        project.write_repo(".sops.yaml", rules);
    };
    rules(&[SERVER_KEY]);
    for name in ["1.yaml", "2.yaml"] {
        project.write_repo(name, "a: 1\n");
        project.ok(&["sops", "encrypt", "-i", name]);
    }
    let before = [project.read_repo("1.yaml"), project.read_repo("2.yaml")];
    rules(&[SERVER_KEY, LAPTOP_KEY]);
    for (signals, expected) in [(&[Signal::TERM][..], 15), (&[Signal::HUP, Signal::INT], 2)] {
        for (name, text) in ["1.yaml", "2.yaml"].iter().zip(&before) {
            project.write_repo(name, text);
        }
        // As `nohup` has it, SIGHUP is ignored.
        let ignoring = if signals.len() > 1 {
            "trap '' HUP; "
        } else {
            ""
        };
        let line = format!("{ignoring}exec \"$0\" sops updatekeys 1.yaml 2.yaml");
        let args = ["-c", &line, env!("CARGO_BIN_EXE_secrets")];
        let mut command = secrets(&project, "sh", &args);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        read_until(&mut child, "(y/n)", 1);
        let input = child.stdin.as_mut().unwrap();
        input.write_all(b"y\n").unwrap();
        read_until(&mut child, "(y/n)", 1);
        let id = Pid::from_child(&child);
        for (number, &signal) in signals.iter().enumerate() {
            assert!(child.try_wait().unwrap().is_none());
            kill_process(id, signal).unwrap();
            if number + 1 < signals.len() {
                thread::sleep(Duration::from_millis(300));
            }
        }
        let started = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "{signals:?} ends nothing"
            );
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(
            child.wait().unwrap().signal(),
            Some(expected),
            "{signals:?}"
        );
        assert_ne!(project.read_repo("1.yaml"), before[0]);
        assert_eq!(project.read_repo("2.yaml"), before[1]);
    }
}

#[test]
fn what_a_killed_edit_left_goes_when_its_editor_is_gone() {
    let mut project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "A=canary-Vd81-database\n");
    project.ok(&["encrypt"]);
    let temporary = project.path("tmp");
    fs::create_dir(&temporary).unwrap();
    project.set("TMPDIR", &temporary);
    let pid_file = project.path("pid");
    let editor = format!(
        "echo $$ > '{0}.new'; mv '{0}.new' '{0}'; exec sleep 60",
        pid_file.display()
    );
    project.set("SOPS_EDITOR", script(&project, "editor.sh", &editor));
    let args = [&["sops", "edit"][..], &DOTENV].concat();
    let mut child = secrets(&project, env!("CARGO_BIN_EXE_secrets"), &args)
        .spawn()
        .unwrap();
    wait_for(&pid_file);
    child.kill().unwrap();
    child.wait().unwrap();
    let left = || fs::read_dir(&temporary).unwrap().count();
    assert_eq!(left(), 1);
    let run = || {
        ended(
            secrets(&project, env!("CARGO_BIN_EXE_secrets"), &["encrypt"])
                .spawn()
                .unwrap(),
        )
    };
    // Folders of others with such names are theirs.
    for name in [
        "sops-edit-20261130",
        "secrets-edit-1",
        "secrets-edit-0123456789abcdef",
    ] {
        fs::create_dir(temporary.join(name)).unwrap();
        fs::write(temporary.join(name).join("notes"), "").unwrap();
    }
    let (code, said) = run();
    assert_eq!((code, left()), (0, 4), "the editor works in it: {said}");
    let id: i32 = fs::read_to_string(&pid_file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    kill_process(Pid::from_raw(id).unwrap(), Signal::KILL).unwrap();
    let started = Instant::now();
    let said = loop {
        let (code, said) = run();
        assert_eq!(code, 0, "{said}");
        if left() == 3 {
            break said;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{said}");
    };
    assert!(said.contains("removed 1 temporary folder"), "{said}");
}

#[test]
fn what_was_edited_is_kept_where_there_is_room() {
    let test = "what_was_edited_is_kept_where_there_is_room";
    if !stock::available("unshare", test) {
        return;
    }
    let mut project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "A=1\n");
    project.ok(&["encrypt"]);
    let editor = script(&project, "editor.sh", "echo B=2 >> \"$1\"");
    project.set("SOPS_EDITOR", editor);
    let line = format!(
        "cp -a . '{0}'; mount -t tmpfs -o size=100k t \"$PWD\"; cd \"$PWD\"; cp -a '{0}/.' .; dd if=/dev/zero of=fill bs=1k 2>/dev/null; exec \"$0\" sops edit {1}",
        project.path("kept").display(),
        DOTENV.join(" ")
    );
    let args = ["-m", "sh", "-c", &line, env!("CARGO_BIN_EXE_secrets")];
    let (code, said) = ended(secrets(&project, "unshare", &args).spawn().unwrap());
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("what you edited is in "), "{said}");
    let kept = said.split("what you edited is in ").nth(1).unwrap();
    let kept = Path::new(kept.split(", encrypted").next().unwrap());
    fs::copy(kept, project.repo_file("a.env.enc")).unwrap();
    assert_eq!(project.opened("a.env.enc"), b"A=1\nB=2\n");
}

#[test]
fn a_file_that_is_too_long_is_the_trouble_of_its_entry() {
    let project = TestProject::with_files(&[("a.enc", "a"), ("b.enc", "b")], "");
    for name in ["a", "b"] {
        project.write_server(name, "canary-Ku36-sqlrole\n");
    }
    project.ok(&["encrypt"]);
    let file = OpenOptions::new()
        .write(true)
        .open(project.server_file("a"));
    file.unwrap().set_len(15 << 40).unwrap();
    for args in [
        &["status"][..],
        &["diff"],
        &["decrypt", "--force"],
        &["deploy"],
    ] {
        let (code, said) = ended(
            secrets(&project, env!("CARGO_BIN_EXE_secrets"), args)
                .spawn()
                .unwrap(),
        );
        assert!([2, 3].contains(&code), "{args:?}: {code} {said}");
        assert!(
            said.contains("8 GiB") && !said.contains("b.enc: "),
            "{said}"
        );
    }
}

#[test]
fn a_git_folder_may_lie_elsewhere() {
    for is_link in [false, true] {
        let project = TestProject::with_files(&[("a.enc", "a")], "");
        let elsewhere = project.path("gitfolder");
        if is_link {
            project.git(&["init", "-q", "-b", "main"]);
            fs::rename(project.repo_file(".git"), &elsewhere).unwrap();
            symlink(&elsewhere, project.repo_file(".git")).unwrap();
        } else {
            let elsewhere = elsewhere.to_str().unwrap();
            project.git(&["init", "-q", "-b", "main", "--separate-git-dir", elsewhere]);
        }
        for value in ["one", "two"] {
            project.write_server("a", format!("canary-Ku36-sqlrole {value}\n"));
            project.ok(&["encrypt"]);
            project.commit();
        }
        let history = project.ok(&["history", "a"]).stdout;
        assert!(history.contains("(content)"), "{history}");
        project.git(&["checkout", "-q", "HEAD~1"]);
        let output = project.run(&["decrypt"]);
        assert_eq!(output.code, 3, "{output:#?}");
        assert!(project.read_server("a").ends_with(b"two\n"));
        // A tracked file is no target, and a tracked plaintext is told.
        project.git(&["checkout", "-q", "main"]);
        project.write_repo("a", "canary-Ku36-sqlrole\n");
        project.git(&["add", "a"]);
        let output = project.run(&["check"]);
        assert!(output.stdout.contains("tracked-plaintext"), "{output:#?}");
    }
}

#[test]
fn a_damaged_key_of_the_records_is_told() {
    let project = TestProject::with_files(&[("a.enc", "a")], "");
    project.write_server("a", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    let key = project.path("state/key");
    for damage in [
        (|key: &Path| fs::write(key, [7; 31]).unwrap()) as fn(&Path),
        |key| fs::remove_file(key).unwrap(),
    ] {
        damage(&key);
        for args in [&["status"][..], &["diff"], &["encrypt", "-n"]] {
            let output = project.ok(args);
            assert!(
                output.stderr.contains("the key of the records"),
                "{args:?}: {output:#?}"
            );
        }
        assert_eq!(project.run(&["doctor"]).code, 1);
        let output = project.ok(&["encrypt"]);
        assert!(
            output
                .stderr
                .contains("a reader that was added since is not told"),
            "{output:#?}"
        );
        assert_eq!(fs::read(&key).unwrap().len(), 32);
        let output = project.ok(&["status"]);
        assert!(!output.stderr.contains("records"), "{output:#?}");
    }
}

#[test]
fn the_journal_of_another_run_is_not_forgotten() {
    let project = TestProject::with_files(&[("a.enc", "a")], "");
    project.write_server("a", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    let staged = project.server_file(STAGING_NAME);
    fs::write(&staged, "canary-Ku36-sqlrole\n").unwrap();
    let journal = project.path("state/journal/0000000000000001");
    fs::write(
        &journal,
        format!("{}/\0{}\0", project.root().display(), staged.display()),
    )
    .unwrap();
    project.ok(&["trust", "a"]);
    assert!(journal.exists());
    let output = project.ok(&["encrypt"]);
    assert!(
        output.stderr.contains("removed 1 staging file"),
        "{output:#?}"
    );
    assert!(!staged.exists() && !journal.exists());
}

#[test]
fn a_long_path_has_its_backup() {
    let long = ["x".repeat(150), "y".repeat(150), "z".repeat(200)].join("/");
    let project = TestProject::with_files(&[("a.enc", &long)], "");
    project.write_server(&long, "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    project.write_server(&long, "canary-Ku36-sqlrole of the server\n");
    project.ok(&["decrypt", "--force"]);
    project.ok(&["undo"]);
    assert!(project.read_server(&long).ends_with(b"of the server\n"));
}

#[test]
fn memory_is_closed_before_anything_is_read() {
    let test = "memory_is_closed_before_anything_is_read";
    if !stock::available("strace", test) {
        return;
    }
    let project = TestProject::with_files(&[("a.enc", "a")], "");
    project.write_server("a", "canary-Ku36-sqlrole\n");
    let log = project.path("log");
    let trace = ["-e", "trace=prctl,prlimit64,openat"];
    let strace = ["strace", "-f", "-qqq", "-o", log.to_str().unwrap()];
    let (code, said) = secrets_under(&project, &strace, &trace, &["encrypt"]);
    assert_eq!(code, 0, "{said}");
    let log = fs::read_to_string(&log).unwrap();
    let at = |text: &str| {
        let found = log.lines().position(|line| line.contains(text));
        found.unwrap_or_else(|| panic!("{text}: {log}"))
    };
    let first = at(project.path("").to_str().unwrap());
    assert!(
        at("prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE) = 0") < first,
        "{log}"
    );
    assert!(at("RLIMIT_CORE, {rlim_cur=0, rlim_max=0}") < first, "{log}");
}

/// The loose object of a revision, which is to be in the repository.
fn object_of(project: &TestProject, revision: &str) -> PathBuf {
    let id = project.git(&["rev-parse", revision]);
    let (folder, name) = id.trim().split_at(2);
    project.repo_file(&format!(".git/objects/{folder}/{name}"))
}

#[test]
fn a_version_that_git_cannot_give_back_is_kept() {
    for (damage, format) in [
        (
            (|object: &Path| fs::remove_file(object).unwrap()) as fn(&Path),
            "sha1",
        ),
        (|object| fs::write(object, "").unwrap(), "sha1"),
        (|object| fs::write(object, "no object").unwrap(), "sha1"),
        // Which the `git` program reads.
        (|object| fs::remove_file(object).unwrap(), "sha256"),
    ] {
        let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
        project.write_server("a.env", "A=canary-Vd81-database\n");
        project.ok(&["encrypt"]);
        let format = format!("--object-format={format}");
        project.git(&["init", "-q", "-b", "main", &format]);
        project.commit();
        let object = object_of(&project, "HEAD:a.env.enc");
        fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).unwrap();
        damage(&object);
        for (looking, code) in [
            (&["history", "a.env.enc"][..], 2),
            (&["status"], 2),
            (&["doctor"], 1),
        ] {
            let output = project.run(looking);
            assert_eq!(output.code, code, "{looking:?}: {output:#?}");
            let all = output.stdout + &output.stderr;
            assert!(all.contains("cannot read the git repository"), "{all}");
        }
        project.write_server("a.env", "A=canary-Ku36-sqlrole\n");
        let output = project.ok(&["encrypt"]);
        assert!(output.stderr.contains("kept"), "{output:#?}");
        project.ok(&["undo"]);
        let old = project.opened("a.env.enc");
        assert_eq!(old, b"A=canary-Vd81-database\n");
    }
}

#[test]
fn a_history_that_cannot_be_read_is_not_told() {
    for revision in ["HEAD", "HEAD^{tree}", "HEAD~1", "HEAD~1:a.env.enc"] {
        let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
        for value in ["A=canary-Vd81-database\n", "A=canary-Ku36-sqlrole\n"] {
            project.write_server("a.env", value);
            project.ok(&["encrypt"]);
            project.commit();
        }
        assert!(project.ok(&["history", "a.env.enc"]).stdout.contains("~ A"));
        let object = object_of(&project, revision);
        fs::remove_file(object).unwrap();
        let output = project.run(&["history", "a.env.enc"]);
        assert_eq!(output.code, 2, "{revision}: {output:#?}");
        assert!(output.stderr.contains("`git fsck`"), "{output:#?}");
        if revision.starts_with("HEAD^") || revision == "HEAD" {
            assert_eq!(project.run(&["status"]).code, 2);
        }
    }
}

#[test]
fn a_pull_while_files_are_placed_is_no_change_of_the_server() {
    let test = "a_pull_while_files_are_placed_is_no_change_of_the_server";
    if !stock::available("strace", test) {
        return;
    }
    let mut project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "A=canary-Vd81-database\n");
    project.ok(&["encrypt"]);
    for value in ["A=canary-Ku36-sqlrole\n", "A=canary-Zt47-registry\n"] {
        project.commit();
        project.capture_elsewhere("a.env", value);
    }
    project.commit();
    project.git(&["reset", "-q", "--hard", "HEAD~1"]);
    let slow = "delay_enter=3000000:when=1";
    let mut run = injected(&project, "renameat2", slow, &["decrypt"]);
    let placing = run.spawn().unwrap();
    let start = Instant::now();
    while !super::support::has_staging_files(&project.snapshot()) {
        assert!(start.elapsed() < Duration::from_mins(1), "it places a file");
        thread::sleep(Duration::from_millis(20));
    }
    project.git(&["merge", "-q", "--ff-only", "HEAD@{1}"]);
    let (code, said) = ended(placing);
    assert_eq!(code, 0, "{said}");
    assert_eq!(project.read_server("a.env"), b"A=canary-Ku36-sqlrole\n");
    let output = project.ok(&["status"]);
    assert!(output.stdout.contains("repo ahead"), "{output:#?}");
    assert_eq!(project.run(&["encrypt"]).code, 3);
    project.ok(&["decrypt"]);
    assert_eq!(project.read_server("a.env"), b"A=canary-Zt47-registry\n");
}

#[test]
fn what_is_no_file_in_the_state_directory_holds_up_nobody() {
    let project = TestProject::with_files(&[("a.enc", "a")], "");
    project.write_server("a", "canary-Ku36-sqlrole\n");
    project.ok(&["encrypt"]);
    fs::write(project.path("state/undo.json"), "{").unwrap();
    project.write_server("a", "canary-Vd81-database\n");
    let output = project.ok(&["encrypt"]);
    let is_told = |text: &str| text.contains("undo.json") && text.contains("begins a new list");
    assert!(is_told(&output.stderr), "{output:#?}");
    let pipe = project.path("state/journal/0000000000000001");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
    let output = project.run(&["encrypt"]);
    assert_eq!(output.code, 2, "{output:#?}");
    assert!(output.stderr.contains("not a regular file"), "{output:#?}");
    fs::remove_file(pipe).unwrap();
    fs::remove_dir_all(project.path("state/journal")).unwrap();
    fs::write(project.path("state/journal"), "").unwrap();
    assert_eq!(project.run(&["doctor"]).code, 1);
}

#[test]
fn with_a_small_stack_a_run_ends_as_it_should() {
    let test = "with_a_small_stack_a_run_ends_as_it_should";
    if !stock::available("prlimit", test) {
        return;
    }
    let project = TestProject::with_files(&[("a.enc", "a")], "");
    project.write_server("a", "canary-Ku36-sqlrole\n");
    let args = ["--stack=524288", env!("CARGO_BIN_EXE_secrets"), "encrypt"];
    let (code, said) = ended(secrets(&project, "prlimit", &args).spawn().unwrap());
    assert_eq!(code, 0, "{said}");
}

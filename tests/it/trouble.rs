//! Trouble that a host really has: disks that are full or read-only, mounts, files that may not be touched,
//! folders that go away, several runs at once, clocks that jump, file systems without locks, other users.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::support::{SERVER_KEY, TestProject, assert_hidden, has_staging_files, key_file, stock};

const LONG: usize = 4000;

fn text(value: &str, lines: usize) -> String {
    format!("canary-Ku36-sqlrole {value}\n").repeat(lines)
}

/// Two files in two folders; the server has short old ones, the repository long new ones.
fn behind() -> TestProject {
    let mut project = TestProject::with_files(&[("a.enc", "x/a"), ("b.enc", "y/b")], "");
    project.write_server("x/a", text("old a", 1));
    project.write_server("y/b", text("old b", 1));
    project.ok(&["encrypt"]);
    project.commit();
    project.capture_elsewhere("x/a", &text("new a", LONG));
    project.capture_elsewhere("y/b", &text("new b", LONG));
    project
}

fn is_new(project: &TestProject) -> bool {
    project.read_server("x/a") == text("new a", LONG).as_bytes()
        && project.read_server("y/b") == text("new b", LONG).as_bytes()
}

pub(crate) fn secrets(project: &TestProject, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(project.repo())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("B", env!("CARGO_BIN_EXE_secrets"))
        .env("P", project.path(""))
        .env("ROOT", project.root())
        .env("REPO", project.repo())
        .envs(&project.vars)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub(crate) fn ended(child: Child) -> (i32, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
    assert_hidden(&said, "a run in trouble");
    let code = status.code();
    (
        code.unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        said,
    )
}

/// Runs a script of the shell with mounts of its own. It says `FAIL` and why where something does not hold;
/// `expect CODE COMMAND...` runs a command that has to end with a code.
fn with_mounts(project: &TestProject, test: &str, script: &str) {
    if !stock::available("unshare", test) {
        return;
    }
    let helpers = r#"
set -u
expect() { want=$1; shift; "$@" >"$P/said" 2>&1; code=$?; cat "$P/said"; [ $code = $want ] || echo "FAIL: $* ends with $code, not $want"; }
says() { grep -qF -- "$1" "$P/said" || echo "FAIL: it does not say: $1"; }
sums() { (cd "$ROOT" && find . -type f ! -name fill | sort | xargs sha256sum); }
fill() { dd if=/dev/zero of="$1/fill" bs=1k 2>/dev/null; sync; }
clean() { [ -z "$(find "$ROOT" "$REPO" -name '.secrets-staging-*')" ] || echo "FAIL: a staging file is left"; }
same() { [ "$1" = "$2" ] || echo "FAIL: $3"; }
"#;
    let script = format!("{helpers}{script}\necho done");
    let child = secrets(project, "unshare", &["-m", "sh", "-c", &script])
        .spawn()
        .unwrap();
    let (code, said) = ended(child);
    assert!(
        code == 0 && said.ends_with("done\n") && !said.contains("FAIL"),
        "{said}"
    );
    // The sweep has the error of a quota at every call; only the real one needs a disk in a file.
    if said.contains("there is no quota here") {
        drop(writeln!(
            std::io::stderr(),
            "not run: {test} (no loop device, or no btrfs)"
        ));
    }
}

#[test]
fn a_full_root_changes_nothing() {
    let project = behind();
    with_mounts(
        &project,
        "a_full_root_changes_nothing",
        r#"
mkdir "$P/kept"; cp -a "$ROOT/." "$P/kept"
mount -t tmpfs -o size=300k t "$ROOT"; cp -a "$P/kept/." "$ROOT"
fill "$ROOT"; before=$(sums)
expect 2 "$B" decrypt
says "No space left on device"
says "nothing was written"
same "$before" "$(sums)" "a file changed"; clean
# Room for one of the two only.
rm "$ROOT/fill"; dd if=/dev/zero of="$ROOT/fill" bs=1k count=150 2>/dev/null
expect 2 "$B" decrypt
same "$before" "$(sums)" "a file changed"; clean
rm "$ROOT/fill"
expect 0 "$B" decrypt
expect 0 "$B" diff
"#,
    );
}

#[test]
fn a_quota_is_like_a_full_disk() {
    if !stock::available("mkfs.btrfs", "a_quota_is_like_a_full_disk") {
        return;
    }
    let project = behind();
    with_mounts(
        &project,
        "a_quota_is_like_a_full_disk",
        r#"
truncate -s 200M "$P/disk"; mkfs.btrfs -q "$P/disk" >/dev/null
mkdir "$P/mounted"
mount -o loop "$P/disk" "$P/mounted" || { echo "there is no quota here"; echo done; exit 0; }
btrfs quota enable "$P/mounted"; btrfs -q subvolume create "$P/mounted/root"
cp -a "$ROOT/." "$P/mounted/root"; mount --bind "$P/mounted/root" "$ROOT"
limit() { sync; btrfs filesystem sync "$ROOT"; btrfs qgroup limit "$1" "$P/mounted/root"; }
limit 1M; dd if=/dev/urandom of="$ROOT/fill" bs=4k 2>"$P/filled"
grep -q "Disk quota exceeded" "$P/filled" || echo "FAIL: there is no quota"
before=$(sums)
expect 2 "$B" decrypt
says "Disk quota exceeded"
says "nothing was written"
same "$before" "$(sums)" "a file changed"; clean
limit none
expect 0 "$B" decrypt
expect 0 "$B" diff
"#,
    );
}

#[test]
fn a_full_state_directory_replaces_nothing_that_is_kept_nowhere() {
    let project = behind();
    project.write_server("x/a", text("edited here", 2));
    with_mounts(
        &project,
        "a_full_state_directory",
        r#"
mkdir "$P/kept"; cp -a "$SECRETS_STATE_DIR/." "$P/kept"
mount -t tmpfs -o size=2m t "$SECRETS_STATE_DIR"; cp -a "$P/kept/." "$SECRETS_STATE_DIR"
fill "$SECRETS_STATE_DIR"; before=$(sums)
expect 2 "$B" decrypt --force
says "SECRETS_STATE_DIR"
same "$before" "$(sums)" "a file changed"; clean
rm "$SECRETS_STATE_DIR/fill"
expect 0 "$B" decrypt --force
expect 0 "$B" undo
same "$before" "$(sums)" "undo brings something else back"
"#,
    );
}

#[test]
fn a_full_repository_keeps_its_encrypted_files() {
    let project = behind();
    project.ok(&["decrypt"]);
    project.write_server("x/a", text("rotated", LONG * 2));
    with_mounts(
        &project,
        "a_full_repository",
        r#"
cd /; mkdir "$P/kept"; cp -a "$REPO/." "$P/kept"
mount -t tmpfs -o size=1400k t "$REPO"; cp -a "$P/kept/." "$REPO"; cd "$REPO"
fill "$REPO"; before=$(sha256sum *.enc)
expect 2 "$B" encrypt
says "No space left on device"
same "$before" "$(sha256sum *.enc)" "an encrypted file changed"; clean
before=$(sha256sum a.enc)
expect 3 "$B" sops --input-type binary --output-type binary rotate -i a.enc
same "$before" "$(sha256sum a.enc)" "sops rotate damages it"; clean
rm "$REPO/fill"
expect 0 "$B" encrypt
expect 0 "$B" diff
"#,
    );
}

#[test]
fn a_root_that_is_read_only_is_said() {
    let project = behind();
    with_mounts(
        &project,
        "a_root_that_is_read_only",
        r#"
mount --bind "$ROOT" "$ROOT"; mount -o remount,ro,bind "$ROOT"; before=$(sums)
expect 2 "$B" decrypt
says "Read-only file system"
same "$before" "$(sums)" "a file changed"
expect 1 "$B" diff
mount -o remount,rw,bind "$ROOT"
expect 0 "$B" decrypt
"#,
    );
}

#[test]
fn a_file_mounted_by_itself_is_written_in_place() {
    let project = behind();
    with_mounts(
        &project,
        "a_file_mounted_by_itself",
        r#"
cp -p "$ROOT/x/a" "$P/single"; mount --bind "$P/single" "$ROOT/x/a"; before=$(sums)
expect 2 "$B" decrypt
says 'add `write = "in-place"` to its row'
same "$before" "$(sums)" "a file changed"; clean
sed -i 's|"a.enc" = "x/a"|"a.enc" = { path = "x/a", write = "in-place" }|' secret-files.toml
inode=$(stat -c %i "$ROOT/x/a")
expect 0 "$B" decrypt
same "$inode" "$(stat -c %i "$ROOT/x/a")" "the container would keep the old file"
cmp "$P/single" "$ROOT/x/a" || echo "FAIL: the mount has another file"
expect 0 "$B" diff
"#,
    );
}

#[test]
fn a_folder_on_another_file_system_is_a_folder() {
    let project = behind();
    with_mounts(
        &project,
        "a_folder_on_another_file_system",
        r#"
cp -a "$ROOT/y" "$P/y"; mount -t tmpfs t "$ROOT/y"; cp -a "$P/y/." "$ROOT/y"
expect 0 "$B" decrypt
expect 0 "$B" diff
expect 0 "$B" undo
clean
"#,
    );
}

#[test]
fn files_that_may_not_be_changed_stop_the_run() {
    let test = "files_that_may_not_be_changed_stop_the_run";
    let project = behind();
    let mark = |sign: &str| {
        let file = project.server_file("y/b");
        let done = Command::new("chattr")
            .arg(sign)
            .arg(file)
            .stderr(Stdio::null())
            .status();
        done.is_ok_and(|status| status.success())
    };
    if !mark("+i") {
        assert!(
            std::env::var_os("SECRETS_CI").is_none(),
            "{test} needs `chattr +i`"
        );
        let _ = writeln!(std::io::stderr(), "skipped: {test} needs `chattr +i`");
        return;
    }
    let before = project.snapshot();
    let output = project.run(&["decrypt"]);
    let after = project.snapshot();
    assert!(mark("-i"));
    assert_eq!(output.code, 2, "{output:#?}");
    assert!(output.stderr.contains("y/b: cannot replace"), "{output:#?}");
    assert_eq!(after, before);
    project.ok(&["decrypt"]);
    assert!(is_new(&project));
}

/// Starts a run that stops for a while when everything is staged, and waits until it does.
fn held_up(project: &TestProject, args: &[&str], files: usize, more: &[&str]) -> Child {
    let injection = "inject=fsync:delay_enter=500000";
    let mut all = vec![
        "-f",
        "-qqq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fsync,flock",
        "-e",
        injection,
    ];
    all.extend(more);
    all.push(env!("CARGO_BIN_EXE_secrets"));
    all.extend(args);
    let child = secrets(project, "strace", &all).spawn().unwrap();
    let started = Instant::now();
    let staged = || {
        let all = project.snapshot();
        let names = all.keys().map(|path| path.to_string_lossy().into_owned());
        names
            .filter(|name| name.contains("/.secrets-staging-"))
            .count()
    };
    while staged() < files {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "nothing is staged"
        );
        thread::sleep(Duration::from_millis(2));
    }
    thread::sleep(Duration::from_millis(100));
    child
}

#[test]
fn what_changes_between_plan_and_writing_is_left_alone() {
    let test = "what_changes_between_plan_and_writing_is_left_alone";
    if !stock::available("strace", test) {
        return;
    }
    let project = behind();
    let child = held_up(&project, &["decrypt"], 2, &[]);
    project.write_server("y/b", "edited meanwhile\n");
    let (code, said) = ended(child);
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("y/b: changed while this run was at work"),
        "{said}"
    );
    assert_eq!(project.read_server("x/a"), text("old a", 1).as_bytes());
    assert_eq!(project.read_server("y/b"), b"edited meanwhile\n");
    assert!(!has_staging_files(&project.snapshot()));

    // The source of a capture, and the encrypted file itself.
    let project = behind();
    project.ok(&["decrypt"]);
    project.write_server("x/a", text("rotated", LONG));
    for file in [project.server_file("x/a"), project.repo_file("a.enc")] {
        let before = fs::read(&file).unwrap();
        let other = fs::read(project.repo_file("a.enc")).unwrap();
        let child = held_up(&project, &["encrypt"], 1, &[]);
        let mut changed = fs::OpenOptions::new().append(true).open(&file).unwrap();
        changed.write_all(b"\n").unwrap();
        drop(changed);
        let (code, said) = ended(child);
        assert_eq!(code, 2, "{said}");
        assert!(
            said.contains("changed while this run was at work"),
            "{said}"
        );
        fs::write(&file, before).unwrap();
        assert_eq!(fs::read(project.repo_file("a.enc")).unwrap(), other);
    }
    project.ok(&["encrypt"]);
}

#[test]
fn a_folder_that_goes_away_is_noticed() {
    let test = "a_folder_that_goes_away_is_noticed";
    if !stock::available("strace", test) {
        return;
    }
    // Moved away.
    let project = behind();
    let child = held_up(&project, &["decrypt"], 2, &[]);
    fs::rename(project.server_file("y"), project.server_file("z")).unwrap();
    let (code, said) = ended(child);
    assert_eq!(code, 2, "{said}");
    assert_eq!(project.read_server("x/a"), text("old a", 1).as_bytes());
    assert_eq!(project.read_server("z/b"), text("old b", 1).as_bytes());
    assert!(!has_staging_files(&project.snapshot()), "{said}");

    // Removed with everything in it.
    let project = behind();
    let child = held_up(&project, &["decrypt"], 2, &[]);
    fs::remove_dir_all(project.server_file("y")).unwrap();
    let (code, said) = ended(child);
    assert_eq!(code, 2, "{said}");
    assert_eq!(project.read_server("x/a"), text("old a", 1).as_bytes());
    project.ok(&["decrypt"]);
    assert!(is_new(&project));
}

#[test]
fn a_link_that_takes_the_place_of_a_folder_leads_nowhere() {
    let test = "a_link_that_takes_the_place_of_a_folder_leads_nowhere";
    if !stock::available("strace", test) {
        return;
    }
    for args in [&["decrypt"][..], &["decrypt", "--force"]] {
        let project = behind();
        let outside = project.path("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("b"), "theirs\n").unwrap();
        let child = held_up(&project, args, 2, &[]);
        fs::rename(project.server_file("y"), project.server_file("z")).unwrap();
        symlink(&outside, project.server_file("y")).unwrap();
        let (code, said) = ended(child);
        assert_eq!(code, 2, "{said}");
        let names: Vec<_> = fs::read_dir(&outside).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        assert_eq!(fs::read(outside.join("b")).unwrap(), b"theirs\n");
        assert_eq!(project.read_server("z/b"), text("old b", 1).as_bytes());
        // And now that it stands there, it is refused.
        assert_eq!(project.run(&["decrypt", "--force"]).code, 2);
        assert_eq!(fs::read(outside.join("b")).unwrap(), b"theirs\n");
    }
}

/// Root places files for a service below a folder of its user, who has a link in the place of a folder.
#[test]
fn a_link_of_another_user_chooses_no_folder() {
    use std::os::unix::fs::{chown, lchown};
    if !is_root() {
        drop(writeln!(
            std::io::stderr(),
            "not run: a_link_of_another_user_chooses_no_folder (needs root)"
        ));
        return;
    }
    let rows = [
        ("a.enc", "app/conf/a"),
        ("b.enc", "way/a"),
        ("c.enc", "nginx/c"),
    ];
    let project = TestProject::with_files(&rows, "");
    let canary = "canary-Ku36-sqlrole\n";
    project.write_server("app/conf/a", canary);
    project.write_server("nginx/c", canary);
    fs::create_dir(project.server_file("way")).unwrap();
    project.write_server("way/a", canary);
    project.ok(&["encrypt"]);
    project.commit();
    let user = Some(4246);
    let conf = project.server_file("app/conf");
    fs::rename(&conf, project.server_file("app/own")).unwrap();
    fs::remove_dir_all(project.server_file("way")).unwrap();
    symlink("../nginx", &conf).unwrap();
    symlink("app/conf", project.server_file("way")).unwrap();
    lchown(&conf, user, user).unwrap();
    let before = project.read_repo("a.enc");
    let refused = |args: &[&str]| {
        let output = project.run(args);
        assert_ne!(output.code, 0, "{output:#?}");
        let told = "is a link of the user 4246 to a folder of the user 0";
        assert!(output.stderr.contains(told), "{output:#?}");
    };
    for entry in ["a.enc", "b.enc"] {
        refused(&["decrypt", entry]);
    }
    assert!(!project.server_file("nginx/a").exists());
    project.write_server("nginx/a", "canary-Ny18-htpasswd\n");
    for entry in ["a.enc", "b.enc"] {
        refused(&["encrypt", "--force", entry]);
    }
    assert_eq!(project.read_repo("a.enc"), before);
    // To a folder of its own user it may lead, and one of root's anywhere.
    fs::remove_file(project.server_file("way")).unwrap();
    fs::remove_file(project.server_file("nginx/a")).unwrap();
    chown(project.server_file("nginx"), user, user).unwrap();
    project.ok(&["decrypt", "a.enc"]);
    fs::remove_file(project.server_file("nginx/a")).unwrap();
    chown(project.server_file("nginx"), Some(0), Some(0)).unwrap();
    lchown(&conf, Some(0), Some(0)).unwrap();
    project.ok(&["decrypt", "a.enc"]);
    assert_eq!(project.read_server("nginx/a"), canary.as_bytes());
}

#[test]
fn runs_at_the_same_time_take_turns() {
    let project = behind();
    let runs: Vec<_> = (0..8)
        .map(|number| {
            let args: &[&str] = if number % 2 == 0 {
                &["decrypt"]
            } else {
                &["encrypt"]
            };
            secrets(&project, env!("CARGO_BIN_EXE_secrets"), args)
                .spawn()
                .unwrap()
        })
        .collect();
    for (number, run) in runs.into_iter().enumerate() {
        let (code, said) = ended(run);
        // A capture that comes first finds that the repository is ahead.
        assert!(
            code == 0 || number % 2 == 1 && code == 3,
            "{number}: {said}"
        );
    }
    assert!(is_new(&project));
    assert!(!has_staging_files(&project.snapshot()));
}

#[test]
fn a_holder_that_was_killed_holds_nothing() {
    let test = "a_holder_that_was_killed_holds_nothing";
    if !stock::available("strace", test) {
        return;
    }
    let project = behind();
    let mut child = held_up(&project, &["decrypt"], 2, &[]);
    let (code, said) = ended(
        secrets(
            &project,
            env!("CARGO_BIN_EXE_secrets"),
            &["decrypt", "--no-wait"],
        )
        .spawn()
        .unwrap(),
    );
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("another run is writing here"), "{said}");
    let tracee = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
    let tracee: i32 = tracee.trim().parse().unwrap();
    let tracee = rustix::process::Pid::from_raw(tracee).unwrap();
    rustix::process::kill_process(tracee, rustix::process::Signal::KILL).unwrap();
    child.wait().unwrap();
    assert!(has_staging_files(&project.snapshot()));
    let (code, said) = ended(
        secrets(
            &project,
            env!("CARGO_BIN_EXE_secrets"),
            &["decrypt", "--no-wait"],
        )
        .spawn()
        .unwrap(),
    );
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("removed 2 staging files that an interrupted run left behind"),
        "{said}"
    );
    assert!(is_new(&project) && !has_staging_files(&project.snapshot()));
}

#[test]
fn without_locks_on_folders_a_file_is_locked() {
    let test = "without_locks_on_folders_a_file_is_locked";
    if !stock::available("strace", test) {
        return;
    }
    // As on NFS, where a descriptor that may not write takes no exclusive lock.
    let project = behind();
    let refuse = ["-e", "inject=flock:error=EBADF:when=1"];
    let first = held_up(&project, &["decrypt"], 2, &refuse);
    let all: Vec<&str> = ["-f", "-qqq", "-o", "/dev/null", "-e", "trace=flock"]
        .into_iter()
        .chain(refuse)
        .chain([env!("CARGO_BIN_EXE_secrets"), "decrypt", "--no-wait"])
        .collect();
    let (code, said) = ended(secrets(&project, "strace", &all).spawn().unwrap());
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("another run is writing here (secrets with process number"),
        "{said}"
    );
    assert_eq!(ended(first).0, 0);
    assert!(is_new(&project));

    // Nothing can be locked at all.
    let project = behind();
    let all = [
        "-f",
        "-qqq",
        "-o",
        "/dev/null",
        "-e",
        "trace=flock",
        "-e",
        "inject=flock:error=ENOLCK",
        env!("CARGO_BIN_EXE_secrets"),
        "decrypt",
    ];
    let before = project.snapshot();
    let (code, said) = ended(secrets(&project, "strace", &all).spawn().unwrap());
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("cannot be locked") && said.contains("SECRETS_STATE_DIR"),
        "{said}"
    );
    assert_eq!(project.snapshot(), before);
}

/// Returns a run of the built program in which a system call meets what `strace` calls an injection.
pub(crate) fn injected(project: &TestProject, call: &str, what: &str, args: &[&str]) -> Command {
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{what}"));
    let mut all = vec!["-f", "-qqq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    all.push(env!("CARGO_BIN_EXE_secrets"));
    all.extend(args);
    secrets(project, "strace", &all)
}

/// Kills a run with these arguments between its first replacement and its second.
fn killed_half_way(project: &TestProject, args: &[&str]) {
    let old = project.read_server("x/a");
    for number in 1..20 {
        let kill = format!("signal=KILL:when={number}");
        let mut run = injected(project, "renameat2", &kill, args);
        let (code, _) = ended(run.spawn().unwrap());
        assert_ne!(code, 0, "the run came to its end");
        if project.read_server("x/a") != old {
            return;
        }
    }
    panic!("no run was killed half way");
}

/// A run that is stopped (Ctrl-Z) holds its locks; who only looks does not wait for it.
#[test]
fn a_stopped_run_holds_up_nobody_who_looks() {
    if !stock::available("strace", "a_stopped_run_holds_up_nobody_who_looks") {
        return;
    }
    let project = behind();
    let mut run = injected(&project, "renameat2", "signal=STOP:when=1", &["decrypt"]);
    let mut tracer = run.spawn().unwrap();
    let is_stopped = |id: u32| {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        status.contains("secrets") && status.contains("stop)")
    };
    let children = format!("/proc/{0}/task/{0}/children", tracer.id());
    let stopped = (0..600).find_map(|_| {
        thread::sleep(Duration::from_millis(50));
        let children = fs::read_to_string(&children).unwrap();
        let mut ids = children.split(' ').filter_map(|id| id.trim().parse().ok());
        // The tracer stops it at every call for a moment.
        ids.find(|&id| {
            (0..5).all(|_| {
                thread::sleep(Duration::from_millis(20));
                is_stopped(id)
            })
        })
    });
    let stopped = stopped.expect("the run stops at its first replacement");
    for looking in [
        &["status"][..],
        &["diff"],
        &["doctor"],
        &["list"],
        &["decrypt", "--dry-run"],
    ] {
        let program = env!("CARGO_BIN_EXE_secrets");
        let (_, said) = ended(secrets(&project, program, looking).spawn().unwrap());
        assert!(!said.is_empty(), "{looking:?}");
    }
    assert!(is_stopped(stopped), "it was stopped all the time");
    let id = rustix::process::Pid::from_raw(stopped.cast_signed()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::CONT).unwrap();
    assert!(tracer.wait().unwrap().success());
    assert!(is_new(&project) && !has_staging_files(&project.snapshot()));
}

#[test]
fn what_a_killed_run_had_half_done_is_taken_back() {
    if !stock::available("strace", "what_a_killed_run_had_half_done_is_taken_back") {
        return;
    }
    let project = behind();
    killed_half_way(&project, &["decrypt"]);
    let half = project.snapshot();
    assert_eq!(project.read_server("y/b"), text("old b", 1).as_bytes());
    let (folder, file) = (project.root(), "x/a");
    let warning = format!(
        "an interrupted run is half done ({}); the next writing run takes it back, or says what is to be done",
        folder.join(file).display()
    );
    for looking in [&["status"][..], &["diff"], &["decrypt", "--dry-run"]] {
        let output = project.run(looking);
        assert!(output.stderr.contains(&warning), "{output:#?}");
    }
    let output = project.run(&["doctor"]);
    assert!(
        output.code == 1 && output.stdout.contains(&warning),
        "{output:#?}"
    );
    assert_eq!(project.snapshot(), half, "what only looks changes nothing");

    // Also by a command that then finds nothing to do.
    let output = project.run(&["encrypt", "y/b"]);
    let told = format!(
        "took back what an interrupted run had half done: {} is as it was before",
        project.server_file("x/a").display()
    );
    assert!(output.stderr.contains(&told), "{output:#?}");
    assert_eq!(project.read_server("x/a"), text("old a", 1).as_bytes());
    assert!(!has_staging_files(&project.snapshot()));
    project.ok(&["decrypt"]);
    assert!(is_new(&project));
}

#[test]
fn a_run_that_came_to_its_end_is_not_taken_back() {
    let test = "a_run_that_came_to_its_end_is_not_taken_back";
    if !stock::available("strace", test) {
        return;
    }
    for args in [
        &["decrypt"][..],
        &["mv", "x/a", "z/a", "--server", "z/a"],
        &["remove", "--wipe", "x/a"],
    ] {
        let project = behind();
        // Its journal stays, and a power failure takes the last word of it.
        let mut all = vec!["-f", "-qqq", "-o", "/dev/null", "-e", "trace=unlink", "-e"];
        all.extend(["inject=unlink:retval=0", env!("CARGO_BIN_EXE_secrets")]);
        all.extend(args);
        let (code, said) = ended(secrets(&project, "strace", &all).spawn().unwrap());
        assert_eq!(code, 0, "{said}");
        let journals = fs::read_dir(project.path("state/journal")).unwrap();
        let journals: Vec<PathBuf> = journals.flatten().map(|entry| entry.path()).collect();
        assert_eq!(journals.len(), 1, "{journals:?}");
        let text = fs::read(&journals[0]).unwrap();
        fs::write(&journals[0], text.strip_suffix(b"done\0").unwrap()).unwrap();
        let before = project.snapshot();
        let output = project.run(&["encrypt", "y/b"]);
        assert!(!output.stderr.contains("took back"), "{output:#?}");
        assert_eq!(project.snapshot(), before, "{args:?}: {output:#?}");
        assert!(!output.stderr.contains("are in ,"), "{output:#?}");
        let output = project.run(&["status"]);
        assert!(!output.stderr.contains("interrupted"), "{output:#?}");
    }
}

#[test]
fn over_what_cannot_be_taken_back_nothing_is_written() {
    let test = "over_what_cannot_be_taken_back_nothing_is_written";
    if !stock::available("strace", test) {
        return;
    }
    let project = behind();
    // The root is reached through a link.
    let link = project.path("link");
    symlink(project.root(), &link).unwrap();
    let root = ["--root", link.to_str().unwrap()];
    let with = |args: &[&'static str]| [&root[..], args].concat();
    killed_half_way(&project, &with(&["decrypt"]));
    let moved = project.path("moved");
    fs::rename(project.server_file("x"), &moved).unwrap();
    symlink(&moved, project.server_file("x")).unwrap();
    let before = project.snapshot();
    for args in [&["decrypt", "y/b"][..], &["encrypt", "y/b"]] {
        let output = project.run(&with(args));
        assert_eq!(output.code, 2, "{output:#?}");
        assert!(
            output
                .stderr
                .contains("an interrupted run may be half done"),
            "{output:#?}"
        );
    }
    assert_eq!(project.snapshot(), before);
    fs::remove_file(project.server_file("x")).unwrap();
    fs::rename(&moved, project.server_file("x")).unwrap();
    let output = project.ok(&with(&["decrypt"]));
    assert!(output.stderr.contains("took back"), "{output:#?}");
    assert!(is_new(&project));
    // A journal that cannot be read.
    let journal = project.path("state/journal/0123456789abcdef");
    fs::create_dir(&journal).unwrap();
    let output = project.ok(&with(&["status"]));
    assert!(output.stderr.contains("cannot be told"), "{output:#?}");
    let output = project.run(&with(&["decrypt"]));
    assert_eq!(output.code, 2, "{output:#?}");
    assert!(output.stderr.contains("make it readable"), "{output:#?}");
}

#[test]
fn while_a_part_is_out_of_reach_nothing_is_built_on_the_other() {
    let test = "while_a_part_is_out_of_reach_nothing_is_built_on_the_other";
    if !stock::available("strace", test) {
        return;
    }
    let project = behind();
    killed_half_way(&project, &["decrypt"]);
    fs::rename(project.server_file("y"), project.path("away")).unwrap();
    let before = project.snapshot();
    for args in [&["decrypt", "x/a"][..], &["encrypt", "x/a"]] {
        let output = project.run(args);
        assert_eq!(output.code, 2, "{output:#?}");
        assert!(
            output
                .stderr
                .contains("an interrupted run may be half done"),
            "{output:#?}"
        );
    }
    assert_eq!(project.snapshot(), before);
    fs::rename(project.path("away"), project.server_file("y")).unwrap();
    let output = project.ok(&["decrypt"]);
    assert!(output.stderr.contains("took back"), "{output:#?}");
    assert!(is_new(&project));
}

#[test]
fn an_old_file_that_is_kept_stays_and_a_damaged_journal_stops() {
    let test = "an_old_file_that_is_kept_stays_and_a_damaged_journal_stops";
    if !stock::available("strace", test) {
        return;
    }
    let project = behind();
    killed_half_way(&project, &["decrypt"]);
    let journals = fs::read_dir(project.path("state/journal")).unwrap();
    let journals: Vec<PathBuf> = journals.flatten().map(|entry| entry.path()).collect();
    let whole = fs::read(&journals[0]).unwrap();
    let damaged = [b"?\0", &whole[..]].concat();
    fs::write(&journals[0], damaged).unwrap();
    let output = project.run(&["decrypt"]);
    assert_eq!(output.code, 2, "{output:#?}");
    assert!(output.stderr.contains("it is damaged"), "{output:#?}");
    fs::write(&journals[0], whole).unwrap();
    // The folder is a link now, and somebody wrote into the file.
    fs::rename(project.server_file("x"), project.server_file("real")).unwrap();
    symlink("real", project.server_file("x")).unwrap();
    project.write_server("x/a", "by hand\n");
    let output = project.run(&["encrypt", "y/b"]);
    let (_, rest) = output.stderr.split_once("the old file is in ").unwrap();
    let (kept, _) = rest.split_once(',').unwrap();
    assert_eq!(
        fs::read(kept).unwrap(),
        text("old a", 1).as_bytes(),
        "{output:#?}"
    );
}

#[test]
fn folders_of_a_killed_run_go_and_those_of_others_stay() {
    let test = "folders_of_a_killed_run_go_and_those_of_others_stay";
    if !stock::available("strace", test) {
        return;
    }
    for is_replaced in [false, true] {
        let project = behind();
        fs::remove_dir_all(project.server_file("y")).unwrap();
        killed_half_way(&project, &["decrypt"]);
        assert!(project.server_file("y").is_dir());
        if is_replaced {
            fs::remove_dir_all(project.server_file("y")).unwrap();
            fs::create_dir(project.server_file("y")).unwrap();
            let mode = fs::Permissions::from_mode(0o2770);
            fs::set_permissions(project.server_file("y"), mode).unwrap();
        }
        project.run(&["encrypt", "x/a", "-q"]);
        assert_eq!(project.server_file("y").exists(), is_replaced);
        project.ok(&["decrypt"]);
        let mode = fs::metadata(project.server_file("y"))
            .unwrap()
            .permissions();
        let wanted = if is_replaced { 0o2770 } else { 0o755 };
        assert_eq!(mode.mode() & 0o7777, wanted);
        assert!(is_new(&project));
    }
}

#[test]
fn what_was_being_written_in_place_is_not_captured_half() {
    let test = "what_was_being_written_in_place_is_not_captured_half";
    if !stock::available("strace", test) {
        return;
    }
    let row = "{ path = \"x/a\", write = \"in-place\" }";
    let mut project = TestProject::with_files(&[("a.enc", row), ("b.enc", "y/b")], "");
    project.write_server("x/a", text("old a", 9));
    project.write_server("y/b", text("old b", 1));
    project.ok(&["encrypt"]);
    project.commit();
    project.capture_elsewhere("x/a", &text("new a", 1));
    let killed = [
        "-f",
        "-qqq",
        "-o",
        "/dev/null",
        "-e",
        "trace=ftruncate",
        "-e",
        "inject=ftruncate:signal=KILL:when=1",
        env!("CARGO_BIN_EXE_secrets"),
        "decrypt",
        "x/a",
    ];
    ended(secrets(&project, "strace", &killed).spawn().unwrap());
    let half = project.read_server("x/a");
    assert!(half != text("old a", 9).as_bytes() && half != text("new a", 1).as_bytes());
    let told = "an interrupted run is half done";
    assert!(project.run(&["status"]).stderr.contains(told));
    // Neither now nor later, nor after a run that has nothing to do with it.
    for args in [
        &["encrypt", "y/b"][..],
        &["encrypt", "--force"],
        &["encrypt", "--force"],
    ] {
        let output = project.run(args);
        assert!(
            output.stderr.contains("part old and part new"),
            "{output:#?}"
        );
        assert_eq!(
            output.code == 0,
            args.len() == 2 && args[1] == "y/b",
            "{output:#?}"
        );
    }
    assert_eq!(project.opened("a.enc"), text("new a", 1).as_bytes());
    project.ok(&["decrypt", "--force", "x/a"]);
    assert_eq!(project.read_server("x/a"), text("new a", 1).as_bytes());
    let output = project.ok(&["encrypt"]);
    assert!(!output.stderr.contains("interrupted"), "{output:#?}");
}

#[test]
fn nothing_is_taken_back_over_what_somebody_wrote_since() {
    if !stock::available(
        "strace",
        "nothing_is_taken_back_over_what_somebody_wrote_since",
    ) {
        return;
    }
    let project = behind();
    killed_half_way(&project, &["decrypt"]);
    let edited = text("edited", 2);
    fs::write(project.server_file("x/a"), &edited).unwrap();
    let output = project.run(&["encrypt", "y/b"]);
    let folder = project.server_file("x");
    let kept = fs::read_dir(&folder)
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name() != "a")
        .expect("the old file is kept")
        .path();
    assert!(
        output.stderr.contains(&format!(
            "{} was changed since: nothing of it is taken back; the old file is in {}",
            folder.join("a").display(),
            kept.display()
        )),
        "{output:#?}"
    );
    assert_eq!(project.read_server("x/a"), edited.as_bytes());
    assert_eq!(fs::read(&kept).unwrap(), text("old a", 1).as_bytes());
    // Once is enough, but as long as it is there it is told of.
    let output = project.run(&["encrypt", "y/b"]);
    assert!(!output.stderr.contains("taken back"), "{output:#?}");
    assert!(output.stderr.contains("1 staging file in"), "{output:#?}");
    assert_eq!(fs::read(&kept).unwrap(), text("old a", 1).as_bytes());
}

#[test]
fn a_limit_on_the_size_of_files_is_like_a_kill() {
    let test = "a_limit_on_the_size_of_files_is_like_a_kill";
    if !stock::available("prlimit", test) {
        return;
    }
    let project = behind();
    for limit in [0, 1, 100, 4096, 20_000, 100_000] {
        let limit = format!("--fsize={limit}");
        let args = [&limit, env!("CARGO_BIN_EXE_secrets"), "decrypt"];
        let (code, said) = ended(secrets(&project, "prlimit", &args).spawn().unwrap());
        assert_ne!(code, 0, "{said}");
        assert_eq!(project.read_server("x/a"), text("old a", 1).as_bytes());
        assert_eq!(project.read_server("y/b"), text("old b", 1).as_bytes());
    }
    project.ok(&["decrypt"]);
    assert!(is_new(&project) && !has_staging_files(&project.snapshot()));
}

#[test]
fn with_too_few_open_files_nothing_is_half_done() {
    if !stock::available("prlimit", "with_too_few_open_files_nothing_is_half_done") {
        return;
    }
    let project = behind();
    let mut failed = 0;
    for limit in 7..64 {
        let limit = format!("--nofile={limit}");
        let args = [&limit, env!("CARGO_BIN_EXE_secrets"), "decrypt"];
        let (code, said) = ended(secrets(&project, "prlimit", &args).spawn().unwrap());
        if code == 0 {
            break;
        }
        failed += 1;
        assert!(said.contains("`ulimit -n`"), "{limit}: {said}");
        assert_eq!(project.read_server("x/a"), text("old a", 1).as_bytes());
        assert_eq!(project.read_server("y/b"), text("old b", 1).as_bytes());
        assert!(!has_staging_files(&project.snapshot()), "{limit}: {said}");
    }
    assert!(failed > 3 && is_new(&project), "{failed}");
}

#[test]
fn a_file_with_two_names_that_cannot_be_written_keeps_its_content() {
    let test = "a_file_with_two_names_that_cannot_be_written_keeps_its_content";
    if !stock::available("strace", test) {
        return;
    }
    let project = TestProject::with_files(&[("b.yaml.enc", "b.yaml")], "");
    project.write_server("b.yaml", "one: canary-Zt47-registry\ntwo: short\n");
    project.ok(&["encrypt"]);
    fs::hard_link(project.repo_file("b.yaml.enc"), project.repo_file("other")).unwrap();
    let before = project.read_repo("b.yaml.enc");
    for (call, error) in [
        ("pwrite64", "EIO"),
        ("ftruncate", "EIO"),
        ("fsync", "ENOSPC"),
    ] {
        let injection = format!("inject={call}:error={error}:when=1");
        let mut all = vec!["-qqq", "-o", "/dev/null", "-e"];
        let trace = format!("trace={call}");
        all.extend([
            trace.as_str(),
            "-e",
            injection.as_str(),
            env!("CARGO_BIN_EXE_secrets"),
        ]);
        all.extend([
            "sops",
            "unset",
            "--input-type",
            "yaml",
            "--output-type",
            "yaml",
        ]);
        all.extend(["b.yaml.enc", "[\"two\"]"]);
        let (code, said) = ended(secrets(&project, "strace", &all).spawn().unwrap());
        assert_ne!(code, 0, "{call}: {said}");
        assert_eq!(project.read_repo("b.yaml.enc"), before, "{call}: {said}");
        assert_eq!(project.read_repo("other"), before, "{call}");
    }
}

#[test]
fn many_files_take_few_descriptors() {
    let names: Vec<(String, String)> = (0..600)
        .map(|number| {
            let path = format!("f{}/v{number}.env", number % 20);
            (format!("{path}.enc"), path)
        })
        .collect();
    let rows: Vec<(&str, &str)> = names
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    let project = TestProject::with_files(&rows, "");
    for (_, path) in &names {
        project.write_server(path, "A=canary-Vd81-database\n");
    }
    let limited = |args: &str| {
        let script = format!("ulimit -n 128; exec \"$B\" {args}");
        let (code, said) = ended(secrets(&project, "sh", &["-c", &script]).spawn().unwrap());
        assert_eq!(code, 0, "{said}");
    };
    limited("encrypt");
    for (_, path) in &names {
        project.write_server(path, "A=2\n");
    }
    limited("encrypt");
    fs::remove_dir_all(project.server_file("f7")).unwrap();
    limited("decrypt");
    limited("diff");
}

#[test]
fn the_clock_may_jump() {
    if !stock::available("sops", "the_clock_may_jump") {
        return;
    }
    // The clock of a run in process goes on from 2026; the file says that it was changed in 2031.
    let project = TestProject::with_files(&[("a.env.enc", "a.env")], "");
    project.write_server("a.env", "A=1\n");
    project.ok(&["encrypt"]);
    let key = key_file(SERVER_KEY);
    let changed = |project: &TestProject| {
        let text = project.read_repo("a.env.enc");
        let line = text
            .lines()
            .find(|line| line.starts_with("sops_lastmodified="))
            .unwrap();
        line.to_owned()
    };
    for year in ["2031", "1999"] {
        // A file of another time, whose MAC covers it: what `sops` on a host with that clock wrote.
        let faked = format!("{year}-01-01T00:00:00Z");
        let text = project.read_repo("a.env.enc");
        let reading = secret_files::sops::parse_sealed(text.clone().into_bytes()).unwrap();
        let keyring =
            secret_files::keys::keyring::Keyring::of_text("key", &fs::read(&key).unwrap(), None);
        let data_key = keyring.unwrap_quiet(&reading.1.metadata).unwrap();
        let store = secret_files::sops::store::Format::Dotenv.store();
        let source = project.read_server("a.env");
        let document = store.parse(&source).unwrap();
        let mut metadata = reading.1.metadata.clone();
        metadata.last_modified = String::new();
        let manner = secret_files::sops::Manner {
            reuse: secret_files::sops::Reuse::Nothing,
            layout: secret_files::sops::Layout::Exact,
            now: &faked,
        };
        let format = secret_files::sops::store::Format::Dotenv;
        let mut fill = |buffer: &mut [u8]| secret_files::os::fill_random(buffer);
        let sealed =
            secret_files::sops::seal(format, &document, &data_key, &metadata, &manner, &mut fill);
        project.write_repo("a.env.enc", sealed.unwrap().bytes);
        assert_eq!(changed(&project), format!("sops_lastmodified={faked}"));
        project.ok(&["status"]);
        project.ok(&["decrypt"]);
        let number = fs::metadata(project.server_file("a.env")).unwrap().len();
        project.write_server("a.env", format!("A={year}{number}\n"));
        project.ok(&["encrypt"]);
        assert_ne!(changed(&project), format!("sops_lastmodified={faked}"));
        let opened = stock::decrypt(&project.repo(), &key, "dotenv", "a.env.enc").unwrap();
        assert_eq!(opened, project.read_server("a.env"));
        project.ok(&["undo"]);
        project.ok(&["encrypt", "--force"]);
        assert_eq!(project.run(&["diff"]).code, 0);
    }
}

/// The whole story of a day, as a user; returns what went wrong.
fn a_day(project: &TestProject, umask: &str, user: Option<u32>) -> String {
    let program = project.program_for_others();
    let script = r#"
umask "$MASK"
expect() { want=$1; shift; "$@" >"$P/said" 2>&1; code=$?; cat "$P/said"; [ $code = $want ] || echo "FAIL: $* ends with $code, not $want"; }
mode() { found=$(stat -c %a "$1"); [ "$found" = "$2" ] || echo "FAIL: $1 has mode $found, not $2"; }
expect 0 "$B" encrypt
expect 0 "$B" status
expect 0 "$B" diff
mv "$ROOT/x" "$ROOT/away"
expect 0 "$B" decrypt
cmp "$ROOT/x/a" "$ROOT/away/a" || echo "FAIL: it does not come back"
mode "$ROOT/x/a" 600; mode "$ROOT/x" 755
echo changed >> "$ROOT/x/a"
expect 1 "$B" diff
expect 3 "$B" decrypt
expect 0 "$B" encrypt
expect 0 "$B" decrypt
expect 0 "$B" undo
expect 0 "$B" encrypt --force
expect 0 "$B" decrypt
expect 0 "$B" drill
mode "$SECRETS_STATE_DIR/records.json" 600; mode "$SECRETS_STATE_DIR/journal" 700
mode a.enc $(printf '%o' $((0644 & ~0$MASK)))
[ -z "$(find "$ROOT" "$REPO" "$SECRETS_STATE_DIR" -perm /022 ! -type l ! -path "*/.git/*")" ] || echo "FAIL: others may write: $(find "$ROOT" "$REPO" "$SECRETS_STATE_DIR" -perm /022 ! -type l)"
echo done
"#;
    let mut command = secrets(project, "sh", &["-c", script]);
    command.env("B", &program).env("MASK", umask);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let (_, said) = ended(command.spawn().unwrap());
    said
}

fn for_a_day(user: Option<u32>) -> TestProject {
    let mut project = TestProject::with_files(&[("a.enc", "x/a"), ("b.env.enc", "b.env")], "");
    project.write_server("x/a", text("one", 3));
    project.write_server("b.env", "B=canary-Qx22-smtp\n");
    project.commit();
    let key = project.path("home/key.txt");
    fs::copy(key_file(SERVER_KEY), &key).unwrap();
    project.set("SOPS_AGE_KEY_FILE", &key);
    project.set("SECRETS_STATE_DIR", project.path("home/state"));
    project.program_for_others();
    if let Some(user) = user {
        let owner = format!("{user}:{user}");
        let done = Command::new("chown")
            .args(["-R", &owner])
            .arg(project.path(""))
            .status();
        assert!(done.unwrap().success());
    }
    project
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_day_of_any_user_with_any_umask() {
    let others: &[Option<u32>] = if is_root() {
        &[None, Some(4246)]
    } else {
        &[None]
    };
    for &user in others {
        for umask in ["000", "022", "077"] {
            let project = for_a_day(user);
            let said = a_day(&project, umask, user);
            assert!(
                said.ends_with("done\n") && !said.contains("FAIL"),
                "{user:?} {umask}: {said}"
            );
        }
    }
}

#[test]
fn a_read_only_checkout_of_git_is_enough() {
    let user = is_root().then_some(4246);
    let project = for_a_day(user);
    let git = project.repo_file(".git");
    assert!(
        Command::new("chmod")
            .args(["-R", "a-w"])
            .arg(&git)
            .status()
            .unwrap()
            .success()
    );
    let said = a_day(&project, "022", user);
    assert!(
        Command::new("chmod")
            .args(["-R", "u+w"])
            .arg(&git)
            .status()
            .unwrap()
            .success()
    );
    assert!(said.ends_with("done\n") && !said.contains("FAIL"), "{said}");
}

#[test]
fn root_by_sudo_in_a_container_without_accounts() {
    if !is_root() {
        return;
    }
    let mut project = for_a_day(Some(4246));
    project.set("SUDO_UID", "4246");
    project.set("SUDO_GID", "4246");
    project.set("SUDO_USER", "nobody-here");
    with_mounts(
        &project,
        "root_by_sudo_in_a_container_without_accounts",
        r#"
: > "$P/nobody"; mount --bind "$P/nobody" /etc/passwd; mount --bind "$P/nobody" /etc/group
unset HOME
expect 0 "$B" encrypt
same 4246:4246 "$(stat -c %u:%g a.enc)" "root keeps the encrypted file"
rm "$ROOT/b.env"
expect 0 "$B" decrypt
expect 0 "$B" status
expect 0 "$B" diff
echo changed >> "$ROOT/x/a"
expect 0 "$B" encrypt
expect 0 "$B" undo
[ -z "$(find .git -user 0)" ] || echo "FAIL: root owns something in .git"
"#,
    );
}

#[test]
fn a_full_home_stops_what_needs_it() {
    let mut project = behind();
    project
        .vars
        .remove(std::ffi::OsStr::new("SECRETS_STATE_DIR"));
    project.set("XDG_STATE_HOME", project.path("home/state"));
    project.set("SECRETS_STATE_DIR", "");
    let user = is_root().then_some(4246);
    let key = project.path("id.txt");
    fs::copy(key_file(SERVER_KEY), &key).unwrap();
    project.set("SOPS_AGE_KEY_FILE", &key);
    fs::remove_file(project.server_file("y/b")).unwrap();
    project.program_for_others();
    let run = user.map_or_else(String::new, |user| {
        format!("setpriv --reuid {user} --regid {user} --clear-groups ")
    });
    with_mounts(
        &project,
        "a_full_home_stops_what_needs_it",
        &format!(
            r#"
chown -R {0}:{0} "$P"; cd /; mount -t tmpfs -o size=32k,uid={0} t "$P/home"; cd "$REPO"
fill "$P/home"
expect 2 {run} "$P/secrets" decrypt x/a --force
says "SECRETS_STATE_DIR"
expect 0 {run} "$P/secrets" decrypt y/b
says "warning: the state directory cannot be used"
rm "$P/home/fill"
expect 0 {run} "$P/secrets" decrypt x/a --force
"#,
            user.unwrap_or(0)
        ),
    );
}

#[test]
fn a_state_directory_that_moves_with_the_shell_is_refused() {
    let mut project = behind();
    project.set("SECRETS_STATE_DIR", "state");
    for command in ["status", "decrypt", "undo"] {
        let output = project.run(&[command]);
        assert_eq!(output.code, 2, "{output:#?}");
        assert!(output.stderr.contains("the path is relative"));
    }
    assert!(!project.repo_file("state").exists());
}

/// Sends a signal to a run of any command at any moment: it is as it was, or done.
#[test]
fn a_signal_at_any_moment_changes_all_or_nothing() {
    use rustix::process::Signal;
    let names: Vec<_> = (0..40)
        .map(|n| (format!("{n}.enc"), format!("d{n}/f")))
        .collect();
    let rows: Vec<_> = names
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    let project = TestProject::with_files(&rows, "");
    let write = |value: &str| {
        for (_, name) in &names {
            project.write_server(name, text(value, 500));
        }
    };
    write("one");
    project.ok(&["encrypt"]);
    project.commit();
    write("two");
    let state = |project: &TestProject| -> BTreeMap<PathBuf, Vec<u8>> {
        let all = project.snapshot();
        all.into_iter()
            .filter(|(path, _)| path.extension().is_some_and(|e| e == "enc"))
            .collect()
    };
    let before = state(&project);
    let took = {
        let started = Instant::now();
        project.ok(&["encrypt"]);
        started.elapsed()
    };
    project.ok(&["undo"]);
    let mut interrupted = 0;
    for step in 0..24_u32 {
        let (signal, code) =
            [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)][step as usize % 3];
        let child = secrets(&project, env!("CARGO_BIN_EXE_secrets"), &["encrypt"])
            .spawn()
            .unwrap();
        thread::sleep(took * (step + 8) / 30);
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal);
        let (ended_with, said) = ended(child);
        let now = state(&project);
        assert!(!has_staging_files(&project.snapshot()), "{said}");
        if ended_with == 0 {
            assert!(now.iter().all(|(path, content)| before[path] != *content));
            project.ok(&["undo"]);
        } else {
            assert_eq!(ended_with, code, "{said}");
            assert_eq!(now, before);
            interrupted += 1;
        }
        assert_eq!(state(&project), before);
    }
    assert!(interrupted > 3, "{interrupted} of 24 were caught");
}

/// A signal at every call with which `exec-file --no-fifo` makes, writes or removes its file, and while it waits for the
/// other program.
#[test]
fn a_signal_leaves_no_file_of_exec_file() {
    let test = "a_signal_leaves_no_file_of_exec_file";
    if !stock::available("strace", test) {
        return;
    }
    let mut project = behind();
    let temporary = project.path("tmp");
    fs::create_dir(&temporary).unwrap();
    project.set("TMPDIR", &temporary);
    let log = project.path("log");
    let mut ended_by_it = 0;
    for call in ["mkdir", "openat", "write", "fchmod", "wait4", "unlinkat"] {
        for number in 1.. {
            let (signal, code) = [("INT", 130), ("TERM", 143), ("HUP", 129)][number % 3];
            let inject = format!("inject={call}:signal={signal}:when={number}");
            let trace = format!("trace={call}");
            let program = env!("CARGO_BIN_EXE_secrets");
            let strace = [
                "-f",
                "-qq",
                "-o",
                log.to_str().unwrap(),
                "-e",
                &trace,
                "-e",
                &inject,
                program,
            ];
            // Nothing is shown: the output is searched for values.
            let line = "sops exec-file --no-fifo --input-type binary a.enc";
            let args: Vec<_> = strace
                .into_iter()
                .chain(line.split(' '))
                .chain(["test -s {}"])
                .collect();
            let (ended_with, said) = ended(secrets(&project, "strace", &args).spawn().unwrap());
            let left = fs::read_dir(&temporary).unwrap().count();
            assert_eq!(left, 0, "{inject}: plaintext is left behind: {said}");
            if !fs::read_to_string(&log)
                .unwrap()
                .contains(&format!("--- SIG{signal}"))
            {
                assert_eq!(ended_with, 0, "{said}");
                break;
            }
            // The other program gets the signal, too; stock ends with 255 then.
            let is_expected =
                [0, code].contains(&ended_with) || call == "wait4" && ended_with == 255;
            assert!(is_expected, "{inject}: {ended_with} {said}");
            ended_by_it += usize::from(ended_with == code);
        }
    }
    assert!(ended_by_it > 5, "{ended_by_it} runs were ended by a signal");
}

/// Ends with the code and whether standard error, where it is read, has anything.
fn with_closed_pipes(
    project: &TestProject,
    args: &[&str],
    is_stderr_closed: bool,
) -> (i32, String) {
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    let mut command = secrets(project, env!("CARGO_BIN_EXE_secrets"), args);
    command.stdout(closed());
    if is_stderr_closed {
        command.stderr(closed());
    }
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let code = output.status.code().unwrap_or(-1);
    (code, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn nobody_reading_any_more_is_no_trouble() {
    let project = behind();
    let quietly: &[&[&str]] = &[
        &["--help"],
        &["help", "decrypt"],
        &["--version"],
        &["status"],
        &["status", "--json"],
        &["diff"],
        &["diff", "--show-values"],
        &["diff", "--json"],
        &["list"],
        &["check"],
        &["doctor"],
        &["drill"],
        &["history", "x/a"],
        &["undo", "--list"],
        &["encrypt", "--dry-run", "--force"],
        &["decrypt", "--dry-run"],
        &["merge", "--dry-run"],
        &["deploy", "--dry-run"],
        &["schema"],
        &["keygen", "--help"],
        &["sops", "--help"],
        &["sops", "filestatus", "a.enc"],
        &["sops", "decrypt", "--input-type", "binary", "a.enc"],
        &["encrypt"],
        &["decrypt", "--force"],
        &["undo"],
        &["decrypt"],
    ];
    for args in quietly {
        let usual = project.path("usual");
        drop(fs::remove_dir_all(&usual));
        let copies = ["repo", "server", "state"].map(|name| (project.path(name), usual.join(name)));
        fs::create_dir_all(&usual).unwrap();
        let copy = |from: &PathBuf, to: &PathBuf| {
            let status = Command::new("cp").arg("-a").args([from, to]).status();
            assert!(status.unwrap().success());
        };
        for (here, there) in &copies {
            copy(here, there);
        }
        let program = env!("CARGO_BIN_EXE_secrets");
        let output = secrets(&project, program, args).output().unwrap();
        let expected = output.status.code().unwrap();
        for is_stderr_closed in [false, true] {
            for (here, there) in &copies {
                fs::remove_dir_all(here).unwrap();
                copy(there, here);
            }
            let (code, said) = with_closed_pipes(&project, args, is_stderr_closed);
            // `sops` ends as a shell has a program that SIGPIPE ends.
            let is_sops = args[0] == "sops" && code == 141;
            assert!(
                is_sops || code == expected,
                "{args:?} ends with {code} and not {expected}"
            );
            assert!(!said.to_lowercase().contains("pipe"), "{args:?}: {said}");
            assert!(!said.contains("panicked"), "{args:?}: {said}");
        }
    }
    assert!(is_new(&project));
}

#[test]
fn a_terminal_that_goes_away_leaves_everything_whole() {
    let test = "a_terminal_that_goes_away_leaves_everything_whole";
    if !stock::available("strace", test) || !stock::available("script", test) {
        return;
    }
    let project = behind();
    let line = format!(
        "strace -f -qqq -o /dev/null -e trace=fsync -e inject=fsync:delay_enter=500000 '{}' decrypt",
        env!("CARGO_BIN_EXE_secrets")
    );
    let mut child = secrets(&project, "script", &["-qec", &line, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !has_staging_files(&project.snapshot()) {
        assert!(started.elapsed() < Duration::from_secs(20));
        thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while has_staging_files(&project.snapshot()) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(!has_staging_files(&project.snapshot()));
    let is_old = project.read_server("x/a") == text("old a", 1).as_bytes()
        && project.read_server("y/b") == text("old b", 1).as_bytes();
    assert!(is_old || is_new(&project));
    project.ok(&["decrypt"]);
    assert!(is_new(&project));
}

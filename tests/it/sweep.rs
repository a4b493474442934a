//! Every system call of a writing command, failed once, lied to, or the process killed there.
//!
//! Each scene is one command in a prepared project. It is run once under `strace` to learn which calls it
//! makes; then, for each call, the project is put back as it was and the command is run with that call
//! failing (`strace -e inject`), once for each way it can fail. After each of these runs every file is
//! entirely old or entirely new, with its mode; what ended well is all new and what failed is all old; no
//! value that was anywhere is gone; no output, journal, record or temporary file shows one; and the same
//! command run again finishes the work, leaves no staging file behind and says that it removed one.
//!
//! `SECRETS_SWEEP=all` tries every call and fault, a number that many of each scene (twelve unless said),
//! drawn with `SECRETS_SWEEP_SEED`. A scene prints a row of the table in `docs/reliability.md`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use secret_files::keys::keyring::Keyring;
use secret_files::sops;

use super::support::{LAPTOP_KEY, SERVER_KEY, Seeded, TestProject, key_file, recipient, stock};

/// The calls that are failed. Not `close`: what is written is on disk before, and the standard library stops
/// where a folder cannot be closed, which does not happen.
const CALLS: &str = "open,openat,openat2,creat,read,pread64,write,writev,pwrite64,sendfile,copy_file_range,\
fsync,fdatasync,syncfs,rename,renameat,renameat2,link,linkat,symlinkat,unlink,unlinkat,rmdir,mkdir,\
mkdirat,mknodat,chmod,fchmod,fchmodat,chown,fchown,fchownat,ftruncate,fallocate,flock,fcntl,fsetxattr,\
fgetxattr,flistxattr,stat,fstat,lstat,newfstatat,statx,access,faccessat,faccessat2,getdents64,readlink,\
readlinkat,utimensat,getrandom,pipe2,poll,ioctl,lseek,chdir,umask,prlimit64,prctl,rt_sigaction,clone3,wait4";

/// Every value in the projects begins like this.
const MARK: &str = "canary-";

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It fails, once.
    Error(&'static str),
    /// It and every later one of its kind fail.
    Errors(&'static str),
    /// It says that it did one byte, and does nothing.
    Lie,
    /// The process is killed.
    Kill,
    /// The process gets a signal that asks it to end: INT, TERM or HUP in turn.
    Signal,
}

/// Returns the signal that asks a process to end at a call, and how it ends then.
fn signal_at(number: usize) -> (&'static str, i32) {
    [("INT", 130), ("TERM", 143), ("HUP", 129)][number % 3]
}

/// Returns how a call can fail.
fn faults_of(call: &str) -> Vec<Fault> {
    // A kernel has randomness or has not; that a pipe cannot be read at all is nothing the standard library
    // expects.
    if call == "getrandom" {
        return vec![Fault::Kill, Fault::Error("EINTR")];
    }
    let mut faults = vec![Fault::Kill, Fault::Error("EIO")];
    if call != "read" {
        faults.push(Fault::Errors("EIO"));
    }
    let room = [
        "open",
        "openat",
        "openat2",
        "write",
        "pwrite64",
        "writev",
        "mkdir",
        "mkdirat",
        "rename",
        "renameat",
        "renameat2",
        "link",
        "linkat",
        "fallocate",
        "ftruncate",
        "fsync",
        "copy_file_range",
    ];
    if room.contains(&call) {
        faults.extend(["ENOSPC", "EDQUOT"].map(Fault::Error));
        faults.push(Fault::Errors("ENOSPC"));
    }
    let rights = [
        "open",
        "openat",
        "openat2",
        "mkdir",
        "mkdirat",
        "rename",
        "renameat",
        "renameat2",
        "link",
        "linkat",
        "unlink",
        "unlinkat",
        "fchmod",
        "fchown",
        "fchownat",
        "ftruncate",
        "fsetxattr",
        "getdents64",
    ];
    if rights.contains(&call) {
        faults.extend(["EACCES", "EROFS"].map(Fault::Error));
        faults.push(Fault::Errors("EROFS"));
    }
    let slow = [
        "open", "openat", "openat2", "read", "pread64", "write", "pwrite64", "fsync", "flock",
    ];
    if slow.contains(&call) {
        faults.push(Fault::Error("EINTR"));
    }
    let odd = [
        "renameat2",
        "openat2",
        "statx",
        "copy_file_range",
        "fallocate",
        "flock",
    ];
    if odd.contains(&call) {
        faults.extend(["ENOSYS", "EINVAL"].map(Fault::Errors));
    }
    if call == "flock" {
        faults.push(Fault::Errors("ENOLCK"));
    }
    if call.starts_with("rename") || call.starts_with("link") {
        faults.extend(["EXDEV", "EBUSY"].map(Fault::Error));
    }
    if ["write", "pwrite64", "writev"].contains(&call) {
        faults.push(Fault::Lie);
    }
    let steps = [
        "openat",
        "write",
        "pwrite64",
        "fsync",
        "mkdirat",
        "renameat2",
        "unlink",
        "unlinkat",
        "fchmod",
        "flock",
    ];
    if steps.contains(&call) {
        faults.push(Fault::Signal);
    }
    faults
}

/// One command in a prepared project.
struct Scene {
    name: &'static str,
    /// The manifest's rows.
    rows: &'static [(&'static str, &'static str)],
    /// Brings both sides to where the command starts.
    prepare: fn(&mut TestProject),
    args: &'static [&'static str],
    /// Whether the key comes on standard input.
    feeds_key: bool,
    /// Whether the same command was killed before with half of its files in place, so that it begins with taking that back.
    is_interrupted: bool,
    /// How the command may end that is run again after the work was done already.
    again: &'static [i32],
}

const ROWS: &[(&str, &str)] = &[
    ("a.env.enc", "a.env"),
    ("b.yaml.enc", "{ path = \"sub/b.yaml\", format = \"yaml\" }"),
    ("c.sql.enc", "db/c.sql"),
];
const IN_PLACE: &[(&str, &str)] = &[
    ("a.env.enc", "{ path = \"a.env\", write = \"in-place\" }"),
    (
        "b.yaml.enc",
        "{ path = \"sub/b.yaml\", format = \"yaml\", write = \"in-place\" }",
    ),
    ("c.sql.enc", "db/c.sql"),
];
const DECLARED: &[(&str, &str)] = &[
    ("a.env.enc", "{ path = \"a.env\", mode = \"0600\" }"),
    (
        "b.yaml.enc",
        "{ path = \"sub/b.yaml\", format = \"yaml\", mode = \"0600\" }",
    ),
    ("c.sql.enc", "{ path = \"db/c.sql\", mode = \"0400\" }"),
];
const WITH_NEW: &[(&str, &str)] = &[
    ("a.env.enc", "a.env"),
    ("b.yaml.enc", "{ path = \"sub/b.yaml\", format = \"yaml\" }"),
    ("c.sql.enc", "db/c.sql"),
    ("new/d.env.enc", "new/d.env"),
];

const A: &str =
    "# all\nONE=canary-Vd81-database\nTWO=canary-Qx22-smtp\nTHREE=canary-Lw93-session\n";
const B: &str = "top:\n  one: canary-Zt47-registry\n  two: [canary-Hb65-grafana, 3]\n";
const C: &str = "CREATE ROLE x PASSWORD 'canary-Ku36-sqlrole';\n";

/// Both sides agree, and the repository is committed.
fn agree(project: &TestProject) {
    project.write_server("a.env", A);
    project.write_server("sub/b.yaml", B);
    project.write_server("db/c.sql", C);
    project.ok(&["encrypt", "a.env", "sub/b.yaml", "db/c.sql"]);
    project.commit();
}

fn server_moved(project: &TestProject) {
    project.write_server("a.env", A.replace("database", "database-new"));
    project.write_server("sub/b.yaml", B.replace("registry", "registry-new"));
}

fn repository_moved(project: &mut TestProject) {
    project.capture_elsewhere("a.env", &A.replace("smtp", "smtp-theirs"));
    project.capture_elsewhere("sub/b.yaml", &B.replace("grafana", "grafana-theirs"));
    fs::remove_dir_all(project.path("elsewhere")).unwrap();
    fs::remove_dir_all(project.path("state-elsewhere")).unwrap();
}

fn editor(project: &mut TestProject) {
    let script = project.path("home/editor.sh");
    fs::write(&script, "#!/bin/sh\nsed -i s/database/edited/ \"$1\"\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    project.set("SOPS_EDITOR", script);
}

const SCENES: &[Scene] = &[
    Scene {
        name: "encrypt",
        rows: WITH_NEW,
        prepare: |project| {
            agree(project);
            server_moved(project);
            project.write_server("new/d.env", "X=canary-Ny18-htpasswd\n");
        },
        args: &["encrypt"],
        feeds_key: false,
        is_interrupted: false,
        again: &[0],
    },
    Scene {
        name: "encrypt --force",
        rows: ROWS,
        prepare: |project| {
            agree(project);
            repository_moved(project);
            server_moved(project);
        },
        args: &["encrypt", "--force"],
        feeds_key: false,
        is_interrupted: false,
        again: &[0],
    },
    Scene {
        name: "decrypt",
        rows: ROWS,
        prepare: |project| {
            agree(project);
            repository_moved(project);
            fs::remove_dir_all(project.server_file("db")).unwrap();
        },
        args: &["decrypt"],
        feeds_key: false,
        is_interrupted: false,
        again: &[0],
    },
    Scene {
        name: "decrypt --force",
        rows: ROWS,
        prepare: |project| {
            agree(project);
            server_moved(project);
        },
        args: &["decrypt", "--force"],
        feeds_key: false,
        is_interrupted: false,
        again: &[0],
    },
    Scene {
        name: "decrypt (in place)",
        rows: IN_PLACE,
        prepare: |project| {
            agree(project);
            server_moved(project);
        },
        args: &["decrypt", "--force"],
        feeds_key: false,
        is_interrupted: false,
        again: &[0],
    },
    Scene {
        name: "decrypt (modes)",
        rows: DECLARED,
        prepare: |project| {
            agree(project);
            repository_moved(project);
        },
        args: &["decrypt"],
        feeds_key: false,
        is_interrupted: false,
        again: &[0],
    },
    Scene {
        name: "deploy",
        rows: ROWS,
        prepare: |project| {
            let text = project.read_repo("secret-files.toml");
            let plain = "\n[plain]\n\"p.conf\" = \"conf/p.conf\"\n";
            project.write_repo("secret-files.toml", text + plain);
            project.write_repo("p.conf", "one\n");
            project.write_server("conf/p.conf", "one\n");
            agree(project);
            project.ok(&["deploy"]);
            repository_moved(project);
            project.write_repo("p.conf", "two\n");
        },
        args: &["deploy"],
        feeds_key: false,
        is_interrupted: false,
        again: &[0],
    },
    Scene {
        name: "merge",
        rows: ROWS,
        prepare: |project| {
            agree(project);
            repository_moved(project);
            server_moved(project);
        },
        args: &["merge"],
        feeds_key: false,
        is_interrupted: false,
        again: &[0],
    },
    Scene {
        name: "adopt --server",
        rows: ROWS,
        prepare: |project| {
            agree(project);
            server_moved(project);
            fs::remove_dir_all(project.path("state")).unwrap();
        },
        args: &["adopt", "--server"],
        feeds_key: false,
        is_interrupted: false,
        again: &[0],
    },
    Scene {
        name: "adopt --repository",
        rows: ROWS,
        prepare: |project| {
            agree(project);
            server_moved(project);
            fs::remove_dir_all(project.path("state")).unwrap();
        },
        args: &["adopt", "--repository"],
        feeds_key: false,
        is_interrupted: false,
        again: &[0],
    },
    Scene {
        name: "restore",
        rows: ROWS,
        prepare: |project| {
            agree(project);
            server_moved(project);
            project.ok(&["encrypt"]);
            project.commit();
        },
        args: &["restore", "--rev", "HEAD~1", "a.env"],
        feeds_key: false,
        is_interrupted: false,
        again: &[0],
    },
    Scene {
        name: "undo (encrypt)",
        rows: WITH_NEW,
        prepare: |project| {
            agree(project);
            server_moved(project);
            project.write_server("new/d.env", "X=canary-Ny18-htpasswd\n");
            fs::remove_file(project.path("state/undo.json")).unwrap();
            project.ok(&["encrypt"]);
        },
        args: &["undo"],
        feeds_key: false,
        is_interrupted: false,
        again: &[0, 1],
    },
    Scene {
        name: "undo (decrypt)",
        rows: ROWS,
        prepare: |project| {
            agree(project);
            server_moved(project);
            fs::remove_dir_all(project.server_file("db")).unwrap();
            fs::remove_file(project.path("state/undo.json")).unwrap();
            project.ok(&["decrypt", "--force"]);
        },
        args: &["undo"],
        feeds_key: false,
        is_interrupted: false,
        again: &[0, 1],
    },
    Scene {
        name: "recover",
        rows: ROWS,
        prepare: |project| {
            agree(project);
            let text = project.read_repo("secret-files.toml");
            let identity = project.root().join(".age-key.txt");
            let line = format!("[defaults]\nidentity = \"{}\"", identity.display());
            project.write_repo("secret-files.toml", text.replace("[defaults]", &line));
            for folder in ["repo/.git", "server", "state"] {
                fs::remove_dir_all(project.path(folder)).unwrap();
            }
            project
                .vars
                .remove(std::ffi::OsStr::new("SOPS_AGE_KEY_FILE"));
        },
        args: &["recover"],
        feeds_key: true,
        is_interrupted: false,
        again: &[0],
    },
    Scene {
        name: "add",
        rows: ROWS,
        prepare: |project| {
            agree(project);
            project.write_server("new/e.env", "X=canary-Ny18-htpasswd\n");
        },
        args: &["add", "new/e.env"],
        feeds_key: false,
        is_interrupted: false,
        again: &[3],
    },
    Scene {
        name: "remove --wipe",
        rows: ROWS,
        prepare: |project| agree(project),
        args: &["remove", "--wipe", "a.env"],
        feeds_key: false,
        is_interrupted: false,
        again: &[2],
    },
    Scene {
        name: "mv --server",
        rows: ROWS,
        prepare: |project| agree(project),
        args: &["mv", "a.env", "else/z.env", "--server", "other/z.env"],
        feeds_key: false,
        is_interrupted: false,
        again: &[2],
    },
    Scene {
        name: "decrypt (taking back)",
        rows: ROWS,
        prepare: |project| {
            agree(project);
            repository_moved(project);
            fs::remove_dir_all(project.server_file("db")).unwrap();
        },
        args: &["decrypt"],
        feeds_key: false,
        is_interrupted: true,
        again: &[0],
    },
    Scene {
        name: "encrypt (taking back)",
        rows: WITH_NEW,
        prepare: |project| {
            agree(project);
            server_moved(project);
            project.write_server("new/d.env", "X=canary-Ny18-htpasswd\n");
        },
        args: &["encrypt"],
        feeds_key: false,
        is_interrupted: true,
        again: &[0],
    },
    Scene {
        name: "mv (taking back)",
        rows: ROWS,
        prepare: |project| agree(project),
        args: &["mv", "a.env", "else/z.env", "--server", "other/z.env"],
        feeds_key: false,
        is_interrupted: true,
        again: &[2],
    },
    Scene {
        name: "sops set",
        rows: ROWS,
        prepare: |project| agree(project),
        args: &[
            "sops",
            "set",
            "--input-type",
            "yaml",
            "--output-type",
            "yaml",
            "b.yaml.enc",
            "[\"top\"][\"one\"]",
            "\"5\"",
        ],
        feeds_key: false,
        is_interrupted: false,
        again: &[0],
    },
    Scene {
        name: "sops edit",
        rows: ROWS,
        prepare: |project| {
            agree(project);
            editor(project);
        },
        args: &[
            "sops",
            "edit",
            "--input-type",
            "dotenv",
            "--output-type",
            "dotenv",
            "a.env.enc",
        ],
        feeds_key: false,
        is_interrupted: false,
        again: &[0, 200],
    },
    Scene {
        name: "sops rotate -i",
        rows: ROWS,
        prepare: |project| agree(project),
        args: &[
            "sops",
            "rotate",
            "-i",
            "--input-type",
            "dotenv",
            "--output-type",
            "dotenv",
            "a.env.enc",
        ],
        feeds_key: false,
        is_interrupted: false,
        again: &[0],
    },
    Scene {
        name: "sops encrypt -i",
        rows: ROWS,
        prepare: |project| {
            agree(project);
            let rules = format!("creation_rules:\n  - age: {}\n", recipient(SERVER_KEY));
            project.write_repo(".sops.yaml", rules);
            project.write_repo("plain.yaml", B);
        },
        args: &["sops", "encrypt", "-i", "plain.yaml"],
        feeds_key: false,
        is_interrupted: false,
        again: &[203],
    },
    Scene {
        name: "sops updatekeys",
        rows: ROWS,
        prepare: |project| {
            agree(project);
            project.write_rules(&[recipient(SERVER_KEY), recipient(LAPTOP_KEY)]);
        },
        args: &[
            "sops",
            "updatekeys",
            "-y",
            "--input-type",
            "dotenv",
            "a.env.enc",
        ],
        feeds_key: false,
        is_interrupted: false,
        again: &[0],
    },
];

/// What stands at a path: content as it is, what an encrypted file holds, and the mode.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Thing {
    raw: Vec<u8>,
    opened: Option<Opened>,
    mode: u32,
}

/// What an encrypted file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Opened {
    plaintext: Vec<u8>,
    readers: Vec<String>,
    /// Its data key, where it is one that was there at the beginning: new ones differ from run to run.
    key: Option<Vec<u8>>,
}

impl Thing {
    /// Returns whether both say the same: an encrypted file is another one each time it is made.
    fn is_like(&self, other: &Self) -> bool {
        let is_content = if self.opened.is_some() {
            self.opened == other.opened
        } else {
            self.raw == other.raw
        };
        is_content && self.mode == other.mode
    }
}

type Snapshot = BTreeMap<PathBuf, Thing>;

fn is_staging(path: &Path) -> bool {
    path.to_string_lossy().contains("/.secrets-staging-")
}

fn is_like(one: &Snapshot, other: &Snapshot) -> bool {
    one.keys().eq(other.keys()) && one.iter().all(|(path, thing)| thing.is_like(&other[path]))
}

/// How a run ended.
#[derive(Debug)]
struct Run {
    code: i32,
    text: String,
}

/// What a scene's runs came to.
#[derive(Debug, Default)]
struct Tally {
    calls: usize,
    runs: usize,
    /// Cases in which the command did not make the call: it does not make the same ones each time.
    missed: usize,
    /// Runs that a signal ended, all as it was.
    ended: usize,
    completed: usize,
    refused: usize,
    killed: usize,
    killed_half: usize,
    stuck: usize,
    wrong: Vec<String>,
}

struct Stage<'s> {
    scene: &'s Scene,
    project: TestProject,
    keyring: Keyring,
    /// What encrypted files hold: most are the same in each case.
    known: RefCell<HashMap<Vec<u8>, Option<Opened>>>,
    /// The data keys that were there at the beginning.
    keys: RefCell<BTreeSet<Vec<u8>>>,
    is_collecting: Cell<bool>,
    /// Where the command starts, without staging files.
    before: RefCell<Snapshot>,
    /// The same, and where a killed run is taken back to.
    first: Snapshot,
    after: Snapshot,
    /// The renaming that a run is killed at before the command starts.
    killed_at: Option<usize>,
    values: BTreeSet<String>,
    committed: BTreeSet<String>,
}

/// The folders of a project that a run may change.
const PARTS: [&str; 4] = ["repo", "server", "state", "tmp"];

fn values_in(text: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(text);
    let starts = text.match_indices(MARK);
    let value = |at: usize| {
        let end = text[at..].find(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        text[at..][..end.unwrap_or(text.len() - at)].to_owned()
    };
    starts.map(|(at, _)| value(at)).collect()
}

impl<'s> Stage<'s> {
    fn new(scene: &'s Scene) -> Self {
        let mut project = TestProject::with_files(scene.rows, "");
        (scene.prepare)(&mut project);
        project.set("TMPDIR", project.path("tmp"));
        fs::create_dir(project.path("tmp")).unwrap();
        fs::create_dir(project.path("master")).unwrap();
        for part in PARTS {
            if project.path(part).exists() {
                fs::rename(project.path(part), project.path(&format!("master/{part}"))).unwrap();
            }
        }
        let key = fs::read(key_file(SERVER_KEY)).unwrap();
        let mut stage = Self {
            scene,
            project,
            keyring: Keyring::of_text("the key", &key, None),
            known: RefCell::default(),
            keys: RefCell::default(),
            is_collecting: Cell::new(true),
            before: RefCell::default(),
            first: Snapshot::new(),
            after: Snapshot::new(),
            killed_at: None,
            values: BTreeSet::new(),
            committed: BTreeSet::new(),
        };
        stage.put_back();
        stage.first = stage.snapshot();
        stage.committed = stage.in_git();
        stage.values = stage.alive();
        stage.is_collecting.set(false);
        let run = stage.run(&[]);
        assert_eq!(run.code, 0, "{}: {}", scene.name, run.text);
        stage.after = stage.snapshot();
        let lost: Vec<_> = stage.values.difference(&stage.alive()).cloned().collect();
        assert!(
            lost.is_empty(),
            "{}: a run without a fault loses {lost:?}",
            scene.name
        );
        assert!(
            !is_like(&stage.first, &stage.after),
            "{}: nothing happens",
            scene.name
        );
        if scene.is_interrupted {
            // The last renaming that leaves it half done: the more there is to be taken back.
            let is_half = |number: &usize| {
                stage.put_back();
                stage.kill_at(*number) && stage.is_half(&stage.without_staging())
            };
            let last = (1..40).rev().find(is_half);
            assert!(last.is_some(), "{}: never half done", scene.name);
            stage.killed_at = last;
            stage.put_back();
            let alive = stage.alive();
            assert!(
                alive.is_superset(&stage.values),
                "{}: the kill loses a value",
                scene.name
            );
            stage.values = alive;
        }
        stage
    }

    /// Runs the command and kills it at a renaming. Returns whether it came to that.
    fn kill_at(&self, number: usize) -> bool {
        let injection = format!("inject=renameat,renameat2:signal=KILL:when={number}");
        let trace = "trace=renameat,renameat2";
        self.run(&["-o", "/dev/null", "-e", trace, "-e", &injection])
            .code
            == 137
    }

    fn without_staging(&self) -> Snapshot {
        let mut found = self.snapshot();
        found.retain(|path, _| !is_staging(path));
        found
    }

    /// Makes the project what it was.
    fn put_back(&self) {
        for part in PARTS {
            let path = self.project.path(part);
            if path.exists() {
                fs::remove_dir_all(&path).unwrap();
            }
        }
        let copied = Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .arg(self.project.path("master/."))
            .arg(self.project.path(""))
            .status()
            .unwrap();
        assert!(copied.success());
        if let Some(number) = self.killed_at {
            // The journal knows files by their numbers: it is done anew each time, not copied.
            assert!(self.kill_at(number));
        }
        self.before.replace(self.without_staging());
    }

    fn opened(&self, file: &[u8]) -> Option<Opened> {
        if let Some(known) = self.known.borrow().get(file) {
            return known.clone();
        }
        let opened = self.open(file);
        self.known
            .borrow_mut()
            .insert(file.to_vec(), opened.clone());
        opened
    }

    fn open(&self, file: &[u8]) -> Option<Opened> {
        let (format, sealed) = sops::parse_sealed(file.to_vec()).ok()?;
        let key = self.keyring.unwrap_quiet(&sealed.metadata)?;
        let opened = sops::open(format, &sealed, &key).ok()?;
        let bytes = key.expose().to_vec();
        if self.is_collecting.get() {
            self.keys.borrow_mut().insert(bytes.clone());
        }
        Some(Opened {
            plaintext: opened.plaintext.expose().to_vec(),
            readers: sealed
                .metadata
                .key_ids()
                .iter()
                .map(|key| format!("{key:?}"))
                .collect(),
            key: self.keys.borrow().contains(&bytes).then_some(bytes),
        })
    }

    /// Returns the values in the commits that a run can look at.
    fn in_git(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        if !self.project.repo_file(".git").exists() {
            return found;
        }
        for commit in self.project.git(&["rev-list", "HEAD"]).lines() {
            for name in self
                .project
                .git(&["ls-tree", "-r", "--name-only", commit])
                .lines()
            {
                let shown = Command::new("git")
                    .args(["show", &format!("{commit}:{name}")])
                    .current_dir(self.project.repo())
                    .output()
                    .unwrap();
                let opened = self.opened(&shown.stdout);
                found.extend(
                    opened
                        .iter()
                        .flat_map(|opened| values_in(&opened.plaintext)),
                );
            }
        }
        found
    }

    fn walk(&self, folder: &Path, found: &mut Snapshot) {
        let Ok(entries) = fs::read_dir(folder) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let metadata = path.symlink_metadata().unwrap();
            let mode = metadata.mode() & 0o7777;
            if metadata.is_dir() {
                if entry.file_name() == ".git" {
                    continue;
                }
                self.walk(&path, found);
                found.insert(
                    path,
                    Thing {
                        raw: Vec::new(),
                        opened: None,
                        mode,
                    },
                );
                continue;
            }
            let raw = fs::read(&path).unwrap_or_default();
            let opened = self.opened(&raw);
            found.insert(path, Thing { raw, opened, mode });
        }
    }

    /// Returns both sides, staging files and all.
    fn snapshot(&self) -> Snapshot {
        let mut found = Snapshot::new();
        self.walk(&self.project.repo(), &mut found);
        self.walk(&self.project.root(), &mut found);
        found
    }

    /// Returns the values that are on a side, in git, or in a backup that opens.
    fn alive(&self) -> BTreeSet<String> {
        let mut found = self.snapshot();
        self.walk(&self.project.path("state/backups"), &mut found);
        let mut alive = self.committed.clone();
        for thing in found.values() {
            let opened = thing.opened.as_ref().map(|opened| &opened.plaintext);
            alive.extend(values_in(opened.unwrap_or(&thing.raw)));
        }
        alive
    }

    /// Runs the scene's command, under `strace` with these arguments where there are any.
    fn run(&self, tracing: &[&str]) -> Run {
        let program = env!("CARGO_BIN_EXE_secrets");
        let mut command = if tracing.is_empty() {
            Command::new(program)
        } else {
            let mut command = Command::new("strace");
            // With the faster way strace forgets to send signals.
            let is_fast = !tracing.iter().any(|word| word.contains(":signal="));
            if is_fast && !self.scene.name.contains("edit") {
                command.arg("--seccomp-bpf");
            }
            // An editor that is failed is another program's matter.
            if !self.scene.name.contains("edit") {
                command.arg("-f");
            }
            command.arg("-qqq").args(tracing).arg(program);
            command
        };
        command
            .args(self.scene.args)
            .current_dir(self.project.repo())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .envs(&self.project.vars)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        if self.scene.feeds_key {
            drop(stdin.write_all(&fs::read(key_file(SERVER_KEY)).unwrap()));
        }
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        let code = output.status.code();
        let code = code.unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
        Run { code, text }
    }

    /// Returns every call the command makes: its name and how often the thread that makes the most of them
    /// does.
    fn calls(&self) -> Vec<(String, usize)> {
        self.put_back();
        let log = self.project.path("calls");
        let run = self.run(&["-e", &format!("trace={CALLS}"), "-o", log.to_str().unwrap()]);
        assert_eq!(run.code, 0, "{}", run.text);
        let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
        for line in fs::read_to_string(&log).unwrap().lines() {
            let has_thread = line.starts_with(|c: char| c.is_ascii_digit());
            let (thread, rest) = match line.split_once(' ') {
                Some((thread, rest)) if has_thread => (thread, rest.trim_start()),
                _ => ("", line),
            };
            // A call that another thread interrupted has a second line.
            if let Some((call, _)) = rest.split_once('(').filter(|_| !rest.starts_with('<')) {
                *counts
                    .entry((call.to_owned(), thread.to_owned()))
                    .or_default() += 1;
            }
        }
        let mut most: BTreeMap<String, usize> = BTreeMap::new();
        for ((call, _), count) in counts {
            let known = most.entry(call).or_default();
            *known = count.max(*known);
        }
        most.into_iter().collect()
    }

    /// Plays one case and adds what is wrong to the tally.
    fn play(&self, call: &str, number: usize, fault: Fault, tally: &mut Tally) {
        self.put_back();
        let injection = match fault {
            Fault::Error(error) => format!("inject={call}:error={error}:when={number}"),
            Fault::Errors(error) => format!("inject={call}:error={error}:when={number}+"),
            Fault::Lie => format!("inject={call}:retval=1:when={number}"),
            Fault::Kill => format!("inject={call}:signal=KILL:when={number}"),
            Fault::Signal => format!("inject={call}:signal={}:when={number}", signal_at(number).0),
        };
        let trace = format!("trace={call}");
        let log = self.project.path("injected");
        let log_name = log.to_str().unwrap();
        let run = self.run(&["-o", log_name, "-e", &trace, "-e", &injection]);
        let log = fs::read_to_string(&log).unwrap_or_default();
        if !["(INJECTED", "--- SIG", "+++ killed by"]
            .iter()
            .any(|mark| log.contains(mark))
        {
            tally.missed += 1;
            return;
        }
        let before = self.before.borrow();
        let is_killed = run.code == 137;
        tally.runs += 1;
        tally.killed += usize::from(is_killed);
        assert!(!run.text.contains("strace: "), "{injection}: {}", run.text);
        // It is asked to end before it could take back, or in the middle of that.
        let is_ended = fault == Fault::Signal && run.code == signal_at(number).1;
        let says_stuck = run
            .text
            .contains("cannot clean up after an interrupted run")
            || run.text.contains("an interrupted run may be half done");
        // Each file as the killed run found or left it.
        let is_as_before = |now: &Snapshot| {
            let mut files = now.iter().filter(|(_, thing)| !thing.raw.is_empty());
            files.all(|(path, thing)| {
                let known = [&*before, &self.first].map(|all| all.get(path));
                known
                    .into_iter()
                    .flatten()
                    .any(|known| known.is_like(thing))
            })
        };
        // The system could not load it, or the standard library could not begin.
        let is_unstarted = [127, 134].contains(&run.code);
        let mut wrong = Vec::new();

        if run.text.contains(MARK) {
            wrong.push("a value is shown".to_owned());
        }
        if run.code == 101 || run.text.contains("panicked") {
            wrong.push("it panics".to_owned());
        }
        let mut now = self.snapshot();
        // What was edited is kept beside a file that cannot be written.
        now.retain(|path, thing| {
            let is_kept = path.to_string_lossy().ends_with(".enc.edited") && thing.opened.is_some();
            !(is_kept && run.text.contains("what you edited is in"))
        });
        let staged: Vec<_> = now
            .keys()
            .filter(|path| is_staging(path))
            .cloned()
            .collect();
        for path in &staged {
            let thing = now.remove(path).unwrap();
            // As one of those beside it that it may become, or was.
            let is_folder = path.is_dir();
            let all = self.first.iter().chain(&self.after);
            let mut modes = all
                .filter(|(other, thing)| {
                    let is_one = thing.raw.is_empty() == is_folder;
                    is_one && other.parent() == path.parent()
                })
                .map(|(_, thing)| thing.mode);
            let private = if is_folder { 0o700 } else { 0o600 };
            if thing.mode & !private != 0 && !modes.any(|mode| mode == thing.mode) {
                wrong.push(format!("{} has mode {:o}", path.display(), thing.mode));
            }
        }
        // A file that is written in place is not atomic: its old content is in a backup.
        let is_half = is_killed || run.text.contains("could be brought back");
        let may_be_half = self.scene.name.contains("in place") && is_half;
        for (path, thing) in now.iter().filter(|_| !may_be_half) {
            let known = [&*before, &self.first, &self.after].map(|all| all.get(path));
            if !known
                .into_iter()
                .flatten()
                .any(|known| known.is_like(thing))
            {
                wrong.push(format!("{} is neither old nor new", path.display()));
            }
        }
        for path in self.first.keys() {
            if !now.contains_key(path) && self.after.contains_key(path) {
                wrong.push(format!("{} is gone", path.display()));
            }
        }
        let is_interrupted = self.scene.is_interrupted;
        let is_half = (is_killed || is_interrupted) && !may_be_half && self.is_half(&now);
        let is_old = now == *before || is_interrupted && is_like(&now, &self.first);
        let is_new = is_like(&now, &self.after);
        let is_persistent = matches!(fault, Fault::Errors(_));
        match run.code {
            0 => {
                tally.completed += 1;
                if !is_new {
                    wrong.push("it says OK and is not done".to_owned());
                }
            }
            137 => tally.killed_half += usize::from(!is_old && !is_new),
            _ if is_old => tally.refused += 1,
            _ if is_persistent && run.text.contains("not every file could be brought back") => {
                tally.stuck += 1;
            }
            _ if is_new => tally.completed += 1,
            // What a killed run left is taken back file by file, and no run goes on before all of it is; a folder that it
            // made may stay until then.
            _ if is_interrupted && (is_ended || says_stuck) && is_as_before(&now) => {
                tally.refused += 1;
            }
            code => wrong.push(format!("it fails with {code} and leaves some files new")),
        }
        if !is_killed
            && !staged.is_empty()
            && !is_persistent
            && !run.text.contains("the next run removes it")
            && !(is_interrupted && (is_unstarted || is_ended || says_stuck))
        {
            wrong.push(format!(
                "{} left behind without a word",
                staged[0].display()
            ));
        }
        if fault == Fault::Signal && ![0, signal_at(number).1].contains(&run.code) {
            wrong.push(format!("a signal ends it with {}", run.code));
        }
        tally.ended += usize::from(is_ended && is_old);
        wrong.extend(self.look_for_plaintext(is_killed));
        let lost: Vec<_> = self.values.difference(&self.alive()).cloned().collect();
        if !lost.is_empty() {
            wrong.push(format!("lost: {lost:?}"));
        }
        if wrong.is_empty() {
            wrong.extend(self.go_on(is_new, !staged.is_empty(), is_half));
        }
        if !wrong.is_empty() {
            let mut text = format!(
                "{} with {injection}: {}\n",
                self.scene.name,
                wrong.join("; ")
            );
            writeln!(
                text,
                "  ended with {}: {}",
                run.code,
                run.text.trim().replace('\n', "\n  ")
            )
            .unwrap();
            tally.wrong.push(text);
        }
    }

    /// Returns whether the content of some files is new, and of others, or their absence, old. `sops` commands write
    /// one file.
    fn is_half(&self, now: &Snapshot) -> bool {
        let has = |all: &Snapshot, path: &Path| match (all.get(path), now.get(path)) {
            (Some(known), Some(thing)) => {
                let mut known = known.clone();
                known.mode = thing.mode;
                known.is_like(thing)
            }
            (None, None) => true,
            _ => false,
        };
        let changed: BTreeSet<_> = self.first.keys().chain(self.after.keys()).collect();
        // An identity is installed before, for good.
        let is_file = |path: &&&PathBuf| {
            !path.is_dir() && path.extension().is_some() && !path.ends_with(".age-key.txt")
        };
        let mut changed = changed
            .iter()
            .filter(is_file)
            .filter(|path| !has(&self.first, path) || !has(&self.after, path));
        changed.clone().any(|path| !has(&self.first, path))
            && changed.any(|path| !has(&self.after, path))
    }

    /// Searches what is no target for values: the state directory, and temporary files, which a killed run
    /// alone may leave in a folder that is closed to others.
    fn look_for_plaintext(&self, is_killed: bool) -> Vec<String> {
        let mut found = Snapshot::new();
        self.walk(&self.project.path("state"), &mut found);
        let mut wrong = Vec::new();
        for (path, thing) in &found {
            if !values_in(&thing.raw).is_empty() {
                wrong.push(format!("{} shows a value", path.display()));
            }
        }
        let mut temporary = Snapshot::new();
        self.walk(&self.project.path("tmp"), &mut temporary);
        for (path, thing) in &temporary {
            let shows = !values_in(&thing.raw).is_empty();
            if shows && (!is_killed || thing.mode & 0o077 != 0) {
                wrong.push(format!("{} shows a value", path.display()));
            }
        }
        wrong
    }

    /// Runs the command again without a fault: it finishes the work and cleans up.
    fn go_on(&self, was_done: bool, has_leftovers: bool, is_half: bool) -> Vec<String> {
        let run = self.run(&[]);
        let mut wrong = Vec::new();
        let is_expected = run.code == 0 || was_done && self.scene.again.contains(&run.code);
        if !is_expected {
            wrong.push(format!(
                "the next run ends with {}: {}",
                run.code,
                run.text.trim()
            ));
        }
        let mut now = self.snapshot();
        now.retain(|path, _| !path.to_string_lossy().ends_with(".enc.edited"));
        if !is_like(&now, &self.after) {
            let differing = now.iter().filter(|(path, thing)| {
                !self
                    .after
                    .get(*path)
                    .is_some_and(|known| known.is_like(thing))
            });
            let names: Vec<_> = differing
                .map(|(path, _)| path.display().to_string())
                .collect();
            wrong.push(format!("the next run does not finish the work: {names:?}"));
        }
        let says_taken_back = run.text.contains("took back what an interrupted run");
        let mut temporary = Snapshot::new();
        self.walk(&self.project.path("tmp"), &mut temporary);
        if temporary
            .values()
            .any(|thing| !values_in(&thing.raw).is_empty())
        {
            wrong.push("the next run leaves plaintext in a temporary folder".to_owned());
        }
        if has_leftovers && !says_taken_back && !run.text.contains("staging file") {
            wrong.push("the next run removes staging files without a word".to_owned());
        }
        if is_half && !says_taken_back {
            wrong.push("the next run does not take back what is half done".to_owned());
        }
        let lost: Vec<_> = self.values.difference(&self.alive()).cloned().collect();
        if !lost.is_empty() {
            wrong.push(format!("lost after the next run: {lost:?}"));
        }
        wrong
    }
}

#[expect(
    clippy::print_stdout,
    reason = "a row of a table, for whoever asks for it"
)]
fn play(name: &str) {
    let test = format!("sweep: {name}");
    if !stock::available("strace", &test) {
        return;
    }
    let scene = SCENES.iter().find(|scene| scene.name == name).unwrap();
    let stage = Stage::new(scene);
    let calls = stage.calls();
    let mut cases: Vec<(&str, usize, Fault)> = Vec::new();
    for (call, count) in &calls {
        for number in 1..=*count {
            cases.extend(
                faults_of(call)
                    .into_iter()
                    .map(|fault| (call.as_str(), number, fault)),
            );
        }
    }
    let wanted = std::env::var("SECRETS_SWEEP").unwrap_or_else(|_| "12".to_owned());
    if wanted != "all" {
        let seed = std::env::var("SECRETS_SWEEP_SEED")
            .ok()
            .and_then(|text| text.parse().ok());
        let mut random = Seeded(seed.unwrap_or(20_261_130));
        let wanted: usize = wanted.parse().unwrap();
        while cases.len() > wanted {
            cases.swap_remove(random.below(cases.len()));
        }
    }
    let mut tally = Tally {
        calls: calls.iter().map(|(_, count)| count).sum(),
        ..Tally::default()
    };
    let count = cases.len();
    for (call, number, fault) in cases {
        stage.play(call, number, fault, &mut tally);
    }
    assert!(
        tally.missed * 2 < count,
        "{name}: {} of {count} calls were not made",
        tally.missed
    );
    if wanted == "all" {
        assert!(tally.ended > 0, "{name}: no signal ends it");
    }
    println!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        scene.name,
        tally.calls,
        tally.missed,
        tally.runs,
        tally.completed,
        tally.refused,
        tally.killed,
        tally.killed_half,
        tally.stuck,
        tally.wrong.len()
    );
    assert!(
        tally.wrong.is_empty(),
        "{} of {}:\n{}",
        tally.wrong.len(),
        tally.runs,
        tally.wrong.join("\n")
    );
}

macro_rules! scenes {
    ($($test:ident => $name:literal,)*) => {
        $(#[test]
        fn $test() {
            play($name);
        })*

        #[test]
        fn every_scene_is_played() {
            let played = [$($name),*];
            assert!(SCENES.iter().map(|scene| scene.name).eq(played));
        }
    };
}

scenes! {
    encrypt => "encrypt",
    encrypt_force => "encrypt --force",
    decrypt => "decrypt",
    decrypt_force => "decrypt --force",
    decrypt_in_place => "decrypt (in place)",
    decrypt_modes => "decrypt (modes)",
    deploy => "deploy",
    merge => "merge",
    adopt_server => "adopt --server",
    adopt_repository => "adopt --repository",
    restore => "restore",
    undo_encrypt => "undo (encrypt)",
    undo_decrypt => "undo (decrypt)",
    recover => "recover",
    add => "add",
    remove_wipe => "remove --wipe",
    mv_server => "mv --server",
    decrypt_taking_back => "decrypt (taking back)",
    encrypt_taking_back => "encrypt (taking back)",
    mv_taking_back => "mv (taking back)",
    sops_set => "sops set",
    sops_edit => "sops edit",
    sops_rotate => "sops rotate -i",
    sops_encrypt => "sops encrypt -i",
    sops_updatekeys => "sops updatekeys",
}

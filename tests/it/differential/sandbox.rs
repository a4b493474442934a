//! The folder in which both programs run, one after the other, and what they leave in it.
//!
//! Both run at the same path, so that nothing that depends on a path can differ. After each run
//! only what has changed is put back.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::case::{Case, Input};
use super::compare;
use super::fixtures::{self, Damage, Document, Variant};

/// How long one run of a program may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What is at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File(Vec<u8>),
    Folder,
    Link(PathBuf),
    Other,
}

/// What is at one path, with its mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) mode: u32,
}

/// Everything below a folder.
pub(super) type Tree = BTreeMap<String, Entry>;

/// What a run of a program left: only those paths that are not as they were before.
pub(super) type Changes = BTreeMap<String, Option<Entry>>;

/// What one program did with a case.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// The exit code; -1 after the time limit, -2 and less for a signal.
    pub(super) code: i32,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    pub(super) changes: Changes,
}

/// The folder, and how it looks before each run.
pub(super) struct Sandbox {
    /// Beside the sandbox: streams, and the folders with the two programs.
    scratch: PathBuf,
    /// The sandbox itself, shown as `@`.
    pub(super) root: PathBuf,
    template: Tree,
    stock: PathBuf,
    /// Every sealed value and wrapped key of the template: what a program has kept.
    pub(super) known: HashSet<String>,
    /// The latest time in the template; what is later was written by a case.
    pub(super) built: String,
}

impl Sandbox {
    /// Makes the template with the reference program.
    pub(super) fn new(scratch: &Path, stock: &Path) -> Self {
        let scratch = fs::canonicalize(scratch).expect("a scratch folder");
        let root = scratch.join("box");
        let _ = fs::remove_dir_all(&root);
        let mut sandbox = Self {
            stock: link_named_sops(&scratch, "stock", stock),
            scratch,
            root,
            template: Tree::new(),
            known: HashSet::new(),
            built: String::new(),
        };
        sandbox.write_plain_files();
        sandbox.seal_files();
        sandbox.damage_files();
        sandbox.template = snapshot(&sandbox.root);
        for entry in sandbox.template.values() {
            if let Kind::File(bytes) = &entry.kind {
                let facts = compare::facts(&String::from_utf8_lossy(bytes));
                sandbox.known.extend(facts.sealed);
                sandbox.built = sandbox.built.max(facts.latest);
            }
        }
        // What a case writes must be later than what is in the template, by a whole second.
        std::thread::sleep(Duration::from_millis(1100));
        sandbox
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("below the root")).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn write_plain_files(&self) {
        for folder in [
            "tmp",
            "state",
            "home",
            "repo/sub",
            "repo/folder.yaml",
            "repo/empty",
        ] {
            fs::create_dir_all(self.root.join(folder)).unwrap();
        }
        for (name, text) in fixtures::identities() {
            self.write(&format!("keys/{name}"), text.as_bytes());
        }
        self.write(
            "home-with-key/.config/sops/age/keys.txt",
            fixtures::THROW_AWAY_KEY.as_bytes(),
        );
        for (name, text) in fixtures::RULES.iter().chain(fixtures::WRONG_RULES) {
            self.write(
                &format!("conf/{name}.yaml"),
                fixtures::with_recipients(text).as_bytes(),
            );
        }
        for document in all_documents() {
            self.write(&format!("repo/plain/{}", document.name), document.text);
        }
        self.write(
            "repo/values/object.json",
            b"{\"new\": [1, true, \"x\"], \"old\": null}\n",
        );
        self.write("repo/values/text.json", b"\"from a file\"\n");
        self.write("repo/values/bad.json", b"{not json\n");
        self.write("repo/old-output.yaml", b"old: content\n");
        fs::set_permissions(
            self.root.join("repo/old-output.yaml"),
            fs::Permissions::from_mode(0o640),
        )
        .unwrap();
        symlink("linked-target.yaml", self.root.join("repo/out-link.yaml")).unwrap();
        self.write("repo/linked-target.yaml", b"old: target\n");
        symlink("repo", self.root.join("way")).unwrap();
        self.write(
            "bin/editor",
            fixtures::EDITOR
                .replace('@', &self.root.to_string_lossy())
                .as_bytes(),
        );
        fs::set_permissions(
            self.root.join("bin/editor"),
            fs::Permissions::from_mode(0o755),
        )
        .unwrap();
        for tool in fixtures::TOOLS {
            if let Some(program) = find_program(tool) {
                symlink(program, self.root.join("bin").join(tool)).unwrap();
            }
        }
    }

    fn seal_files(&self) {
        for Document { name, .. } in all_documents().filter(|document| document.sealable) {
            let rules = ["--config", "@/conf/age.yaml"];
            self.seal(
                &format!("repo/plain/{name}"),
                &format!("repo/enc/{name}"),
                &rules,
                &[],
            );
        }
        let special = fixtures::VARIANTS.iter().chain(fixtures::CLOSED);
        for Variant {
            path,
            document,
            global,
            flags,
        } in special
        {
            self.seal(
                &format!("repo/plain/{document}"),
                &format!("repo/{path}"),
                global,
                flags,
            );
        }
        symlink("simple.yaml", self.root.join("repo/enc/link.yaml")).unwrap();
        fs::set_permissions(
            self.root.join("repo/enc/nested.yaml"),
            fs::Permissions::from_mode(0o600),
        )
        .unwrap();
    }

    fn seal(&self, from: &str, to: &str, global: &[&str], flags: &[&str]) {
        let to = self.root.join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let has_rules = global.contains(&"--config");
        let mut command = Command::new(&self.stock);
        command
            .args(global.iter().map(|argument| self.expand(argument)))
            .args(["encrypt"])
            .args(flags)
            .args(if has_rules {
                &[][..]
            } else {
                &["--age", fixtures::FIRST]
            })
            .args([
                OsString::from("--output"),
                to.clone().into(),
                self.root.join(from).into(),
            ])
            .current_dir(&self.root)
            .env_clear();
        let output = command.output().expect("the reference program");
        assert!(
            output.status.success(),
            "cannot seal {}: {}",
            to.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn damage_files(&self) {
        for (path, from, damage) in fixtures::DAMAGED {
            let text = fs::read_to_string(self.root.join("repo").join(from)).unwrap();
            let damaged = damaged(&text, *damage);
            assert_ne!(text, damaged, "{path} is as it was");
            self.write(&format!("repo/{path}"), damaged.as_bytes());
        }
    }

    /// Makes a folder beside the sandbox in which a program has the name `sops`.
    pub(super) fn link_named_sops(&self, name: &str, program: &Path) -> PathBuf {
        link_named_sops(&self.scratch, name, program)
    }

    /// Puts the sandbox's path in the place of `@/`.
    pub(super) fn expand(&self, text: &str) -> String {
        text.replace("@/", &format!("{}/", self.root.display()))
    }

    /// Runs a program on a case, says what it did, and puts the sandbox back.
    pub(super) fn run(&self, program: &Path, case: &Case) -> Outcome {
        if let Some(rules) = &case.rules {
            self.write(
                "repo/.sops.yaml",
                fixtures::with_recipients(rules).as_bytes(),
            );
        }
        let (code, stdout, stderr) = self.start(program, case);
        let mut after = snapshot(&self.root);
        let changes = self.put_back(&mut after, case);
        Outcome {
            code,
            stdout,
            stderr,
            changes,
        }
    }

    fn start(&self, program: &Path, case: &Case) -> (i32, Vec<u8>, Vec<u8>) {
        let (out, err) = (self.scratch.join("stdout"), self.scratch.join("stderr"));
        let folder = self.root.join(&case.folder);
        let mut child = Command::new(program)
            .arg0("sops")
            .args(case.arguments.iter().map(|argument| self.expand(argument)))
            .current_dir(&folder)
            .env_clear()
            .envs(
                case.variables
                    .iter()
                    .map(|(name, value)| (name, self.expand(value))),
            )
            .env("PWD", &folder)
            .env("PATH", self.root.join("bin"))
            .env("TMPDIR", self.root.join("tmp"))
            .env("LC_ALL", "C")
            // Faster, for a program that ends at once.
            .env("GOGC", "off")
            .env("SOPS_DISABLE_VERSION_CHECK", "true")
            .env("SOPS_GPG_EXEC", self.root.join("bin/no-gpg"))
            .stdin(Stdio::piped())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .process_group(0)
            .spawn()
            .expect("the program can be started");
        let input = match &case.input {
            Input::Text(text) => text.clone().into_bytes(),
            Input::File(path) => fs::read(self.root.join(path)).unwrap_or_default(),
        };
        // It fits into the pipe; a program that does not read it may have ended already.
        let _ = child.stdin.take().expect("a pipe").write_all(&input);
        let code = wait(&mut child);
        (code, fs::read(out).unwrap(), fs::read(err).unwrap())
    }

    /// Returns what is not as it was before the run, and restores the template.
    fn put_back(&self, after: &mut Tree, case: &Case) -> Changes {
        let mut changes = Changes::new();
        // The rules are part of the case: they count only where the program touched them.
        let rules = after.remove("repo/.sops.yaml");
        if let Some(text) = &case.rules {
            let _ = fs::remove_file(self.root.join("repo/.sops.yaml"));
            let expected = Kind::File(fixtures::with_recipients(text).into_bytes());
            if rules.as_ref().map(|entry| &entry.kind) != Some(&expected) {
                changes.insert("repo/.sops.yaml".to_owned(), rules);
            }
        } else if let Some(entry) = rules {
            let _ = fs::remove_file(self.root.join("repo/.sops.yaml"));
            changes.insert("repo/.sops.yaml".to_owned(), Some(entry));
        }
        // From the end, so that a folder is empty when it is removed.
        for (path, entry) in after.iter().rev() {
            if self.template.get(path) != Some(entry) {
                changes.insert(path.clone(), Some(entry.clone()));
                let same_place = self.template.get(path).is_some_and(|before| {
                    matches!(
                        (&before.kind, &entry.kind),
                        (Kind::File(_), Kind::File(_)) | (Kind::Folder, Kind::Folder)
                    )
                });
                if !same_place {
                    let full = self.root.join(path);
                    let _ = if entry.kind == Kind::Folder {
                        fs::remove_dir(full)
                    } else {
                        fs::remove_file(full)
                    };
                }
            }
        }
        for (path, entry) in &self.template {
            if after.get(path) == Some(entry) {
                continue;
            }
            if !after.contains_key(path) {
                changes.insert(path.clone(), None);
            }
            let full = self.root.join(path);
            match &entry.kind {
                Kind::File(bytes) => fs::write(&full, bytes).unwrap(),
                Kind::Folder if full.is_dir() => {}
                Kind::Folder => fs::create_dir(&full).unwrap(),
                Kind::Link(target) => symlink(target, &full).unwrap(),
                Kind::Other => {}
            }
            if !matches!(entry.kind, Kind::Link(_)) {
                fs::set_permissions(&full, fs::Permissions::from_mode(entry.mode)).unwrap();
            }
        }
        changes
    }

    /// Whether a path is part of the template.
    pub(super) fn had(&self, path: &str) -> bool {
        self.template.contains_key(path)
    }

    /// Decrypts a text with the reference program and every key there is.
    pub(super) fn open(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let kind = compare::sealed_format(bytes)?;
        let file = self.scratch.join("sealed");
        fs::write(&file, bytes).unwrap();
        let output = Command::new(&self.stock)
            .args(["decrypt", "--input-type", kind, "--output-type", kind])
            .arg(&file)
            .current_dir(&self.scratch)
            .env_clear()
            .env("GOGC", "off")
            .env("SOPS_CONFIG", self.root.join("conf/blank.yaml"))
            .env("SOPS_AGE_KEY_FILE", self.root.join("keys/both.txt"))
            .stdin(Stdio::null())
            .output()
            .expect("the reference program");
        output.status.success().then_some(output.stdout)
    }

    /// Writes what a program left into a folder beside the sandbox, for looking at it.
    pub(super) fn keep(&self, name: &str, outcome: &Outcome) -> PathBuf {
        let folder = self.scratch.join(format!("after-{name}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("stdout"), &outcome.stdout).unwrap();
        fs::write(folder.join("stderr"), &outcome.stderr).unwrap();
        for (path, entry) in &outcome.changes {
            if let Some(Entry {
                kind: Kind::File(bytes),
                ..
            }) = entry
            {
                let full = folder.join(path);
                fs::create_dir_all(full.parent().unwrap()).unwrap();
                fs::write(full, bytes).unwrap();
            }
        }
        folder
    }
}

/// Every document, the odd ones too.
fn all_documents() -> impl Iterator<Item = &'static Document> {
    fixtures::DOCUMENTS.iter().chain(fixtures::ODD_DOCUMENTS)
}

fn link_named_sops(scratch: &Path, name: &str, program: &Path) -> PathBuf {
    let folder = scratch.join(format!("program-{name}"));
    fs::create_dir_all(&folder).unwrap();
    let link = folder.join("sops");
    let _ = fs::remove_file(&link);
    symlink(
        std::path::absolute(program).expect("the program exists"),
        &link,
    )
    .unwrap();
    link
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn damaged(text: &str, damage: Damage) -> String {
    let flip = |at: usize| {
        let other = if text[at..].starts_with('A') {
            "B"
        } else {
            "A"
        };
        format!("{}{other}{}", &text[..at], &text[at + 1..])
    };
    let mac = || {
        text.find("mac\": \"")
            .or_else(|| text.find("mac: "))
            .or_else(|| text.find("sops_mac="))
            .or_else(|| text.find("mac  "))
    };
    match damage {
        Damage::Token => flip(text.find("data:").expect("a sealed value") + 5),
        Damage::Mac => {
            let start = mac().expect("a digest");
            flip(start + text[start..].find("data:").unwrap() + 5)
        }
        Damage::NoMac => {
            let start = text[..mac().expect("a digest")].rfind('\n').unwrap();
            let end = start + 1 + text[start + 1..].find('\n').unwrap();
            format!("{}{}", &text[..start], &text[end..])
        }
        Damage::Truncated => text[..text.len() / 2].to_owned(),
        Damage::Replaced(from, to) => text.replace(from, to),
    }
}

/// Everything below a folder but the programs of the sandbox.
fn snapshot(root: &Path) -> Tree {
    fn visit(folder: &Path, name: &str, tree: &mut Tree) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let file_name = entry.file_name();
            let name = match (name, String::from_utf8_lossy(file_name.as_bytes())) {
                ("", last) if last == "bin" => continue,
                ("", last) => last.into_owned(),
                (name, last) => format!("{name}/{last}"),
            };
            let path = entry.path();
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            let kind = if metadata.is_symlink() {
                Kind::Link(fs::read_link(&path).unwrap_or_default())
            } else if metadata.is_dir() {
                visit(&path, &name, tree);
                Kind::Folder
            } else if metadata.is_file() {
                Kind::File(fs::read(&path).unwrap_or_default())
            } else {
                Kind::Other
            };
            tree.insert(
                name,
                Entry {
                    kind,
                    mode: metadata.permissions().mode() & 0o7777,
                },
            );
        }
    }
    let mut tree = Tree::new();
    visit(root, "", &mut tree);
    tree
}

/// Waits for the end of a program, and ends it and what it started after the time limit.
fn wait(child: &mut Child) -> i32 {
    let start = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status
                .code()
                .unwrap_or_else(|| -1 - status.signal().unwrap_or(0));
        }
        if start.elapsed() > LIMIT {
            // The group is the program's own: it was started as its leader.
            let group = format!("-{}", child.id());
            let _ = Command::new("kill")
                .args(["-KILL", "--", &group])
                .stderr(Stdio::null())
                .status();
            let _ = child.kill();
            let _ = child.wait();
            return -1;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(3));
    }
}

//! Random histories of a host, and the one promise: nothing that was there is lost by a command.
//!
//! Two clones of one repository, two users with records of their own, one server. People edit the server
//! and the repository, commit, pull, check out older commits, throw captures away and delete records;
//! in between every command runs with every option. After each command every value that was on a side,
//! in git's history or in a backup before is still on a side, in git's history or in a backup; what
//! refused changed nothing; what succeeded made the sides agree; and no output shows a value.
//!
//! `SECRETS_MODEL_SEQUENCES` says how many histories are made, `SECRETS_MODEL_SEED` with which one to
//! begin; a failure names its seed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use git2::build::CheckoutBuilder;
use git2::{Oid, Repository, Signature, Time};

use secret_files::keys::keyring::Keyring;
use secret_files::sops;

use super::support::{Output, SERVER_KEY, key_file, recipient, run_as};

/// Every value begins like this, so that one in an output is found.
const MARK: &str = "canary-model-";
const ENTRIES: [&str; 2] = ["a.env", "b.sql"];
/// Steps of one history.
const STEPS: usize = 14;

struct Random(u64);

impl Random {
    /// The next number of `SplitMix64`.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

struct World {
    folder: tempfile::TempDir,
    random: Random,
    values: u64,
    commits: i64,
    keyring: Keyring,
    committed: BTreeSet<String>,
    backups: HashMap<PathBuf, BTreeSet<String>>,
    log: Vec<String>,
}

/// Returns the values in a text.
fn values_in(text: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(text);
    let starts = text.match_indices(MARK);
    starts
        .map(|(at, _)| {
            let value: String = text[at..]
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '-')
                .collect();
            value
        })
        .collect()
}

impl World {
    fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir_all(path.join("clone0")).unwrap();
        fs::create_dir_all(path.join("server")).unwrap();
        fs::create_dir_all(path.join("elsewhere")).unwrap();
        let manifest = format!(
            "version = 1\n[defaults]\nroot = \"{}\"\n[files]\n\"a.env.enc\" = \"a.env\"\n\"b.sql.enc\" = \"b.sql\"\n",
            path.join("server").display()
        );
        fs::write(path.join("clone0/secret-files.toml"), manifest).unwrap();
        let rules = format!("creation_rules:\n  - age: {}\n", recipient(SERVER_KEY));
        fs::write(path.join("clone0/.sops.yaml"), rules).unwrap();
        let key = fs::read(key_file(SERVER_KEY)).unwrap();
        let mut world = Self {
            folder,
            random: Random(seed),
            values: 0,
            commits: 0,
            keyring: Keyring::of_text("the key", &key, None),
            committed: BTreeSet::new(),
            backups: HashMap::new(),
            log: Vec::new(),
        };
        let mut text = String::new();
        for key in ["K0", "K1", "K2", "K3"] {
            let value = world.value();
            text.push_str(&format!("{key}={value}\n"));
        }
        fs::write(world.server("a.env"), text).unwrap();
        let value = world.value();
        fs::write(world.server("b.sql"), format!("create '{value}';\nend;\n")).unwrap();
        ENTRIES.iter().for_each(|name| age(&world.server(name)));
        Repository::init(world.clone_path(0)).unwrap();
        world.run(0, 0, &["encrypt"]);
        world.commit(0);
        copy_folder(&world.clone_path(0), &world.clone_path(1));
        world.run(0, 0, &["decrypt"]);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn server(&self, name: &str) -> PathBuf {
        self.path("server").join(name)
    }

    fn clone_path(&self, clone: usize) -> PathBuf {
        self.path(&format!("clone{clone}"))
    }

    fn sealed(&self, clone: usize, name: &str) -> PathBuf {
        self.clone_path(clone).join(format!("{name}.enc"))
    }

    fn value(&mut self) -> String {
        self.values += 1;
        format!("{MARK}{}", self.values)
    }

    fn opened(&self, file: &[u8]) -> Option<Vec<u8>> {
        let (format, sealed) = sops::parse_sealed(file.to_vec()).ok()?;
        let key = self.keyring.unwrap_quiet(&sealed.metadata)?;
        let opened = sops::open(format, &sealed, &key).ok()?;
        Some(opened.plaintext.expose().to_vec())
    }

    /// Returns every value that is on a side, in git's history or in a backup.
    fn alive(&mut self) -> BTreeSet<String> {
        let mut alive = self.committed.clone();
        for name in ENTRIES {
            alive.extend(values_in(&fs::read(self.server(name)).unwrap_or_default()));
            for clone in 0..2 {
                let file = fs::read(self.sealed(clone, name)).unwrap_or_default();
                alive.extend(values_in(&self.opened(&file).unwrap_or_default()));
            }
        }
        let mut there = Vec::new();
        for user in ["state0", "state1", "state2"] {
            let folder = fs::read_dir(self.path(user).join("backups"));
            there.extend(
                folder
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|entry| entry.path()),
            );
        }
        self.backups.retain(|path, _| there.contains(path));
        for path in there {
            if !self.backups.contains_key(&path) {
                let content = fs::read(&path).unwrap();
                let opened = self.opened(&content);
                assert!(opened.is_some(), "{} does not open", path.display());
                let opened = opened.unwrap();
                self.backups.insert(path, values_in(&opened));
            }
        }
        alive.extend(self.backups.values().flatten().cloned());
        alive
    }

    /// Returns both sides as they are, plaintexts and encrypted files.
    fn sides(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut files = BTreeMap::new();
        for name in ENTRIES {
            for path in [
                self.server(name),
                self.sealed(0, name),
                self.sealed(1, name),
            ] {
                let content = fs::read(&path).ok();
                files.insert(path, content);
            }
        }
        files
    }

    fn run(&mut self, clone: usize, user: usize, args: &[&str]) -> Output {
        let vars = [
            ("HOME", self.path("home")),
            ("SECRETS_STATE_DIR", self.path(&format!("state{user}"))),
            ("SOPS_AGE_KEY_FILE", key_file(SERVER_KEY)),
        ];
        let vars: BTreeMap<OsString, OsString> = vars
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let output = run_as(&vars, &self.clone_path(clone), args, None, b"");
        let said = output.stderr.replace('\n', " | ");
        self.log.push(format!(
            "clone {clone}, user {user}: {args:?} -> {} {said}",
            output.code
        ));
        for text in [&output.stdout, &output.stderr] {
            assert!(
                !text.contains(MARK),
                "a value is shown: {text}\n{}",
                self.story()
            );
        }
        output
    }

    fn story(&self) -> String {
        self.log.join("\n")
    }

    fn repository(&self, clone: usize) -> Repository {
        Repository::open(self.clone_path(clone)).unwrap()
    }

    fn is_clean(&self, clone: usize) -> bool {
        let repository = self.repository(clone);
        let statuses = repository.statuses(None).unwrap();
        statuses.is_empty()
    }

    fn commit(&mut self, clone: usize) {
        let repository = self.repository(clone);
        let mut index = repository.index().unwrap();
        index
            .add_all(["*"], git2::IndexAddOption::DEFAULT, None)
            .unwrap();
        index.update_all(["*"], None).unwrap();
        index.write().unwrap();
        let tree = repository.find_tree(index.write_tree().unwrap()).unwrap();
        let parent = repository
            .head()
            .ok()
            .map(|head| head.peel_to_commit().unwrap());
        let who = self.signature();
        let parents: Vec<_> = parent.iter().collect();
        repository
            .commit(Some("HEAD"), &who, &who, "state", &tree, &parents)
            .unwrap();
        for name in ENTRIES {
            let file = fs::read(self.sealed(clone, name)).unwrap_or_default();
            let opened = self.opened(&file).unwrap_or_default();
            self.committed.extend(values_in(&opened));
        }
        self.log.push(format!("clone {clone}: commit"));
    }

    fn signature(&mut self) -> Signature<'static> {
        self.commits += 60;
        let time = Time::new(1_767_000_000 + self.commits, 0);
        Signature::new("model", "model@example.org", &time).unwrap()
    }

    fn check_out(&self, clone: usize, commit: Oid) {
        let repository = self.repository(clone);
        let object = repository.find_object(commit, None).unwrap();
        repository
            .checkout_tree(&object, Some(CheckoutBuilder::new().force()))
            .unwrap();
    }

    /// Brings what the other clone has committed into this one, where the folder is clean and on its
    /// branch: fast forward, else a merge that takes one side's files.
    fn pull(&mut self, clone: usize) {
        let repository = self.repository(clone);
        if !self.is_clean(clone) || repository.head_detached().unwrap() {
            return;
        }
        let other = self.clone_path(1 - clone);
        let branch = self.branch(1 - clone);
        let refspec = format!("+refs/heads/{branch}:refs/remotes/other");
        let mut remote = repository
            .remote_anonymous(other.to_str().unwrap())
            .unwrap();
        remote.fetch(&[refspec], None, None).unwrap();
        let theirs = repository.refname_to_id("refs/remotes/other").unwrap();
        let ours = repository.head().unwrap().target().unwrap();
        if theirs == ours || repository.graph_descendant_of(ours, theirs).unwrap() {
            return;
        }
        let mut head = repository.head().unwrap();
        if repository.graph_descendant_of(theirs, ours).unwrap() {
            self.check_out(clone, theirs);
            head.set_target(theirs, "forward").unwrap();
            self.log.push(format!("clone {clone}: pull, forward"));
            return;
        }
        let who = self.signature();
        let (ours, theirs) = (
            repository.find_commit(ours).unwrap(),
            repository.find_commit(theirs).unwrap(),
        );
        let tree = if self.random.one_in(2) {
            &ours
        } else {
            &theirs
        };
        let tree = tree.tree().unwrap();
        let merged = repository
            .commit(Some("HEAD"), &who, &who, "merge", &tree, &[&ours, &theirs])
            .unwrap();
        self.check_out(clone, merged);
        self.log.push(format!("clone {clone}: pull, merged"));
    }

    fn branch(&self, clone: usize) -> String {
        let repository = self.repository(clone);
        let branches = repository.branches(Some(git2::BranchType::Local)).unwrap();
        let (branch, _) = branches.flatten().next().unwrap();
        branch.name().unwrap().unwrap().to_owned()
    }

    /// Goes back a few commits, or to the branch again.
    fn travel(&mut self, clone: usize) {
        if !self.is_clean(clone) {
            return;
        }
        let repository = self.repository(clone);
        let branch = format!("refs/heads/{}", self.branch(clone));
        if repository.head_detached().unwrap() {
            let tip = repository.refname_to_id(&branch).unwrap();
            // What was committed off the branch stays in the object store, and is reached by a tag.
            let here = repository.head().unwrap().target().unwrap();
            let tag = format!("refs/tags/t{}", self.commits);
            self.commits += 1;
            repository.reference(&tag, here, true, "kept").unwrap();
            self.check_out(clone, tip);
            repository.set_head(&branch).unwrap();
            self.log.push(format!("clone {clone}: back on the branch"));
            return;
        }
        let mut commit = repository.head().unwrap().peel_to_commit().unwrap();
        for _ in 0..=self.random.below(3) {
            commit = commit.parent(0).unwrap_or(commit);
        }
        self.check_out(clone, commit.id());
        repository.set_head_detached(commit.id()).unwrap();
        self.log
            .push(format!("clone {clone}: check out {}", commit.id()));
    }

    /// Throws away what is not committed.
    fn throw_away(&mut self, clone: usize) {
        let repository = self.repository(clone);
        repository
            .checkout_head(Some(CheckoutBuilder::new().force().remove_untracked(true)))
            .unwrap();
        self.log.push(format!("clone {clone}: throw away"));
    }

    /// Changes a text as a person does: a value, a key more, a key less.
    fn edited(&mut self, name: &str, text: &str) -> String {
        let value = self.value();
        if name == "b.sql" {
            return format!("create '{value}';\nend;\n");
        }
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let key = format!("K{}", self.random.below(6));
        let at = lines
            .iter()
            .position(|line| line.starts_with(&format!("{key}=")));
        match (at, self.random.below(5)) {
            (Some(at), 0) if lines.len() > 3 => drop(lines.remove(at)),
            (Some(at), _) => lines[at] = format!("{key}={value}"),
            (None, 0) => lines.insert(0, format!("# {value}")),
            (None, _) => lines.push(format!("{key}={value}")),
        }
        if self.random.one_in(6) {
            lines.push(String::new());
        }
        lines.join("\n") + "\n"
    }

    fn edit_server(&mut self) {
        let name = self.random.pick(&ENTRIES);
        let path = self.server(name);
        if self.random.one_in(12) {
            drop(fs::remove_file(&path));
            self.log.push(format!("server: remove {name}"));
            return;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let text = self.edited(name, &text);
        fs::write(&path, &text).unwrap();
        age(&path);
        self.log.push(format!("server: edit {name} to {text:?}"));
    }

    /// A teammate, who has a server of their own, captures there.
    fn edit_repository(&mut self, clone: usize) {
        let name = self.random.pick(&ENTRIES);
        let file = fs::read(self.sealed(clone, name)).unwrap_or_default();
        let Some(text) = self.opened(&file) else {
            return;
        };
        let text = self.edited(name, &String::from_utf8(text).unwrap());
        let path = self.path("elsewhere").join(name);
        fs::write(&path, &text).unwrap();
        age(&path);
        let root = self.path("elsewhere").display().to_string();
        let args = [
            "encrypt",
            "--force",
            "--allow-shrink",
            name,
            "--root",
            &root,
            name,
        ];
        self.run(clone, 2, &args);
        self.log
            .push(format!("clone {clone}: {name} is now {text:?}"));
    }

    fn step(&mut self) {
        let (clone, user) = (self.random.below(2), self.random.below(2));
        match self.random.below(20) {
            0..=3 => self.edit_server(),
            4 | 5 => self.edit_repository(clone),
            6 | 7 => self.commit(clone),
            8 => self.pull(clone),
            9 => self.travel(clone),
            10 if self.random.one_in(3) => self.throw_away(clone),
            10 => {
                let records = self.path(&format!("state{user}/records.json"));
                drop(fs::remove_file(records));
                self.log.push(format!("user {user}: records are gone"));
            }
            _ => self.command(clone, user),
        }
    }

    fn command(&mut self, clone: usize, user: usize) {
        let mut args: Vec<&str> = match self.random.below(16) {
            0..=2 => vec!["encrypt"],
            3..=5 => vec!["decrypt"],
            6 | 7 => vec!["merge"],
            8..=10 => vec!["undo"],
            11 => vec![
                "restore",
                self.random.pick(&ENTRIES),
                "--rev",
                self.random.pick(&["HEAD", "HEAD~1"]),
            ],
            12 => vec!["undo", "--prune"],
            13 => vec!["adopt", self.random.pick(&["--server", "--repository"])],
            14 => vec!["deploy"],
            _ => vec![self.random.pick(&["status", "diff", "doctor"])],
        };
        let command = args[0];
        if matches!(command, "encrypt" | "decrypt" | "restore" | "deploy") && self.random.one_in(3)
        {
            args.push("--force");
        }
        if matches!(command, "decrypt" | "deploy") && self.random.one_in(3) {
            args.push("--allow-rollback");
        }
        if command == "merge" {
            args.extend(match self.random.below(4) {
                0 => &["--server"][..],
                1 => &["--repository", "--layout", "server"],
                2 => &["--layout", "repository"],
                _ => &[],
            });
        }
        if matches!(command, "encrypt" | "merge" | "adopt") && self.random.one_in(2) {
            args.extend(["--allow-shrink", "a.env"]);
        }
        if matches!(command, "encrypt" | "decrypt" | "merge") && self.random.one_in(4) {
            args.push(self.random.pick(&ENTRIES));
        }
        let is_dry = command != "diff"
            && command != "status"
            && command != "doctor"
            && self.random.one_in(8);
        if is_dry {
            args.push("-n");
        }
        let (alive, before) = (self.alive(), self.sides());
        let output = self.run(clone, user, &args);
        for name in ENTRIES {
            let path = self.server(name);
            if before.get(&path) != Some(&fs::read(&path).ok()) && path.exists() {
                age(&path);
            }
        }
        let (now, after) = (self.alive(), self.sides());
        let lost: Vec<_> = alive.difference(&now).collect();
        assert!(lost.is_empty(), "{args:?} lost {lost:?}\n{}", self.story());
        let is_reading = is_dry || matches!(command, "status" | "diff" | "doctor");
        if is_reading || output.code > 1 {
            assert!(before == after, "{args:?} changed files\n{}", self.story());
        }
        assert!(
            !output.stderr.contains("internal error"),
            "{}",
            self.story()
        );
        if output.code == 0
            && !is_dry
            && matches!(command, "encrypt" | "decrypt" | "deploy" | "merge")
        {
            let named = args
                .iter()
                .copied()
                .skip(1)
                .filter(|arg| ENTRIES.contains(arg));
            let named: Vec<&str> = named.collect();
            let follows_allow = args
                .windows(2)
                .any(|pair| pair == ["--allow-shrink", "a.env"]);
            let named: Vec<&str> = if follows_allow {
                named[1..].to_vec()
            } else {
                named
            };
            let entries = if named.is_empty() {
                ENTRIES.to_vec()
            } else {
                named
            };
            for name in entries {
                let server = fs::read(self.server(name)).ok();
                let file = fs::read(self.sealed(clone, name)).unwrap_or_default();
                let repository = self.opened(&file);
                let is_left_out = command == "merge" && (server.is_none() || repository.is_none());
                assert!(
                    is_left_out || server == repository,
                    "{args:?}: {name} differs\n{}",
                    self.story()
                );
            }
        }
    }
}

/// Makes a file look as if it had been changed a while ago: nobody waits for it to settle.
fn age(path: &Path) {
    static AGE: AtomicU64 = AtomicU64::new(0);
    // Ever later, so that a change is seen by its time too.
    let seconds = 1_700_000_000 + AGE.fetch_add(1, Ordering::Relaxed);
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn number(name: &str, usual: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(usual, |value| value.parse().unwrap())
}

#[test]
fn no_history_of_commands_loses_a_value() {
    let first = number("SECRETS_MODEL_SEED", 1);
    let count = number("SECRETS_MODEL_SEQUENCES", 60);
    let next = AtomicU64::new(first);
    let commands = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let made = std::panic::catch_unwind(|| {
                        let mut world = World::new(seed);
                        for _ in 0..STEPS {
                            world.step();
                        }
                        world
                            .log
                            .iter()
                            .filter(|line| line.contains(" -> "))
                            .count() as u64
                    });
                    let made = made.unwrap_or_else(|_| panic!("the history of seed {seed} failed"));
                    commands.fetch_add(made, Ordering::Relaxed);
                }
            });
        }
    });
    let commands = commands.into_inner();
    println!("{count} histories from seed {first}, {commands} commands");
    assert!(commands >= count, "the histories are empty");
}

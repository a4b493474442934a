//! A project in a temporary folder, commands run in it in process, and outputs that are searched
//! for the values in use.

pub(crate) mod pty;
pub(crate) mod sandbox;
pub(crate) mod stock;
pub(crate) mod vault;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use secret_files::cli;
use secret_files::os::Env;
use secret_files::os::terminal::Ask;
use secret_files::secret::SecretBytes;

/// The identity most tests use; it protects nothing.
pub(crate) const SERVER_KEY: &str = "throwaway-server.txt";
/// A second identity.
pub(crate) const LAPTOP_KEY: &str = "throwaway-laptop.txt";

/// Values that stand in the fixtures and must never be seen in an output.
pub(crate) const CANARIES: [&str; 8] = [
    "canary-Vd81-database",
    "canary-Qx22-smtp",
    "canary-Lw93-session",
    "canary-Zt47-registry",
    "canary-Hb65-grafana",
    "canary-Ny18-htpasswd",
    "canary-Ku36-sqlrole",
    "canary-Jr59-rotated",
];

/// Returns the folder of the fixtures.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Returns an output with every time of a change named alike.
pub(crate) fn timeless(text: &str) -> String {
    let time = regex::Regex::new(r"\d{4}-\d\d-\d\d \d\d:\d\dZ").unwrap();
    time.replace_all(text, "TIME").into_owned()
}

/// Returns the path of a throw-away identity.
pub(crate) fn key_file(name: &str) -> PathBuf {
    fixtures().join("keys").join(name)
}

/// Returns the recipient of a throw-away identity.
pub(crate) fn recipient(name: &str) -> String {
    let text = fs::read_to_string(key_file(name)).unwrap();
    let line = text
        .lines()
        .find(|line| line.contains("public key:"))
        .unwrap();
    line.rsplit(' ').next().unwrap().to_owned()
}

/// A repository and a server in one temporary folder.
pub(crate) struct TestProject {
    folder: tempfile::TempDir,
    /// Environment variables of the commands.
    pub vars: BTreeMap<OsString, OsString>,
}

/// What a command printed and how it ended.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub code: u8,
    pub stdout: String,
    pub stderr: String,
}

/// Lets signals end the programs that tests start, also where these tests run in the background of a shell, which
/// ignores SIGINT there: what is ignored is inherited, and the program keeps to it.
#[expect(
    unsafe_code,
    reason = "no crate at hand sets the disposition of a signal"
)]
fn default_signals() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: nothing here catches these signals before the first project is made.
            let _ = unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    });
}

impl TestProject {
    /// Returns a repository with a rule for every `.enc` file and an empty root.
    pub(crate) fn new() -> Self {
        default_signals();
        let folder = tempfile::tempdir().unwrap();
        let project = Self {
            folder,
            vars: BTreeMap::new(),
        };
        fs::create_dir(project.repo()).unwrap();
        fs::create_dir(project.root()).unwrap();
        fs::create_dir(project.path("home")).unwrap();
        project.write_rules(&[recipient(SERVER_KEY)]);
        let mut project = project;
        project.set("HOME", project.path("home"));
        project.set("SECRETS_STATE_DIR", project.path("state"));
        project.set("SOPS_AGE_KEY_FILE", key_file(SERVER_KEY));
        project
    }

    /// Returns a repository with these rows in [files], and the manifest's other tables.
    pub(crate) fn with_files(rows: &[(&str, &str)], rest: &str) -> Self {
        let project = Self::new();
        project.write_manifest(rows, rest);
        project
    }

    /// Returns the eleven-file infrastructure repository with its plaintexts on the server.
    pub(crate) fn infrastructure() -> Self {
        let mut rows = Vec::new();
        for app in ["billing", "portal"] {
            for env in ["dev", "staging", "prod"] {
                rows.push((
                    format!("envs/{app}/.env.{env}.enc"),
                    format!("{app}/envs/.env.{env}"),
                ));
            }
        }
        for (encrypted, plain) in [
            ("shared/.env.enc", "shared/.env"),
            ("monitoring/.env.enc", "monitoring/.env"),
            ("analytics/.env.enc", "analytics/.env"),
            ("nginx/.htpasswd.enc", "nginx/.htpasswd"),
            (
                "shared/init-scripts/01-create-databases.sql.enc",
                "shared/init-scripts/01-create-databases.sql",
            ),
        ] {
            rows.push((encrypted.to_owned(), plain.to_owned()));
        }
        let rows: Vec<_> = rows.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let project = Self::with_files(
            &rows,
            "[plain]\n\"nginx/conf.d/portal.conf\" = \"nginx/conf.d/portal.conf\"\n\"compose.yaml\" = \"compose.yaml\"\n",
        );
        let mut number = 0;
        for app in ["billing", "portal"] {
            for env in ["dev", "staging", "prod"] {
                number += 1;
                let text = format!(
                    "# {app} {env}\nAPP_ENV={env}\n\nDATABASE_URL=postgres://{app}:canary-Vd81-database-{number}@db/{app}\nSMTP_PASSWORD='canary-Qx22-smtp {number}'\nSESSION_SECRET=canary-Lw93-session-{number}==\nEMPTY=\n"
                );
                project.write_server(&format!("{app}/envs/.env.{env}"), text);
            }
        }
        project.write_server("shared/.env", "export REGISTRY_TOKEN=canary-Zt47-registry\nNOTE=a\\nb\nHOST_unencrypted=example.org\n");
        project.write_server(
            "monitoring/.env",
            "GRAFANA=canary-Hb65-grafana\n# last line has no newline\nX=1",
        );
        project.write_server("analytics/.env", "A=windows\r\nB=line ends\r\n");
        project.write_server("nginx/.htpasswd", "alice:$apr1$canary-Ny18-htpasswd\n");
        project.write_server(
            "shared/init-scripts/01-create-databases.sql",
            "CREATE ROLE billing PASSWORD 'canary-Ku36-sqlrole';\n\nCREATE DATABASE billing;\n",
        );
        for path in ["nginx/conf.d/portal.conf", "compose.yaml"] {
            let text = format!("# {path}\nserver_name portal.example.org;\n");
            project.write_repo(path, &text);
            project.write_server(path, &text);
        }
        project
    }

    /// Writes `secret-files.toml`.
    pub(crate) fn write_manifest(&self, rows: &[(&str, &str)], rest: &str) {
        let mut text = format!(
            "version = 1\n\n[defaults]\nroot = \"{}\"\n\n[files]\n",
            self.root().display()
        );
        for (encrypted, plain) in rows {
            if plain.starts_with("{ ") {
                text.push_str(&format!("\"{encrypted}\" = {plain}\n"));
            } else {
                text.push_str(&format!("\"{encrypted}\" = \"{plain}\"\n"));
            }
        }
        text.push_str(rest);
        self.write_repo("secret-files.toml", &text);
    }

    /// Writes a `.sops.yaml` with one rule for every encrypted file.
    pub(crate) fn write_rules(&self, recipients: &[String]) {
        let rules = format!(
            "creation_rules:\n  - path_regex: \\.enc$\n    age: {}\n",
            recipients.join(",")
        );
        self.write_repo(".sops.yaml", rules);
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.vars.insert(name.into(), value.into());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn repo(&self) -> PathBuf {
        self.path("repo")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("server")
    }

    pub(crate) fn repo_file(&self, name: &str) -> PathBuf {
        self.repo().join(name)
    }

    pub(crate) fn server_file(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub(crate) fn write_repo(&self, name: &str, content: impl AsRef<[u8]>) {
        write(&self.repo_file(name), content.as_ref());
    }

    pub(crate) fn write_server(&self, name: &str, content: impl AsRef<[u8]>) {
        write(&self.server_file(name), content.as_ref());
        fs::set_permissions(self.server_file(name), fs::Permissions::from_mode(0o640)).unwrap();
    }

    pub(crate) fn read_repo(&self, name: &str) -> String {
        String::from_utf8(fs::read(self.repo_file(name)).unwrap()).unwrap()
    }

    pub(crate) fn read_server(&self, name: &str) -> Vec<u8> {
        fs::read(self.server_file(name)).unwrap()
    }

    /// Runs a command in process and searches its output for the values in use.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.run_in(&self.repo(), args)
    }

    /// Runs a command in a folder and searches its output for the values in use.
    pub(crate) fn run_in(&self, folder: &Path, args: &[&str]) -> Output {
        let output = self.run_unsearched(folder, args);
        assert_hidden(&output.stdout, &format!("{args:?}"));
        assert_hidden(&output.stderr, &format!("{args:?}"));
        output
    }

    /// Runs a command that may show values.
    pub(crate) fn run_showing(&self, args: &[&str]) -> Output {
        self.run_unsearched(&self.repo(), args)
    }

    /// Runs a command with somebody at the terminal who gives these answers, and returns the
    /// questions too.
    pub(crate) fn run_answering(&self, answers: &[&str], args: &[&str]) -> (Output, Vec<String>) {
        let person = Arc::new(Person::new(answers));
        let asker: Arc<dyn Ask> = Arc::<Person>::clone(&person);
        let output = self.run_with(&self.repo(), args, Some(asker));
        assert_hidden(&output.stdout, &format!("{args:?}"));
        assert_hidden(&output.stderr, &format!("{args:?}"));
        let questions = person.questions.lock().unwrap().clone();
        (output, questions)
    }

    /// Changes an entry in the repository as a teammate would, who has another server.
    pub(crate) fn capture_elsewhere(&mut self, server_path: &str, content: &str) {
        let other = self.path("elsewhere");
        write(&other.join(server_path), content.as_bytes());
        let state = self.vars.get(OsStr::new("SECRETS_STATE_DIR")).cloned();
        self.set("SECRETS_STATE_DIR", self.path("state-elsewhere"));
        let root = other.to_str().unwrap().to_owned();
        let shrink = ["--allow-shrink", server_path];
        let args = ["encrypt", "--force", "--root", &root, server_path];
        self.ok(&[&args[..], &shrink].concat());
        self.vars.insert("SECRETS_STATE_DIR".into(), state.unwrap());
    }

    /// Returns the plaintext of an encrypted file of the repository.
    pub(crate) fn opened(&self, name: &str) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let root = folder.path().to_str().unwrap();
        let mut vars = self.vars.clone();
        vars.insert("SECRETS_STATE_DIR".into(), state.into());
        let args = ["decrypt", "--root", root, name];
        let output = run_as(&vars, &self.repo(), &args, None, b"");
        assert_eq!(output.code, 0, "{output:#?}");
        let mut files = BTreeMap::new();
        collect(folder.path(), &mut files);
        let plain = files
            .iter()
            .find(|(path, _)| !path.to_string_lossy().contains("/state/"));
        plain.unwrap().1.clone()
    }

    /// Runs a command with a text on its standard input.
    pub(crate) fn run_fed(&self, input: &[u8], args: &[&str]) -> Output {
        let output = run_as(&self.vars, &self.repo(), args, None, input);
        assert_hidden(&output.stdout, &format!("{args:?}"));
        assert_hidden(&output.stderr, &format!("{args:?}"));
        output
    }

    fn run_unsearched(&self, folder: &Path, args: &[&str]) -> Output {
        self.run_with(folder, args, None)
    }

    fn run_with(&self, folder: &Path, args: &[&str], asker: Option<Arc<dyn Ask>>) -> Output {
        run_as(&self.vars, folder, args, asker, b"")
    }

    /// Runs a command that must end with 0.
    pub(crate) fn ok(&self, args: &[&str]) -> Output {
        let output = self.run(args);
        assert_eq!(output.code, 0, "{args:?}: {output:#?}");
        output
    }
}

/// Runs a command in process.
pub(crate) fn run_as(
    vars: &BTreeMap<OsString, OsString>,
    folder: &Path,
    args: &[&str],
    asker: Option<Arc<dyn Ask>>,
    input: &[u8],
) -> Output {
    let (stdout, stderr) = (Captured::default(), Captured::default());
    let env = Env {
        args: std::iter::once("secrets")
            .chain(args.iter().copied())
            .map(OsString::from)
            .collect(),
        vars: vars.clone(),
        cwd: folder.to_owned(),
        stdin: Box::new(std::io::Cursor::new(input.to_vec())),
        stdout: Box::new(stdout.clone()),
        stderr: Box::new(stderr.clone()),
        stdout_is_terminal: false,
        stderr_is_terminal: false,
        owns_terminal: false,
        asker,
        clock: tick,
    };
    let code = cli::run(env).code();
    Output {
        code,
        stdout: stdout.text(),
        stderr: stderr.text(),
    }
}

/// Somebody at the terminal, whose answers are known.
struct Person {
    answers: Mutex<VecDeque<String>>,
    questions: Mutex<Vec<String>>,
}

impl Person {
    fn new(answers: &[&str]) -> Self {
        Self {
            answers: Mutex::new(answers.iter().map(|&answer| answer.to_owned()).collect()),
            questions: Mutex::default(),
        }
    }
}

impl Ask for Person {
    fn line(&self, question: &str) -> std::io::Result<Option<String>> {
        self.questions.lock().unwrap().push(question.to_owned());
        Ok(self.answers.lock().unwrap().pop_front())
    }

    fn hidden(&self, question: &str) -> std::io::Result<SecretBytes> {
        let answer = self.line(question)?.unwrap_or_default();
        Ok(SecretBytes::new(answer.into_bytes()))
    }

    fn say(&self, text: &str) {
        self.questions.lock().unwrap().push(text.to_owned());
    }
}

impl TestProject {
    /// Returns the program in a place that every user may enter, as the folder of the build may not
    /// be. Another process copies it: a descriptor of ours, open for writing and inherited by a
    /// program started meanwhile, would make it too busy to run.
    pub(crate) fn program_for_others(&self) -> PathBuf {
        let program = self.path("secrets");
        if !program.exists() {
            let copied = Command::new("cp")
                .arg(env!("CARGO_BIN_EXE_secrets"))
                .arg(&program)
                .status();
            assert!(copied.unwrap().success());
        }
        program
    }

    /// Makes the repository a git checkout and commits everything.
    pub(crate) fn commit(&self) {
        if !self.repo_file(".git").exists() {
            self.git(&["init", "-q", "-b", "main"]);
        }
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "state"]);
    }

    /// Runs git in the repository and returns its output.
    pub(crate) fn git(&self, args: &[&str]) -> String {
        let output = Command::new("git")
            .args([
                "-c",
                "user.name=test",
                "-c",
                "user.email=test@example.org",
                "-c",
                "commit.gpgsign=false",
            ])
            .args(args)
            .current_dir(self.repo())
            .env("HOME", self.path("home"))
            .env_remove("GIT_DIR")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "git {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns every file below the folder with its content, staging files and all.
    pub(crate) fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        for folder in [self.repo(), self.root()] {
            collect(&folder, &mut files);
        }
        files
    }
}

/// Fails when an output shows one of the values in use.
pub(crate) fn assert_hidden(text: &str, of: &str) {
    for canary in CANARIES {
        assert!(!text.contains(canary), "{of} shows {canary}:\n{text}");
    }
}

/// A clock that goes on by a second whenever it is asked.
fn tick() -> SystemTime {
    static SECONDS: AtomicU64 = AtomicU64::new(1_767_323_045);
    SystemTime::UNIX_EPOCH + Duration::from_secs(SECONDS.fetch_add(1, Ordering::Relaxed))
}

/// Returns whether any staging file is left below a folder.
pub(crate) fn has_staging_files(files: &BTreeMap<PathBuf, Vec<u8>>) -> bool {
    files
        .keys()
        .any(|path| path.to_string_lossy().contains(".secrets-staging-"))
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && entry.file_name() != ".git" {
            collect(&path, files);
        } else if kind.is_file() {
            files.insert(path.clone(), fs::read(&path).unwrap_or_default());
        }
    }
}

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A stream that keeps what is written to it.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A small seeded generator (splitmix64), so that a failure can be repeated from its seed.
pub(crate) struct Seeded(pub u64);

impl Seeded {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub(crate) fn pick<'t, T: ?Sized>(&mut self, items: &[&'t T]) -> &'t T {
        items[self.below(items.len())]
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

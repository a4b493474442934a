//! A folder to call `sops` in: ours under that name, or the real one, with throw-away keys.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{SERVER_KEY, fixtures, key_file};

/// Which program answers to the name `sops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Ours,
    Stock,
}

/// What a command printed and how it ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Asserts that it ended with 0.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// Asserts that it ended with another code.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{} {}", self.text(), self.stderr);
        self
    }
}

/// A folder with its own home, keys and temporary files.
pub(crate) struct Sandbox {
    folder: tempfile::TempDir,
    pub vars: BTreeMap<OsString, OsString>,
}

impl Sandbox {
    pub(crate) fn new(which: Which) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        for name in ["bin", "home", "tmp", "repo"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let program = match which {
            Which::Ours => PathBuf::from(env!("CARGO_BIN_EXE_secrets")),
            Which::Stock => std::env::split_paths(&std::env::var_os("PATH").unwrap())
                .map(|folder| folder.join("sops"))
                .find(|program| program.is_file())
                .unwrap(),
        };
        symlink(program, bin.join("sops")).unwrap();
        let mut path = OsString::from(&bin);
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        let mut sandbox = Self {
            folder,
            vars: BTreeMap::new(),
        };
        sandbox.set("PATH", &path);
        sandbox.set("HOME", sandbox.top().join("home"));
        sandbox.set("TMPDIR", sandbox.top().join("tmp"));
        sandbox.set("SOPS_DISABLE_VERSION_CHECK", "true");
        sandbox.set("SOPS_AGE_KEY_FILE", key_file(SERVER_KEY));
        sandbox
    }

    fn top(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Returns the path of a file in the working folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.top().join("repo").join(name)
    }

    /// Returns the folder for temporary files.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.top().join("tmp")
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.vars.insert(name.into(), value.into());
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        String::from_utf8(fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// Makes an executable script.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        self.write(name, text);
        let path = self.path(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Copies a fixture into the working folder.
    pub(crate) fn fixture(&self, from: &str, name: &str) {
        fs::copy(fixtures().join(from), self.path(name)).unwrap();
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        // Absolute, and its own name the first word.
        let mut command = Command::new(self.top().join("bin/sops"));
        command
            .args(args)
            .current_dir(self.path(""))
            .env_clear()
            .envs(&self.vars)
            .stdin(Stdio::null());
        command
    }

    /// Runs `sops`.
    pub(crate) fn sops(&self, args: &[&str]) -> Ended {
        self.sops_fed(args, b"")
    }

    /// Runs `sops` with an input.
    pub(crate) fn sops_fed(&self, args: &[&str], input: &[u8]) -> Ended {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It may not read what it is given.
        let _ = stdin.write_all(input);
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        Ended {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A keyring of `gpg` with the throw-away keys of the fixtures.
pub(crate) struct Gnupg {
    folder: tempfile::TempDir,
    /// The fingerprints of two keys at hand, and of one of which only the public half is.
    pub fingerprints: Vec<String>,
}

impl Gnupg {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir()
            .unwrap();
        let keys = fixtures().join("pgp");
        for name in [
            "throwaway-one.asc",
            "throwaway-two.asc",
            "throwaway-public-only.asc",
        ] {
            let status = Command::new("gpg")
                .args(["--batch", "--quiet", "--import"])
                .arg(keys.join(name))
                .env("GNUPGHOME", folder.path())
                .stderr(Stdio::null())
                .status()
                .unwrap();
            assert!(status.success(), "{name}");
        }
        let text = fs::read_to_string(keys.join("fingerprints.txt")).unwrap();
        Self {
            folder,
            fingerprints: text.lines().map(str::to_owned).collect(),
        }
    }

    pub(crate) fn home(&self) -> &Path {
        self.folder.path()
    }

    /// Decrypts a message with `gpg` alone.
    pub(crate) fn decrypt(&self, message: &str) -> Vec<u8> {
        let mut child = Command::new("gpg")
            .args(["--batch", "--quiet", "-d"])
            .env("GNUPGHOME", self.home())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(message.as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap().stdout
    }
}

impl Drop for Gnupg {
    fn drop(&mut self) {
        // Its agent would stay.
        let _ = Command::new("gpgconf")
            .args(["--kill", "all"])
            .env("GNUPGHOME", self.home())
            .status();
    }
}

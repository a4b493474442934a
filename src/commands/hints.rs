//! The command lines that messages propose: complete, quoted, ready to be pasted.
//!
//! They repeat the options that chose manifest, root and identity, since without them the command
//! would act on something else. Names come from a repository that others may write to, so they
//! are quoted for a shell.

use std::path::{Path, PathBuf};

use crate::os::Env;

use super::{GlobalArgs, OwnerArgs};

/// What to do where git's commits or files cannot be read.
pub const DAMAGED_GIT: &str = "`git fsck` names what is damaged; a fresh clone has it whole";

/// Builds proposed command lines.
pub struct Hints {
    program: String,
    owner: &'static str,
    git: Option<String>,
    repository: PathBuf,
    is_here: bool,
}

/// Quotes a word for a shell where it needs it.
pub fn quoted(word: &str) -> String {
    shlex::try_quote(word).map_or_else(|_| "'?'".to_owned(), std::borrow::Cow::into_owned)
}

/// Quotes a name that is an argument of its own: one that begins with a dash is no option.
fn argument(name: &str) -> String {
    if name.starts_with('-') {
        format!("-- {}", quoted(name))
    } else {
        quoted(name)
    }
}

impl Hints {
    /// Returns a builder for a run with these options in `env`; `repository` is the manifest's folder,
    /// `has_git` whether it lies in a checkout.
    pub fn new(
        global: &GlobalArgs,
        owner: OwnerArgs,
        env: &Env,
        repository: &Path,
        has_git: bool,
    ) -> Self {
        let mut program = "secrets".to_owned();
        let mut add = |option: &str, value: &Path| {
            program.push_str(&format!(" {option} {}", quoted(&value.to_string_lossy())));
        };
        if let Some(folder) = &global.directory {
            add("-C", folder);
        }
        // Variables count too: they may be set for this one command.
        let variable = |name: &str| env.var(name).map(Path::new);
        if let Some(manifest) = global
            .manifest
            .as_deref()
            .or_else(|| variable("SECRETS_MANIFEST"))
        {
            add("-m", manifest);
        }
        if let Some(root) = global.root.as_deref().or_else(|| variable("SECRETS_ROOT")) {
            add("--root", root);
        }
        let host = global.host.as_ref().map(Path::new);
        if let Some(host) = host.or_else(|| variable("SECRETS_HOST")) {
            add("--host", host);
        }
        for identity in &global.identities {
            add("-i", identity);
        }
        let is_here = env.cwd == repository && global.directory.is_none();
        let git = match (has_git, is_here) {
            (false, _) => None,
            (true, true) => Some("git".to_owned()),
            (true, false) => Some(format!("git -C {}", quoted(&repository.to_string_lossy()))),
        };
        let repository = repository.to_owned();
        Self {
            program,
            owner: if owner.no_owner { " --no-owner" } else { "" },
            git,
            repository,
            is_here,
        }
    }

    /// Proposes one of our commands for an entry: `` `secrets diff 'name'` ``.
    pub fn ours(&self, command: &str, entry: &str) -> String {
        let (program, owner) = (&self.program, self.owner);
        format!("`{program} {command}{owner} {}`", argument(entry))
    }

    /// Proposes one of our commands for everything.
    pub fn ours_for_all(&self, command: &str) -> String {
        format!("`{} {command}`", self.program)
    }

    /// Proposes a git command in the repository: `` `git pull` ``.
    pub fn git(&self, command: &str) -> String {
        let git = self.git.as_deref().unwrap_or("git");
        format!("`{git} {command}`")
    }

    /// Proposes to bring back the committed version of a file of the repository.
    pub fn restore(&self, file: &str) -> String {
        match &self.git {
            Some(git) => format!(
                "`{git} checkout HEAD -- {}` brings back the committed file",
                quoted(file)
            ),
            None => {
                "fetch the file again from where this copy of the repository came from".to_owned()
            }
        }
    }

    /// Proposes to look for an older version of a file of the repository.
    pub fn older_version(&self, file: &str) -> String {
        match &self.git {
            Some(git) => format!(
                "`{git} log --oneline -- {0}` lists its versions, `{git} checkout COMMIT -- {0}` brings one back",
                quoted(file)
            ),
            None => self.restore(file),
        }
    }

    /// Proposes how to end a merge of a file of the repository.
    pub fn end_merge(&self, file: &str) -> String {
        match &self.git {
            Some(git) => format!(
                "resolve the merge: `{git} checkout --ours -- {0}`, or with `--theirs`",
                quoted(file)
            ),
            None => self.restore(file),
        }
    }

    /// Returns a file of the repository as a command in the working directory names it, quoted.
    pub fn file(&self, file: &str) -> String {
        if self.is_here && file.starts_with('-') {
            quoted(&format!("./{file}"))
        } else if self.is_here {
            quoted(file)
        } else {
            quoted(&self.repository.join(file).to_string_lossy())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_the_repository_are_quoted() {
        let hints = Hints {
            program: "secrets".to_owned(),
            owner: "",
            git: Some("git".to_owned()),
            repository: PathBuf::from("/repo"),
            is_here: false,
        };
        assert_eq!(
            hints.ours("diff", "shared/.env.enc"),
            "`secrets diff shared/.env.enc`"
        );
        assert_eq!(hints.ours("diff", "-x.enc"), "`secrets diff -- -x.enc`");
        let hostile = hints.ours("diff", "a'$(touch PWNED)'.enc");
        let words = shlex::split(hostile.trim_matches('`')).unwrap();
        assert_eq!(words, ["secrets", "diff", "a'$(touch PWNED)'.enc"]);
        assert!(
            hints
                .restore("a b")
                .starts_with("`git checkout HEAD -- 'a b'`")
        );
        assert_eq!(hints.file("a b"), "'/repo/a b'");
    }
}

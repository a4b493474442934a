//! The command lines that messages propose: complete, quoted, ready to be pasted.
//!
//! They repeat the options that chose manifest, root and identity, since without them the command
//! would act on something else. Names come from a repository that others may write to, so they
//! are quoted for a shell.

use std::path::Path;

use crate::os::Env;

use super::GlobalArgs;

/// Builds proposed command lines.
pub struct Hints {
    program: String,
    git: String,
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
    /// Returns a builder for a run with these options in `env`; `repository` is the manifest's folder.
    pub fn new(global: &GlobalArgs, env: &Env, repository: &Path) -> Self {
        let mut program = "secrets".to_owned();
        let mut add = |option: &str, value: &Path| {
            program.push_str(&format!(" {option} {}", quoted(&value.to_string_lossy())));
        };
        if let Some(folder) = &global.directory {
            add("-C", folder);
        }
        if let Some(manifest) = &global.manifest {
            add("-m", manifest);
        }
        if let Some(root) = &global.root {
            add("--root", root);
        }
        for identity in &global.identities {
            add("-i", identity);
        }
        let is_here = env.cwd == repository && global.directory.is_none();
        let git = if is_here {
            "git".to_owned()
        } else {
            format!("git -C {}", quoted(&repository.to_string_lossy()))
        };
        Self { program, git }
    }

    /// Proposes one of our commands for an entry: `` `secrets diff 'name'` ``.
    pub fn ours(&self, command: &str, entry: &str) -> String {
        format!("`{} {command} {}`", self.program, argument(entry))
    }

    /// Proposes one of our commands for everything.
    pub fn ours_for_all(&self, command: &str) -> String {
        format!("`{} {command}`", self.program)
    }

    /// Proposes a git command on a file of the repository: `` `git checkout -- 'name'` ``.
    pub fn git(&self, command: &str, file: &str) -> String {
        format!("`{} {command} -- {}`", self.git, quoted(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_the_repository_are_quoted() {
        let hints = Hints {
            program: "secrets".to_owned(),
            git: "git".to_owned(),
        };
        assert_eq!(
            hints.ours("diff", "shared/.env.enc"),
            "`secrets diff shared/.env.enc`"
        );
        assert_eq!(hints.ours("diff", "-x.enc"), "`secrets diff -- -x.enc`");
        let hostile = hints.ours("diff", "a'$(touch PWNED)'.enc");
        let words = shlex::split(hostile.trim_matches('`')).unwrap();
        assert_eq!(words, ["secrets", "diff", "a'$(touch PWNED)'.enc"]);
        assert_eq!(hints.git("checkout", "a b"), "`git checkout -- 'a b'`");
    }
}

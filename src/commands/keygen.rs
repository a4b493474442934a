//! `keygen`: a new age identity.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{Error, ErrorKind, Problem};
use crate::keys::age;
use crate::os::fs::{self, FsError};
use crate::os::git::{self, Checkout};
use crate::os::place::Ownership;
use crate::os::users::{self, Database};
use crate::project::error::Refusal;
use crate::project::placement::parse_mode;

use super::hints::quoted;
use super::{Context, Outcome};

/// Make a new age identity
///
/// The public key goes to standard output; without `-o` the identity does too, as with `age-keygen`.
/// A file that exists is never overwritten.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  secrets keygen -o /opt/docker/.age-key.txt           a key for this server\n  secrets keygen --pq --group debian --mode 0640 -o FILE  post-quantum, readable for a group"
)]
pub struct KeygenArgs {
    /// Write the identity to this file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Make a post-quantum key (ML-KEM-768 with X25519); needs sops 3.13 or age 1.3 to be used
    #[arg(long)]
    pq: bool,
    /// Mode of the file, octal
    #[arg(long, value_name = "MODE", default_value = "0600", requires = "output", value_parser = identity_mode)]
    mode: u32,
    /// Group of the file
    #[arg(long, value_name = "GROUP", requires = "output")]
    group: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// A file that exists, a group that does not, a folder that cannot be written.
pub fn run(args: &KeygenArgs, cx: &mut Context) -> Result<Outcome, Error> {
    let output = args.output.as_ref().filter(|path| path.as_os_str() != "-");
    let Some(path) = output else {
        if cx.ui.json {
            let message = "`--json` never shows a key".to_owned();
            return Err(Problem::new(ErrorKind::Option(message))
                .with_help("name the file for the identity with `-o FILE`")
                .into());
        }
        let key = age::generate(args.pq, &cx.env.now());
        cx.ui.bytes(key.file.expose());
        cx.ui.status(&format!("public key: {}", key.recipient));
        return Ok(Outcome::default());
    };
    let path = cx.env.absolute(path);
    if fs::is_there(&path) {
        let path = path.display().to_string();
        let help = format!(
            "it may be the only copy of a key: choose another name, or show its public key with `age-keygen -y {}`",
            quoted(&path)
        );
        return Err(Problem::new(Refusal::AlreadyThere { path })
            .with_help(help)
            .into());
    }
    let gid = args.group.as_deref().map(find_group).transpose()?;
    let key = age::generate(args.pq, &cx.env.now());
    let owner = Ownership { uid: None, gid };
    fs::write_new(&path, key.file.expose(), owner, args.mode).map_err(|error| {
        let is_there = matches!(&error, FsError::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists);
        let help = if is_there {
            "choose another name"
        } else {
            "name a file in a folder you may write, `-o FILE`"
        };
        Problem::new(error).with_help(help)
    })?;
    if cx.ui.json {
        cx.ui.show_key(&path.display().to_string(), &key.recipient);
    } else {
        cx.ui.data(&format!("{}\n", key.recipient));
    }
    cx.ui.status(&format!(
        "wrote {} (mode {:04o}): put a copy into the password manager now, a lost key opens nothing any more",
        path.display(),
        args.mode
    ));
    warn_of_git(cx, &path);
    Ok(Outcome::default())
}

/// Says that `git add` would take an identity along.
fn warn_of_git(cx: &mut Context, path: &Path) {
    let Some(top) = git::work_tree_of(path) else {
        return;
    };
    let is_ignored = Checkout::discover(top)
        .is_ok_and(|found| found.is_none_or(|found| found.is_ignored(path).unwrap_or(false)));
    if !is_ignored {
        cx.ui.warning(&format!(
            "{} lies in a git checkout and is not ignored: add it to {} before the next `git add`",
            path.display(),
            top.join(".gitignore").display()
        ));
    }
}

fn find_group(name: &str) -> Result<u32, Problem> {
    let owned = || name.to_owned();
    let gid = users::find_id(Database::Group, name).ok_or_else(|| {
        Problem::new(ErrorKind::UnknownAccount {
            kind: "group",
            name: owned(),
        })
        .with_help("create the group, or leave `--group` out")
    })?;
    if !users::may_give_to_group(gid) {
        let what = format!("group {name}");
        return Err(Problem::new(ErrorKind::NoRightToGive { what })
            .with_help("run as root or as a member of the group"));
    }
    Ok(gid)
}

/// Reads the mode of an identity file: nothing for everybody.
///
/// # Errors
/// Says in words what is wrong with it.
pub fn identity_mode(text: &str) -> Result<u32, String> {
    let mode = parse_mode(text).map_err(|reason| format!("it {reason}"))?;
    if mode & 0o400 == 0 {
        return Err("it lets not even its owner read the key".to_owned());
    }
    if mode & 0o007 != 0 {
        return Err("it lets everybody read or use the key".to_owned());
    }
    Ok(mode)
}

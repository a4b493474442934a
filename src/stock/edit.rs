//! `edit`: the plaintext in the user's editor, the result back into the file.
//!
//! The plaintext stands in a private folder, in memory where the system has one, and is gone with the
//! command. What was edited is never lost: where the file was changed meanwhile, or cannot be written, the
//! encrypted result goes beside it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::os::scratch::{Scratch, Use};
use crate::os::state::StateDir;
use crate::os::{fill_random, fs, shell, signal};
use crate::secret::SecretBytes;
use crate::sops::metadata::FORMAT_VERSION;
use crate::sops::store::{Format, Indents};
use crate::sops::tree::Tree;

use super::Run;
use super::config::{self, RuleOfFile};
use super::crypt::{self, Opened, Reading};
use super::failure::{Failure, code};
use super::files::{self, Holds};
use super::flags::Parsed;

/// Programs that are looked for where no variable names one.
const EDITORS: [&str; 3] = ["vim", "nano", "vi"];
/// How many results that could not be put back are kept beside a file.
const MOST_KEPT: usize = 100;
/// Editors that leave copies of what they edit unless they are told not to.
const LEAVES_COPIES: [&str; 4] = ["vim", "nvim", "vimx", "gvim"];
/// Turns the copies off.
const NO_COPIES: &str = "set nobackup nowritebackup noswapfile noundofile viminfo=";
/// Editors that return at once unless they are told to wait.
const RETURNS_AT_ONCE: [&str; 5] = ["code", "codium", "subl", "atom", "zed"];

/// Stands for the time of a file that was never written (Go's zero time).
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// What is edited.
pub(super) struct Request<'r> {
    /// The file, absolute.
    pub path: &'r Path,
    /// Input and output formats.
    pub formats: (Format, Format),
    /// How it is decrypted.
    pub reading: Reading,
    /// Whether the metadata is shown too.
    pub shows_metadata: bool,
}

/// Edits a file, or begins one.
///
/// # Errors
/// With the codes for a file that did not change, for an editor that failed, and as decrypting and
/// encrypting.
pub(super) fn edit(
    run: &mut Run<'_>,
    parsed: &Parsed,
    request: &Request<'_>,
    rule: Option<RuleOfFile>,
) -> Result<u8, Failure> {
    let Request {
        path,
        formats: (input, output),
        ..
    } = *request;
    files::clean_up(run, path);
    files::clean_up_scratch(run);
    let indents = config::indents(run, output)?;
    let before = if fs::exists(path) {
        Some(files::read(run, Some(path))?)
    } else {
        None
    };
    let mut opened = if let Some(bytes) = &before {
        crypt::open(run, input, bytes.clone(), &request.reading)?
    } else {
        let new = config::for_new_file(run, parsed, path, input, rule)?;
        let example = files::example(input, indents);
        let tree = files::load_plain(input, &example)?;
        crypt::begin(run, tree, new).map_err(|why| {
            let text = format!("Error encrypting the data key with one or more master keys: {why}");
            Failure::new(code::NO_KEY, text)
        })?
    };
    in_editor(run, request, &mut opened, indents)?;
    let text = crypt::seal(run, &mut opened, output, indents)?;
    put_back(run, path, before.as_ref(), &text)?;
    Ok(0)
}

/// Writes the result, unless the file is another one by now.
fn put_back(
    run: &mut Run<'_>,
    path: &Path,
    before: Option<&SecretBytes>,
    text: &SecretBytes,
) -> Result<(), Failure> {
    let now = fs::exists(path).then(|| files::read(run, Some(path)));
    let is_as_before = match (&now, before) {
        (Some(Ok(now)), Some(before)) => now.expose() == before.expose(),
        (None, None) => true,
        _ => false,
    };
    let reason = match now {
        _ if is_as_before => match files::write(run, path, text, Holds::Ciphertext) {
            Ok(()) => return Ok(()),
            Err(failure) => failure.text,
        },
        Some(Err(failure)) => failure.text,
        _ => format!("{} was changed while you edited it", path.display()),
    };
    let name = path.file_name().unwrap_or_default();
    let names = (0..MOST_KEPT).map(|number| {
        let mut name = name.to_owned();
        name.push(".edited");
        if number > 0 {
            name.push(format!(".{number}"));
        }
        path.with_file_name(name)
    });
    let beside = names.into_iter().find(|path| !fs::is_there(path));
    let kept = beside.filter(|path| files::write(run, path, text, Holds::Ciphertext).is_ok());
    // Another disk may have room.
    let kept = kept.or_else(|| {
        let state = StateDir::locate(run.env)?;
        let now = run.env.now();
        let label = path.file_name()?.to_string_lossy();
        state.keep_backup(&label, &now, text.expose()).ok()
    });
    let kept = kept.or_else(|| {
        let folder = run.env.path_var("TMPDIR").unwrap_or_else(|| "/tmp".into());
        let mut number = [0; 8];
        fill_random(&mut number);
        let name = format!("{:016x}.edited", u64::from_be_bytes(number));
        let path = folder.join(name);
        fs::write_new_private(&path, text.expose()).ok()?;
        Some(path)
    });
    let text = if let Some(beside) = kept {
        format!(
            "{reason}; what you edited is in {}, encrypted",
            beside.display()
        )
    } else {
        format!("{reason}; what you edited could not be written anywhere")
    };
    Err(Failure::new(code::UNWRITABLE, text))
}

/// Shows the tree in the editor until what comes back can be encrypted. A signal that comes while no editor is running, and the
/// plaintext is there, ends this process when it is gone.
fn in_editor(
    run: &mut Run<'_>,
    request: &Request<'_>,
    opened: &mut Opened,
    indents: Indents,
) -> Result<(), Failure> {
    signal::watched(|watch| in_folder(run, request, opened, indents, watch))
}

fn in_folder(
    run: &mut Run<'_>,
    request: &Request<'_>,
    opened: &mut Opened,
    indents: Indents,
    watch: &signal::Watch,
) -> Result<(), Failure> {
    let (input, output) = request.formats;
    let shown = if request.shows_metadata {
        if opened.metadata.last_modified.is_empty() {
            opened.metadata.set_mac(String::new(), NO_TIME.to_owned());
        }
        files::emit_encrypted(output, &opened.tree, &opened.metadata, indents)?
    } else {
        files::emit_plain(output, &opened.tree, indents)
            .map_err(|failure| not_marshalled(&failure))?
    };
    let unwritable = |what: &str, error: &fs::FsError| {
        Failure::new(code::UNWRITABLE, format!("Could not {what}: {error}"))
    };
    let folder = Scratch::create(run.env, Use::Edit)
        .map_err(|error| unwritable("create temporary directory", &error))?;
    let name = PathBuf::from(request.path.file_name().unwrap_or(OsStr::new("file")));
    let file = folder
        .write(&name, shown.expose())
        .map_err(|error| unwritable("create temporary file", &error))?;
    let mut rejected = SecretBytes::default();
    loop {
        if watch.received().is_some() {
            return Err(Failure::new(
                code::EDITOR,
                "Could not run editor: interrupted",
            ));
        }
        let ended = run_editor(run, &file);
        watch.forget();
        ended?;
        let edited = files::read(run, Some(&file))
            .map_err(|failure| Failure::new(code::UNREADABLE, failure.text))?;
        if edited.expose() == shown.expose() {
            let text = "File has not changed, exiting.";
            return Err(Failure::new(code::UNCHANGED, text));
        }
        let is_stuck = edited.expose() == rejected.expose();
        rejected = edited.clone();
        match accept(request, opened, (input, output), edited) {
            Ok(tree) => {
                opened.tree = tree;
                if is_older(&opened.metadata.version()) {
                    opened.metadata.set_version(FORMAT_VERSION);
                }
                return Ok(());
            }
            Err(reason) => {
                // The plaintext goes with us where the user has enough.
                let _cleanup = signal::Cleanup::start(folder.path());
                ask_again(run, &reason, is_stuck)?;
            }
        }
    }
}

fn not_marshalled(failure: &Failure) -> Failure {
    let text = failure
        .text
        .replace("Error dumping file", "Could not marshal tree");
    Failure::new(failure.code, text)
}

/// Reads what came back from the editor.
fn accept(
    request: &Request<'_>,
    opened: &mut Opened,
    (input, output): (Format, Format),
    edited: SecretBytes,
) -> Result<Tree<'static>, String> {
    if request.shows_metadata {
        let loaded = files::load_encrypted(input, edited)
            .map_err(|failure| format!("SOPS metadata is invalid: {}", failure.text))?;
        let (old, new) = (&opened.metadata, &loaded.metadata);
        let names = |metadata: &crate::sops::metadata::Metadata| -> Vec<Vec<String>> {
            let groups = metadata.groups.iter();
            let names = groups.map(|group| group.iter().map(|key| key.id.to_string()).collect());
            names.collect()
        };
        if names(old) != names(new) || old.threshold() != new.threshold() {
            // Wrapped keys cannot be typed.
            return Err("keys cannot be changed in the editor: `sops rotate --add-… --rm-…`, `sops updatekeys` and `sops groups` do it".to_owned());
        }
        if loaded.metadata.selection != opened.metadata.selection {
            opened.metadata.set_selection(&loaded.metadata.selection);
        }
        return Ok(loaded.tree);
    }
    let tree = files::load_plain(input, &edited).map_err(|failure| {
        format!(
            "Could not load tree, probably due to invalid syntax: {}",
            failure.text
        )
    })?;
    files::check_free(output, &tree)
        .map_err(|failure| format!("Tree not valid for encryption: {}", failure.text))?;
    Ok(tree)
}

/// Returns whether a version is older than the one whose format this program writes.
fn is_older(version: &str) -> bool {
    let parts = |version: &str| -> Vec<u64> {
        let plain = version.strip_prefix('v').unwrap_or(version);
        let core = plain.split(['-', '+']).next().unwrap_or_default();
        core.split('.')
            .map(|part| part.parse().unwrap_or(0))
            .collect()
    };
    version.starts_with("1.") || parts(version) < parts(FORMAT_VERSION)
}

/// Says what is wrong and waits for the Enter key. Where nobody is there to press it the editor runs again,
/// but not for the same result.
fn ask_again(run: &mut Run<'_>, reason: &str, is_stuck: bool) -> Result<(), Failure> {
    use std::io::Read;
    run.warn(&format!(
        "{reason}\nPress enter to return to the editor, or Ctrl+C to exit."
    ));
    let mut key = [0];
    match run.env.stdin.read(&mut key) {
        Ok(0) | Err(_) if is_stuck => Err(Failure::new(
            code::EDITOR,
            "nothing was written: what the editor left cannot be encrypted, and nobody can be asked",
        )),
        _ => Ok(()),
    }
}

fn run_editor(run: &mut Run<'_>, file: &Path) -> Result<(), Failure> {
    let failed = |why: &str| Failure::new(code::EDITOR, format!("Could not run editor: {why}"));
    let mut words = editor(run).map_err(|why| failed(&why))?;
    let program = Path::new(&words[0]).file_name().unwrap_or_default();
    let program = program.to_string_lossy().into_owned();
    if LEAVES_COPIES.contains(&program.as_str()) {
        words.splice(1..1, ["-n", "--cmd", NO_COPIES].map(OsString::from));
    }
    let waits = |word: &OsString| word == "--wait" || word == "-w";
    if RETURNS_AT_ONCE.contains(&program.as_str()) && !words.iter().any(waits) {
        words.push("--wait".into());
    }
    words.push(file.into());
    match shell::run_program(&words, &run.env.vars) {
        Ok(shell::End::Code(0)) => Ok(()),
        Ok(shell::End::Code(code)) => Err(failed(&format!("exit status {code}"))),
        Ok(shell::End::Signal(signal)) => Err(failed(&format!("signal {signal}"))),
        Err(error) => Err(failed(&format!("{program}: {}", files::in_words(&error)))),
    }
}

/// Returns the editor's words: of `SOPS_EDITOR`, of `EDITOR`, or the first of a few that is installed.
fn editor(run: &Run<'_>) -> Result<Vec<OsString>, String> {
    for variable in ["SOPS_EDITOR", "EDITOR"] {
        let Some(text) = run.env.var(variable) else {
            continue;
        };
        let words = text.to_str().and_then(shlex::split);
        return match words {
            Some(words) if !words.is_empty() => Ok(words.into_iter().map(Into::into).collect()),
            _ => Err(format!("invalid ${variable}: {}", text.to_string_lossy())),
        };
    }
    let mut found = EDITORS
        .iter()
        .filter_map(|name| shell::find_program(name, &run.env.vars));
    let program = found.next().ok_or_else(|| {
        format!(
            "no editor available: sops attempts to use the editor defined in the SOPS_EDITOR or EDITOR environment variables, and if that's not set defaults to any of {}, but none of them could be found",
            EDITORS.join(", ")
        )
    })?;
    Ok(vec![program])
}

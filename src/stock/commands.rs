//! The commands of the reference program: their flags, their checks in its order, what they call.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::os::fs;
use crate::secret::SecretBytes;
use crate::sops::error::DocumentError;
use crate::sops::master_key::KeyId;
use crate::sops::metadata::MetadataError;
use crate::sops::tree::PathStep;

use super::config;
use super::crypt::{self, Change, Reading};
use super::edit;
use super::exec;
use super::failure::{Failure, code};
use super::files::{self, Holds};
use super::flags::{Flag, Parsed, parse, parse_reordered};
use super::groups;
use super::help;
use super::publish;
use super::{Run, Sink, check_services, decryption_order};

const INPUT_TYPE: Flag = Flag::text(
    &["input-type"],
    "format of the input: yaml, json, dotenv, ini or binary [default: by the name]",
);
const OUTPUT_TYPE: Flag = Flag::text(
    &["output-type"],
    "format of the output: yaml, json, dotenv, ini or binary [default: by the name]",
);
const IN_PLACE: Flag = Flag::switch(&["in-place", "i"], "write the result over the file");
const OUTPUT: Flag = Flag::text(&["output"], "write the result to this file");
const OVERRIDE: Flag = Flag::text(
    &["filename-override"],
    "take rules and formats for this name, whatever the file's is",
);
const IGNORE_MAC: Flag = Flag::switch(&["ignore-mac"], "do not verify the MAC");
const ORDER: Flag = Flag::text(
    &["decryption-order"],
    "kinds of keys to try first, separated by commas",
)
.or("SOPS_DECRYPTION_ORDER");
const THRESHOLD: Flag = Flag::number(
    &["shamir-secret-sharing-threshold"],
    "how many key groups are needed to open the file",
);
const CONTEXT: Flag = Flag::text(
    &["encryption-context"],
    "encryption context of AWS keys, `key:value` separated by commas",
);
const LOCAL_SERVICE: Flag = Flag::switch(&["enable-local-keyservice"], "use the keys at hand").on();
const KEY_SERVICE: Flag = Flag::list(&["keyservice"], "deliberately absent: a key service to ask");

const SERVICES: [Flag; 2] = [
    LOCAL_SERVICE.or("SOPS_ENABLE_LOCAL_KEYSERVICE"),
    KEY_SERVICE.or("SOPS_KEYSERVICE"),
];

const KEYS: [Flag; 8] = [
    Flag::text(&["kms", "k"], "AWS KMS keys, separated by commas").or("SOPS_KMS_ARN"),
    Flag::text(&["aws-profile"], "AWS profile of these keys"),
    Flag::text(&["gcp-kms"], "Google Cloud KMS keys").or("SOPS_GCP_KMS_IDS"),
    Flag::text(&["hckms"], "Huawei Cloud KMS keys").or("SOPS_HUAWEICLOUD_KMS_IDS"),
    Flag::text(&["azure-kv"], "Azure Key Vault keys").or("SOPS_AZURE_KEYVAULT_URLS"),
    Flag::text(&["hc-vault-transit"], "Vault transit keys, by URI").or("SOPS_VAULT_URIS"),
    Flag::text(&["pgp", "p"], "PGP fingerprints, separated by commas").or("SOPS_PGP_FP"),
    Flag::text(&["age", "a"], "age recipients, separated by commas").or("SOPS_AGE_RECIPIENTS"),
];

const SELECTION: [Flag; 4] = [
    Flag::text(
        &["unencrypted-suffix"],
        "leave keys with this suffix in clear",
    ),
    Flag::text(&["encrypted-suffix"], "encrypt keys with this suffix only"),
    Flag::text(&["unencrypted-regex"], "leave keys that match in clear"),
    Flag::text(&["encrypted-regex"], "encrypt keys that match only"),
];

const CHANGED_KEYS: [Flag; 14] = [
    Flag::text(&["add-gcp-kms"], "add Google Cloud KMS keys"),
    Flag::text(&["rm-gcp-kms"], "remove Google Cloud KMS keys"),
    Flag::text(&["add-hckms"], "add Huawei Cloud KMS keys"),
    Flag::text(&["rm-hckms"], "remove Huawei Cloud KMS keys"),
    Flag::text(&["add-azure-kv"], "add Azure Key Vault keys"),
    Flag::text(&["rm-azure-kv"], "remove Azure Key Vault keys"),
    Flag::text(&["add-kms"], "add AWS KMS keys"),
    Flag::text(&["rm-kms"], "remove AWS KMS keys"),
    Flag::text(&["add-hc-vault-transit"], "add Vault transit keys"),
    Flag::text(&["rm-hc-vault-transit"], "remove Vault transit keys"),
    Flag::text(&["add-age"], "add age recipients"),
    Flag::text(&["rm-age"], "remove age recipients"),
    Flag::text(&["add-pgp"], "add PGP keys"),
    Flag::text(&["rm-pgp"], "remove PGP keys"),
];

/// The kinds of keys that flags add and remove, in the order the reference adds them.
const KIND_FLAGS: [&str; 7] = [
    "kms",
    "pgp",
    "gcp-kms",
    "hckms",
    "azure-kv",
    "hc-vault-transit",
    "age",
];

const YES: Flag = Flag::switch(&["yes", "y"], "change without asking");
const BACKGROUND: Flag = Flag::switch(&["background"], "do not wait for the command");
const USER: Flag = Flag::text(
    &["user"],
    "deliberately absent: run the command as another user",
);

/// A command with its flags.
pub(super) struct Command {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Its arguments, in a line.
    pub args: &'static str,
    /// Its flags.
    pub flags: &'static [&'static [Flag]],
    run: fn(&mut Run<'_>, &Parsed) -> Result<u8, Failure>,
}

impl Command {
    /// Returns all its flags.
    pub(super) fn all_flags(&self) -> Vec<Flag> {
        self.flags.iter().copied().flatten().copied().collect()
    }
}

/// The commands, in the order of the help.
pub(super) const COMMANDS: [Command; 13] = [
    Command {
        name: "encrypt",
        about: "Encrypt a file, or standard input",
        args: "[FILE]",
        flags: &[
            &[
                IN_PLACE,
                OUTPUT,
                INPUT_TYPE,
                OUTPUT_TYPE,
                CONTEXT,
                THRESHOLD,
                OVERRIDE,
            ],
            &KEYS,
            &SELECTION,
            &SERVICES,
        ],
        run: encrypt,
    },
    Command {
        name: "decrypt",
        about: "Decrypt a file, or standard input",
        args: "[FILE]",
        flags: &[
            &[
                IN_PLACE,
                Flag::text(&["extract"], "only what stands at a path: `[\"key\"][0]`"),
                OUTPUT,
                INPUT_TYPE,
                OUTPUT_TYPE,
                IGNORE_MAC,
                OVERRIDE,
                ORDER,
            ],
            &SERVICES,
        ],
        run: decrypt,
    },
    Command {
        name: "edit",
        about: "Edit an encrypted file, or begin one",
        args: "FILE",
        flags: &[
            &KEYS,
            &[INPUT_TYPE, OUTPUT_TYPE],
            &SELECTION,
            &[
                CONTEXT,
                THRESHOLD,
                Flag::switch(
                    &["show-master-keys", "s"],
                    "show the metadata in the editor",
                ),
                IGNORE_MAC,
                ORDER,
            ],
            &SERVICES,
        ],
        run: edit,
    },
    Command {
        name: "set",
        about: "Set a value in an encrypted file",
        args: "FILE PATH [VALUE]",
        flags: &[
            &[
                INPUT_TYPE,
                OUTPUT_TYPE,
                Flag::switch(&["value-file"], "VALUE names a file that the value is in"),
                Flag::switch(&["value-stdin"], "read the value from standard input"),
                THRESHOLD,
                IGNORE_MAC,
                ORDER,
                Flag::switch(
                    &["idempotent"],
                    "write nothing where the value is there already",
                ),
            ],
            &SERVICES,
        ],
        run: set,
    },
    Command {
        name: "unset",
        about: "Take a value out of an encrypted file",
        args: "FILE PATH",
        flags: &[
            &[
                INPUT_TYPE,
                OUTPUT_TYPE,
                THRESHOLD,
                IGNORE_MAC,
                ORDER,
                Flag::switch(&["idempotent"], "write nothing where no value is there"),
            ],
            &SERVICES,
        ],
        run: unset,
    },
    Command {
        name: "rotate",
        about: "Give a file a new data key; add and remove keys",
        args: "FILE",
        flags: &[
            &[
                IN_PLACE,
                OUTPUT,
                INPUT_TYPE,
                OUTPUT_TYPE,
                CONTEXT,
                OVERRIDE,
                ORDER,
            ],
            &CHANGED_KEYS,
            &SERVICES,
        ],
        run: rotate,
    },
    Command {
        name: "updatekeys",
        about: "Bring the keys of files in line with the rules file",
        args: "FILE...",
        flags: &[&[YES, INPUT_TYPE], &SERVICES],
        run: groups::update_keys,
    },
    Command {
        name: "groups",
        about: "Add or delete a key group: `groups add`, `groups delete`",
        args: "add|delete",
        flags: &[],
        run: |run, _| help::of_groups(run),
    },
    Command {
        name: "exec-env",
        about: "Run a command with the values in its environment",
        args: "FILE COMMAND",
        flags: &[
            &[
                BACKGROUND,
                Flag::switch(
                    &["pristine"],
                    "with the values only, not with our environment",
                ),
                USER,
                Flag::switch(&["same-process"], "in the place of this process"),
                ORDER,
            ],
            &SERVICES,
        ],
        run: exec::with_environment,
    },
    Command {
        name: "exec-file",
        about: "Run a command with the plaintext in a pipe or file: `{}` is its path",
        args: "FILE COMMAND",
        flags: &[
            &[
                BACKGROUND,
                Flag::switch(&["no-fifo"], "a file rather than a pipe"),
                USER,
                INPUT_TYPE,
                OUTPUT_TYPE,
                Flag::text(&["filename"], "its name [default: tmp-file]"),
                ORDER,
            ],
            &SERVICES,
        ],
        run: exec::with_file,
    },
    Command {
        name: "publish",
        about: "Write a decrypted file to the Vault that the rules file names",
        args: "PATH",
        flags: &[
            &[
                YES,
                Flag::switch(&["omit-extensions"], "leave out the extension of the name"),
                Flag::switch(&["recursive"], "all files of a folder"),
                Flag::switch(&["verbose"], "say more"),
                ORDER,
            ],
            &SERVICES,
        ],
        run: publish::publish,
    },
    Command {
        name: "filestatus",
        about: "Say as JSON whether a file is encrypted",
        args: "FILE",
        flags: &[&[INPUT_TYPE]],
        run: file_status,
    },
    Command {
        name: "completion",
        about: "Print what completes commands in a shell: `bash` or `zsh`",
        args: "bash|zsh",
        flags: &[],
        run: |run, parsed| help::completion(run, &parsed.args),
    },
];

const GROUP_KEYS: [Flag; 8] = [
    Flag::list(&["pgp"], "PGP fingerprints of the new group (repeatable)"),
    Flag::list(&["kms"], "AWS KMS keys of the new group (repeatable)"),
    Flag::text(&["aws-profile"], "AWS profile of these keys"),
    Flag::list(
        &["gcp-kms"],
        "Google Cloud KMS keys of the new group (repeatable)",
    ),
    Flag::list(
        &["hckms"],
        "Huawei Cloud KMS keys of the new group (repeatable)",
    ),
    Flag::list(
        &["azure-kv"],
        "Azure Key Vault keys of the new group (repeatable)",
    ),
    Flag::list(
        &["hc-vault-transit"],
        "Vault transit keys of the new group (repeatable)",
    ),
    Flag::list(&["age"], "age recipients of the new group (repeatable)"),
];
const GROUP_FILE: [Flag; 3] = [Flag::text(&["file", "f"], "the file"), IN_PLACE, THRESHOLD];

/// The commands behind `groups`.
pub(super) const GROUP_COMMANDS: [Command; 2] = [
    Command {
        name: "add",
        about: "Add a key group to a file",
        args: "",
        flags: &[&GROUP_FILE, &GROUP_KEYS, &[CONTEXT], &SERVICES],
        run: groups::add,
    },
    Command {
        name: "delete",
        about: "Delete a key group of a file, by its number from 0",
        args: "NUMBER",
        flags: &[&GROUP_FILE, &SERVICES],
        run: groups::delete,
    },
];

/// The flags of the program itself, for use without a command and before one.
pub(super) fn root_flags() -> Vec<Flag> {
    let mut flags = vec![
        Flag::switch(&["decrypt", "d"], "decrypt a file"),
        Flag::switch(&["encrypt", "e"], "encrypt a file"),
        Flag::switch(&["rotate", "r"], "give a file a new data key"),
        Flag::switch(
            &["disable-version-check"],
            "no new version is ever looked for",
        )
        .or("SOPS_DISABLE_VERSION_CHECK"),
        Flag::switch(
            &["check-for-updates"],
            "deliberately absent: nothing is looked for",
        ),
    ];
    flags.extend(KEYS);
    flags.extend([
        IN_PLACE,
        Flag::text(&["extract"], "only what stands at a path"),
        INPUT_TYPE,
        OUTPUT_TYPE,
        Flag::switch(
            &["show-master-keys", "s"],
            "show the metadata in the editor",
        ),
    ]);
    flags.extend(CHANGED_KEYS);
    flags.extend([
        IGNORE_MAC,
        Flag::switch(
            &["mac-only-encrypted"],
            "let the MAC cover encrypted values only",
        ),
    ]);
    flags.extend(SELECTION);
    flags.extend([
        Flag::text(
            &["unencrypted-comment-regex"],
            "leave values in clear whose comment matches",
        ),
        Flag::text(
            &["encrypted-comment-regex"],
            "encrypt values only whose comment matches",
        ),
        Flag::text(&["config"], "the rules file").or("SOPS_CONFIG"),
        CONTEXT,
        Flag::text(&["set"], "set a value: `[\"key\"] VALUE`"),
        THRESHOLD,
        Flag::number(&["indent"], "blanks of a level of YAML or JSON"),
        Flag::switch(&["verbose"], "say more"),
        OUTPUT,
        OVERRIDE,
        ORDER,
    ]);
    flags.extend(SERVICES);
    flags.extend([help::HELP, help::VERSION_FLAG]);
    flags
}

/// Finds and runs the command of a command line.
///
/// # Errors
/// What failed.
pub(super) fn dispatch(run: &mut Run<'_>, args: &[OsString]) -> Result<u8, Failure> {
    // The shell asks what could stand next.
    if args
        .last()
        .is_some_and(|last| last == help::COMPLETION_FLAG)
    {
        return help::complete(run, &args[..args.len() - 1]);
    }
    let flags = root_flags();
    run.global = match parse(&flags, args, run.env) {
        Ok(parsed) => parsed,
        Err(error) => return help::wrong_usage(run, None, &error),
    };
    if run.global.is_on("help") {
        return help::show(run, None);
    }
    if run.global.is_on("version") {
        return help::version(run);
    }
    let (name, rest) = match run.global.args.split_first() {
        Some((name, rest)) => (name.clone(), rest.to_vec()),
        None => (OsString::new(), Vec::new()),
    };
    let name = name.to_string_lossy().into_owned();
    match name.as_str() {
        "help" | "h" => return help::show_named(run, &rest),
        "groups" => return run_group(run, &rest),
        "keyservice" => {
            return Err(Failure::generic(
                "keyservice: serving keys over a network is deliberately absent; stock `sops` has it",
            ));
        }
        _ => {}
    }
    match COMMANDS.iter().find(|command| command.name == name) {
        Some(command) => run_command(run, command, &rest),
        None => without_command(run),
    }
}

fn run_group(run: &mut Run<'_>, args: &[OsString]) -> Result<u8, Failure> {
    let first = args.first().map(|word| word.to_string_lossy().into_owned());
    let command = first
        .as_deref()
        .and_then(|name| GROUP_COMMANDS.iter().find(|command| command.name == name));
    match command {
        Some(command) => run_command(run, command, &args[1..]),
        None => match first.filter(|name| !name.starts_with('-')) {
            Some(name) => Err(Failure::new(
                code::UNWRITABLE,
                format!("No help topic for '{name}'"),
            )),
            None => help::of_groups(run),
        },
    }
}

fn run_command(run: &mut Run<'_>, command: &Command, args: &[OsString]) -> Result<u8, Failure> {
    let mut flags = command.all_flags();
    flags.push(help::HELP);
    let parsed = match parse_reordered(&flags, args, run.env) {
        Ok(parsed) => parsed,
        Err(error) => return help::wrong_usage(run, Some(command), &error),
    };
    if parsed.is_on("help") {
        return help::show(run, Some(command));
    }
    run.is_verbose = parsed.is_on("verbose") || run.global.is_on("verbose");
    (command.run)(run, &parsed)
}

/// Says that arguments behind the first count for nothing.
fn warn_of_more(run: &mut Run<'_>, parsed: &Parsed) {
    if parsed.args.len() < 2 {
        return;
    }
    run.warn("More than one positional argument provided. Only the first one will be used!");
    let flag = parsed.args[1..]
        .iter()
        .rev()
        .map(|arg| arg.to_string_lossy())
        .find(|arg| arg.starts_with('-'));
    if let Some(flag) = flag {
        run.warn(&format!(
            "Note that one of the ignored positional argument is {flag:?}, which looks like a flag. Flags must always be provided before the first positional argument!"
        ));
    }
}

fn no_file() -> Failure {
    Failure::new(code::NO_FILE, "Error: no file specified")
}

fn not_there(path: &Path) -> Failure {
    let text = format!(
        "Error: cannot operate on non-existent file \"{}\"",
        path.display()
    );
    Failure::new(code::NO_FILE, text)
}

fn check_outputs(parsed: &Parsed) -> Result<(), Failure> {
    if parsed.is_on("in-place") && parsed.has("output") {
        let text = "Error: cannot operate on both --output and --in-place";
        return Err(Failure::new(code::CONFLICT, text));
    }
    Ok(())
}

fn check_no_place(parsed: &Parsed) -> Result<(), Failure> {
    if parsed.is_on("in-place") {
        let text = "Error: cannot use --in-place when reading from stdin";
        return Err(Failure::new(code::CONFLICT, text));
    }
    Ok(())
}

/// Returns the path of the first argument, if there is one; it must exist.
fn input_of(run: &mut Run<'_>, parsed: &Parsed) -> Result<Option<std::path::PathBuf>, Failure> {
    warn_of_more(run, parsed);
    check_outputs(parsed)?;
    let Some(first) = parsed.args.first() else {
        return Ok(None);
    };
    let path = run.absolute(first);
    if !fs::exists(&path) {
        return Err(not_there(&path));
    }
    Ok(Some(path))
}

fn reading(run: &mut Run<'_>, parsed: &Parsed) -> Result<Reading, Failure> {
    check_services(run, parsed)?;
    Ok(Reading {
        order: decryption_order(parsed)?,
        ignore_mac: parsed.is_on("ignore-mac"),
    })
}

/// Cleans up after a killed run where the file itself is going to be written.
fn clean_up_in_place(run: &mut Run<'_>, parsed: &Parsed, path: &Path) {
    if parsed.is_on("in-place") {
        files::clean_up(run, path);
    }
}

fn encrypt(run: &mut Run<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    if parsed.args.is_empty() {
        check_no_place(parsed)?;
        if !parsed.has("filename-override") {
            let text = "Error: must specify --filename-override when reading from stdin";
            return Err(Failure::new(code::CONFLICT, text));
        }
    }
    let path = input_of(run, parsed)?;
    let place = path.clone().unwrap_or_default();
    clean_up_in_place(run, parsed, &place);
    let subject = config::subject(run, parsed, &place);
    let formats = config::formats(parsed, subject.as_os_str());
    config::find(run)?;
    let new = config::for_new_file(run, parsed, &subject, formats.0, None)?;
    check_services(run, parsed)?;
    let bytes = files::read(run, path.as_deref())?;
    let indents = config::indents(run, formats.1)?;
    let text = crypt::encrypt(run, formats, &bytes, new, indents)?;
    Sink::of(run, parsed, &place).put(run, &text, Holds::Ciphertext)?;
    Ok(0)
}

fn decrypt(run: &mut Run<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    if parsed.args.is_empty() {
        check_no_place(parsed)?;
    }
    let path = input_of(run, parsed)?;
    let place = path.clone().unwrap_or_default();
    clean_up_in_place(run, parsed, &place);
    let subject = config::subject(run, parsed, &place);
    let formats = config::formats(parsed, subject.as_os_str());
    config::find(run)?;
    let reading = reading(run, parsed)?;
    let extract = extract_path(parsed)?;
    let bytes = files::read(run, path.as_deref())?;
    let opened = crypt::open(run, formats.0, bytes, &reading)?;
    let indents = config::indents(run, formats.1)?;
    let text = crypt::plain(&opened, &extract, formats.1, indents)?;
    Sink::of(run, parsed, &place).put(run, &text, Holds::Plaintext)?;
    Ok(0)
}

fn extract_path(parsed: &Parsed) -> Result<Vec<PathStep>, Failure> {
    PathStep::parse(&parsed.text("extract")).map_err(|error| {
        let text = format!("error parsing --extract path: {error}");
        Failure::new(code::BAD_PATH, text)
    })
}

fn edit(run: &mut Run<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let first = parsed.args.first().ok_or_else(no_file)?;
    let path = run.absolute(first);
    warn_of_more(run, parsed);
    config::find(run)?;
    let formats = config::formats(parsed, path.as_os_str());
    let reading = reading(run, parsed)?;
    let request = edit::Request {
        path: &path,
        formats,
        reading,
        shows_metadata: parsed.is_on("show-master-keys"),
    };
    edit::edit(run, parsed, &request, None)
}

fn set(run: &mut Run<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let (is_file, is_stdin) = (parsed.is_on("value-file"), parsed.is_on("value-stdin"));
    if is_file && is_stdin {
        return Err(Failure::generic(
            "Error: cannot use both --value-file and --value-stdin",
        ));
    }
    let (needed, reason) = if is_stdin {
        (
            2,
            "Error: file specified, or index and value are missing. Need precisely 2 positional arguments since --value-stdin is used.",
        )
    } else {
        (
            3,
            "Error: no file specified, or index and value are missing. Need precisely 3 positional arguments.",
        )
    };
    if parsed.args.len() != needed {
        return Err(Failure::new(code::NO_FILE, reason));
    }
    let path = run.absolute(&parsed.args[0]);
    config::find(run)?;
    let formats = config::formats(parsed, path.as_os_str());
    let steps = PathStep::parse(&parsed.args[1].to_string_lossy())
        .map_err(|_| Failure::new(code::BAD_SET, "Invalid set index format"))?;
    files::clean_up(run, &path);
    let value = if is_stdin {
        files::read(run, None).map_err(|failure| Failure::generic(failure.text))?
    } else if is_file {
        let from = run.absolute(&parsed.args[2]);
        files::read(run, Some(&from)).map_err(|failure| Failure::generic(failure.text))?
    } else {
        SecretBytes::copy_of(parsed.args[2].as_encoded_bytes())
    };
    let value = crypt::value_of(&value)?;
    let reading = reading(run, parsed)?;
    let is_idempotent = parsed.is_on("idempotent");
    let change = Change::Set(steps, value);
    let text = crypt::change(run, formats, &path, &reading, change, is_idempotent)?;
    if let Some(text) = text {
        files::write(run, &path, &text, Holds::Ciphertext)?;
    }
    Ok(0)
}

fn unset(run: &mut Run<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    if parsed.args.len() != 2 {
        let text = "Error: no file specified, or index is missing";
        return Err(Failure::new(code::NO_FILE, text));
    }
    let path = run.absolute(&parsed.args[0]);
    files::clean_up(run, &path);
    config::find(run)?;
    let formats = config::formats(parsed, path.as_os_str());
    let steps = PathStep::parse(&parsed.args[1].to_string_lossy())
        .map_err(|_| Failure::new(code::BAD_SET, "Invalid unset index format"))?;
    let reading = reading(run, parsed)?;
    let is_idempotent = parsed.is_on("idempotent");
    let change = Change::Unset(steps);
    let text = crypt::change(run, formats, &path, &reading, change, is_idempotent)?;
    if let Some(text) = text {
        files::write(run, &path, &text, Holds::Ciphertext)?;
    }
    Ok(0)
}

/// Reads the flags that add or remove keys.
fn changed_keys(run: &mut Run<'_>, parsed: &Parsed, prefix: &str) -> Result<Vec<KeyId>, Failure> {
    let context = config::encryption_context(run, parsed);
    let profile = parsed.text("aws-profile");
    let mut keys = Vec::new();
    for kind in KIND_FLAGS {
        let text = parsed.text(&format!("{prefix}{kind}"));
        keys.extend(config::keys_of_flag(kind, &text, &context, &profile)?);
    }
    Ok(keys)
}

fn changes_keys(parsed: &Parsed) -> bool {
    CHANGED_KEYS.iter().any(|flag| parsed.has(flag.names[0]))
}

fn rotate(run: &mut Run<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let first = parsed.args.first().ok_or_else(no_file)?;
    let path = run.absolute(first);
    clean_up_in_place(run, parsed, &path);
    warn_of_more(run, parsed);
    check_outputs(parsed)?;
    if !fs::exists(&path) && changes_keys(parsed) {
        let text = format!(
            "Error: cannot add or remove keys on non-existent file \"{}\", use the `edit` subcommand instead.",
            path.display()
        );
        return Err(Failure::new(code::NO_FILE_FOR_KEYS, text));
    }
    let subject = config::subject(run, parsed, &path);
    config::find(run)?;
    let formats = config::formats(parsed, subject.as_os_str());
    let reading = reading(run, parsed)?;
    let (added, removed) = (
        changed_keys(run, parsed, "add-")?,
        changed_keys(run, parsed, "rm-")?,
    );
    let text = crypt::rotate(run, formats, &path, &reading, added, &removed)?;
    Sink::of(run, parsed, &path).put(run, &text, Holds::Ciphertext)?;
    Ok(0)
}

fn file_status(run: &mut Run<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let first = parsed.args.first().ok_or_else(no_file)?.clone();
    config::find(run)?;
    let path = run.absolute(&first);
    let format = files::format_of(&parsed.text("input-type"), &first);
    let cannot = |why: &str| {
        Failure::generic(format!(
            "cannot check file status: cannot load encrypted file: {why}"
        ))
    };
    let bytes = files::read(run, Some(&path)).map_err(|failure| cannot(&failure.text))?;
    let is_encrypted = match files::parse_encrypted(format, bytes.into_public()) {
        Ok(sealed) => !sealed.metadata.version().is_empty() && !sealed.metadata.mac.is_empty(),
        Err(DocumentError::NotSops) => false,
        // The reference looks at these two only, and not at what they are.
        Err(DocumentError::Metadata(MetadataError::Version { version, has_mac })) => {
            !version.is_empty() && has_mac
        }
        Err(error) => return Err(cannot(&files::loading_error(&error))),
    };
    run.print(format!("{{\"encrypted\":{is_encrypted}}}\n").as_bytes())?;
    Ok(0)
}

/// Does what the flags say where no command is named: encrypt, decrypt, rotate, set, else edit.
#[expect(
    clippy::too_many_lines,
    reason = "the flags of one command line, in the order in which the reference looks at them"
)]
fn without_command(run: &mut Run<'_>) -> Result<u8, Failure> {
    let parsed = run.global.clone();
    run.is_verbose = parsed.is_on("verbose");
    let (is_encrypt, is_decrypt, is_rotate, is_set) = (
        parsed.is_on("encrypt"),
        parsed.is_on("decrypt"),
        parsed.is_on("rotate"),
        parsed.has("set"),
    );
    let is_edit = !is_encrypt && !is_decrypt && !is_rotate && !is_set;
    let first = parsed.args.first().ok_or_else(no_file)?;
    let path = run.absolute(first);
    warn_of_more(run, &parsed);
    check_outputs(&parsed)?;
    if !fs::exists(&path) {
        if changes_keys(&parsed) {
            let text = format!(
                "Error: cannot add or remove keys on non-existent file \"{}\", use `--kms` and `--pgp` instead.",
                path.display()
            );
            return Err(Failure::new(code::NO_FILE_FOR_KEYS, text));
        }
        if is_encrypt || is_decrypt || is_rotate {
            return Err(not_there(&path));
        }
        if is_edit && looks_like_a_command(first) {
            // The reference opens an editor on a new file of that name.
            return Err(Failure::generic(format!(
                "there is no command `{0}` and no such file; `sops edit ./{0}` begins a file of that name, `sops help` lists the commands",
                first.display()
            )));
        }
    }
    let subject = config::subject(run, &parsed, &path);
    clean_up_in_place(run, &parsed, &path);
    let modes = [is_encrypt, is_decrypt, is_rotate, is_set];
    if modes.iter().filter(|mode| **mode).count() > 1 {
        run.warn("More than one command (--encrypt, --decrypt, --rotate, --set) has been specified. Only the changes made by the last one will be visible. Note that this behavior is deprecated and will cause an error eventually.");
    }
    let needs_rule = is_encrypt || is_rotate || is_set || is_edit;
    let rule = if needs_rule {
        let context = config::encryption_context(run, &parsed);
        config::rule_for(run, &subject, &context)?
    } else {
        None
    };
    config::find(run)?;
    let formats = config::formats(&parsed, subject.as_os_str());
    let reading = reading(run, &parsed)?;
    if is_edit {
        let request = edit::Request {
            path: &path,
            formats,
            reading,
            shows_metadata: parsed.is_on("show-master-keys"),
        };
        return edit::edit(run, &parsed, &request, rule);
    }
    // Several at once: the last one counts.
    let mut result: Option<(Result<SecretBytes, Failure>, Holds)> = None;
    if is_encrypt {
        let new = config::for_new_file(run, &parsed, &subject, formats.0, rule)?;
        let indents = config::indents(run, formats.1)?;
        let text = files::read(run, Some(&path))
            .and_then(|bytes| crypt::encrypt(run, formats, &bytes, new, indents));
        result = Some((text, Holds::Ciphertext));
    }
    if is_decrypt {
        let extract = extract_path(&parsed)?;
        let bytes = files::read(run, Some(&path))?;
        let text = crypt::open(run, formats.0, bytes, &reading).and_then(|opened| {
            let indents = config::indents(run, formats.1)?;
            crypt::plain(&opened, &extract, formats.1, indents)
        });
        result = Some((text, Holds::Plaintext));
    }
    if is_rotate {
        let (added, removed) = (
            changed_keys(run, &parsed, "add-")?,
            changed_keys(run, &parsed, "rm-")?,
        );
        let text = crypt::rotate(run, formats, &path, &reading, added, &removed)?;
        // That decrypting failed stays an error.
        result = match result {
            Some((Err(failure), holds)) if is_decrypt => Some((Err(failure), holds)),
            _ => Some((Ok(text), Holds::Ciphertext)),
        };
    }
    if is_set {
        let (steps, value) = set_argument(&parsed.text("set"))?;
        let change = Change::Set(steps, value);
        let text = crypt::change(run, formats, &path, &reading, change, false);
        let text = text.map(Option::unwrap_or_default);
        result = Some((text, Holds::Ciphertext));
    }
    let Some((text, holds)) = result else {
        return Err(no_file());
    };
    let text = text?;
    if is_set {
        files::write(run, &path, &text, holds)?;
    } else {
        Sink::of(run, &parsed, &path).put(run, &text, holds)?;
    }
    Ok(0)
}

/// Reads the argument of `--set`: a path, a blank, a JSON value.
fn set_argument(text: &str) -> Result<(Vec<PathStep>, crate::sops::tree::Node<'static>), Failure> {
    let malformed = || Failure::new(code::BAD_SET, "Invalid --set format");
    let at = text.find("] ").ok_or_else(malformed)?;
    let (path, value) = (&text[..=at], &text[at + 2..]);
    let value = crypt::value_of(&SecretBytes::copy_of(value.as_bytes()))?;
    let path = PathStep::parse(path).map_err(|_| malformed())?;
    Ok((path, value))
}

/// Returns whether a word is more likely a mistyped command than a file.
fn looks_like_a_command(word: &OsStr) -> bool {
    let word = word.to_string_lossy();
    !word.contains(['.', '/'])
        && COMMANDS
            .iter()
            .any(|command| help::is_similar(command.name, &word))
}

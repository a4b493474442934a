//! `.sops.yaml` and the flags that say how a new file is encrypted.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::keys::age::parse_recipient;
use crate::os::fs;
use crate::rules::{Config, ConfiguredIndents, RULES_FILE, Rules, RulesError};
use crate::sops::mac::MacScope;
use crate::sops::master_key::{KeyId, MasterKey};
use crate::sops::metadata::{KeyGroup, Metadata};
use crate::sops::selector::{Selection, SelectionRule};
use crate::sops::store::{Format, Indents};

use super::Run;
use super::failure::{Failure, code};
use super::flags::Parsed;

/// How many folders upward are looked at for the rules file.
const MOST_FOLDERS: usize = 100;
/// Another name that people give it, which does not count.
const OTHER_NAME: &str = ".sops.yml";

/// The options that select what is encrypted, as in the metadata; flags have `-` for `_`.
const SELECTIONS: [&str; 6] = [
    "unencrypted_suffix",
    "encrypted_suffix",
    "encrypted_regex",
    "unencrypted_regex",
    "encrypted_comment_regex",
    "unencrypted_comment_regex",
];

/// The key flags of commands that encrypt: flag and kind, in the order of the group they make.
const KEY_FLAGS: [&str; 7] = [
    "kms",
    "gcp-kms",
    "hckms",
    "azure-kv",
    "pgp",
    "hc-vault-transit",
    "age",
];

/// Whether the rules file was looked for.
pub(super) enum Lookup {
    /// Not yet.
    Open,
    /// What was found.
    Done(Option<Rc<Found>>),
}

/// A rules file.
pub(super) struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// What it says.
    pub config: Config,
}

/// How a new file is encrypted.
pub(super) struct NewFile {
    /// The metadata, without keys and MAC.
    pub metadata: Metadata,
    /// The keys.
    pub groups: Vec<KeyGroup>,
    /// How many groups are needed; 0 for all.
    pub threshold: usize,
}

/// Finds the rules file: that of `--config` or `SOPS_CONFIG`, else from the working directory upward.
///
/// # Errors
/// With the general code, where it was named and cannot be read, or is malformed.
pub(super) fn find(run: &mut Run<'_>) -> Result<Option<Rc<Found>>, Failure> {
    if let Lookup::Done(found) = &run.config {
        return Ok(found.clone());
    }
    let named = run.global.os_text("config").to_owned();
    let path = if named.is_empty() {
        look_upward(run)
    } else {
        Some(run.env.cwd.join(named))
    };
    let found = path.map(|path| load(&path)).transpose()?.map(Rc::new);
    run.config = Lookup::Done(found.clone());
    Ok(found)
}

fn look_upward(run: &mut Run<'_>) -> Option<PathBuf> {
    let mut other: Option<PathBuf> = None;
    for folder in run.env.cwd.ancestors().take(MOST_FOLDERS) {
        let path = folder.join(RULES_FILE);
        let alternative = folder.join(OTHER_NAME);
        if fs::exists(&path) {
            if let Some(other) = other {
                run.warn(&format!(
                    "ignoring \"{}\" when searching for config file; the config file must be called \"{RULES_FILE}\"; using \"{}\" instead",
                    other.display(),
                    path.display()
                ));
            }
            return Some(path);
        }
        if other.is_none() && fs::exists(&alternative) {
            other = Some(alternative);
        }
    }
    if let Some(other) = other {
        run.warn(&format!(
            "ignoring \"{}\" when searching for config file; the config file must be called \"{RULES_FILE}\"",
            other.display()
        ));
    }
    None
}

fn load(path: &Path) -> Result<Found, Failure> {
    let bytes = fs::read_bounded(path, 16 << 20).map_err(|error| {
        let why = super::files::in_words(&error);
        Failure::generic(format!(
            "could not read config file: open {}: {why}",
            path.display()
        ))
    })?;
    let text = String::from_utf8(bytes).map_err(|_| loading("it is not UTF-8"))?;
    let config = Config::parse(&text).map_err(|error| loading(&error.to_string()))?;
    Ok(Found {
        path: path.to_owned(),
        config,
    })
}

fn loading(reason: &str) -> Failure {
    Failure::generic(format!(
        "error loading config: Could not unmarshal config file: {reason}"
    ))
}

fn rule_failure(error: &RulesError) -> Failure {
    Failure::generic(match error {
        RulesError::SeveralSelections { .. } => "error loading config: cannot use more than one of encrypted_suffix, unencrypted_suffix, encrypted_regex, unencrypted_regex, encrypted_comment_regex, or unencrypted_comment_regex for the same rule".to_owned(),
        RulesError::Pattern { source, .. } => format!("can not compile regexp: {source}"),
        other => format!("error loading config: {other}"),
    })
}

/// Returns the indents that the rules file and `--indent` ask for.
///
/// # Errors
/// As [`find`]; with the code for a tree that cannot be written where an indent is impossible.
pub(super) fn indents(run: &mut Run<'_>, format: Format) -> Result<Indents, Failure> {
    let given = run.global.is_given("indent");
    let given = given.then(|| run.global.number("indent"));
    indents_with(run, format, given)
}

/// As [`indents`], whatever `--indent` says.
///
/// # Errors
/// As [`indents`].
pub(super) fn configured_indents(run: &mut Run<'_>, format: Format) -> Result<Indents, Failure> {
    indents_with(run, format, None)
}

fn indents_with(run: &mut Run<'_>, format: Format, given: Option<i64>) -> Result<Indents, Failure> {
    let configured = match find(run)? {
        Some(found) => found
            .config
            .indents()
            .map_err(|error| loading(&error.to_string()))?,
        None => ConfiguredIndents::default(),
    };
    let json = match format {
        Format::Binary => configured.json_binary,
        _ => configured.json,
    };
    let (mut yaml, mut json) = (configured.yaml.unwrap_or(0), json.unwrap_or(-1));
    if let Some(given) = given {
        (yaml, json) = (given, given);
    }
    if format == Format::Yaml && yaml < 0 {
        let text = "Could not marshal tree: YAML Negative indentation not accepted";
        return Err(Failure::new(code::INEXPRESSIBLE, text));
    }
    if matches!(format, Format::Json | Format::Binary) && json < -1 {
        let text =
            "Could not marshal tree: JSON Indentation parameter smaller than -1 is not accepted";
        return Err(Failure::new(code::INEXPRESSIBLE, text));
    }
    Ok(Indents {
        yaml: match usize::try_from(yaml) {
            Ok(0) | Err(_) => Indents::default().yaml,
            Ok(columns) => columns,
        },
        json: usize::try_from(json).ok(),
    })
}

/// What the rules file says of a file.
pub(super) struct RuleOfFile {
    /// The keys, by group.
    pub groups: Vec<Vec<KeyId>>,
    /// How many groups are needed; 0 where it does not say.
    pub threshold: usize,
    selection: Option<SelectionRule>,
    scope: MacScope,
    /// Remarks about keys that are most likely mistyped.
    unknown_keys: Vec<String>,
}

/// Says which keys of a rule are most likely mistyped.
pub(super) fn warn_of_unknown_keys(run: &mut Run<'_>, rule: &RuleOfFile) {
    for remark in &rule.unknown_keys {
        run.warn(remark);
    }
}

/// Returns the creation rule for a file, an absolute path; `None` where there is no rules file or no
/// creation rules in it. `context` goes to the AWS keys of a rule without groups.
///
/// # Errors
/// With the general code.
pub(super) fn rule_for(
    run: &mut Run<'_>,
    file: &Path,
    context: &[(String, String)],
) -> Result<Option<RuleOfFile>, Failure> {
    let Some(found) = find(run)? else {
        return Ok(None);
    };
    let folder = found.path.parent().unwrap_or(Path::new("/"));
    let folder = run.env.absolute(folder);
    let subject = file.strip_prefix(&folder).unwrap_or(file);
    let subject = subject.to_string_lossy();
    let rule = found.config.creation_rule(&subject);
    let Some(rule) = rule.map_err(|error| rule_failure(&error))? else {
        return Ok(None);
    };
    let unknown_keys = rule
        .unknown_keys()
        .filter_map(|unknown| {
            let known = Rules::known_key_like(unknown)?;
            Some(format!(
                "{}: creation rule {} holds the unknown key `{unknown}`, which counts for nothing; is `{known}` meant?",
                found.path.display(),
                rule.number
            ))
        })
        .collect();
    let mut groups = rule.key_groups.map_err(Failure::generic)?;
    check_recipients(groups.iter().flatten())?;
    for id in groups.iter_mut().flatten() {
        if let KeyId::Kms { context: own, .. } = id
            && own.is_empty()
        {
            *own = context.to_vec();
        }
    }
    Ok(Some(RuleOfFile {
        groups,
        threshold: rule.threshold,
        selection: rule.selection_option,
        scope: rule.selection.scope,
        unknown_keys,
    }))
}

fn check_recipients<'k>(ids: impl Iterator<Item = &'k KeyId>) -> Result<(), Failure> {
    for id in ids {
        if let KeyId::Age { recipient } = id {
            parse_recipient(recipient).map_err(|error| Failure::generic(error.to_string()))?;
        }
    }
    Ok(())
}

/// Reads `--encryption-context`: `key:value` pairs; `None` where it is malformed.
fn context_of(text: &str) -> Option<Vec<(String, String)>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',')
        .map(|pair| match pair.split(':').collect::<Vec<_>>()[..] {
            [key, value] => Some((key.to_owned(), value.to_owned())),
            _ => None,
        })
        .collect()
}

/// Returns the encryption context of the flags; a malformed one counts for nothing here.
pub(super) fn encryption_context(run: &mut Run<'_>, parsed: &Parsed) -> Vec<(String, String)> {
    let context = context_of(&parsed.text("encryption-context"));
    context.unwrap_or_else(|| {
        run.warn("Encryption context contains a non-string value, context will not be used");
        Vec::new()
    })
}

/// Reads the keys of one flag.
///
/// # Errors
/// With the general code, for a text that is no key of the kind.
pub(super) fn keys_of_flag(
    flag: &str,
    text: &str,
    context: &[(String, String)],
    profile: &str,
) -> Result<Vec<KeyId>, Failure> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let parts = text.split(',');
    let keys: Result<Vec<KeyId>, String> = match flag {
        "age" => Ok(parts.map(KeyId::age).collect()),
        "pgp" => Ok(parts.map(KeyId::pgp).collect()),
        "kms" => Ok(parts.map(|arn| KeyId::kms(arn, context, profile)).collect()),
        "gcp-kms" => Ok(parts.map(KeyId::gcp_kms).collect()),
        "azure-kv" => parts.map(KeyId::azure_kv).collect(),
        "hckms" => parts
            .filter(|key| !key.trim().is_empty())
            .map(KeyId::hckms)
            .collect(),
        _ => parts
            .filter(|uri| !uri.is_empty())
            .map(KeyId::hc_vault)
            .collect(),
    };
    let keys = keys.map_err(Failure::generic)?;
    check_recipients(keys.iter())?;
    Ok(keys)
}

/// Decides how a new file is encrypted: flags before the rule for `file`, an absolute path.
///
/// # Errors
/// With the general code where no rule or key is found, with that of a conflict for several selection
/// options.
pub(super) fn for_new_file(
    run: &mut Run<'_>,
    parsed: &Parsed,
    file: &Path,
    format: Format,
    rule: Option<RuleOfFile>,
) -> Result<NewFile, Failure> {
    let rule = match rule {
        Some(rule) => Some(rule),
        None => rule_for(run, file, &[])?,
    };
    if let Some(rule) = &rule {
        warn_of_unknown_keys(run, rule);
    }
    let selection = selection_of(run, parsed, rule.as_ref(), format)?;
    let groups = groups_of(run, parsed, rule.as_ref())?;
    let threshold = match usize::try_from(parsed.number("shamir-secret-sharing-threshold")) {
        Err(_) => {
            let text = "--shamir-secret-sharing-threshold: a threshold is not negative";
            return Err(Failure::generic(text));
        }
        Ok(0) => rule.as_ref().map_or(0, |rule| rule.threshold),
        Ok(threshold) => threshold,
    };
    Ok(NewFile {
        metadata: Metadata::new(selection.as_ref()),
        groups,
        threshold,
    })
}

fn selection_of(
    run: &mut Run<'_>,
    parsed: &Parsed,
    rule: Option<&RuleOfFile>,
    format: Format,
) -> Result<Option<Selection>, Failure> {
    let mut options: Vec<(&str, String)> = Vec::new();
    let of_rule = rule.and_then(|rule| rule.selection.as_ref());
    for name in SELECTIONS {
        let given = parsed.text(&name.replace('_', "-"));
        if !given.is_empty() {
            options.push((name, given));
        } else if let Some((_, value)) = of_rule
            .map(SelectionRule::option)
            .filter(|(option, _)| *option == name)
        {
            options.push((name, value.to_owned()));
        }
    }
    if format == Format::Binary {
        for (name, _) in &options {
            let words = name.replace('_', " ");
            if *name != "unencrypted_comment_regex" {
                run.warn(&format!(
                    "Using an {words} does not make sense with the input store (the binary store produces one key that should always be encrypted) and will be ignored."
                ));
            }
        }
        return Ok(None);
    }
    if options.len() > 1 {
        return Err(Failure::new(
            code::CONFLICT,
            "Error: cannot use more than one of encrypted_suffix, unencrypted_suffix, encrypted_regex, unencrypted_regex, encrypted_comment_regex, or unencrypted_comment_regex in the same file",
        ));
    }
    let mut selection = Selection::default();
    if let Some((name, value)) = options.pop()
        && let Some(chosen) = SelectionRule::from_option(name, &value)
    {
        // The reference takes a pattern that cannot be compiled for one that matches nothing, and so
        // leaves everything in clear.
        selection.rule = chosen
            .map_err(|error| Failure::generic(format!("{name}: {error}; nothing was encrypted")))?;
    }
    if run.global.is_on("mac-only-encrypted")
        || rule.is_some_and(|rule| rule.scope == MacScope::OnlyEncrypted)
    {
        selection.scope = MacScope::OnlyEncrypted;
    }
    Ok(Some(selection))
}

fn groups_of(
    run: &mut Run<'_>,
    parsed: &Parsed,
    rule: Option<&RuleOfFile>,
) -> Result<Vec<KeyGroup>, Failure> {
    let context = context_of(&parsed.text("encryption-context"))
        .ok_or_else(|| Failure::new(code::BAD_CONTEXT, "Invalid KMS encryption context format"))?;
    let profile = parsed.text("aws-profile");
    let mut ids = Vec::new();
    for flag in KEY_FLAGS {
        ids.extend(keys_of_flag(flag, &parsed.text(flag), &context, &profile)?);
    }
    let now = run.env.now();
    let new = |ids: &[KeyId]| -> KeyGroup {
        let keys = ids.iter().cloned();
        keys.map(|id| MasterKey::new(id, &now)).collect()
    };
    if KEY_FLAGS.iter().any(|flag| parsed.has(flag)) {
        run.trusted.extend(ids.iter().cloned());
        return Ok(vec![new(&ids)]);
    }
    let Some(rule) = rule else {
        return Err(Failure::generic(
            "config file not found, or has no creation rules, and no keys provided through command line options",
        ));
    };
    Ok(rule.groups.iter().map(|group| new(group)).collect())
}

/// Returns the path that says which rule and which formats count: `--filename-override`, else the file's.
pub(super) fn subject(run: &Run<'_>, parsed: &Parsed, file: &Path) -> PathBuf {
    let other = parsed.os_text("filename-override");
    if other.is_empty() {
        file.to_owned()
    } else {
        run.env.absolute(Path::new(other))
    }
}

/// Returns the input and output formats of a command line for a path.
pub(super) fn formats(parsed: &Parsed, path: &OsStr) -> (Format, Format) {
    (
        super::files::format_of(&parsed.text("input-type"), path),
        super::files::format_of(&parsed.text("output-type"), path),
    )
}

//! Reading `secret-files.toml`.
//!
//! Everything wrong is collected and reported with line and column; an unknown key is an error
//! that names the closest known one, since a field that is silently ignored is a promise broken.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::sops::Layout;
use crate::sops::store::Format;

use super::closest;
use super::error::{ManifestError, ManifestProblem};
use super::family::{PathPattern, is_pattern};
use super::manifest::{
    Defaults, ENCRYPTED_SUFFIX, Entry, Family, Kind, Manifest, NamedRecipient, WriteMode, conflicts,
};
use super::placement::{check_repository_path, check_server_path, parse_mode};

const TOP_KEYS: [&str; 7] = [
    "version",
    "requires",
    "defaults",
    "files",
    "plain",
    "recipients",
    "check",
];
const CHECK_KEYS: [&str; 1] = ["allow"];
const DEFAULT_KEYS: [&str; 5] = ["root", "identity", "owner", "group", "mode"];
const FILE_KEYS: [&str; 10] = [
    "path", "format", "layout", "owner", "group", "mode", "write", "optional", "hosts", "required",
];
const PLAIN_KEYS: [&str; 7] = [
    "path", "owner", "group", "mode", "write", "optional", "hosts",
];
const RECIPIENT_KEYS: [&str; 2] = ["key", "break_glass"];

type Value<'a> = Spanned<DeValue<'a>>;

/// So many problems are told, at most: a manifest can be one long mistake.
const MOST_PROBLEMS: usize = 100;

/// Reads the parsed TOML and collects problems.
struct Reader<'t> {
    text: &'t str,
    /// Where each line begins.
    lines: Vec<usize>,
    problems: Vec<ManifestProblem>,
}

/// The table `[defaults]`.
#[derive(Default)]
struct ReadDefaults {
    root: Option<String>,
    identity: Option<String>,
    /// What every row starts from.
    rows: Defaults,
}

/// Reads a manifest. `path` is what error messages call it.
///
/// # Errors
/// Everything that is wrong with it, in file order.
pub fn read(text: &str, path: &str) -> Result<Manifest, ManifestError> {
    let ends = memchr::memchr_iter(b'\n', text.as_bytes());
    let mut reader = Reader {
        text,
        lines: std::iter::once(0).chain(ends.map(|end| end + 1)).collect(),
        problems: Vec::new(),
    };
    let manifest = reader.read();
    let mut problems = reader.problems;
    problems.sort_by_key(|problem| (problem.line, problem.column));
    match manifest {
        Some(manifest) if problems.is_empty() => Ok(manifest),
        _ => Err(ManifestError {
            path: path.to_owned(),
            problems,
        }),
    }
}

impl Reader<'_> {
    fn problem(&mut self, span: Range<usize>, message: impl Into<String>) {
        let message = match self.problems.len() {
            0..MOST_PROBLEMS => message.into(),
            MOST_PROBLEMS => "more is wrong, here and further on".to_owned(),
            _ => return,
        };
        let at = span.start.min(self.text.len());
        let line = self.line(at);
        let column = self.text[self.lines[line - 1]..at].chars().count() + 1;
        self.problems.push(ManifestProblem {
            line,
            column,
            message,
        });
    }

    /// Returns the number of the line that a byte stands in, from 1.
    fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|&start| start <= at)
    }

    fn read(&mut self) -> Option<Manifest> {
        let parsed = match DeTable::parse(self.text) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.problem(
                    error.span().unwrap_or(0..0),
                    error.message().replace('\n', "; "),
                );
                return None;
            }
        };
        let top = parsed.get_ref();
        self.check_keys(top, &TOP_KEYS, "");
        self.read_version(top);
        let defaults = self
            .table(top, "defaults")
            .map(|table| self.read_defaults(table))
            .unwrap_or_default();
        let mut rows = Vec::new();
        if let Some(table) = self.table(top, "files") {
            rows.extend(self.read_rows(table, Kind::Secret, &defaults.rows));
        }
        if let Some(table) = self.table(top, "plain") {
            rows.extend(self.read_rows(table, Kind::Plain, &defaults.rows));
        }
        let (families, rows): (Vec<_>, Vec<_>) = rows
            .into_iter()
            .partition(|(entry, _)| is_pattern(&entry.repository_path));
        let (entries, spans): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        for (index, message) in conflicts(&entries) {
            self.problem(Range::clone(&spans[index]), message);
        }
        let families = families
            .into_iter()
            .filter_map(|(row, span)| self.family(row, &span))
            .collect();
        let recipients = self
            .table(top, "recipients")
            .map(|table| self.read_recipients(table))
            .unwrap_or_default();
        let check_allow = self
            .table(top, "check")
            .map(|table| self.read_allowed(table))
            .unwrap_or_default();
        let ReadDefaults {
            root,
            identity,
            rows: defaults,
        } = defaults;
        Some(Manifest {
            root,
            identity,
            defaults,
            entries,
            families,
            recipients,
            check_allow,
        })
    }

    fn read_version(&mut self, top: &DeTable<'_>) {
        match top.get("version") {
            None => self.problem(0..0, "`version = 1` is missing"),
            Some(value)
                if value
                    .get_ref()
                    .as_integer()
                    .is_some_and(|number| number.as_str() == "1") => {}
            Some(value) => self.problem(
                value.span(),
                "`version` is not 1, the only version there is",
            ),
        }
        let Some(value) = top.get("requires") else {
            return;
        };
        let Some(wanted) = value.get_ref().as_str() else {
            return self.problem(value.span(), "`requires` is not a string such as \"0.1\"");
        };
        let numbers = |text: &str| {
            text.split('.')
                .map(|part| part.parse::<u64>().ok())
                .collect::<Option<Vec<_>>>()
        };
        match (numbers(wanted), numbers(env!("CARGO_PKG_VERSION"))) {
            (Some(wanted_numbers), Some(own)) if wanted_numbers <= own => {}
            (Some(_), Some(_)) => self.problem(
                value.span(),
                format!(
                    "needs `secrets` {wanted} or later, this is {}: upgrade it",
                    env!("CARGO_PKG_VERSION")
                ),
            ),
            _ => self.problem(value.span(), "`requires` is not a version such as \"0.1\""),
        }
    }

    fn read_defaults(&mut self, table: &DeTable<'_>) -> ReadDefaults {
        self.check_keys(table, &DEFAULT_KEYS, "[defaults]");
        ReadDefaults {
            root: self.path_text(table, "root"),
            identity: self.path_text(table, "identity"),
            rows: Defaults {
                owner: self.account(table, "owner"),
                group: self.account(table, "group"),
                mode: self.mode(table),
            },
        }
    }

    fn read_rows(
        &mut self,
        table: &DeTable<'_>,
        kind: Kind,
        defaults: &Defaults,
    ) -> Vec<(Entry, Range<usize>)> {
        let mut rows: Vec<_> = table.iter().collect();
        rows.sort_by_key(|(key, _)| key.span().start);
        rows.into_iter()
            .filter_map(|(key, value)| {
                let entry = self.read_row(key.get_ref(), key.span(), value, kind, defaults)?;
                Some((entry, key.span()))
            })
            .collect()
    }

    fn read_row(
        &mut self,
        key: &str,
        key_span: Range<usize>,
        value: &Value<'_>,
        kind: Kind,
        defaults: &Defaults,
    ) -> Option<Entry> {
        let before = self.problems.len();
        if let Err(reason) = check_repository_path(key) {
            self.problem(
                key_span.clone(),
                format!("`{}`: {reason}", key.escape_debug()),
            );
        } else if kind == Kind::Secret
            && key
                .strip_suffix(ENCRYPTED_SUFFIX)
                .is_none_or(|stem| stem.is_empty() || stem.ends_with('/'))
        {
            self.problem(
                key_span.clone(),
                format!("`{key}`: the name of an encrypted file ends in `.enc`"),
            );
        }
        let empty = DeTable::new();
        let (table, path) = match value.get_ref() {
            DeValue::String(path) => (&empty, Some((path.to_string(), value.span()))),
            DeValue::Table(table) => {
                let (keys, name): (&[&str], _) = match kind {
                    Kind::Secret => (&FILE_KEYS, "a row of [files]"),
                    Kind::Plain => (&PLAIN_KEYS, "a row of [plain]"),
                };
                self.check_keys(table, keys, name);
                let path = table
                    .get("path")
                    .map(|path| (self.text_of(path, "path").unwrap_or_default(), path.span()));
                if path.is_none() {
                    self.problem(
                        key_span.clone(),
                        format!("`{key}`: `path`, the file on the server, is missing"),
                    );
                }
                (table, path)
            }
            _ => {
                self.problem(
                    value.span(),
                    format!("`{key}`: is neither a server path nor a table with `path`"),
                );
                return None;
            }
        };
        let (server_path, path_span) = path?;
        if let Err(reason) = check_server_path(&server_path) {
            self.problem(
                path_span,
                format!("`{}`: {reason}", server_path.escape_debug()),
            );
        }
        if !is_pattern(key) && is_pattern(&server_path) {
            self.problem(
                key_span.clone(),
                format!("`{key}`: has no captures, but its server path has"),
            );
        }
        let entry = Entry {
            repository_path: key.to_owned(),
            server_path,
            kind,
            format: table.get("format").and_then(|value| self.format(value)),
            layout: table
                .get("layout")
                .map_or(Layout::Exact, |value| self.layout(value)),
            owner: self
                .account(table, "owner")
                .or_else(|| defaults.owner.clone()),
            group: self
                .account(table, "group")
                .or_else(|| defaults.group.clone()),
            mode: self.mode(table).or(if kind == Kind::Secret {
                defaults.mode
            } else {
                None
            }),
            write: table
                .get("write")
                .map_or(WriteMode::Rename, |value| self.write_mode(value)),
            optional: table
                .get("optional")
                .is_some_and(|value| self.flag(value, "optional")),
            hosts: self.hosts(table),
            required: self.required(table),
            family: None,
            line: self.line(key_span.start),
        };
        if let (false, false, Some(value)) = (
            entry.required.is_empty(),
            entry.reading().has_keys(),
            table.get("required"),
        ) {
            self.problem(
                value.span(),
                format!("`{key}`: `required` names keys, and a file of this format has none"),
            );
        }
        (self.problems.len() == before).then_some(entry)
    }

    /// Reads `required`: a list of key names.
    fn required(&mut self, table: &DeTable<'_>) -> Vec<String> {
        let Some(value) = table.get("required") else {
            return Vec::new();
        };
        let names: Option<Vec<String>> = value.get_ref().as_array().and_then(|items| {
            let items = items.iter();
            items
                .map(|item| item.get_ref().as_str().map(str::to_owned))
                .collect()
        });
        names
            .filter(|names| names.iter().all(|name| !name.is_empty()))
            .unwrap_or_else(|| {
                self.problem(
                    value.span(),
                    "`required` is not a list of key names such as [\"DB_PASSWORD\"]",
                );
                Vec::new()
            })
    }

    /// Reads the captures of a row that stands for many files.
    fn family(&mut self, row: Entry, span: &Range<usize>) -> Option<Family> {
        let mut parse = |text: &str| {
            PathPattern::parse(text)
                .map_err(|reason| {
                    self.problem(span.clone(), format!("`{}`: {reason}", text.escape_debug()));
                })
                .ok()
        };
        let pattern = parse(&row.repository_path)?;
        let server = parse(&row.server_path)?;
        let mut used = server.names();
        let hosts: Vec<_> = row.hosts.iter().filter_map(|host| parse(host)).collect();
        used.extend(hosts.iter().flat_map(PathPattern::names));
        let known = pattern.names();
        let unknown: Vec<_> = used
            .into_iter()
            .filter(|name| !known.contains(name))
            .collect();
        for name in &unknown {
            self.problem(
                span.clone(),
                format!(
                    "`{}`: `{{{name}}}` is no capture of it",
                    row.repository_path
                ),
            );
        }
        unknown.is_empty().then_some(Family {
            pattern,
            server,
            row,
        })
    }

    /// Reads `allow` of `[check]`: a list of paths and globs.
    fn read_allowed(&mut self, table: &DeTable<'_>) -> Vec<String> {
        self.check_keys(table, &CHECK_KEYS, "[check]");
        let Some(value) = table.get("allow") else {
            return Vec::new();
        };
        let paths: Option<Vec<String>> = value.get_ref().as_array().and_then(|items| {
            let items = items.iter();
            items
                .map(|item| item.get_ref().as_str().map(str::to_owned))
                .collect()
        });
        paths.unwrap_or_else(|| {
            self.problem(value.span(), "`allow` is not a list of paths");
            Vec::new()
        })
    }

    fn read_recipients(&mut self, table: &DeTable<'_>) -> Vec<NamedRecipient> {
        let mut rows: Vec<_> = table.iter().collect();
        rows.sort_by_key(|(key, _)| key.span().start);
        let mut recipients = Vec::new();
        for (name, value) in rows {
            let (key, break_glass) = match value.get_ref() {
                DeValue::String(key) => (Some(key.to_string()), false),
                DeValue::Table(table) => {
                    self.check_keys(table, &RECIPIENT_KEYS, "a row of [recipients]");
                    let break_glass = table
                        .get("break_glass")
                        .is_some_and(|flag| self.flag(flag, "break_glass"));
                    if table.get("key").is_none() {
                        self.problem(
                            name.span(),
                            format!("`{}`: `key` is missing", name.get_ref()),
                        );
                    }
                    (self.text(table, "key"), break_glass)
                }
                _ => {
                    self.problem(
                        value.span(),
                        format!(
                            "`{}`: is neither a recipient nor a table with `key`",
                            name.get_ref()
                        ),
                    );
                    (None, false)
                }
            };
            if let Some(key) = &key {
                // Never repeat the text: it may be the secret half.
                if !key.starts_with("age1") && !key.starts_with("ssh-") {
                    let name = name.get_ref();
                    self.problem(
                        value.span(),
                        format!("`{name}`: is not a recipient (the public half, `age1…`)"),
                    );
                }
            }
            if let Some(key) = key {
                recipients.push(NamedRecipient {
                    name: name.get_ref().to_string(),
                    key,
                    break_glass,
                });
            }
        }
        recipients
    }

    fn check_keys(&mut self, table: &DeTable<'_>, known: &[&str], place: &str) {
        for (key, _) in table {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let place = if place.is_empty() {
                String::new()
            } else {
                format!(" in {place}")
            };
            let hint = match closest(name, known.iter().copied()) {
                Some(close) => format!("did you mean `{close}`?"),
                None => format!("known are {}", known.join(", ")),
            };
            self.problem(
                key.span(),
                format!("unknown key `{}`{place}; {hint}", name.escape_debug()),
            );
        }
    }

    fn table<'a>(&mut self, top: &'a DeTable<'_>, name: &str) -> Option<&'a DeTable<'a>> {
        let value = top.get(name)?;
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.problem(value.span(), format!("`{name}` is not a table"));
        }
        table
    }

    fn text_of(&mut self, value: &Value<'_>, name: &str) -> Option<String> {
        let text = value.get_ref().as_str().map(str::to_owned);
        if text.is_none() {
            self.problem(value.span(), format!("`{name}` is not a string"));
        }
        text
    }

    fn text(&mut self, table: &DeTable<'_>, name: &str) -> Option<String> {
        table.get(name).and_then(|value| self.text_of(value, name))
    }

    fn path_text(&mut self, table: &DeTable<'_>, name: &str) -> Option<String> {
        let text = self.text(table, name)?;
        let span = table.get(name).map_or(0..0, Spanned::span);
        if text.is_empty() || text.chars().any(char::is_control) {
            self.problem(
                span,
                format!("`{name}` is empty or holds control characters"),
            );
        }
        Some(text)
    }

    /// Reads a user or group: a name, or a number.
    fn account(&mut self, table: &DeTable<'_>, name: &str) -> Option<String> {
        let value = table.get(name)?;
        let text = match value.get_ref() {
            DeValue::Integer(number) => number.as_str().to_owned(),
            _ => self.text_of(value, name)?,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-@$".contains(c);
        // The largest number means "leave it as it is" to the system.
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let too_large = is_number
            && text.parse::<u32>().is_ok_and(|id| id == u32::MAX) | text.parse::<u32>().is_err();
        if text.is_empty()
            || text.starts_with('-')
            || !text.chars().all(plain)
            || (is_number && too_large)
        {
            self.problem(
                value.span(),
                format!("`{name}` is not the name or number of an account"),
            );
        }
        Some(text)
    }

    /// Reads `hosts`: a list of host names, or one.
    fn hosts(&mut self, table: &DeTable<'_>) -> Vec<String> {
        let Some(value) = table.get("hosts") else {
            return Vec::new();
        };
        let names: Option<Vec<String>> = match value.get_ref() {
            DeValue::String(name) => Some(vec![name.to_string()]),
            DeValue::Array(items) => items
                .iter()
                .map(|item| item.get_ref().as_str().map(str::to_owned))
                .collect(),
            _ => None,
        };
        let is_name = |name: &String| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".-_{}".contains(&byte))
        };
        match names {
            Some(names) if !names.is_empty() && names.iter().all(is_name) => names,
            _ => {
                self.problem(
                    value.span(),
                    "`hosts` is not a list of host names such as [\"web1\"]",
                );
                Vec::new()
            }
        }
    }

    fn mode(&mut self, table: &DeTable<'_>) -> Option<u32> {
        let value = table.get("mode")?;
        match value.get_ref().as_str().map(parse_mode) {
            Some(Ok(mode)) => Some(mode),
            Some(Err(reason)) => {
                self.problem(value.span(), format!("`mode` {reason}"));
                None
            }
            None => {
                self.problem(
                    value.span(),
                    "`mode` is not a string: write the octal digits in quotes, such as \"0640\"",
                );
                None
            }
        }
    }

    fn format(&mut self, value: &Value<'_>) -> Option<Format> {
        match value.get_ref().as_str() {
            Some("dotenv") => Some(Format::Dotenv),
            Some("binary") => Some(Format::Binary),
            Some("age") => Some(Format::Age),
            Some("ini") => Some(Format::Ini),
            Some("json") => Some(Format::Json),
            Some("yaml") => Some(Format::Yaml),
            _ => {
                self.problem(
                    value.span(),
                    "`format` is none of \"age\", \"binary\", \"dotenv\", \"ini\", \"json\" and \"yaml\"",
                );
                None
            }
        }
    }

    fn layout(&mut self, value: &Value<'_>) -> Layout {
        match value.get_ref().as_str() {
            Some("exact") => Layout::Exact,
            Some("note") => Layout::Note,
            Some("stock") => Layout::Stock,
            _ => {
                self.problem(
                    value.span(),
                    "`layout` is none of \"exact\", \"note\" and \"stock\"",
                );
                Layout::Exact
            }
        }
    }

    fn write_mode(&mut self, value: &Value<'_>) -> WriteMode {
        match value.get_ref().as_str() {
            Some("rename") => WriteMode::Rename,
            Some("in-place") => WriteMode::InPlace,
            _ => {
                self.problem(
                    value.span(),
                    "`write` is neither \"rename\" nor \"in-place\"",
                );
                WriteMode::Rename
            }
        }
    }

    fn flag(&mut self, value: &Value<'_>, name: &str) -> bool {
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.problem(value.span(), format!("`{name}` is neither true nor false"));
        }
        flag.unwrap_or(false)
    }
}

//! Takes what is random out of outputs and compares the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::sandbox::{Entry, Kind, Outcome, Sandbox};

const TOKEN: &str = "ENC[AES256_GCM,data:";
const BLOCK_START: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const BLOCK_END: &str = "-----END AGE ENCRYPTED FILE-----";

/// Messages that scripts compare byte for byte: standard error has to be the same.
const EXACT_STDERR: &[&str] = &["Could not generate data key: [empty key group provided]\n"];

/// What a text contains that is random, or depends on the time.
pub(super) struct Facts {
    /// Sealed values, and wrapped keys without their line breaks.
    pub(super) sealed: Vec<String>,
    /// The latest time.
    pub(super) latest: String,
}

/// Finds the random parts of a text.
pub(super) fn facts(text: &str) -> Facts {
    let mut facts = Facts {
        sealed: Vec::new(),
        latest: String::new(),
    };
    rewrite(text, |part| {
        match part {
            Part::Token { whole, .. } => facts.sealed.push(whole.to_owned()),
            Part::Block { key, .. } => facts.sealed.push(key),
            Part::Time(time) => facts.latest = facts.latest.clone().max(time.to_owned()),
        }
        String::new()
    });
    facts
}

/// A part of a text that is replaced.
enum Part<'t> {
    /// A sealed value: all of it, the length of its data, and its type.
    Token {
        whole: &'t str,
        length: usize,
        kind: &'t str,
    },
    /// A wrapped key: without its line breaks, and how those are written.
    Block { key: String, layout: String },
    /// A time in UTC to the second.
    Time(&'t str),
}

/// Copies a text; `replace` says what stands in the place of the random parts.
fn rewrite(text: &str, mut replace: impl FnMut(Part<'_>) -> String) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let found = match first {
            'E' => token(rest),
            '-' => block(rest),
            '1' | '2' => time(rest),
            _ => None,
        };
        if let Some((part, length)) = found {
            result.push_str(&replace(part));
            rest = &rest[length..];
        } else {
            result.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    result
}

fn token(text: &str) -> Option<(Part<'_>, usize)> {
    let body = text.strip_prefix(TOKEN)?;
    let end = body.find(']')?;
    let (data, other) = body[..end].split_once(",iv:")?;
    let (_, kind) = other.split_once(",type:")?;
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    if !data.bytes().all(is_base64) || data.len() % 4 != 0 || !other.contains(",tag:") {
        return None;
    }
    let length = data.len() / 4 * 3 - data.bytes().rev().take_while(|byte| *byte == b'=').count();
    let whole = &text[..=TOKEN.len() + end];
    Some((
        Part::Token {
            whole,
            length,
            kind,
        },
        whole.len(),
    ))
}

fn block(text: &str) -> Option<(Part<'_>, usize)> {
    let body = text.strip_prefix(BLOCK_START)?;
    let inside = &body[..body.find(BLOCK_END)?];
    let key: String = inside.replace("\\n", "").split_whitespace().collect();
    let layout = if inside.starts_with("\\n") {
        "escaped".to_owned()
    } else {
        let indent = inside
            .trim_start_matches('\n')
            .chars()
            .take_while(|c| *c == ' ')
            .count();
        format!("lines at {indent}")
    };
    Some((
        Part::Block { key, layout },
        BLOCK_START.len() + inside.len() + BLOCK_END.len(),
    ))
}

fn time(text: &str) -> Option<(Part<'_>, usize)> {
    let candidate = text.get(..20)?;
    let shape = b"dddd-dd-ddTdd:dd:ddZ";
    let fits = candidate
        .bytes()
        .zip(shape)
        .all(|(byte, shape)| match shape {
            b'd' => byte.is_ascii_digit(),
            other => byte == *other,
        });
    fits.then_some((Part::Time(candidate), 20))
}

/// A text without what is random in it, so that two of them can be compared.
pub(super) fn normalised(bytes: &[u8], sandbox: &Sandbox) -> String {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes
            .iter()
            .flat_map(|byte| std::ascii::escape_default(*byte))
            .map(char::from)
            .collect(),
    };
    let text = text.replace(&*sandbox.root.to_string_lossy(), "@");
    let kept = |sealed: &str| {
        if sandbox.known.contains(sealed) {
            ", kept"
        } else {
            ""
        }
    };
    let text = rewrite(&text, |part| match part {
        Part::Token {
            whole,
            length,
            kind,
        } => format!("ENC[{length},{kind}{}]", kept(whole)),
        Part::Block { key, layout } => format!("<wrapped key, {layout}{}>", kept(&key)),
        // Times of documents are older than this program; "now" has no second one can rely on.
        Part::Time(time) if time > &*sandbox.built => "<now>".to_owned(),
        Part::Time(time) if time >= "2025" => "<time of the template>".to_owned(),
        Part::Time(time) => time.to_owned(),
    });
    without_random_names(&text)
}

/// Replaces the names of temporary folders, and of the file that `exec-file` makes in one.
fn without_random_names(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("@/tmp/") {
        let (before, found) = rest.split_at(at + "@/tmp/".len());
        result.push_str(before);
        let end = found
            .find(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c))
            .unwrap_or(found.len());
        result.push_str(if end == 0 { "" } else { "<random>" });
        rest = &found[end..];
    }
    result.push_str(rest);
    let mut text = result;
    result = String::with_capacity(text.len());
    while let Some(at) = text.find("tmp-file") {
        let end = at + "tmp-file".len();
        result.push_str(&text[..end]);
        text = text[end..]
            .trim_start_matches(|c: char| c.is_ascii_alphanumeric())
            .to_owned();
    }
    result + &text
}

/// The format in which a text is sealed, if it looks sealed.
pub(super) fn sealed_format(bytes: &[u8]) -> Option<&'static str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let starts = |prefix: &str| text.lines().any(|line| line.starts_with(prefix));
    if text.trim_start().starts_with('{') {
        text.contains("\"sops\"").then_some("json")
    } else if starts("sops_") {
        Some("dotenv")
    } else if starts("[sops]") {
        Some("ini")
    } else {
        starts("sops:").then_some("yaml")
    }
}

/// What differs between two runs of one case.
#[derive(Default)]
pub(super) struct Findings {
    /// Real differences.
    pub(super) differences: Vec<String>,
    /// Standard error is empty on one side only.
    pub(super) silence: Vec<String>,
    /// The first lines of standard error differ.
    pub(super) first_lines: Vec<String>,
    /// Help texts and completion scripts differ: nobody parses them.
    pub(super) texts: Vec<String>,
    /// The reference program crashed, so that only failing was compared.
    pub(super) crash: bool,
}

/// Compares what both programs did with a case.
pub(super) fn outcomes(
    sandbox: &Sandbox,
    command: &str,
    ours: &Outcome,
    stock: &Outcome,
) -> Findings {
    let mut findings = Findings::default();
    let messages = |outcome: &Outcome| normalised_messages(&outcome.stderr, sandbox);
    let (our_messages, stock_messages) = (messages(ours), messages(stock));
    if crashed(stock) {
        findings.crash = true;
        // A crash is no behaviour to copy: failing cleanly is enough.
        if ours.code == 0 {
            findings
                .differences
                .push("exit: ours 0, stock crashes".to_owned());
        }
        if ours.changes.keys().any(|path| !path.starts_with("state")) {
            findings.differences.push(format!(
                "files: ours changes {:?}, stock crashes",
                ours.changes.keys()
            ));
        }
        return findings;
    }
    if ours.code != stock.code {
        findings.differences.push(format!(
            "exit: ours {}, stock {}\n  ours says: {}\n  stock says: {}",
            ours.code,
            stock.code,
            first_line(&our_messages),
            first_line(&stock_messages)
        ));
    }
    compare_stdout(sandbox, command, ours, stock, &mut findings);
    compare_files(sandbox, ours, stock, &mut findings.differences);
    if our_messages.is_empty() != stock_messages.is_empty() {
        let said = |text: &str| {
            if text.is_empty() {
                "nothing".to_owned()
            } else {
                first_line(text)
            }
        };
        findings.silence.push(format!(
            "ours: {}\n  stock: {}",
            said(&our_messages),
            said(&stock_messages)
        ));
    }
    if first_line(&our_messages) != first_line(&stock_messages) {
        findings.first_lines.push(format!(
            "ours: {}\n  stock: {}",
            first_line(&our_messages),
            first_line(&stock_messages)
        ));
    }
    if EXACT_STDERR
        .iter()
        .any(|exact| stock.stderr == exact.as_bytes())
        && ours.stderr != stock.stderr
    {
        findings.differences.push(format!(
            "stderr: {}",
            first_difference(&our_messages, &stock_messages)
        ));
    }
    findings
}

/// Whether a run ended in a crash of the Go runtime.
pub(super) fn crashed(outcome: &Outcome) -> bool {
    let text = String::from_utf8_lossy(&outcome.stderr);
    outcome.code == 2 && text.contains("goroutine ") && text.contains("panic")
}

fn compare_stdout(
    sandbox: &Sandbox,
    command: &str,
    ours: &Outcome,
    stock: &Outcome,
    findings: &mut Findings,
) {
    let (our_text, stock_text) = (
        normalised(&ours.stdout, sandbox),
        normalised(&stock.stdout, sandbox),
    );
    if our_text == stock_text {
        compare_opened(
            sandbox,
            "stdout",
            &ours.stdout,
            &stock.stdout,
            &mut findings.differences,
        );
        return;
    }
    let what = format!("stdout: {}", first_difference(&our_text, &stock_text));
    let is_help = stock_text.contains("USAGE:\n") || stock_text.starts_with("Incorrect Usage");
    let is_script = command == "completion" && !our_text.is_empty() && !stock_text.is_empty();
    if is_help || is_script {
        findings.texts.push(what);
    } else {
        findings
            .differences
            .push(what + &same_contents(sandbox, &ours.stdout, &stock.stdout));
    }
}

fn compare_files(
    sandbox: &Sandbox,
    ours: &Outcome,
    stock: &Outcome,
    differences: &mut Vec<String>,
) {
    // Temporary names differ; that something stays behind matters.
    let named = |outcome: &Outcome| -> BTreeMap<String, Option<Entry>> {
        let name = |path: &str| without_random_names(&format!("@/{path}"))[2..].to_owned();
        outcome
            .changes
            .iter()
            .map(|(path, entry)| (name(path), entry.clone()))
            .collect()
    };
    let (ours, stock) = (named(ours), named(stock));
    let paths: BTreeSet<&String> = ours.keys().chain(stock.keys()).collect();
    for path in paths {
        let did = |changes: &BTreeMap<String, Option<Entry>>| match changes.get(path) {
            None => "leaves it as it was",
            Some(None) => "removes it",
            Some(Some(_)) if sandbox.had(path) => "changes it",
            Some(Some(_)) => "makes it",
        };
        if let (Some(Some(one)), Some(Some(other))) = (ours.get(path), stock.get(path)) {
            compare_entries(sandbox, path, one, other, differences);
        } else if did(&ours) != did(&stock) {
            differences.push(format!(
                "file {path}: ours {}, stock {}",
                did(&ours),
                did(&stock)
            ));
        }
    }
}

fn compare_entries(
    sandbox: &Sandbox,
    path: &str,
    ours: &Entry,
    stock: &Entry,
    differences: &mut Vec<String>,
) {
    if sandbox.had(path) && ours.mode != stock.mode {
        differences.push(format!(
            "file {path}: mode {:o} in ours, {:o} in stock",
            ours.mode, stock.mode
        ));
    }
    match (&ours.kind, &stock.kind) {
        (Kind::File(one), Kind::File(other)) => {
            let (one_text, other_text) = (normalised(one, sandbox), normalised(other, sandbox));
            if one_text != other_text {
                differences.push(format!(
                    "file {path}: {}{}",
                    first_difference(&one_text, &other_text),
                    same_contents(sandbox, one, other)
                ));
            } else if !path.starts_with("state/") {
                compare_opened(sandbox, path, one, other, differences);
            }
        }
        (one, other) if one != other => {
            differences.push(format!(
                "file {path}: not of the same kind ({one:?}, {other:?})"
            ));
        }
        _ => {}
    }
}

/// Compares what two sealed texts that look the same contain.
fn compare_opened(
    sandbox: &Sandbox,
    what: &str,
    ours: &[u8],
    stock: &[u8],
    differences: &mut Vec<String>,
) {
    if ours == stock || sealed_format(stock).is_none() {
        return;
    }
    let (our_content, stock_content) = (sandbox.open(ours), sandbox.open(stock));
    if our_content != stock_content {
        let shown = |content: &Option<Vec<u8>>| match content {
            Some(content) => normalised(content, sandbox),
            None => "cannot be decrypted".to_owned(),
        };
        let difference = first_difference(&shown(&our_content), &shown(&stock_content));
        differences.push(format!("{what}, decrypted: {difference}"));
    }
}

/// For two sealed texts that differ: whether stock reads the same in both.
fn same_contents(sandbox: &Sandbox, ours: &[u8], stock: &[u8]) -> String {
    if sealed_format(ours).is_none() || sealed_format(stock).is_none() {
        return String::new();
    }
    match (sandbox.open(ours), sandbox.open(stock)) {
        (None, Some(_)) => "\n  stock cannot decrypt ours".to_owned(),
        (Some(_), None) => "\n  stock cannot decrypt its own".to_owned(),
        (one, other) if one == other => {
            "\n  only the text differs: stock reads the same in both".to_owned()
        }
        _ => "\n  stock reads different contents in them".to_owned(),
    }
}

/// Standard error without random parts, and without the times of log lines.
fn normalised_messages(bytes: &[u8], sandbox: &Sandbox) -> String {
    let text = normalised(bytes, sandbox);
    text.lines().fold(String::new(), |mut all, line| {
        let line = match (line.find("time=\""), line.find("\" level=")) {
            (Some(start), Some(end)) if start < end => {
                format!("{}{}", &line[..start], &line[end + 2..])
            }
            _ => without_clock(line).to_owned(),
        };
        let line = without_addresses(&line);
        let _ = writeln!(all, "{line}");
        all
    })
}

/// A line without the addresses of Go values, which `--verbose` prints.
fn without_addresses(line: &str) -> String {
    let mut parts = line.split("0x");
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        result += "0x";
        result += part.trim_start_matches(|c: char| c.is_ascii_hexdigit());
    }
    result
}

/// A line without `2006/01/02 15:04:05 ` in front.
fn without_clock(line: &str) -> &str {
    let shape = b"dddd/dd/dd dd:dd:dd ";
    let fits = line.len() >= shape.len()
        && line.bytes().zip(shape).all(|(byte, shape)| match shape {
            b'd' => byte.is_ascii_digit(),
            other => byte == *other,
        });
    if fits { &line[shape.len()..] } else { line }
}

fn first_line(text: &str) -> String {
    text.lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default()
        .to_owned()
}

/// The first line in which two texts differ, of both.
fn first_difference(ours: &str, stock: &str) -> String {
    let lines =
        |text: &str| -> Vec<String> { text.split_inclusive('\n').map(str::to_owned).collect() };
    let (ours, stock) = (lines(ours), lines(stock));
    let at = ours
        .iter()
        .zip(&stock)
        .take_while(|(one, other)| one == other)
        .count();
    let shown = |lines: &[String]| match lines.get(at) {
        Some(line) => format!("{:?}", line.chars().take(200).collect::<String>()),
        None => "the end".to_owned(),
    };
    format!(
        "line {} of {} and {}\n  ours:  {}\n  stock: {}",
        at + 1,
        ours.len(),
        stock.len(),
        shown(&ours),
        shown(&stock)
    )
}

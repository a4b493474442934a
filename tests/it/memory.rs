//! What of the values is left in memory when a command ends.
//!
//! The program is stopped in front of its last system call (`strace` delays it), and everything it may read
//! is searched: what a core would hold that was taken there. Reading it takes root, as the process forbids it
//! to others.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use secret_files::keys::keyring::Keyring;
use secret_files::sops;

use super::support::{SERVER_KEY, TestProject, key_file, stock};

const MARK: &[u8] = b"canary-";
/// An allocator writes over the beginning of what is given back: the end of each value has a mark, too.
const TAIL: &str = ", of which the end is looked for as well, canary-tail";

/// The number of `exit_group`.
const EXIT: &str = if cfg!(target_arch = "x86_64") {
    "231"
} else {
    "94"
};
/// The number of `fsync`.
const SYNC: &str = if cfg!(target_arch = "x86_64") {
    "74"
} else {
    "82"
};

fn project() -> TestProject {
    let project = TestProject::with_files(
        &[
            ("a.env.enc", "a.env"),
            ("b.yaml.enc", "{ path = \"b.yaml\", format = \"yaml\" }"),
            ("c.json.enc", "{ path = \"c.json\", format = \"json\" }"),
            ("d.ini.enc", "{ path = \"d.ini\", format = \"ini\" }"),
            ("e.enc", "e"),
        ],
        "",
    );
    write(&project, "");
    project
}

fn write(project: &TestProject, more: &str) {
    let lines = |count: usize| format!("canary-{more}binary value\n").repeat(count);
    project.write_server(
        "a.env",
        format!("A=canary-{more}env{TAIL}\nB=\"canary-{more}env quoted{TAIL}\"\n# canary-{more}comment{TAIL}\n"),
    );
    project.write_server("b.yaml", format!("a: canary-{more}yaml{TAIL}\nb: \"canary-{more}yaml quoted{TAIL}\"\nc: |\n  canary-{more}yaml literal{TAIL}\n"));
    project.write_server(
        "c.json",
        format!("{{\"a\": \"canary-{more}json{TAIL}\", \"b\": [\"canary-{more}json{TAIL}\"]}}"),
    );
    project.write_server("d.ini", format!("[a]\nb = canary-{more}ini{TAIL}\n"));
    project.write_server("e", lines(3000));
}

/// Starts a command that is stopped before a system call for a while, and returns the number of its process
/// once it stands there.
#[expect(
    clippy::zombie_processes,
    reason = "the caller waits for it; a failing test may stop at once"
)]
fn stopped_at(project: &TestProject, call: &str, number: &str, args: &[&str]) -> (Child, u32) {
    let program = env!("CARGO_BIN_EXE_secrets");
    let injection = format!("inject={call}:delay_enter=1500000:when=1");
    let strace = Command::new("strace")
        .args([
            "-f",
            "-qqq",
            "-o",
            "/dev/null",
            "-e",
            &format!("trace={call}"),
            "-e",
            &injection,
            program,
        ])
        .args(args)
        .current_dir(project.repo())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .envs(&project.vars)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", strace.id());
    let started = Instant::now();
    loop {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{args:?} does not come to {call}"
        );
        thread::sleep(Duration::from_millis(1));
        for child in fs::read_to_string(&children)
            .unwrap_or_default()
            .split_whitespace()
        {
            let is_ours = fs::read_link(format!("/proc/{child}/exe"))
                .is_ok_and(|path| path == fs::canonicalize(program).unwrap());
            let at = fs::read_to_string(format!("/proc/{child}/syscall")).unwrap_or_default();
            if is_ours && at.split_whitespace().next() == Some(number) {
                return (strace, child.parse().unwrap());
            }
        }
    }
}

/// Returns the 32 bytes that an age identity's text has in Bech32.
fn raw_identity(text: &str) -> Vec<u8> {
    let letters = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L";
    let data = text.trim_end().rsplit('1').next().unwrap();
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for letter in data.chars() {
        bits = bits << 5 | u32::try_from(letters.find(letter).unwrap()).unwrap();
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).unwrap());
        }
    }
    bytes.truncate(32);
    bytes
}

/// Returns the data keys of the encrypted files.
fn data_keys(project: &TestProject) -> Vec<Vec<u8>> {
    let identity = fs::read(key_file(SERVER_KEY)).unwrap();
    let keyring = Keyring::of_text("the key", &identity, None);
    let files = fs::read_dir(project.repo()).unwrap().flatten();
    let files = files.filter_map(|file| fs::read(file.path()).ok());
    let keys = files.filter_map(|bytes| {
        let (_, sealed) = sops::parse_sealed(bytes).ok()?;
        let key = keyring.unwrap_quiet(&sealed.metadata)?;
        Some(key.expose().to_vec())
    });
    keys.collect()
}

/// Returns what stands around each value, each copy of the identity, and each data key, in the memory of a process.
fn values_in_memory(process: u32, data_keys: &[Vec<u8>]) -> Vec<String> {
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let key = fs::read_to_string(key_file(SERVER_KEY)).unwrap();
    let (mut found, mut searched) = (Vec::new(), 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        if memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        searched += bytes.len();
        let identity = key.trim_end().rsplit('-').next().unwrap();
        let raw = raw_identity(identity);
        let marks = [MARK, identity.as_bytes(), &raw];
        let keys = data_keys.iter().map(Vec::as_slice);
        let marks: Vec<&[u8]> = marks.into_iter().chain(keys).collect();
        for at in marks
            .iter()
            .flat_map(|mark| memchr::memmem::find_iter(&bytes, mark))
        {
            let text = &bytes[at.saturating_sub(48)..bytes.len().min(at + 48)];
            found.push(format!(
                "{} at {:x} of {line}",
                text.escape_ascii(),
                start + at as u64
            ));
        }
    }
    assert!(searched > 100_000, "only {searched} bytes can be read");
    found
}

#[test]
fn no_value_is_left_in_memory_when_a_command_ends() {
    let test = "no_value_is_left_in_memory_when_a_command_ends";
    if !stock::available("strace", test) {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("SECRETS_CI").is_none(),
            "{test} needs root"
        );
        drop(writeln!(std::io::stderr(), "skipped: {test} needs root"));
        return;
    }
    let mut project = project();
    let editor = project.path("home/editor.sh");
    fs::write(
        &editor,
        "#!/bin/sh\nsed -i 's/canary/canary-edited/' \"$1\"\n",
    )
    .unwrap();
    fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)).unwrap();
    project.set("SOPS_EDITOR", editor);
    let ends_with = |code: &str, args: &[&str]| {
        let mut keys = data_keys(&project);
        let (mut child, process) = stopped_at(&project, "exit_group", EXIT, args);
        keys.extend(data_keys(&project));
        let call = fs::read_to_string(format!("/proc/{process}/syscall")).unwrap();
        assert_eq!(call.split_whitespace().nth(1), Some(code), "{args:?}");
        let found = values_in_memory(process, &keys);
        // It goes on without strace, and has nothing to do any more.
        child.kill().unwrap();
        child.wait().unwrap();
        let some = &found[..found.len().min(3)];
        assert!(
            found.is_empty(),
            "{args:?} leaves {} copies: {some:?}",
            found.len()
        );
    };
    let at_the_end = |args: &[&str]| ends_with("0x0", args);
    at_the_end(&["encrypt"]);
    project.commit();
    at_the_end(&["status"]);
    write(&project, "new-");
    ends_with("0x1", &["diff"]);
    // What is shown goes through the buffers of the standard library.
    ends_with("0x1", &["diff", "--show-values"]);
    ends_with("0x3", &["decrypt"]);
    at_the_end(&["decrypt", "--force"]);
    at_the_end(&["undo"]);
    at_the_end(&["encrypt"]);
    at_the_end(&["merge"]);
    at_the_end(&["check"]);
    at_the_end(&["drill"]);
    at_the_end(&["history", "a.env"]);
    at_the_end(&["restore", "--rev", "HEAD", "a.env"]);
    let value = project.path("home/value");
    fs::write(&value, "\"canary-set\"").unwrap();
    let types = |kind| ["--input-type", kind, "--output-type", kind];
    for (kind, name) in [
        ("dotenv", "a.env.enc"),
        ("yaml", "b.yaml.enc"),
        ("json", "c.json.enc"),
        ("ini", "d.ini.enc"),
        ("binary", "e.enc"),
    ] {
        let types = types(kind);
        let sops = |before: &[&'static str], after: &[&str]| {
            let mut args = vec!["sops"];
            args.extend(before);
            args.extend(types);
            args.push(name);
            args.extend(after);
            at_the_end(&args);
        };
        sops(&["decrypt"], &[]);
        sops(&["rotate", "-i"], &[]);
        if kind != "binary" {
            sops(&["edit"], &[]);
        }
        if ["yaml", "json"].contains(&kind) {
            let value = value.to_str().unwrap();
            sops(&["set", "--value-file"], &["[\"b\"]", value]);
            sops(&["decrypt", "--extract", "[\"b\"]"], &[]);
        }
    }

    // That they would be found: in the middle of a run they are there, and in no argument, variable or file.
    for name in ["a.env", "b.yaml", "c.json", "d.ini", "e"] {
        fs::remove_file(project.server_file(name)).unwrap();
    }
    let (mut child, process) = stopped_at(&project, "fsync", SYNC, &["decrypt"]);
    assert!(!values_in_memory(process, &[]).is_empty());
    for file in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{process}/{file}")).unwrap();
        assert!(memchr::memmem::find(&bytes, MARK).is_none(), "{file}");
    }
    for open in fs::read_dir(format!("/proc/{process}/fd"))
        .unwrap()
        .flatten()
    {
        let target = fs::read_link(open.path()).unwrap_or_default();
        let Ok(content) = fs::read(&target) else {
            continue;
        };
        let is_target = target.starts_with(project.root());
        assert!(
            is_target || memchr::memmem::find(&content, MARK).is_none(),
            "{}",
            target.display()
        );
    }
    child.wait().unwrap();
}

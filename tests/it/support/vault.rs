//! A small server that speaks the part of Vault's HTTP API that is used, with its errors: key-value
//! stores of both versions and transit keys.
//!
//! What a request meets is told by the name of the key or secret: `sealed`, `slow`, `flaky` (fails
//! twice), `broken`, `oversized`, `here` and `elsewhere` (redirects), `downgrade`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The token it takes.
pub(crate) const TOKEN: &str = "throwaway-vault-token";

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub method: String,
    pub path: String,
    pub token: Option<String>,
    pub namespace: Option<String>,
    pub body: String,
}

/// A server on a port of its own, until it is dropped.
pub(crate) struct Vault {
    pub address: String,
    seen: Arc<Mutex<Vec<Request>>>,
    secrets: Arc<Mutex<BTreeMap<String, Value>>>,
}

impl Vault {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let vault = Self {
            address,
            seen: Arc::default(),
            secrets: Arc::default(),
        };
        let (seen, secrets) = (Arc::clone(&vault.seen), Arc::clone(&vault.secrets));
        let own = vault.address.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, secrets, own) = (Arc::clone(&seen), Arc::clone(&secrets), own.clone());
                thread::spawn(move || drop(serve(stream, &seen, &secrets, &own)));
            }
        });
        vault
    }

    /// Returns what was asked so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: TcpStream,
    seen: &Mutex<Vec<Request>>,
    secrets: &Mutex<BTreeMap<String, Value>>,
    own: &str,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    let length = header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let mut words = head.split(' ');
    let request = Request {
        method: words.next().unwrap_or_default().to_owned(),
        path: words.next().unwrap_or_default().to_owned(),
        token: header("x-vault-token"),
        namespace: header("x-vault-namespace"),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let times = {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        let same = seen.iter().filter(|one| one.path == request.path);
        same.count()
    };
    let name = request.path.rsplit('/').next().unwrap_or_default();
    let errors = |status: u16, text: &str| (status, json!({ "errors": [text] }).to_string());
    let (status, body) = match name {
        _ if request.token.as_deref() != Some(TOKEN) => errors(403, "permission denied"),
        "sealed" => errors(503, "Vault is sealed"),
        "broken" => errors(500, "internal error"),
        "flaky" if times < 3 => errors(500, "try again"),
        "slow" => {
            thread::sleep(Duration::from_secs(5));
            errors(500, "too late")
        }
        "oversized" => (200, format!("{{\"data\":\"{}\"}}", "x".repeat(20 << 20))),
        "nonsense" => (200, "<html>not Vault</html>".to_owned()),
        "here" => (307, format!("{own}/v1/transit/decrypt/moved")),
        "elsewhere" => (
            307,
            "http://127.0.0.2:9/v1/transit/decrypt/moved".to_owned(),
        ),
        _ => answer(&request, secrets),
    };
    let location = if status == 307 {
        format!("Location: {body}\r\n")
    } else {
        String::new()
    };
    let body = if status == 307 { String::new() } else { body };
    write!(
        stream,
        "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\n{location}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()
}

fn answer(request: &Request, secrets: &Mutex<BTreeMap<String, Value>>) -> (u16, String) {
    let body: Value = serde_json::from_str(&request.body).unwrap_or(Value::Null);
    let path = request.path.strip_prefix("/v1/").unwrap_or_default();
    if path.contains("/encrypt/") {
        let plaintext = body["plaintext"].as_str().unwrap_or_default();
        let sealed: String = plaintext.chars().rev().collect();
        let ciphertext = format!("vault:v1:{}", STANDARD.encode(sealed));
        return (
            200,
            json!({ "data": { "ciphertext": ciphertext } }).to_string(),
        );
    }
    if path.contains("/decrypt/") {
        let ciphertext = body["ciphertext"].as_str().unwrap_or_default();
        let sealed = ciphertext
            .strip_prefix("vault:v1:")
            .and_then(|text| STANDARD.decode(text).ok())
            .and_then(|bytes| String::from_utf8(bytes).ok());
        return match sealed {
            Some(sealed) => {
                let plaintext: String = sealed.chars().rev().collect();
                (
                    200,
                    json!({ "data": { "plaintext": plaintext } }).to_string(),
                )
            }
            None => (400, json!({ "errors": ["invalid ciphertext"] }).to_string()),
        };
    }
    let mut secrets = secrets.lock().unwrap();
    if request.method == "GET" {
        return match secrets.get(path) {
            Some(secret) => (200, json!({ "data": secret }).to_string()),
            None => (404, json!({ "errors": [] }).to_string()),
        };
    }
    secrets.insert(path.to_owned(), body);
    (200, json!({ "data": { "version": 1 } }).to_string())
}

//! HashiCorp Vault and OpenBao: keys of the transit engine, and the key-value store that `publish`
//! writes.
//!
//! One HTTP request each, `PUT {address}/v1/{engine}/encrypt/{key}` and `…/decrypt/{key}` (SOPS
//! `hcvault/keysource.go`; Vault's HTTP API, "Transit"). Which host is asked stands in the encrypted
//! file, which others may have written: only one that the user's own environment names is sent
//! anything, since the token goes with it.

use std::time::Duration;

use crate::os::Env;
use crate::secret::SecretBytes;

/// Longest answer that is read, in bytes.
const LONGEST_ANSWER: u64 = 16 << 20;
/// What a request may take where `VAULT_CLIENT_TIMEOUT` says nothing.
const TIMEOUT: Duration = Duration::from_mins(1);
/// How often a request is repeated where the server failed and `VAULT_MAX_RETRIES` says nothing.
const RETRIES: u32 = 2;
/// Before the first repetition; twice as long before each further one.
const PAUSE: Duration = Duration::from_millis(250);

/// Which hosts are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Allowed {
    /// All of them: the user said `all`.
    All,
    /// Those whose address begins with one of these, each with a `/` at its end.
    Prefixes(Vec<String>),
}

/// What the user's environment says of Vault.
pub struct Vault {
    allowed: Result<Allowed, String>,
    /// Whether the user gave a list.
    is_listed: bool,
    /// Takes the place of every address: the local agent.
    agent: Option<String>,
    /// `VAULT_ADDR`.
    address: Option<String>,
    token: Option<SecretBytes>,
    namespace: Option<String>,
    timeout: Result<Option<Duration>, String>,
    retries: Result<u32, String>,
    tls: Tls,
    proxy: Option<String>,
    /// Those of the environment, where none is named for Vault.
    #[cfg(feature = "vault")]
    proxies: super::proxies::Proxies,
}

/// How the server is told from others.
struct Tls {
    /// Text of the certificates of `VAULT_CACERT`, `VAULT_CACERT_BYTES` or `VAULT_CAPATH`.
    authorities: Option<Result<Vec<u8>, String>>,
    /// Texts of the certificate and the key that `VAULT_CLIENT_CERT` and `VAULT_CLIENT_KEY` name.
    own: Option<Result<(Vec<u8>, SecretBytes), String>>,
    is_unchecked: Result<bool, String>,
    /// `VAULT_TLS_SERVER_NAME`, which cannot be honoured.
    server_name: bool,
}

impl Vault {
    /// Reads the environment as Vault's own client does, and `SOPS_HC_VAULT_ALLOWLIST`.
    pub fn of(env: &Env) -> Self {
        let text = |name: &str| Some(env.var(name)?.to_str()?.to_owned());
        let token = text("VAULT_TOKEN").map(|text| SecretBytes::new(text.into_bytes()));
        let token = token.or_else(|| {
            let path = env.home()?.join(".vault-token");
            let bytes = crate::os::fs::read_bounded(&path, 64 << 10).ok()?;
            let bytes = SecretBytes::new(bytes);
            Some(SecretBytes::copy_of(bytes.expose().trim_ascii()))
        });
        let agent = text("VAULT_AGENT_ADDR");
        let address = text("VAULT_ADDR");
        let list = text("SOPS_HC_VAULT_ALLOWLIST");
        let allowed = match list.as_deref() {
            Some("all") => Ok(Allowed::All),
            Some("none") => Ok(Allowed::Prefixes(Vec::new())),
            Some(list) => prefixes(list).map(Allowed::Prefixes),
            None => Ok(Allowed::Prefixes(
                address.iter().map(|one| with_slash(one)).collect(),
            )),
        };
        let read = |name: &str| {
            let path = env.path_var(name)?;
            let failed = |error| format!("{name}: {}: {error}", path.display());
            Some(crate::os::fs::read_bounded(&path, 1 << 20).map_err(failed))
        };
        let folder = || {
            let path = env.path_var("VAULT_CAPATH")?;
            Some(certificates_of(&path).map_err(|error| format!("VAULT_CAPATH: {error}")))
        };
        let own = read("VAULT_CLIENT_CERT").map(|certificate| {
            let key = read("VAULT_CLIENT_KEY")
                .unwrap_or_else(|| Err("VAULT_CLIENT_KEY: not set".to_owned()))?;
            Ok((certificate?, SecretBytes::new(key)))
        });
        let tls = Tls {
            authorities: read("VAULT_CACERT")
                .or_else(|| text("VAULT_CACERT_BYTES").map(|text| Ok(text.into_bytes())))
                .or_else(folder),
            own,
            is_unchecked: text("VAULT_SKIP_VERIFY").map_or(Ok(false), |text| truth(&text)),
            server_name: env.var("VAULT_TLS_SERVER_NAME").is_some(),
        };
        Self {
            allowed,
            is_listed: list.is_some(),
            agent,
            address,
            token: token.filter(|token| !token.is_empty()),
            namespace: text("VAULT_NAMESPACE"),
            timeout: text("VAULT_CLIENT_TIMEOUT").map_or(Ok(Some(TIMEOUT)), |text| duration(&text)),
            retries: text("VAULT_MAX_RETRIES").map_or(Ok(RETRIES), |text| {
                text.parse()
                    .map_err(|_| format!("VAULT_MAX_RETRIES: `{text}` is no number"))
            }),
            tls,
            proxy: text("VAULT_PROXY_ADDR").or_else(|| text("VAULT_HTTP_PROXY")),
            #[cfg(feature = "vault")]
            proxies: super::proxies::Proxies::of(env),
        }
    }

    /// Takes the user's word for an address that was typed on the command line; a list of the user's that
    /// does not name it stands above that.
    pub fn trust(&mut self, address: &str) {
        if self.is_listed {
            return;
        }
        if let Ok(Allowed::Prefixes(prefixes)) = &mut self.allowed {
            prefixes.push(with_slash(address));
        }
    }

    /// Returns `VAULT_ADDR`.
    pub fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    /// Encrypts a data key, or a share of one, with a transit key: `vault:v1:…`.
    ///
    /// # Errors
    /// In words, without anything secret.
    pub fn wrap(
        &self,
        address: &str,
        engine: &str,
        name: &str,
        key: &SecretBytes,
    ) -> Result<String, String> {
        let path = format!("{engine}/encrypt/{name}");
        let failed = |why: String| {
            format!("failed to encrypt sops data key to Vault transit backend '{path}': {why}")
        };
        let mut body = SecretBytes::new(Vec::with_capacity(key.len() * 2 + 64));
        body.expose_mut().extend_from_slice(b"{\"plaintext\":\"");
        push_base64(key.expose(), body.expose_mut());
        body.expose_mut().extend_from_slice(b"\"}");
        let answer = self
            .request(address, "PUT", &path, Some(&body))
            .map_err(failed)?;
        let ciphertext = data_field(answer.as_ref(), "ciphertext").map_err(failed)?;
        Ok(String::from_utf8_lossy(ciphertext.expose()).into_owned())
    }

    /// Decrypts what [`Vault::wrap`] returned.
    ///
    /// # Errors
    /// In words, without anything secret.
    pub fn unwrap(
        &self,
        address: &str,
        engine: &str,
        name: &str,
        wrapped: &str,
    ) -> Result<SecretBytes, String> {
        let path = format!("{engine}/decrypt/{name}");
        let failed = |why: String| {
            format!("failed to decrypt sops data key from Vault transit backend '{path}': {why}")
        };
        let body = serde_json::json!({ "ciphertext": wrapped }).to_string();
        let body = SecretBytes::new(body.into_bytes());
        let answer = self
            .request(address, "PUT", &path, Some(&body))
            .map_err(failed)?;
        let text = data_field(answer.as_ref(), "plaintext").map_err(failed)?;
        decode_base64(text.expose())
            .ok_or_else(|| failed("cannot decode base64 plaintext into data key bytes".to_owned()))
    }

    /// Reads a path below `/v1/`; `None` where nothing stands there.
    ///
    /// # Errors
    /// In words.
    pub fn read(&self, address: &str, path: &str) -> Result<Option<SecretBytes>, String> {
        self.request(address, "GET", path, None)
    }

    /// Writes a JSON text to a path below `/v1/`.
    ///
    /// # Errors
    /// In words.
    pub fn write(&self, address: &str, path: &str, body: &SecretBytes) -> Result<(), String> {
        self.request(address, "PUT", path, Some(body)).map(drop)
    }

    /// Returns where a request for an address goes, where that is allowed.
    fn target<'a>(&'a self, address: &'a str) -> Result<&'a str, String> {
        if let Some(agent) = &self.agent {
            if self.is_listed {
                self.check(address)?;
            }
            return Ok(agent.trim_end_matches('/'));
        }
        self.check(address)?;
        Ok(address.trim_end_matches('/'))
    }

    fn check(&self, address: &str) -> Result<(), String> {
        let prefixes = match &self.allowed {
            Ok(Allowed::All) => return Ok(()),
            Ok(Allowed::Prefixes(prefixes)) => prefixes,
            Err(reason) => return Err(reason.clone()),
        };
        let whole = with_slash(address);
        if prefixes.iter().any(|prefix| whole.starts_with(prefix)) {
            return Ok(());
        }
        Err(format!(
            "Allowlist does not allow {address}: only the file names this address, and the token would go there; set `VAULT_ADDR={address}`, or `SOPS_HC_VAULT_ALLOWLIST` to a list of addresses or `all`"
        ))
    }
}

/// Reads `SOPS_HC_VAULT_ALLOWLIST`: addresses separated by commas.
fn prefixes(list: &str) -> Result<Vec<String>, String> {
    let entries = list.split(',').enumerate();
    entries
        .map(|(index, entry)| match entry.trim_matches(' ') {
            "" => Err(format!(
                "SOPS_HC_VAULT_ALLOWLIST's entry {} is empty",
                index + 1
            )),
            entry => Ok(with_slash(entry)),
        })
        .collect()
}

/// Returns a path as it stands in a request: cleaned of empty parts and `..`, and with everything escaped
/// that Go's `net/url` escapes in a path.
fn escaped(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut text = String::with_capacity(path.len());
    for byte in parts.join("/").bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

fn with_slash(address: &str) -> String {
    format!("{}/", address.trim_end_matches('/'))
}

/// Reads a truth value as Go's `ParseBool` does.
fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err(format!("VAULT_SKIP_VERIFY: `{text}` is no truth value")),
    }
}

/// Reads a time: seconds, or as Go's `ParseDuration`: numbers, each with its unit. None is no limit.
fn duration(text: &str) -> Result<Option<Duration>, String> {
    let wrong = || format!("VAULT_CLIENT_TIMEOUT: `{text}` is no time such as `30s`");
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let is_digit = |character: char| character.is_ascii_digit() || character == '.';
        let digits = rest
            .find(|character| !is_digit(character))
            .unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = rest[digits..]
            .find(is_digit)
            .map_or(rest.len(), |length| digits + length);
        seconds += number
            * match &rest[digits..unit] {
                "" if rest.len() == text.len() => 1.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(wrong()),
            };
        rest = &rest[unit..];
    }
    if text.is_empty() || seconds < 0.0 {
        return Err(wrong());
    }
    let time = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    Ok((!time.is_zero()).then_some(time))
}

/// Returns the certificates of a folder in one text.
fn certificates_of(folder: &std::path::Path) -> Result<Vec<u8>, String> {
    let names = crate::os::fs::names(folder);
    if names.is_empty() {
        return Err(format!("{}: no certificate there", folder.display()));
    }
    let mut text = Vec::new();
    for name in names {
        if let Ok(bytes) = crate::os::fs::read_bounded(&folder.join(name), 1 << 20) {
            text.extend_from_slice(&bytes);
            text.push(b'\n');
        }
    }
    Ok(text)
}

fn push_base64(bytes: &[u8], out: &mut Vec<u8>) {
    use base64::Engine;
    let engine = base64::engine::general_purpose::STANDARD;
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    drop(engine.encode_slice(bytes, &mut out[start..]));
}

fn decode_base64(text: &[u8]) -> Option<SecretBytes> {
    use base64::Engine;
    let engine = base64::engine::general_purpose::STANDARD;
    engine.decode(text).ok().map(SecretBytes::new)
}

/// What is read of an answer: `{"data": {"ciphertext": …}}`.
#[derive(serde::Deserialize)]
struct Answer {
    data: Option<Fields>,
}

#[derive(serde::Deserialize)]
struct Fields {
    #[serde(default)]
    ciphertext: Option<String>,
    #[serde(default)]
    plaintext: Option<String>,
}

/// Returns a field of what Vault's transit engine answered: `{"data": {"ciphertext": …}}`, or `plaintext`.
///
/// # Errors
/// In words, without anything of the answer.
pub fn data_field(answer: Option<&SecretBytes>, name: &str) -> Result<SecretBytes, String> {
    let empty = || "transit backend is empty".to_owned();
    let answer = answer.ok_or_else(empty)?;
    let parsed: Answer = serde_json::from_slice(answer.expose())
        .map_err(|_| "the answer is not what Vault's transit engine returns".to_owned())?;
    let fields = parsed.data.ok_or_else(empty)?;
    let (ciphertext, plaintext) = (
        fields
            .ciphertext
            .map(|text| SecretBytes::new(text.into_bytes())),
        fields
            .plaintext
            .map(|text| SecretBytes::new(text.into_bytes())),
    );
    let (field, missing) = if name == "ciphertext" {
        (ciphertext, "no encrypted data")
    } else {
        (plaintext, "no decrypted data")
    };
    field.ok_or_else(|| missing.to_owned())
}

#[cfg(not(feature = "vault"))]
impl Vault {
    fn request(
        &self,
        address: &str,
        _method: &str,
        _path: &str,
        _body: Option<&SecretBytes>,
    ) -> Result<Option<SecretBytes>, String> {
        self.target(address)?;
        Err("this program was built without its `vault` feature".to_owned())
    }
}

#[cfg(feature = "vault")]
mod client {
    use std::thread;

    use ureq::http::{Request, Uri};
    use ureq::tls::{
        Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem,
    };
    use ureq::{Agent, Proxy};

    use super::{LONGEST_ANSWER, PAUSE, Vault};
    use crate::secret::SecretBytes;

    /// What came back.
    struct Reply {
        status: u16,
        location: Option<String>,
        body: SecretBytes,
    }

    impl Vault {
        /// Sends one request, again where the server failed, and follows one redirect to an allowed host.
        /// `None` is an answer without content, or that there is nothing at the path.
        pub(super) fn request(
            &self,
            address: &str,
            method: &str,
            path: &str,
            body: Option<&SecretBytes>,
        ) -> Result<Option<SecretBytes>, String> {
            let target = self.target(address)?;
            let agent = self.agent(target)?;
            let mut url = format!("{target}/v1/{}", super::escaped(path));
            let mut is_redirected = false;
            let retries = self.retries.clone()?;
            let mut attempt = 0;
            loop {
                let reply = self.send(&agent, method, &url, body);
                // As Vault's client: again after 412 and every 5xx but 501, and where nothing came.
                let is_failed = match &reply {
                    Ok(reply) => {
                        reply.status == 412 || (reply.status >= 500 && reply.status != 501)
                    }
                    Err(error) => error.is_transient,
                };
                if is_failed && attempt < retries {
                    thread::sleep(PAUSE * 2_u32.pow(attempt.min(4)));
                    attempt += 1;
                    continue;
                }
                let reply = reply.map_err(|error| error.reason)?;
                match (reply.status, &reply.location) {
                    (301 | 302 | 307 | 308, Some(location)) if !is_redirected => {
                        url = self.redirected(&url, location)?;
                        is_redirected = true;
                    }
                    (200..=203, _) => return Ok(Some(reply.body)),
                    (204, _) => return Ok(None),
                    (404, _) if method == "GET" => return Ok(None),
                    (status, _) => return Err(refusal(method, &url, status, &reply.body)),
                }
            }
        }

        /// Returns where a redirect leads, when the token may go there.
        fn redirected(&self, from: &str, to: &str) -> Result<String, String> {
            let own: Option<String> = from.parse().ok().and_then(|from: Uri| {
                Some(format!("{}://{}", from.scheme_str()?, from.authority()?))
            });
            let to = match &own {
                Some(own) if to.starts_with('/') && !to.starts_with("//") => format!("{own}{to}"),
                _ => to.to_owned(),
            };
            let uri: Uri = to
                .parse()
                .map_err(|_| "the server redirects to something that is no address".to_owned())?;
            let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.authority()) else {
                return Err("the server redirects to something that is no address".to_owned());
            };
            if from.starts_with("https:") && scheme != "https" {
                return Err(format!(
                    "the server redirects to {scheme}://{host}, which is not encrypted"
                ));
            }
            let origin = format!("{scheme}://{host}");
            if own.as_ref() != Some(&origin) {
                self.check(&origin)
                    .map_err(|why| format!("the server redirects to {origin}: {why}"))?;
            }
            Ok(to)
        }

        fn agent(&self, target: &str) -> Result<Agent, String> {
            if self.tls.server_name {
                return Err(
                    "VAULT_TLS_SERVER_NAME is not supported: use the name in the certificate as address"
                        .to_owned(),
                );
            }
            let mut tls = TlsConfig::builder()
                .root_certs(RootCerts::PlatformVerifier)
                .disable_verification(self.tls.is_unchecked.clone()?);
            if let Some(authorities) = &self.tls.authorities {
                let text = authorities.as_ref().map_err(Clone::clone)?;
                let found = certificates(text);
                if found.is_empty() {
                    return Err("no certificate in what VAULT_CACERT, VAULT_CACERT_BYTES or VAULT_CAPATH names".to_owned());
                }
                tls = tls.root_certs(RootCerts::new_with_certs(&found));
            }
            if let Some(own) = &self.tls.own {
                let (certificate, key) = own.as_ref().map_err(Clone::clone)?;
                let key = PrivateKey::from_pem(key.expose())
                    .map_err(|_| "VAULT_CLIENT_KEY: not a private key".to_owned())?;
                let chain = certificates(certificate);
                tls = tls.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
            }
            let named = self
                .proxy
                .as_deref()
                .map(|proxy| ("VAULT_PROXY_ADDR", proxy));
            let proxy = match named.or_else(|| self.proxies.proxy_for(target)) {
                Some((name, proxy)) => {
                    Some(Proxy::new(proxy).map_err(|_| format!("{name}: not a proxy's address"))?)
                }
                None => None,
            };
            Ok(Agent::config_builder()
                .timeout_global(self.timeout.clone()?)
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .user_agent(concat!("secrets/", env!("CARGO_PKG_VERSION")))
                .proxy(proxy)
                .tls_config(tls.build())
                .build()
                .new_agent())
        }

        fn send(
            &self,
            agent: &Agent,
            method: &str,
            url: &str,
            body: Option<&SecretBytes>,
        ) -> Result<Reply, Failure> {
            let mut request = Request::builder()
                .method(method)
                .uri(url)
                .header("X-Vault-Request", "true");
            if let Some(namespace) = &self.namespace {
                request = request.header("X-Vault-Namespace", namespace);
            }
            if let Some(token) = &self.token {
                request = request.header("X-Vault-Token", token.expose());
            }
            let malformed = || Failure {
                reason: format!("`{}` is no address that can be asked", without_user(url)),
                is_transient: false,
            };
            let answer = match body {
                Some(body) => {
                    let request = request.header("Content-Type", "application/json");
                    let request = request.body(body.expose()).map_err(|_| malformed())?;
                    agent.run(request)
                }
                None => agent.run(request.body(()).map_err(|_| malformed())?),
            };
            let failed = |error: ureq::Error| Failure {
                is_transient: matches!(
                    error,
                    ureq::Error::Io(_) | ureq::Error::ConnectionFailed | ureq::Error::HostNotFound
                ),
                reason: format!("{}: {}", without_user(url), in_words(&error)),
            };
            let mut answer = answer.map_err(failed)?;
            let location = answer.headers().get("location");
            let location = location.and_then(|value| value.to_str().ok().map(str::to_owned));
            let status = answer.status().as_u16();
            let body = answer.body_mut().with_config().limit(LONGEST_ANSWER);
            let body = SecretBytes::new(body.read_to_vec().map_err(failed)?);
            Ok(Reply {
                status,
                location,
                body,
            })
        }
    }

    struct Failure {
        reason: String,
        is_transient: bool,
    }

    /// Says what an HTTP error is; a library's own words may hold parts of the answer.
    fn in_words(error: &ureq::Error) -> String {
        match error {
            ureq::Error::Timeout(_) => "no answer in time".to_owned(),
            ureq::Error::BodyExceedsLimit(_) => {
                "the answer is longer than any of Vault's".to_owned()
            }
            ureq::Error::HostNotFound => "the host is not known".to_owned(),
            ureq::Error::ConnectionFailed => "no connection".to_owned(),
            ureq::Error::Io(error) => error.to_string(),
            ureq::Error::Tls(reason) => (*reason).to_owned(),
            ureq::Error::Rustls(error) => error.to_string(),
            _ => "the answer is not HTTP that Vault speaks".to_owned(),
        }
    }

    fn without_user(url: &str) -> String {
        match url.split_once("://") {
            Some((scheme, rest)) => {
                let host = rest.split('/').next().unwrap_or_default();
                let host = host.rsplit('@').next().unwrap_or_default();
                format!("{scheme}://{host}")
            }
            None => String::new(),
        }
    }

    fn certificates(text: &[u8]) -> Vec<Certificate<'static>> {
        parse_pem(text)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect()
    }

    /// Says what an answer that is no success means; Vault's own words, where it has some.
    fn refusal(method: &str, url: &str, status: u16, body: &SecretBytes) -> String {
        #[derive(serde::Deserialize)]
        struct Errors {
            #[serde(default)]
            errors: Vec<String>,
        }
        let errors: Vec<String> = serde_json::from_slice(body.expose())
            .map(|answer: Errors| answer.errors)
            .unwrap_or_default();
        let meaning = match status {
            403 => " (the token is missing, expired, or its policy does not allow this)",
            404 => " (no such path: is the engine enabled and named so?)",
            503 => " (the server is sealed or not ready)",
            _ => "",
        };
        let path = url.split("://").nth(1).unwrap_or_default();
        let path = path.split_once('/').map_or("", |(_, path)| path);
        let mut text = format!(
            "{method} {}/{path}: code {status}{meaning}",
            without_user(url)
        );
        for error in errors.iter().take(4) {
            let plain: String = error.chars().take(200).collect();
            text.push_str(&format!(": {}", plain.escape_debug()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_lists_are_read() {
        assert_eq!(duration("30"), Ok(Some(Duration::from_secs(30))));
        assert_eq!(duration("250ms"), Ok(Some(Duration::from_millis(250))));
        assert_eq!(duration("1m30s"), Ok(Some(Duration::from_secs(90))));
        assert_eq!(duration("1.5s"), Ok(Some(Duration::from_millis(1500))));
        assert_eq!(duration("0"), Ok(None));
        assert_eq!(escaped("/secret//data/x?.yaml"), "secret/data/x%3F.yaml");
        assert_eq!(escaped("a b/100%25/ü/../k"), "a%20b/100%2525/k");
        assert!(duration("soon").is_err() && duration("").is_err());
        assert_eq!(
            prefixes("https://a, https://b/"),
            Ok(vec!["https://a/".to_owned(), "https://b/".to_owned()])
        );
        assert!(prefixes("https://a,,b").is_err());
    }
}

//! Master keys: what a data key, or a share of it, is wrapped with, and the wrapped text.
//!
//! Seven kinds (SOPS `stores/stores.go` for the fields, each `ToString` for the name): age, PGP, Vault
//! transit and four clouds. All are read, kept and named; which of them can be used is the business
//! of `keys`.

use std::fmt;

use super::metadata::Node;

/// Which key, whatever is wrapped with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyId {
    /// An age recipient, or an SSH public key.
    Age {
        /// The recipient as text.
        recipient: String,
    },
    /// A key of Azure Key Vault.
    AzureKv {
        /// `https://….vault.azure.net`.
        vault_url: String,
        /// The key's name.
        name: String,
        /// The key's version; empty stands for the newest.
        version: String,
    },
    /// A key of Google Cloud KMS.
    GcpKms {
        /// `projects/…/locations/…/keyRings/…/cryptoKeys/…`.
        resource_id: String,
    },
    /// A key of the transit engine of HashiCorp Vault or OpenBao.
    HcVault {
        /// Scheme, host and port.
        address: String,
        /// The path of the engine below `/v1/`.
        engine_path: String,
        /// The key's name.
        key_name: String,
    },
    /// A key of Huawei Cloud KMS.
    HcKms {
        /// `region:uuid`.
        key_id: String,
    },
    /// A key of AWS KMS.
    Kms {
        /// The key's or alias' ARN.
        arn: String,
        /// The ARN of a role, empty for none.
        role: String,
        /// The encryption context, sorted by key.
        context: Vec<(String, String)>,
        /// The profile in the user's AWS configuration, empty for none.
        aws_profile: String,
    },
    /// A PGP key.
    Pgp {
        /// The fingerprint as written, blanks removed; a `!` at its end selects a subkey.
        fingerprint: String,
    },
}

/// A kind of key, by the list of the metadata it stands in, in the order SOPS loads them.
pub const KINDS: [&str; 7] = [
    "kms", "gcp_kms", "hckms", "azure_kv", "hc_vault", "pgp", "age",
];

impl KeyId {
    /// Returns the list of the metadata it stands in: `age`, `pgp`, `kms`, ….
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Age { .. } => "age",
            Self::AzureKv { .. } => "azure_kv",
            Self::GcpKms { .. } => "gcp_kms",
            Self::HcVault { .. } => "hc_vault",
            Self::HcKms { .. } => "hckms",
            Self::Kms { .. } => "kms",
            Self::Pgp { .. } => "pgp",
        }
    }

    /// Returns the recipient of an age key.
    pub fn recipient(&self) -> Option<&str> {
        match self {
            Self::Age { recipient } => Some(recipient),
            _ => None,
        }
    }

    /// Returns the key without what does not tell it from others: the comment at the end of an SSH key.
    #[must_use]
    pub fn canonical(&self) -> Self {
        match self {
            Self::Age { recipient } if recipient.starts_with("ssh-") => {
                let words: Vec<&str> = recipient.split_ascii_whitespace().take(2).collect();
                Self::Age {
                    recipient: words.join(" "),
                }
            }
            other => other.clone(),
        }
    }

    /// Returns whether it takes a cloud account, which this program has no client for.
    pub fn is_cloud(&self) -> bool {
        matches!(
            self,
            Self::AzureKv { .. } | Self::GcpKms { .. } | Self::HcKms { .. } | Self::Kms { .. }
        )
    }

    /// Returns an age recipient without the blanks around it.
    pub fn age(recipient: &str) -> Self {
        Self::Age {
            recipient: recipient.trim().to_owned(),
        }
    }

    /// Returns a PGP key, all blanks of the fingerprint removed.
    pub fn pgp(fingerprint: &str) -> Self {
        Self::Pgp {
            fingerprint: fingerprint.replace(' ', ""),
        }
    }

    /// Returns a key of AWS KMS, `ARN` or `ARN+ROLE`, blanks removed.
    pub fn kms(arn: &str, context: &[(String, String)], aws_profile: &str) -> Self {
        let arn = arn.replace(' ', "");
        let (arn, role) = match arn.find("+arn:") {
            Some(at) if at > 0 => (arn[..at].to_owned(), arn[at + 1..].to_owned()),
            _ => (arn, String::new()),
        };
        let mut context = context.to_vec();
        context.sort();
        Self::Kms {
            arn,
            role,
            context,
            aws_profile: aws_profile.to_owned(),
        }
    }

    /// Returns a key of Google Cloud KMS, blanks removed.
    pub fn gcp_kms(resource_id: &str) -> Self {
        Self::GcpKms {
            resource_id: resource_id.replace(' ', ""),
        }
    }

    /// Returns a key of Huawei Cloud KMS.
    ///
    /// # Errors
    /// What is wrong with a text that is not `region:uuid`, in words.
    pub fn hckms(key_id: &str) -> Result<Self, String> {
        let key_id = key_id.trim();
        let Some((region, uuid)) = key_id.split_once(':') else {
            return Err(format!(
                "invalid key ID format: expected 'region:key-uuid', got {key_id:?}"
            ));
        };
        for (part, name) in [(region, "region"), (uuid, "key UUID")] {
            if part.trim().is_empty() {
                return Err(format!("{name} cannot be empty in key ID: {key_id:?}"));
            }
        }
        Ok(Self::HcKms {
            key_id: key_id.to_owned(),
        })
    }

    /// Returns a key of Azure Key Vault from `https://HOST/keys/NAME[/VERSION]`.
    ///
    /// # Errors
    /// In words, for another text.
    pub fn azure_kv(url: &str) -> Result<Self, String> {
        let url = url.trim();
        let parse = || {
            let rest = url.strip_prefix("https://")?;
            let (host, path) = rest.split_once('/')?;
            let path = path.strip_prefix("keys/")?;
            let (name, version) = path.split_once('/').unwrap_or((path, ""));
            let fits = !host.is_empty() && !name.is_empty() && !version.contains('/');
            fits.then(|| Self::AzureKv {
                vault_url: format!("https://{host}"),
                name: name.to_owned(),
                version: version.to_owned(),
            })
        };
        parse().ok_or_else(|| {
            format!("could not parse {url:?} into a valid Azure Key Vault MasterKey []")
        })
    }

    /// Returns a key of Vault's transit engine from `SCHEME://HOST[:PORT]/v1/ENGINE…/keys/NAME`.
    ///
    /// # Errors
    /// In words, for another text.
    pub fn hc_vault(uri: &str) -> Result<Self, String> {
        const EXAMPLE: &str = "https://vault.example.com:8200/v1/transit/keys/keyName";
        let Some((scheme, rest)) = uri.split_once("://") else {
            return Err(format!(
                "missing scheme in Vault URL (should be like this: +{EXAMPLE}), got: {uri}"
            ));
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.split('#').next().unwrap_or_default();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let is_version = |part: &&str| {
            part.strip_prefix('v').is_some_and(|digits| {
                !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
            })
        };
        let version = parts.iter().position(is_version);
        match version {
            Some(0) if parts.len() >= 4 && parts.iter().all(|part| !part.is_empty()) => {}
            Some(at) if at > 0 && parts.len() >= at + 4 => {
                return Err(format!(
                    "running Vault with a prefixed URL is not supported! (Format has to be like {EXAMPLE})"
                ));
            }
            _ => {
                return Err(format!(
                    "vault path does not seem to be formatted correctly: (eg. {EXAMPLE})"
                ));
            }
        }
        let [_, engine @ .., _, name] = &parts[..] else {
            return Err(format!(
                "vault path does not seem to be formatted correctly: (eg. {EXAMPLE})"
            ));
        };
        Ok(Self::HcVault {
            address: format!("{scheme}://{host}"),
            engine_path: engine.join("/"),
            key_name: (*name).to_owned(),
        })
    }

    /// Returns its fields as they stand in the metadata, in byte-wise order of their names; what is wrapped
    /// with it and when comes between them.
    fn fields(&self) -> Vec<(&'static str, Node)> {
        let text = |text: &String| Node::Text(text.clone());
        match self {
            Self::Age { recipient } => vec![("recipient", text(recipient))],
            Self::AzureKv {
                vault_url,
                name,
                version,
            } => vec![
                ("name", text(name)),
                ("vault_url", text(vault_url)),
                ("version", text(version)),
            ],
            Self::GcpKms { resource_id } => vec![("resource_id", text(resource_id))],
            Self::HcVault {
                address,
                engine_path,
                key_name,
            } => vec![
                ("engine_path", text(engine_path)),
                ("key_name", text(key_name)),
                ("vault_address", text(address)),
            ],
            Self::HcKms { key_id } => vec![("key_id", text(key_id))],
            Self::Kms {
                arn,
                role,
                context,
                aws_profile,
            } => {
                let mut fields = vec![("arn", text(arn)), ("aws_profile", text(aws_profile))];
                if !context.is_empty() {
                    let pairs = context.iter();
                    let pairs = pairs.map(|(key, value)| (key.clone(), text(value)));
                    fields.push(("context", Node::Map(pairs.collect())));
                }
                if !role.is_empty() {
                    fields.push(("role", text(role)));
                }
                fields
            }
            Self::Pgp { fingerprint } => vec![("fp", text(fingerprint))],
        }
    }
}

/// The name by which SOPS shows a key and tells it from others.
impl fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Age { recipient } => formatter.write_str(recipient),
            Self::AzureKv {
                vault_url,
                name,
                version,
            } => write!(formatter, "{vault_url}/keys/{name}/{version}"),
            Self::GcpKms { resource_id } => formatter.write_str(resource_id),
            Self::HcVault {
                address,
                engine_path,
                key_name,
            } => write!(formatter, "{address}/v1/{engine_path}/keys/{key_name}"),
            Self::HcKms { key_id } => formatter.write_str(key_id),
            Self::Kms {
                arn,
                role,
                context,
                aws_profile,
            } => {
                formatter.write_str(arn)?;
                if !role.is_empty() {
                    write!(formatter, "+{role}")?;
                }
                let pairs = context.iter().map(|(key, value)| format!("{key}:{value}"));
                let context = pairs.collect::<Vec<_>>().join(",");
                match (context.is_empty(), aws_profile.is_empty()) {
                    (_, false) => write!(formatter, "|{context}|{aws_profile}"),
                    (false, true) => write!(formatter, "|{context}"),
                    (true, true) => Ok(()),
                }
            }
            Self::Pgp { fingerprint } => formatter.write_str(fingerprint),
        }
    }
}

/// A key with the data key, or a share of it, wrapped with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasterKey {
    /// Which key.
    pub id: KeyId,
    /// The wrapped text: an armored age file or PGP message, `vault:v1:…`, base64 of a cloud.
    pub enc: String,
    /// When the key was put into the file, RFC 3339; empty for age, which does not say.
    pub created_at: String,
}

impl MasterKey {
    /// Returns an age recipient with what is wrapped for it.
    pub fn age(recipient: &str, enc: &str) -> Self {
        Self {
            id: KeyId::Age {
                recipient: recipient.to_owned(),
            },
            enc: enc.to_owned(),
            created_at: String::new(),
        }
    }

    /// Returns a key that nothing is wrapped with yet, as of `now` (RFC 3339).
    pub fn new(id: KeyId, now: &str) -> Self {
        let created_at = match id {
            KeyId::Age { .. } => String::new(),
            _ => now.to_owned(),
        };
        Self {
            id,
            enc: String::new(),
            created_at,
        }
    }

    /// Reads an entry of the list `kind`.
    pub(super) fn from_node(kind: &str, node: &Node) -> Self {
        let field = |name: &str| node.get(name).and_then(Node::text).unwrap_or_default();
        let id = match kind {
            "age" => KeyId::Age {
                recipient: field("recipient"),
            },
            "azure_kv" => KeyId::AzureKv {
                vault_url: field("vault_url"),
                name: field("name"),
                version: field("version"),
            },
            "gcp_kms" => KeyId::GcpKms {
                resource_id: field("resource_id"),
            },
            "hc_vault" => KeyId::HcVault {
                address: field("vault_address"),
                engine_path: field("engine_path"),
                key_name: field("key_name"),
            },
            "hckms" => KeyId::HcKms {
                key_id: field("key_id"),
            },
            "kms" => {
                let mut context: Vec<(String, String)> = match node.get("context") {
                    Some(Node::Map(pairs)) => pairs
                        .iter()
                        .map(|(key, value)| (key.clone(), value.text().unwrap_or_default()))
                        .collect(),
                    _ => Vec::new(),
                };
                context.sort();
                KeyId::Kms {
                    arn: field("arn"),
                    role: field("role"),
                    context,
                    aws_profile: field("aws_profile"),
                }
            }
            _ => KeyId::Pgp {
                fingerprint: field("fp"),
            },
        };
        let created_at = match id {
            KeyId::Age { .. } => String::new(),
            _ => field("created_at"),
        };
        Self {
            id,
            enc: field("enc"),
            created_at,
        }
    }

    /// Returns the entry as it stands in the metadata, fields in byte-wise order.
    pub(super) fn to_node(&self) -> Node {
        let mut fields = self.id.fields();
        fields.push(("enc", Node::Text(self.enc.clone())));
        if !self.created_at.is_empty() {
            let created_at = super::value::without_fraction(&self.created_at);
            fields.push(("created_at", Node::Text(created_at)));
        }
        fields.sort_by_key(|(name, _)| *name);
        let fields = fields.into_iter();
        Node::Map(fields.map(|(name, node)| (name.to_owned(), node)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_names_of_the_reference() {
        let context = [
            ("b".to_owned(), "2".to_owned()),
            ("a".to_owned(), "1".to_owned()),
        ];
        let named = |id: KeyId| id.to_string();
        assert_eq!(named(KeyId::kms("arn:x", &[], "")), "arn:x");
        assert_eq!(named(KeyId::kms("arn:x +arn:r", &[], "")), "arn:x+arn:r");
        assert_eq!(named(KeyId::kms("arn:x", &context, "")), "arn:x|a:1,b:2");
        assert_eq!(named(KeyId::kms("arn:x", &[], "p")), "arn:x||p");
        assert_eq!(named(KeyId::pgp("AB CD!")), "ABCD!");
        assert_eq!(
            named(KeyId::hc_vault("http://h:1/v1/a/b/keys/k").unwrap()),
            "http://h:1/v1/a/b/keys/k"
        );
        assert_eq!(
            named(KeyId::azure_kv("https://h/keys/k/1").unwrap()),
            "https://h/keys/k/1"
        );
        for uri in [
            "",
            "h/v1/t/keys/k",
            "http://h/p/v1/t/keys/k",
            "http://h/v1/k",
            "http://h",
        ] {
            assert!(KeyId::hc_vault(uri).is_err(), "{uri}");
        }
        assert!(KeyId::hckms("x").is_err() && KeyId::hckms("r:u").is_ok());
        assert!(KeyId::azure_kv("http://h/keys/k").is_err());
    }
}

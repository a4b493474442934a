//! The proxies that requests go through.

use std::net::IpAddr;

use crate::os::Env;

/// The proxies of the environment, read as Go's `net/http` reads them.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    http: Option<String>,
    https: Option<String>,
    /// Where none is used, separated by commas.
    none: String,
}

impl Proxies {
    /// Reads the environment.
    pub(super) fn of(env: &Env) -> Self {
        let text = |name: &str| {
            let found = [name.to_owned(), name.to_ascii_lowercase()];
            let mut found = found.iter().filter_map(|name| env.var(name)?.to_str());
            found.find(|text| !text.is_empty()).map(str::to_owned)
        };
        Self {
            http: text("HTTP_PROXY"),
            https: text("HTTPS_PROXY"),
            none: text("NO_PROXY").unwrap_or_default(),
        }
    }

    /// Returns the proxy for an address, with the variable that names it.
    pub(super) fn proxy_for(&self, address: &str) -> Option<(&'static str, &str)> {
        let (scheme, rest) = address.split_once("://")?;
        let (name, proxy, port) = match scheme {
            "https" => ("HTTPS_PROXY", self.https.as_deref()?, "443"),
            _ => ("HTTP_PROXY", self.http.as_deref()?, "80"),
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let authority = authority.rsplit('@').next().unwrap_or_default();
        let (host, port) = with_port(authority).unwrap_or((authority, port));
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        let ip: Option<IpAddr> = host.parse().ok();
        if host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
            return None;
        }
        let mut entries = self
            .none
            .split(',')
            .map(|entry| entry.trim().to_ascii_lowercase());
        let is_direct = entries.any(|entry| {
            if entry.is_empty() {
                return false;
            }
            if entry == "*" {
                return true;
            }
            if let (Some(ip), Some((network, bits))) = (ip, entry.split_once('/')) {
                return is_inside(ip, network, bits);
            }
            let (name, only) =
                with_port(&entry).map_or((entry.as_str(), None), |(name, port)| (name, Some(port)));
            let name = name.trim_matches(['[', ']']);
            let is_named = if let Some(ip) = ip {
                name.parse() == Ok(ip)
            } else {
                let end = name.trim_start_matches('*').trim_start_matches('.');
                let is_below = host
                    .strip_suffix(end)
                    .is_some_and(|rest| rest.ends_with('.'));
                is_below || host == name
            };
            is_named && only.is_none_or(|only| only == port)
        });
        (!is_direct).then_some((name, proxy))
    }
}

/// Splits a host and a port, where there is one.
fn with_port(authority: &str) -> Option<(&str, &str)> {
    let (host, port) = authority.rsplit_once(':')?;
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_host = !host.contains(':') || host.ends_with(']');
    (is_port && is_host).then_some((host, port))
}

/// Returns whether an address is of a network such as `192.0.2.0/24`.
fn is_inside(ip: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(ip) & mask == u32::from(network) & mask
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            u128::from(ip) & mask == u128::from(network) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_that_of_the_scheme_and_never_of_this_machine() {
        let proxies = Proxies {
            http: Some("http://p:1".to_owned()),
            https: None,
            none: "192.0.2.0/24, .inner.example,vault.example:8200,plain.example".to_owned(),
        };
        let is_used = |address: &str| proxies.proxy_for(address).is_some();
        assert_eq!(
            proxies.proxy_for("http://a.example/v1"),
            Some(("HTTP_PROXY", "http://p:1"))
        );
        assert!(!is_used("https://a.example"));
        for direct in [
            "http://localhost:8200",
            "http://127.0.0.1:8200",
            "http://[::1]:8200",
            "http://192.0.2.7:1",
            "http://a.inner.example",
            "http://vault.example:8200",
            "http://plain.example",
            "http://below.plain.example:9",
        ] {
            assert!(!is_used(direct), "{direct}");
        }
        for through in [
            "http://192.0.3.7",
            "http://vault.example",
            "http://inner.example",
            "http://explain.example",
        ] {
            assert!(is_used(through), "{through}");
        }
        let nowhere = Proxies {
            none: "*".to_owned(),
            ..proxies
        };
        assert_eq!(nowhere.proxy_for("http://a.example"), None);
    }
}

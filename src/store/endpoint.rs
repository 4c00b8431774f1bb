//! Checks the URL of an S3-compatible endpoint. Pure.

use std::net::IpAddr;

use super::error::StoreError;

/// What the client needs to know of an endpoint beside its URL.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) url: String,
    /// An address has no subdomains, so buckets can only stand in the path.
    pub(super) needs_path_style: bool,
}

/// Whether credentials' signatures and sealed bytes may travel without TLS to another machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainHttp {
    /// It may not.
    Refused,
    /// It may.
    Allowed,
}

/// Reads an endpoint's URL: scheme `https`, or `http` where it stays on this machine or was allowed.
pub(super) fn parse(url: &str, plain_http: PlainHttp) -> Result<Endpoint, StoreError> {
    // The URL itself is not repeated: somebody may have typed credentials into it.
    let refuse = |why: &str| {
        StoreError::Configuration(format!(
            "read the S3 endpoint: {why}\nhint: set BACKUP_S3_ENDPOINT_URL to something like https://s3.eu-central-003.backblazeb2.com"
        ))
    };
    let url = url.trim().trim_end_matches('/');
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(refuse("it has no scheme"));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(refuse(
            "it holds credentials, which have their own settings",
        ));
    }
    if rest.contains(['?', '#']) || url.contains(char::is_whitespace) {
        return Err(refuse("it has a query, a fragment or white space"));
    }
    let host = host_of(authority).ok_or_else(|| refuse("it has no host, or a wrong port"))?;
    let address: Option<IpAddr> = host.parse().ok();
    let loopback = match address {
        Some(address) => address.is_loopback(),
        None => host == "localhost" || host.ends_with(".localhost"),
    };
    match scheme.to_ascii_lowercase().as_str() {
        "https" => {}
        "http" if loopback || plain_http == PlainHttp::Allowed => {}
        "http" => {
            return Err(StoreError::Configuration(format!(
                "read the S3 endpoint: http:// to {host} would carry backups without TLS\nhint: use https:// in BACKUP_S3_ENDPOINT_URL, or set BACKUP_S3_ALLOW_HTTP=true on a network you trust"
            )));
        }
        _ => return Err(refuse("its scheme is neither https nor http")),
    }
    Ok(Endpoint {
        url: url.to_owned(),
        needs_path_style: loopback || address.is_some(),
    })
}

/// The host without port and brackets.
fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => match authority.find(':') {
            Some(colon) => authority.split_at(colon),
            None => (authority, ""),
        },
    };
    let port_is_right = match port.strip_prefix(':') {
        Some(port) => port.parse::<u16>().is_ok(),
        None => port.is_empty(),
    };
    (port_is_right && !host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_leaves_the_machine_only_when_allowed() {
        for url in ["http://minio:9000", "http://10.0.0.7", "HTTP://example.com"] {
            let error = parse(url, PlainHttp::Refused).unwrap_err().to_string();
            assert!(error.contains("BACKUP_S3_ALLOW_HTTP"), "{error}");
            assert!(parse(url, PlainHttp::Allowed).is_ok(), "{url}");
        }
        for url in [
            "http://127.0.0.1:9000",
            "http://localhost/",
            "http://[::1]:1",
        ] {
            assert!(parse(url, PlainHttp::Refused).unwrap().needs_path_style);
        }
    }

    #[test]
    fn names_keep_virtual_hosts_and_addresses_do_not() {
        let named = parse("https://s3.example.com/", PlainHttp::Refused).unwrap();
        assert_eq!(named.url, "https://s3.example.com");
        assert!(!named.needs_path_style);
        let address = parse("https://192.0.2.1:9000", PlainHttp::Refused).unwrap();
        assert!(address.needs_path_style);
    }

    #[test]
    fn urls_that_cannot_be_meant_are_refused_without_repeating_them() {
        for url in [
            "",
            "s3.example.com",
            "ftp://h",
            "https://",
            "https://h:port",
            "https://user:canary@h",
            "https://h/?canary",
            "https://[::1",
        ] {
            let error = parse(url, PlainHttp::Allowed).unwrap_err().to_string();
            assert!(error.contains("BACKUP_S3_ENDPOINT_URL"), "{url}: {error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }
}

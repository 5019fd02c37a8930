//! Parts of addresses.

use std::net::Ipv4Addr;

/// "https://host:port" of an address.
pub fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    &url[..end]
}

/// An address as it may be shown: no password, and no path, which may be signed or name a patient.
pub fn shown(url: &str) -> String {
    let origin = origin(url);
    match (origin.split_once("://"), origin.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => origin.to_owned(),
    }
}

/// Whether an address is this machine's.
pub fn is_loopback(url: &str) -> bool {
    let shown = shown(url);
    let host = shown.split_once("://").map_or("", |(_, host)| host);
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    // Not by its first letters: "127.example.org" may be anywhere.
    let is_local = |name: &str| name == "localhost" || name.parse().is_ok_and(|ip: Ipv4Addr| ip.is_loopback());
    is_local(host) || is_local(name) || host.starts_with("[::1]")
}

/// Percent-encodes all but letters, digits and `-._~`; `/` stays when `slash`.
pub fn encode(text: &str, slash: bool) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || (slash && b == b'/');
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// What is wrong with the address of a server that a user names, to which paths are added.
///
/// # Errors
/// No http or https, a name or a password in it, a query, or what no address has.
pub fn check_base(url: &str) -> Result<(), String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let Some(rest) = rest.filter(|rest| !rest.is_empty() && !rest.starts_with(['/', ':'])) else {
        return Err("is no address; allowed are http://HOST and https://HOST, with a port and a path".into());
    };
    if origin(url).contains('@') {
        // Not repeated: it holds a password.
        return Err("has a name or a password in it; they belong into the environment".into());
    }
    let named = origin(rest);
    let host = named.rfind(']').map_or(0, |end| end + 1);
    if let Some((_, port)) = named[host..].split_once(':') {
        let is_port = port.bytes().all(|b| b.is_ascii_digit()) && port.parse().is_ok_and(|port: u16| port > 0);
        if !is_port {
            return Err("has no port behind the colon; allowed are 1 to 65535".into());
        }
    }
    if rest.contains(['?', '#']) || !rest.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("has a query, a blank or another character that no server's address has".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_an_address_without_secrets() {
        for good in ["http://127.0.0.1:5000", "https://pacs.example/dicom-web", "http://[::1]:80/", "http://h"] {
            assert_eq!(check_base(good), Ok(()), "{good}");
        }
        for bad in
            ["", "pacs", "ftp://pacs", "http://", "https:///x", "http://:80", "http://a b", "http://h/?q", "file:/x"]
        {
            assert!(check_base(bad).is_err(), "{bad}");
        }
        for port in ["99999", "0", "", "x", "+80", "80:80"] {
            for host in ["pacs", "[::1]"] {
                let told = check_base(&format!("http://{host}:{port}/dicom-web")).unwrap_err();
                assert_eq!(told, "has no port behind the colon; allowed are 1 to 65535", "{port}");
            }
        }
        let told = check_base("https://me:hunter2@pacs.example").unwrap_err();
        assert!(told.contains("environment") && !told.contains("hunter2"), "{told}");
    }

    #[test]
    fn what_is_shown_has_neither_password_nor_path() {
        assert_eq!(shown("https://me:secret@host:8/studies/1.2.3?x"), "https://host:8");
        assert!(
            is_loopback("http://localhost:3/x")
                && is_loopback("http://[::1]")
                && !is_loopback("http://localhosts")
                && is_loopback("http://127.0.0.1:80/x")
                && !is_loopback("http://127.example.org")
        );
    }
}

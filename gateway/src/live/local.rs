//! Recognizes requests from browsers on this machine.

use std::net::IpAddr;

use actix_web::{HttpRequest, http::header};

/// Whether a browser on this machine sent the request: the peer address is a loopback address, no
/// proxy has forwarded the request, and `Host` is this machine's own name. The last condition
/// excludes other sites whose names resolve to this machine.
pub(super) fn is_local(request: &HttpRequest) -> bool {
    let headers = request.headers();
    let peer = request.peer_addr().is_some_and(|peer| is_loopback(peer.ip()));
    let forwarded =
        headers.contains_key(header::X_FORWARDED_FOR) || headers.contains_key(header::FORWARDED);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    peer && !forwarded && is_own_name(host)
}

/// Whether an address is of this machine. A listener of both IP families sees IPv4 addresses as
/// `::ffff:127.0.0.1`.
fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Whether a host, with or without a port, is a loopback address or `localhost`.
fn is_own_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_addresses_are_known_on_listeners_of_both_ip_families() {
        for (address, expected) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn only_loopback_addresses_and_localhost_are_own_names() {
        for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "127.0.0.1", "[::1]:80"] {
            assert!(is_own_name(host), "{host}");
        }
        for host in ["", "evil.example:8080", "localhost.evil.example", "10.0.0.1:8080", "[::1].a"]
        {
            assert!(!is_own_name(host), "{host}");
        }
    }
}

//! Finds the address of a client, directly connected or behind proxies.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// An IP network such as 10.0.0.0/8, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an address, or a network such as 10.0.0.0/8");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(bits);
        if prefix > bits {
            return Err(wrong());
        }
        Ok(Self { address, prefix })
    }
}

impl Network {
    pub(super) fn contains(self, address: IpAddr) -> bool {
        let differ = match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(other)) => {
                u32::leading_zeros(ours.to_bits() ^ other.to_bits())
            }
            (IpAddr::V6(ours), IpAddr::V6(other)) => {
                u128::leading_zeros(ours.to_bits() ^ other.to_bits())
            }
            _ => return false,
        };
        differ >= self.prefix
    }
}

/// The address of the client behind `proxies`: the last address in `forwarded` (the values of
/// X-Forwarded-For) that is not a trusted proxy. The client may have forged all earlier addresses.
pub(super) fn behind(peer: IpAddr, forwarded: &[&str], proxies: &[Network]) -> IpAddr {
    let trusted = |address: IpAddr| proxies.iter().any(|proxy| proxy.contains(address));
    let mut client = peer.to_canonical();
    for hop in forwarded.iter().rev().flat_map(|value| value.rsplit(',')) {
        if !trusted(client) {
            break;
        }
        match parse(hop.trim()) {
            Some(address) => client = address.to_canonical(),
            None => break,
        }
    }
    client
}

/// Reads an address. Some proxies append a port, which is ignored.
fn parse(hop: &str) -> Option<IpAddr> {
    hop.parse().ok().or_else(|| Some(hop.parse::<SocketAddr>().ok()?.ip()))
}

/// The part of an address that identifies a client: a whole IPv4 address, or an IPv6 /64 network,
/// which belongs to one subscriber.
pub(crate) fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn client(peer: &str, forwarded: &[&str], proxies: &[&str]) -> String {
        behind(peer.parse().unwrap(), forwarded, &networks(proxies)).to_string()
    }

    #[test]
    fn a_network_contains_the_addresses_with_its_prefix() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.2"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("fd00::/8", "fdff::1", "fe00::"),
            ("::1", "::1", "::2"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{outside}");
        }
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/", "host", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn b67_only_trusted_proxies_may_report_an_address() {
        let proxies = &["10.0.0.0/8", "192.168.0.1"];
        assert_eq!(client("1.2.3.4", &["5.6.7.8"], proxies), "1.2.3.4", "spoofed");
        assert_eq!(client("10.0.0.1", &["5.6.7.8"], proxies), "5.6.7.8");
        assert_eq!(client("10.0.0.1", &["9.9.9.9, 5.6.7.8"], proxies), "5.6.7.8", "spoofed");
        assert_eq!(client("10.0.0.1", &["9.9.9.9", "5.6.7.8,192.168.0.1"], proxies), "5.6.7.8");
        assert_eq!(client("10.0.0.1", &["5.6.7.8:443, 10.0.0.2"], proxies), "5.6.7.8");
        assert_eq!(client("10.0.0.1", &["junk"], proxies), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[], proxies), "10.0.0.1");
        assert_eq!(client("::ffff:10.0.0.1", &["5.6.7.8"], proxies), "5.6.7.8", "mapped");
        assert_eq!(client("10.0.0.1", &["5.6.7.8"], &[]), "10.0.0.1");
    }

    #[test]
    fn an_ipv6_subscriber_is_one_client() {
        let one = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(one("2001:db8:1:2:3:4:5:6"), one("2001:db8:1:2::1"));
        assert_ne!(one("2001:db8:1:2::1"), one("2001:db8:1:3::1"));
        assert_ne!(one("1.2.3.4"), one("1.2.3.5"));
    }
}

//! Whom a request comes from, as far as that can be known.
//!
//! `X-Forwarded-For` is a list to which every proxy appends the address that it was called from, so only its right
//! end was written by someone we know. It is read from there: as long as an address belongs to a trusted proxy,
//! the entry to its left, which that proxy wrote, is believed; the first address that does not is the client.
//! Everything further left is the client's own say and is never looked at.
//!
//! An entry that is not an address ends the walk: the client is then the proxy that passed it on, the last address
//! that is certain. That may lump clients behind a misconfigured proxy together, but garbage buys nobody
//! an identity of their choice.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

use axum::extract::FromRequestParts;
use http::{HeaderMap, HeaderName, request::Parts};
use ipnet::{IpNet, Ipv4Net};
use pulse_kernel::ApiError;

use crate::problem::Problem;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Whom a request to the public surface comes from; the layer that limits clients finds it out, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientIp(pub(crate) IpAddr);

impl<S: Send + Sync> FromRequestParts<S> for ClientIp {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(parts.extensions.get::<Self>().copied().ok_or_else(ApiError::internal)?)
    }
}

/// The networks of the proxies whose `X-Forwarded-For` is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl FromStr for TrustedProxies {
    type Err = String;

    /// Reads networks and single addresses, separated by commas; none is fine.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected networks separated by commas, such as 10.0.0.0/8,fd00::/8".to_owned();
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let networks = entries.map(|entry| {
            let network = entry.parse().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from));
            network.map(canonical_net).map_err(|_| expected())
        });
        networks.collect::<Result<_, _>>().map(Self)
    }
}

impl TrustedProxies {
    /// The client of a request that arrived from `peer` with `headers`. IPv4-mapped IPv6 addresses come out as IPv4.
    pub fn client_ip(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
        let entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        let mut client = peer.to_canonical();
        for entry in entries {
            if !self.contains(client) {
                break;
            }
            match address(entry) {
                Some(address) => client = address,
                None => break,
            }
        }
        client
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// An entry of the list: an address, and with some proxies a port.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim_matches([' ', '\t']);
    let bare = || text.parse().ok();
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip()).ok();
    let bracketed =
        || text.strip_prefix('[')?.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6);
    bare().or_else(with_port).or_else(bracketed).map(|address: IpAddr| address.to_canonical())
}

/// A network of IPv4-mapped IPv6 addresses as the IPv4 network that it means.
fn canonical_net(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    match (network.addr().to_canonical(), network.prefix_len().checked_sub(MAPPED_BITS)) {
        (IpAddr::V4(address), Some(length)) if network.addr().is_ipv6() => v4_net(address, length),
        _ => network,
    }
}

fn v4_net(address: Ipv4Addr, length: u8) -> IpNet {
    Ipv4Net::new(address, length).unwrap_or_else(|_| Ipv4Net::from(address)).into()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn client(trusted: &str, peer: &str, lines: &[&str]) -> String {
        let trusted: TrustedProxies = trusted.parse().unwrap();
        trusted.client_ip(peer.parse().unwrap(), &headers(lines)).to_string()
    }

    fn headers(lines: &[impl AsRef<[u8]>]) -> HeaderMap {
        let value = |line: &[u8]| HeaderValue::from_bytes(line).unwrap();
        lines.iter().map(|line| (X_FORWARDED_FOR, value(line.as_ref()))).collect()
    }

    #[test]
    fn a_peer_that_is_no_proxy_speaks_for_itself() {
        assert_eq!(client("", "203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
        assert_eq!(client("10.0.0.0/8", "203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
        assert_eq!(client("10.0.0.0/8", "10.1.1.1", &[]), "10.1.1.1");
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_no_proxy() {
        let trusted = "10.0.0.0/8, fd00::/8, 192.0.2.7";
        assert_eq!(client(trusted, "10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(client(trusted, "10.0.0.1", &["1.1.1.1, 203.0.113.9, 192.0.2.7"]), "203.0.113.9");
        assert_eq!(
            client(trusted, "fd00::1", &["1.1.1.1", "203.0.113.9", "10.2.3.4,fd00::9"]),
            "203.0.113.9"
        );
        // Every hop is ours: the one furthest out.
        assert_eq!(client(trusted, "10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
    }

    #[test]
    fn garbage_ends_the_walk_at_the_last_certain_address() {
        for garbage in ["unknown", "", "1.2.3", "1.2.3.4.5", "fe80::1%eth0", "_hidden", "1.1.1.1 2.2.2.2"] {
            let line = format!("203.0.113.9, {garbage}");
            assert_eq!(client("10.0.0.0/8", "10.0.0.1", &[&line]), "10.0.0.1", "{garbage:?}");
            let line = format!("203.0.113.9, {garbage}, 10.0.0.2");
            assert_eq!(client("10.0.0.0/8", "10.0.0.1", &[&line]), "10.0.0.2", "{garbage:?}");
            // What stands left of the client is nobody's business.
            let line = format!("{garbage}, 203.0.113.9");
            assert_eq!(client("10.0.0.0/8", "10.0.0.1", &[&line]), "203.0.113.9", "{garbage:?}");
        }
        let trusted: TrustedProxies = "10.0.0.0/8".parse().unwrap();
        assert_eq!(
            trusted.client_ip([10, 0, 0, 1].into(), &headers(&[b"\xff\xfe"])),
            IpAddr::from([10, 0, 0, 1])
        );
    }

    #[test]
    fn ports_brackets_and_mapped_addresses_are_understood() {
        let trusted = "::ffff:10.0.0.0/104";
        assert_eq!(client(trusted, "::ffff:10.0.0.1", &["203.0.113.9:4711"]), "203.0.113.9");
        assert_eq!(client(trusted, "10.0.0.1", &["::ffff:203.0.113.9"]), "203.0.113.9");
        assert_eq!(client(trusted, "10.0.0.1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(client(trusted, "10.0.0.1", &["[2001:db8::1]"]), "2001:db8::1");
        assert_eq!(client("", "::ffff:203.0.113.9", &[]), "203.0.113.9");
    }

    fn addresses() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from),
            // Those that the tests below trust.
            any::<[u8; 3]>().prop_map(|[b, c, d]| IpAddr::from([10, b, c, d])),
        ]
    }

    proptest! {
        #[test]
        fn nobody_untrusted_is_asked(peer in addresses(), lines in prop::collection::vec("[ -~]{0,40}", 0..4)) {
            let client = TrustedProxies::default().client_ip(peer, &headers(&lines));
            prop_assert_eq!(client, peer.to_canonical());
        }

        #[test]
        fn whatever_the_client_writes_it_is_the_address_that_the_proxy_saw(
            says in "[ -~]{0,60}", saw in any::<[u8; 4]>(), more_lines in any::<bool>()
        ) {
            let trusted: TrustedProxies = "10.0.0.0/8".parse().unwrap();
            let saw = IpAddr::from(saw);
            prop_assume!(!trusted.contains(saw));
            let lines =
                if more_lines { vec![says, saw.to_string()] } else { vec![format!("{says},{saw}")] };
            prop_assert_eq!(trusted.client_ip([10, 0, 0, 1].into(), &headers(&lines)), saw);
        }

        #[test]
        fn the_answer_is_the_peer_or_was_written_by_a_proxy(
            peer in addresses(), listed in prop::collection::vec(addresses(), 0..6)
        ) {
            let trusted: TrustedProxies = "10.0.0.0/8".parse().unwrap();
            let line = listed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let client = trusted.client_ip(peer, &headers(&[line]));
            // The model: from the right, the first that is not trusted; else the leftmost.
            let chain: Vec<_> =
                std::iter::once(peer).chain(listed.into_iter().rev()).map(|a| a.to_canonical()).collect();
            let expected = chain.iter().find(|a| !trusted.contains(**a)).or(chain.last()).copied();
            prop_assert_eq!(Some(client), expected);
        }

        #[test]
        fn bytes_of_any_kind_never_panic(line in prop::collection::vec(32..=255_u8, 0..60)) {
            let line: Vec<u8> = line.into_iter().filter(|b| *b != 127).collect();
            let trusted: TrustedProxies = "0.0.0.0/0,::/0".parse().unwrap();
            let _ = trusted.client_ip([10, 0, 0, 1].into(), &headers(&[line]));
        }

        #[test]
        fn settings_are_read_or_refused(text in "[0-9a-f:./, ]{0,40}") {
            let _ = TrustedProxies::from_str(&text);
        }
    }
}

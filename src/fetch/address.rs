//! The rules for addresses: by default only global ones are allowed. Pure. The fetcher applies them
//! to addresses in URLs, the resolver to those of names.
//!
//! IPv4 is global unless listed. IPv6 is blocked unless it is global unicast and not listed, so
//! blocks that are not assigned yet are blocked. Forms that carry an IPv4 address (mapped,
//! compatible, NAT64, 6to4, Teredo) are all blocked: a public host has an address of its own.
//!
//! Source: IANA's registries of special-purpose addresses for IPv4 and IPv6, and Azure's
//! documentation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Returns whether an address is allowed.
pub(super) type AddressRule = fn(IpAddr) -> bool;

/// The first address of a block, and the length of its prefix.
type Block<Address> = (Address, u32);

/// IPv4 blocks that are not global.
const IPV4_REFUSED: [Block<Ipv4Addr>; 17] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),          // this network
    (Ipv4Addr::new(10, 0, 0, 0), 8),         // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),      // shared by carriers; metadata of Alibaba Cloud
    (Ipv4Addr::new(127, 0, 0, 0), 8),        // loopback
    (Ipv4Addr::new(168, 63, 129, 16), 32),   // the host of an Azure machine, in a block that is global otherwise
    (Ipv4Addr::new(169, 254, 0, 0), 16),     // link-local; metadata of most clouds
    (Ipv4Addr::new(172, 16, 0, 0), 12),      // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),       // protocol assignments; metadata of Oracle Cloud
    (Ipv4Addr::new(192, 0, 2, 0), 24),       // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),     // relays of 6to4
    (Ipv4Addr::new(192, 168, 0, 0), 16),     // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),      // benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24),    // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),     // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),        // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),        // reserved
    (Ipv4Addr::new(255, 255, 255, 255), 32), // broadcast
];

/// Global unicast of IPv6. Outside are loopback, mapped and compatible IPv4, NAT64, discard,
/// segment routing, unique local, link-local, site-local and multicast.
const IPV6_GLOBAL: Block<Ipv6Addr> = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Blocks within [`IPV6_GLOBAL`] that are not global.
const IPV6_REFUSED: [Block<Ipv6Addr>; 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments: Teredo, benchmarks, ORCHID
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

/// Returns whether an address is reachable for everyone on the internet.
pub(super) fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !IPV4_REFUSED.iter().any(|block| holds_v4(block, address)),
        IpAddr::V6(address) => {
            holds_v6(&IPV6_GLOBAL, address) && !IPV6_REFUSED.iter().any(|block| holds_v6(block, address))
        }
    }
}

/// Allows every address: the rule of a service that trusts its callers with its own network.
pub(super) fn any(_: IpAddr) -> bool {
    true
}

fn holds_v4((first, prefix): &Block<Ipv4Addr>, address: Ipv4Addr) -> bool {
    (first.to_bits() ^ address.to_bits()) >> (32 - prefix) == 0
}

fn holds_v6((first, prefix): &Block<Ipv6Addr>, address: Ipv6Addr) -> bool {
    (first.to_bits() ^ address.to_bits()) >> (128 - prefix) == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn global(text: &str) -> bool {
        is_global(text.parse().unwrap())
    }

    #[test]
    fn addresses_of_public_hosts_are_global() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "93.184.216.34",
            "168.63.129.15",
            "168.63.129.17",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700:4700::1111",
            "2a00:1450:4001:80b::200e",
            "3ffe:ffff::1",
        ] {
            assert!(global(address), "{address}");
        }
    }

    #[test]
    fn addresses_of_special_purpose_are_not_global() {
        for address in [
            "0.0.0.0",
            "10.0.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:8.8.8.8",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a00:1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:1ff:ffff::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "3fff:fff:ffff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!global(address), "{address}");
        }
    }

    #[test]
    fn blocks_end_where_they_should() {
        for (inside, outside) in [
            ("0.255.255.255", "1.0.0.0"),
            ("10.255.255.255", "11.0.0.0"),
            ("10.0.0.0", "9.255.255.255"),
            ("100.64.0.0", "100.63.255.255"),
            ("100.127.255.255", "100.128.0.0"),
            ("127.0.0.0", "126.255.255.255"),
            ("127.255.255.255", "128.0.0.0"),
            ("169.254.0.0", "169.253.255.255"),
            ("169.254.255.255", "169.255.0.0"),
            ("172.16.0.0", "172.15.255.255"),
            ("172.31.255.255", "172.32.0.0"),
            ("192.0.0.255", "192.0.1.0"),
            ("192.0.2.255", "192.0.3.0"),
            ("192.168.255.255", "192.169.0.0"),
            ("198.18.0.0", "198.17.255.255"),
            ("198.19.255.255", "198.20.0.0"),
            ("198.51.100.255", "198.51.101.0"),
            ("203.0.113.0", "203.0.112.255"),
            ("224.0.0.0", "223.255.255.255"),
            ("2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:200::"),
            ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::"),
            ("2001:db8::", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2003::"),
            ("2002::", "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("3fff::", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:1000::"),
            ("1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2000::"),
        ] {
            assert!(!global(inside), "{inside}");
            assert!(global(outside), "{outside}");
        }
    }

    proptest! {
        #[test]
        fn what_the_standard_library_calls_special_is_not_global(bits: u32) {
            let address = Ipv4Addr::from_bits(bits);
            let special = address.is_private() || address.is_loopback() || address.is_link_local()
                || address.is_multicast() || address.is_broadcast() || address.is_documentation()
                || address.is_unspecified();
            prop_assert!(!special || !is_global(address.into()));
        }

        #[test]
        fn every_address_of_a_refused_block_is_refused(bits: u32, block in 0..IPV4_REFUSED.len()) {
            let (first, prefix) = IPV4_REFUSED[block];
            let host_bits = u32::MAX.checked_shr(prefix).unwrap_or(0);
            let address = Ipv4Addr::from_bits(first.to_bits() | (bits & host_bits));
            prop_assert!(!is_global(address.into()));
        }

        #[test]
        fn only_global_unicast_is_global(bits: u128) {
            let address = Ipv6Addr::from_bits(bits);
            prop_assert!(bits >> 125 == 1 || !is_global(address.into()));
        }

        #[test]
        fn no_form_that_carries_an_ipv4_address_is_global(bits: u32) {
            let inner = u128::from(bits);
            for carrier in [
                inner,                              // compatible
                0xffff << 32 | inner,               // mapped
                0xffff << 48 | inner,               // translated
                0x64_ff9b << 96 | inner,            // NAT64
                0x64_ff9b_0001 << 80 | inner,       // NAT64, local use
                0x2002 << 112 | inner << 80,        // 6to4
                0x2001_0000 << 96 | !inner & 0xffff_ffff, // Teredo
            ] {
                let address = Ipv6Addr::from_bits(carrier);
                prop_assert!(!is_global(address.into()), "{address}");
            }
        }
    }
}

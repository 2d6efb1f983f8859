//! [`check`]: whether a certificate is for the host to which a connection goes, by libpq's rules.
//!
//! 1. The alternative names are compared, if there are some of the host's kind: names or addresses.
//! 2. Otherwise the common name counts. Managed services issue certificates that have no other.
//! 3. Upper case does not matter. `*.` at the beginning of a name stands for one label.
//!
//! rustls alone would refuse a certificate without alternative names, and a host that is no name.

use super::certificate::{AlternativeName, Certificate};
use std::net::IpAddr;

/// Returns `Ok` if the certificate is for `host`. If `is_constrained`, an authority may vouch for
/// some names alone, and the common name, to which nobody has held that, does not count.
///
/// # Errors
/// The names that the certificate is for.
pub(super) fn check(
    certificate: &Certificate,
    host: &str,
    is_constrained: bool,
) -> Result<(), Vec<String>> {
    let address = host.parse::<IpAddr>().ok();
    let Some(alternatives) = certificate.alternative_names() else {
        return Err(Vec::new());
    };
    let mut names: Vec<String> = alternatives.iter().map(ToString::to_string).collect();
    if alternatives
        .iter()
        .any(|name| is_equal(name, host, address))
    {
        return Ok(());
    }
    let has_own_kind = alternatives.iter().any(|name| match name {
        AlternativeName::Dns(_) => address.is_none(),
        AlternativeName::Address(_) => address.is_some(),
    });
    let counts_common_name = !has_own_kind && !is_constrained;
    if counts_common_name && let Some(name) = certificate.common_name() {
        if matches(&name, host) {
            return Ok(());
        }
        names.push(name);
    }
    Err(names)
}

fn is_equal(name: &AlternativeName, host: &str, address: Option<IpAddr>) -> bool {
    match name {
        AlternativeName::Dns(name) => matches(name, host),
        AlternativeName::Address(bytes) => match address {
            Some(IpAddr::V4(address)) => address.octets() == bytes.as_slice(),
            Some(IpAddr::V6(address)) => address.octets() == bytes.as_slice(),
            None => false,
        },
    }
}

/// Returns whether a name of a certificate, perhaps with a wildcard, is that of the host.
pub(super) fn matches(name: &str, host: &str) -> bool {
    if name.eq_ignore_ascii_case(host) {
        return true;
    }
    let Some(domain) = name.strip_prefix('*') else {
        return false;
    };
    // `*.` alone would stand for every name without a dot.
    if domain.len() < 2 || !domain.starts_with('.') || host.len() < name.len() {
        return false;
    }
    let at = host.len() - domain.len();
    let Some((label, rest)) = host.split_at_checked(at) else {
        return false;
    };
    rest.eq_ignore_ascii_case(domain) && !label.contains('.')
}

//! Fields of X.509 certificates.

use std::sync::Arc;

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// When certificates end, in seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validity {
    /// The certificate of this server.
    pub(super) server: i64,
    /// The first authority for clients that ends.
    pub(super) client_ca: Option<i64>,
}

/// When a certificate ends, in seconds since 1970; `None` if it cannot be parsed.
pub(super) fn ends(der: &[u8]) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// The name of the client with this certificate: the common name of the subject, or else the first
/// alternative name that is a URI, a DNS name or an e-mail address.
pub(super) fn name(der: &[u8]) -> Option<Arc<str>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let common = certificate.subject().iter_common_name().find_map(|name| name.as_str().ok());
    let common = common.map(str::trim).filter(|name| !name.is_empty());
    if let Some(name) = common {
        return Some(name.into());
    }
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(name) | GeneralName::DNSName(name) | GeneralName::RFC822Name(name) => {
            Some((*name).into())
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn named(common: Option<&str>, alternatives: Vec<SanType>) -> Option<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(common) = common {
            params.distinguished_name.push(DnType::CommonName, common);
        }
        params.subject_alt_names = alternatives;
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        name(certificate.der()).map(|name| name.to_string())
    }

    #[test]
    fn the_name_is_the_common_name_or_else_the_first_alternative_name() {
        let uri = || SanType::URI("spiffe://prod/trainer".try_into().unwrap());
        let dns = || SanType::DnsName("trainer.prod".try_into().unwrap());
        assert_eq!(named(Some("trainer"), vec![dns()]).as_deref(), Some("trainer"));
        assert_eq!(named(Some(" "), vec![dns()]).as_deref(), Some("trainer.prod"));
        assert_eq!(named(None, vec![uri(), dns()]).as_deref(), Some("spiffe://prod/trainer"));
        assert_eq!(named(None, vec![]), None);
        assert_eq!(name(b"no certificate"), None);
    }
}

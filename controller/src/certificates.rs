//! Certificate authorities of the controller. An authority signs when it is made, and its key is then
//! dropped, so no copy of the key can sign other certificates. A new certificate gets a new authority.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    jiff::{SignedDuration, Timestamp, tz::TimeZone},
};
use kube::api::ObjectMeta;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};

use crate::objects::MANAGER;

/// Keys of secrets with certificates, as cert-manager and Kubernetes name them.
pub(crate) const CA: &str = "ca.crt";
pub(crate) const CERTIFICATE: &str = "tls.crt";
pub(crate) const KEY: &str = "tls.key";

/// The parties of a TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    Client,
    Server,
}

/// A certificate authority. Everything is valid from the previous midnight (UTC), because clocks
/// differ.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    days: i64,
}

/// A certificate, its key and its authority, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issued {
    pub(crate) ca: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    /// Makes an authority that is valid for this many days, as is everything that it signs.
    pub(crate) fn new(name: &str, days: i64) -> Result<Self, rcgen::Error> {
        let mut params = valid(Vec::new(), days)?;
        // The name differs from the names of certificates, which would otherwise look self-signed.
        params.distinguished_name.push(DnType::CommonName, format!("{name} authority"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?, days })
    }

    /// Signs a new certificate for these host names.
    pub(crate) fn sign(
        &self,
        name: &str,
        hosts: Vec<String>,
        party: Party,
    ) -> Result<Issued, rcgen::Error> {
        let mut params = valid(hosts, self.days)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![match party {
            Party::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Party::Server => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { ca: self.issuer.pem(), certificate, key: key.serialize_pem() })
    }
}

fn valid(hosts: Vec<String>, days: i64) -> Result<CertificateParams, rcgen::Error> {
    let midnight = |days: i64| {
        let date = (Timestamp::now() + SignedDuration::from_hours(24 * days))
            .to_zoned(TimeZone::UTC)
            .date();
        date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    let mut params = CertificateParams::new(hosts)?;
    params.not_before = midnight(0);
    // The last midnight before the time has passed is too early by up to a day.
    params.not_after = midnight(days + 1);
    Ok(params)
}

/// Returns a secret with the label of its maker. It has no label of the release, by which Argo CD
/// would take the secret for an object that has left the chart, and delete it.
pub(crate) fn secret(name: &str, type_: &str, data: &[(&str, &str)]) -> Secret {
    let labels =
        [("app.kubernetes.io/managed-by", MANAGER), ("app.kubernetes.io/part-of", "batchfleet")];
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.iter().map(owned).collect()),
            ..ObjectMeta::default()
        },
        type_: Some(type_.to_owned()),
        data: Some(bytes(data)),
        ..Secret::default()
    }
}

/// Returns the data of a secret.
pub(crate) fn bytes(data: &[(&str, &str)]) -> BTreeMap<String, ByteString> {
    let data = data.iter();
    data.map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()))).collect()
}

/// Returns the text under a key of a secret.
pub(crate) fn text<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    std::str::from_utf8(&secret.data.as_ref()?.get(key)?.0).ok()
}

impl Issued {
    /// Returns the data of a secret of the type `kubernetes.io/tls`.
    pub(crate) fn data(&self) -> [(&'static str, &str); 3] {
        [(CA, &self.ca), (CERTIFICATE, &self.certificate), (KEY, &self.key)]
    }
}

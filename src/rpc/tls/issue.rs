//! Makes certificates for a pool's nodes: an authority of its own, and what it signs.

use crate::model::error::{Error, Result};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::UnixTime;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use std::sync::Arc;

/// Name of the authority in its certificate and in those that it signs.
const AUTHORITY: &str = "apparatus pool authority";

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The key, which its owner alone may read.
    pub key: String,
}

/// First and last day of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first day: yesterday, because clocks differ.
    pub from: Date,
    /// The day on which it is not valid any more.
    pub until: Date,
}

impl Validity {
    /// Returns a validity that begins now.
    ///
    /// # Errors
    /// Fails if the end is no day of the calendar.
    pub fn of_days(days: u32) -> Result<Self> {
        let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
        let calendar = |error: jiff::Error| Error::usage(format!("{days} days"), error.to_string());
        Ok(Self {
            from: today.checked_sub(1.day()).map_err(calendar)?,
            until: today.checked_add(i64::from(days).days()).map_err(calendar)?,
        })
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::failed("certificate", error.to_string())
}

/// Returns what certificates of the authority, and of nodes, have in common.
fn parameters(common_name: &str, names: Vec<String>, validity: Validity) -> Result<CertificateParams> {
    let mut parameters = CertificateParams::new(names).map_err(failed)?;
    let midnight = |day: Date| {
        let month = u8::try_from(day.month()).unwrap_or(1);
        let of_month = u8::try_from(day.day()).unwrap_or(1);
        date_time_ymd(day.year().into(), month, of_month)
    };
    parameters.not_before = midnight(validity.from);
    parameters.not_after = midnight(validity.until);
    parameters.distinguished_name = DistinguishedName::new();
    parameters
        .distinguished_name
        .push(DnType::CommonName, common_name);
    Ok(parameters)
}

fn of_authority(validity: Validity) -> Result<CertificateParams> {
    let mut parameters = parameters(AUTHORITY, Vec::new(), validity)?;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(parameters)
}

fn issued(certificate: &Certificate, key: &KeyPair) -> Issued {
    Issued {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    }
}

/// Makes an authority.
///
/// # Errors
/// Fails when no key can be made.
pub fn authority(validity: Validity) -> Result<Issued> {
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = of_authority(validity)?.self_signed(&key).map_err(failed)?;
    Ok(issued(&certificate, &key))
}

/// Makes the certificate of a node, for both directions of its links. `authority` is one that [`authority`] has made.
///
/// # Errors
/// Fails when the authority's key cannot be used or is not that of its certificate.
pub fn certificate(authority: &Issued, name: &str, validity: Validity) -> Result<Issued> {
    let signs = KeyPair::from_pem(&authority.key)
        .map_err(|error| Error::failed("key of the authority", error.to_string()))?;
    let issuer = Issuer::new(of_authority(validity)?, signs);
    let key = KeyPair::generate().map_err(failed)?;
    let mut parameters = parameters(name, vec![name.to_owned()], validity)?;
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let certificate = parameters.signed_by(&key, &issuer).map_err(failed)?;
    check(&authority.certificate, &certificate)?;
    Ok(issued(&certificate, &key))
}

/// Checks that the authority's certificate vouches for this one.
fn check(authority: &str, certificate: &Certificate) -> Result<()> {
    let refused = |error: &dyn std::fmt::Display| {
        Error::failed(
            "certificate of the authority",
            format!("is not that of its key: {error}"),
        )
        .hint("name a directory in which vctl pool tls init has made the authority, or an empty one")
    };
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.as_bytes()).map_err(|error| refused(&error))?;
    roots.add(root).map_err(|error| refused(&error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| refused(&error))?;
    let vouched = verifier.verify_client_cert(certificate.der(), &[], UnixTime::now());
    vouched.map(drop).map_err(|error| refused(&error))
}

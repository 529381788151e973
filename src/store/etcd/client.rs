//! Requests to etcd by its JSON interface (`/v3/kv/…`, version 3.4 and later): keys and values are Base64, numbers of 64 bits are text.

use crate::model::error::{Error, ErrorKind, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

/// Longest time of a request.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest time until a read is given up, whatever number of members was asked.
const READ: Duration = Duration::from_secs(2);
/// Longest time until a member of etcd has accepted a connection.
const CONNECT: Duration = Duration::from_millis(300);
/// Largest answer in bytes.
const LARGEST: u64 = 64 << 20;
/// etcd's name in messages.
const ETCD: &str = "etcd";

/// Bytes in Base64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

impl From<String> for Bytes {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

/// A key and its value.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KeyValue {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
}

/// Keys to read, in order.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Range {
    pub(super) key: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) range_end: Option<Bytes>,
    /// Maximum number of keys; 0 for all.
    pub(super) limit: u32,
}

/// The keys that were found.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Found {
    pub(super) kvs: Vec<KeyValue>,
}

/// A condition of a transaction.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "target", rename_all = "UPPERCASE")]
pub(super) enum Compare {
    /// The key has this value.
    Value { key: Bytes, value: Bytes },
    /// The key was written so many times; 0 for a key that does not exist.
    Version { key: Bytes, version: u64 },
}

/// An operation of a transaction.
#[derive(Clone, Debug, Serialize)]
pub(super) enum Operation {
    #[serde(rename = "requestPut")]
    Put { key: Bytes, value: Bytes },
    #[serde(rename = "requestDeleteRange")]
    Delete { key: Bytes, range_end: Bytes },
    #[serde(rename = "requestRange")]
    Range(Range),
}

/// A transaction: `success` if all comparisons hold, else `failure`.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Transaction {
    pub(super) compare: Vec<Compare>,
    pub(super) success: Vec<Operation>,
    pub(super) failure: Vec<Operation>,
}

/// The result of a transaction.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Done {
    pub(super) succeeded: bool,
    pub(super) responses: Vec<Response>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Response {
    pub(super) response_range: Option<Found>,
}

/// etcd's own words for a refusal.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    message: String,
    code: u32,
}

/// Codes of gRPC: the deadline has passed, resources are exhausted, the service is unavailable.
const DEADLINE: u32 = 4;
const EXHAUSTED: u32 = 8;
const UNAVAILABLE: u32 = 14;

/// Connections to the members of an etcd cluster. A request goes to the member that answered last.
pub(super) struct Client {
    agent: Agent,
    endpoints: Vec<String>,
    current: usize,
}

impl Client {
    /// Creates a client; it connects with the first request. `tls` is a directory with `ca.pem`, `cert.pem` and `key.pem`.
    ///
    /// # Errors
    /// Fails if a file of the certificates cannot be read.
    pub(super) fn new(endpoints: Vec<String>, tls: Option<&Path>) -> Result<Self> {
        let mut config = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .timeout_connect(Some(CONNECT))
            .http_status_as_error(false)
            .proxy(None)
            .max_idle_connections_per_host(1);
        if let Some(dir) = tls {
            config = config.tls_config(certificates(dir)?);
        }
        Ok(Self {
            agent: config.build().new_agent(),
            endpoints,
            current: 0,
        })
    }

    /// Reads keys as they are now, not as a member remembers them.
    ///
    /// # Errors
    /// Fails with `TimedOut` if no member answers.
    pub(super) fn range(&mut self, range: &Range) -> Result<Vec<KeyValue>> {
        let mut last = None;
        let since = Instant::now();
        for _ in 0..self.endpoints.len() {
            if since.elapsed() >= READ {
                break;
            }
            match self.call::<Found>("range", range) {
                Err(Failure::Unsent(error) | Failure::Unanswered(error)) => {
                    last = Some(error);
                    self.next_member();
                }
                Err(Failure::Refused(error)) => return Err(error),
                Ok(found) => return Ok(found.kvs),
            }
        }
        Err(last.unwrap_or_else(|| away("has no endpoint")))
    }

    /// Runs a transaction.
    ///
    /// # Errors
    /// Fails with `TimedOut` if no member answers; the transaction may run nevertheless.
    pub(super) fn transact(&mut self, transaction: &Transaction) -> Result<Done> {
        let mut last = None;
        for _ in 0..self.endpoints.len() {
            match self.call("txn", transaction) {
                Err(Failure::Unsent(error)) => {
                    last = Some(error);
                    self.next_member();
                }
                Err(Failure::Unanswered(error)) => {
                    self.next_member();
                    return Err(error);
                }
                Err(Failure::Refused(error)) => return Err(error),
                Ok(done) => return Ok(done),
            }
        }
        Err(last.unwrap_or_else(|| away("has no endpoint")))
    }

    fn next_member(&mut self) {
        self.current = (self.current + 1) % self.endpoints.len().max(1);
    }

    fn call<T: for<'de> Deserialize<'de>>(&self, what: &str, body: &impl Serialize) -> Result<T, Failure> {
        let endpoint = self.endpoints.get(self.current).map_or("", String::as_str);
        let url = format!("{endpoint}/v3/kv/{what}");
        let text = serde_json::to_vec(body).map_err(|error| Failure::Refused(Error::because(ETCD, error)))?;
        let sent = self
            .agent
            .post(&url)
            .header("content-type", "application/json")
            .send(&text[..]);
        let mut answer = sent.map_err(|error| failure(endpoint, error))?;
        let status = answer.status();
        let limited = answer.body_mut().with_config().limit(LARGEST).read_to_vec();
        let text = limited.map_err(|error| Failure::Unanswered(away(&format!("{endpoint}: {error}"))))?;
        if !status.is_success() {
            return Err(refused(endpoint, status.as_u16(), &text));
        }
        serde_json::from_slice(&text).map_err(|error| Failure::Refused(Error::because(ETCD, error)))
    }
}

/// Why a request has no result.
enum Failure {
    /// It has not reached the member.
    Unsent(Error),
    /// It is unknown whether it was carried out.
    Unanswered(Error),
    /// It was not carried out, and will not be.
    Refused(Error),
}

fn away(why: &str) -> Error {
    Error::new(ErrorKind::TimedOut, ETCD, format!("does not answer: {why}")).hint(
        "volumes are served meanwhile; see whether etcd runs and can be reached: etcdctl endpoint status",
    )
}

fn failure(endpoint: &str, error: ureq::Error) -> Failure {
    let why = away(&format!("{endpoint}: {error}"));
    match error {
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed => Failure::Unsent(why),
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => Failure::Unsent(why),
        // The handshake has failed, so nothing was sent.
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => Failure::Refused(
            Error::failed(ETCD, format!("{endpoint}: {error}"))
                .hint("check the ca.pem, cert.pem and key.pem that the pool was created with"),
        ),
        ureq::Error::Timeout(_) | ureq::Error::Io(_) | ureq::Error::Protocol(_) => Failure::Unanswered(why),
        error => Failure::Refused(Error::failed(ETCD, format!("{endpoint}: {error}"))),
    }
}

fn refused(endpoint: &str, status: u16, text: &[u8]) -> Failure {
    let refusal: Refusal = serde_json::from_slice(text).unwrap_or_default();
    let why = match refusal.message.is_empty() {
        true => format!("{endpoint}: HTTP status {status}"),
        false => format!("{endpoint}: {}", refusal.message),
    };
    match refusal.code {
        EXHAUSTED => Failure::Refused(Error::failed(ETCD, why).hint(
            "volumes are served; nothing changes until etcd has room: etcdctl compact, defrag, alarm disarm",
        )),
        DEADLINE | UNAVAILABLE => Failure::Unanswered(away(&why)),
        _ if status >= 500 => Failure::Unanswered(away(&why)),
        _ => Failure::Refused(Error::failed(ETCD, why)),
    }
}

fn certificates(dir: &Path) -> Result<TlsConfig> {
    let read = |name: &str| {
        let file = dir.join(name);
        fs::read(&file).map_err(|error| Error::because(file.display().to_string(), error))
    };
    let unusable =
        |name: &str, error: ureq::Error| Error::because(dir.join(name).display().to_string(), error);
    let ca = Certificate::from_pem(&read("ca.pem")?).map_err(|error| unusable("ca.pem", error))?;
    let own = Certificate::from_pem(&read("cert.pem")?).map_err(|error| unusable("cert.pem", error))?;
    let key = PrivateKey::from_pem(&read("key.pem")?).map_err(|error| unusable("key.pem", error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::from(vec![ca]))
        .client_cert(Some(ClientCert::new_with_certs(&[own], key)))
        .unversioned_rustls_crypto_provider(provider)
        .build())
}

//! Certificates of a node: its own, with its key, and that of the authority which the pool trusts.

use super::session::{self, Session};
use crate::model::error::{Error, Result};
use crate::rpc::channel::{Channel, Connector};
use crate::rpc::pipe::Broken;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

/// Largest size of a file in bytes.
const LARGEST: u64 = 64 << 10;

/// Certificates of this node, for both directions.
#[derive(Clone)]
pub struct Identity {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// Reads `ca.pem`, `cert.pem` and `key.pem` of a directory.
    ///
    /// # Errors
    /// Fails if a file cannot be read or used, and if other users can read the key.
    pub fn load(dir: &Path) -> Result<Self> {
        refuse_open_key(&dir.join("key.pem"))?;
        let unusable = |error: &dyn fmt::Display| unusable(dir, error);
        let mut roots = RootCertStore::empty();
        for authority in certificates(&dir.join("ca.pem"))? {
            roots.add(authority).map_err(|error| unusable(&error))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&dir.join("cert.pem"))?;
        let key = key(&dir.join("key.pem"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = client(&provider, &roots, &chain, key.clone_key()).map_err(|error| unusable(&error))?;
        let server = server(&provider, &roots, chain, key).map_err(|error| unusable(&*error))?;
        Ok(Self {
            client: Arc::new(client),
            server: Arc::new(server),
        })
    }

    pub(super) fn server(&self) -> &Arc<ServerConfig> {
        &self.server
    }
}

impl Connector for Identity {
    fn connect(&self, address: SocketAddr, name: &str) -> Result<Box<dyn Channel>, Broken> {
        let untrusted = |why: &dyn fmt::Display| Broken::Untrusted(why.to_string());
        let name = ServerName::try_from(name.to_owned()).map_err(|error| untrusted(&error))?;
        let tls = ClientConnection::new(Arc::clone(&self.client), name).map_err(|error| untrusted(&error))?;
        let socket = session::connect(address).map_err(Broken::Failed)?;
        Ok(Box::new(Session::to_server(socket, tls)))
    }
}

fn client(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: &[CertificateDer<'static>],
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(Arc::clone(roots))
        .with_client_auth_cert(chain.to_vec(), key)?;
    // Each connection proves both sides anew.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn server(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, Box<dyn std::error::Error>> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider)).build()?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn unusable(file: &Path, why: &dyn fmt::Display) -> Error {
    Error::failed(file.display().to_string(), format!("cannot be used: {why}"))
        .hint("make certificates for a pool's nodes: vctl pool tls init DIR --name NODE")
}

fn refuse_open_key(file: &Path) -> Result<()> {
    let found = std::fs::metadata(file).map_err(|error| Error::because(file.display().to_string(), error))?;
    if found.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(
        Error::failed(file.display().to_string(), "is a key that other users may read")
            .hint(format!("keep it to its owner: chmod 600 {}", file.display())),
    )
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| Error::because(file.display().to_string(), error);
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|open| open.take(LARGEST).read_to_end(&mut bytes))
        .map_err(failed)?;
    Ok(bytes)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err(unusable(file, &"it has no certificate in PEM")),
        Ok(found) => Ok(found),
        Err(error) => Err(unusable(file, &error)),
    }
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(file)?).map_err(|error| unusable(file, &error))
}

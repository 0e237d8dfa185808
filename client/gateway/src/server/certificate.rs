//! The certificate that a gateway shows, from two files that may be written anew at any time.
//!
//! Always holds: a certificate is shown only with a key that fits it; files that are wrong, or half of a renewal, leave the
//! one before in place and are complained of once. Leaves to others: when to look (`server`), obtaining certificates.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

/// Why a certificate cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is too large for what it should be.
    #[error("{} has more than {FILE_BYTES_MAX} bytes: it is no certificate and no key", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// There is no certificate in the file.
    #[error("there is no certificate in {}: it shall hold the certificate and those it was signed with, as PEM", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// There is no private key in the file.
    #[error("there is no private key in {}: {source}", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The two do not belong together, or are of a kind that is not known.
    #[error("the key in {} does not fit the certificate in {}: {source}", key.display(), certificate.display())]
    Unfit {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong with them.
        source: rustls::Error,
    },
}

/// Where a certificate and its key lie, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate first, then those that it was signed with.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A certificate that follows its files.
#[derive(Debug)]
pub struct Certificate {
    files: CertificateFiles,
    shown: RwLock<Arc<CertifiedKey>>,
    /// What the files held when they were last judged.
    judged: Mutex<blake3::Hash>,
}

// Chains have some 5 kB.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// They cannot be read, or are no certificate with its key.
    pub fn open(files: CertificateFiles) -> Result<Self, CertificateError> {
        let contents = files.read()?;
        let shown = RwLock::new(Arc::new(files.understand(&contents)?));
        Ok(Self { files, shown, judged: Mutex::new(contents.digest()) })
    }

    /// Reads the files again, and says whether another certificate is shown from now on. Reads from disk: not for a thread
    /// that serves.
    ///
    /// # Errors
    ///
    /// They changed and are of no use; the certificate before goes on being shown. Of the same contents it is said once.
    pub fn renew(&self) -> Result<bool, CertificateError> {
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        let contents = self.files.read();
        // Files that cannot be read are told from all others, and from each other only by being readable again.
        let digest = contents.as_ref().map_or(blake3::hash(&[]), Contents::digest);
        if std::mem::replace(&mut *judged, digest) == digest {
            return Ok(false);
        }
        let renewed = Arc::new(self.files.understand(&contents?)?);
        let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
        let is_other = shown.cert != renewed.cert;
        *shown = renewed;
        Ok(is_other)
    }

    /// What speaks TLS with this certificate: 1.3, and 1.2 for old clients; HTTP/2 where the client knows it.
    pub(super) fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, rustls::Error> {
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Self>::clone(self);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![HTTP_2.to_vec(), b"http/1.1".to_vec()];
        // What lets a client resume lies with the client, sealed: nothing is remembered of it here.
        config.ticketer = ring::Ticketer::new()?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// The name of HTTP/2 in a TLS handshake.
pub(super) const HTTP_2: &[u8] = b"h2";

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Contents {
    fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(self.certificate.len() as u64).to_le_bytes());
        hasher.update(&self.certificate).update(&self.key);
        hasher.finalize()
    }
}

impl CertificateFiles {
    fn read(&self) -> Result<Contents, CertificateError> {
        Ok(Contents { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }

    fn understand(&self, contents: &Contents) -> Result<CertifiedKey, CertificateError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&contents.certificate).collect();
        let chain = chain.unwrap_or_default();
        if chain.is_empty() {
            return Err(CertificateError::NoCertificate { path: self.certificate.clone() });
        }
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|source| CertificateError::NoKey { path: self.key.clone(), source })?;
        let unfit = |source| CertificateError::Unfit {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source,
        };
        CertifiedKey::from_der(chain, key, &provider()).map_err(unfit)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| CertificateError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(CertificateError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Place {
        directory: tempfile::TempDir,
    }

    impl Place {
        fn files(&self) -> CertificateFiles {
            let path = |name| self.directory.path().join(name);
            CertificateFiles { certificate: path("certificate.pem"), key: path("key.pem") }
        }

        fn write(&self, made: &rcgen::CertifiedKey<rcgen::KeyPair>) {
            fs::write(self.files().certificate, made.cert.pem()).unwrap();
            fs::write(self.files().key, made.signing_key.serialize_pem()).unwrap();
        }
    }

    fn made() -> rcgen::CertifiedKey<rcgen::KeyPair> {
        rcgen::generate_simple_self_signed(["cache.example.org".to_owned()]).unwrap()
    }

    fn shown(certificate: &Certificate) -> Vec<u8> {
        certificate.shown.read().unwrap().cert[0].to_vec()
    }

    #[test]
    fn a_new_certificate_is_shown_and_a_bad_one_is_told_of_once_and_leaves_the_old() {
        let place = Place { directory: tempfile::tempdir().unwrap() };
        let (first, second) = (made(), made());
        place.write(&first);
        let certificate = Certificate::open(place.files()).unwrap();
        assert_eq!(shown(&certificate), first.cert.der().to_vec());
        assert!(!certificate.renew().unwrap(), "nothing changed");

        // Half of a renewal: the certificate is there, its key is not yet.
        fs::write(place.files().certificate, second.cert.pem()).unwrap();
        assert!(matches!(certificate.renew(), Err(CertificateError::Unfit { .. })));
        assert!(!certificate.renew().unwrap(), "it is said once");
        assert_eq!(shown(&certificate), first.cert.der().to_vec());

        place.write(&second);
        assert!(certificate.renew().unwrap());
        assert_eq!(shown(&certificate), second.cert.der().to_vec());

        fs::remove_file(place.files().key).unwrap();
        assert!(matches!(certificate.renew(), Err(CertificateError::Read { .. })));
        fs::write(place.files().key, "no key").unwrap();
        assert!(matches!(certificate.renew(), Err(CertificateError::NoKey { .. })));
        fs::write(place.files().certificate, "").unwrap();
        assert!(matches!(certificate.renew(), Err(CertificateError::NoCertificate { .. })));
        fs::write(place.files().certificate, vec![b'a'; 2 << 20]).unwrap();
        assert!(matches!(certificate.renew(), Err(CertificateError::TooLarge { .. })));
        assert_eq!(shown(&certificate), second.cert.der().to_vec());
        place.write(&second);
        assert!(!certificate.renew().unwrap(), "it is the one that is shown already");
    }

    #[test]
    fn a_gateway_does_not_start_with_a_bad_certificate() {
        let place = Place { directory: tempfile::tempdir().unwrap() };
        assert!(matches!(Certificate::open(place.files()), Err(CertificateError::Read { .. })));
        place.write(&made());
        fs::write(place.files().certificate, made().cert.pem()).unwrap();
        assert!(matches!(Certificate::open(place.files()), Err(CertificateError::Unfit { .. })));
    }
}

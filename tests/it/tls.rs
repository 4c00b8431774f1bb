//! Whom the client trusts with a backup: a server whose certificate somebody vouches for, and nobody without TLS.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::harness::cli::Pgseal;
use crate::harness::postgres::Postgres;
use crate::harness::s3::{BUCKET, S3Server};
use crate::harness::{folder, run};

/// A certificate for 127.0.0.1 of an authority that no system trusts, and the file with that authority.
fn certificate(folder: &Path) -> (ServerConfig, PathBuf) {
    let [key, authority] = ["key.pem", "authority.pem"].map(|name| folder.join(name));
    run(Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=dummy"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&authority));
    let chain = CertificateDer::pem_file_iter(&authority).unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(&key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    (config.with_single_cert(chain, key).unwrap(), authority)
}

/// Row 43: a server whose certificate nobody vouches for hears not one request, and is not asked again and again. The same
/// server is a store like any other once its authority is trusted.
#[test]
fn a_certificate_of_a_wrong_authority_is_refused() {
    let folder = folder();
    let (config, authority) = certificate(folder.path());
    let s3 = S3Server::start_with_tls(config);
    let source = Postgres::shared().create_database("tls");
    let mut pgseal = s3.pgseal();
    pgseal.set("DATABASE_URL", &source.url);
    let started = Instant::now();
    for command in [["backup"].as_slice(), &["list"], &["verify", "latest"]] {
        let run = pgseal.run(command);
        assert!([1, 5].contains(&run.code), "{run}");
        assert!(run.stderr.contains("certificate"), "{run}");
        assert!(run.stderr.contains("BACKUP_S3_ENDPOINT_URL"), "{run}");
    }
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "it was tried for long"
    );
    assert_eq!(s3.operations(), Vec::<&str>::new());
    pgseal.set("SSL_CERT_FILE", authority);
    pgseal.ok(&["backup"]);
    pgseal.ok(&["verify", "latest"]);
    assert_eq!(s3.objects().len(), 2);
}

/// Row 43: nothing goes to another machine without TLS, unless it was said that it may.
#[test]
fn plain_http_stays_on_this_machine() {
    let mut pgseal = Pgseal::new();
    pgseal
        .unset("BACKUP_STORE")
        .set("BACKUP_S3_BUCKET", BUCKET)
        // An address for documentation (RFC 5737), where nobody is.
        .set("BACKUP_S3_ENDPOINT_URL", "http://192.0.2.1:9");
    for command in [["list"].as_slice(), &["doctor"], &["verify", "latest"]] {
        let run = pgseal.run(command);
        let said = String::from_utf8_lossy(&run.stdout).into_owned() + &run.stderr;
        assert_eq!(run.code, 5, "{run}");
        assert!(said.contains("BACKUP_S3_ALLOW_HTTP"), "{run}");
    }
}
